//! The example policies do what their READMEs say: whose keys are equal, who reads whose entries, and until when.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use support::{Place, all, files, need_root, output, repository, run};

const TARGET: &str = "wasm32-wasip2";

/// The folder of the components, built once.
static COMPONENTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let target_dir = repository("target/example-policies");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository(".")).args(["build", "--quiet", "--release", "--locked", "--target", TARGET]);
    cargo.args(["--manifest-path", "examples/policies/Cargo.toml", "--target-dir"]).arg(&target_dir);
    // What is meant for the outer build must not reach the inner one: flags for another target, wrappers, profiles.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_INCREMENTAL",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ];
        if foreign.contains(&text.as_ref()) || text.starts_with("CARGO_PROFILE_") {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "building examples/policies failed; the errors are above");
    target_dir.join(TARGET).join("release")
});

/// A user whose own file names one policy, and who builds the folder `context`.
struct User {
    place: Place,
    policy: &'static str,
}

/// What `plywood plan` says of a step; the reason is the policy's.
#[derive(Debug)]
struct Step {
    key: Option<String>,
    cached: bool,
    reason: String,
}

impl User {
    /// The user's own file is written by `says`; until then there is no policy.
    fn new(policy: &'static str, dockerfile: &str) -> Self {
        let place = Place::new();
        place.write("context/Dockerfile", dockerfile);
        Self { place, policy }
    }

    /// Puts this behind the policy's name and source in the user's own file: settings, then grants.
    fn says(&self, settings: &str, grants: &str) {
        let (name, wasm) = (self.policy, COMPONENTS.join(format!("{}.wasm", self.policy.replace('-', "_"))));
        let source = format!("[plugins.{name}]\nsource = \"path:{}\"\n", wasm.display());
        let rest = format!("[plugins.{name}.settings]\n{settings}\n[plugins.{name}.allow]\n{grants}\n");
        self.place.write("config/plywood/config.toml", source + &rest);
    }

    fn project_says(&self, settings: &str) {
        self.place.write("context/plywood.toml", format!("[plugins.{}.settings]\n{settings}\n", self.policy));
    }

    /// A command on the context; `arguments` are parted by blanks, those in upper case are variables of the environment.
    fn command(&self, command: &str, arguments: &str) -> Command {
        let mut plywood = self.place.plywood();
        // The tests may run in a CI of their own.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["CI_", "GITLAB_", "GITHUB_", "PLYWOOD_"].iter().any(|prefix| text.starts_with(prefix)) {
                plywood.env_remove(&name);
            }
        }
        plywood.arg(command);
        for argument in arguments.split_whitespace() {
            match argument.split_once('=') {
                Some((name, value)) if name.starts_with(char::is_uppercase) => plywood.env(name, value),
                _ => plywood.arg(argument),
            };
        }
        plywood.arg(self.place.join("context"));
        plywood
    }

    fn build(&self, arguments: &str) -> Output {
        let built = output(&mut self.command("build", &format!("--progress=plain {arguments}")));
        assert!(built.status.success(), "{}", all(&built));
        built
    }

    /// The steps of a plan, the base image left out.
    fn plan(&self, arguments: &str) -> Vec<Step> {
        let steps: Value =
            serde_json::from_str(&run(&mut self.command("plan", &format!("--json {arguments}")))).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let steps = steps.as_array().unwrap().iter().filter(|step| !step["name"].as_str().unwrap().contains("] FROM "));
        let step = |step: &Value| Step {
            key: text(&step["key"]),
            cached: step["cached"].as_bool().unwrap(),
            reason: text(&step["policy"]).unwrap_or_default(),
        };
        steps.map(step).collect()
    }

    /// The only step of a plan.
    fn step(&self, arguments: &str) -> Step {
        let mut steps = self.plan(arguments);
        assert_eq!(steps.len(), 1, "{steps:#?}");
        steps.remove(0)
    }

    /// What a command says that fails.
    fn failure(&self, command: &str, arguments: &str) -> String {
        let failed = output(&mut self.command(command, arguments));
        assert_eq!(failed.status.code(), Some(1), "{}", all(&failed));
        String::from_utf8(failed.stderr).unwrap()
    }

    fn records(&self) -> Vec<PathBuf> {
        let mut records = files(&self.place.root().join("cache"));
        records.sort();
        records
    }

    /// Makes every entry of the cache older.
    fn age(&self, days: u64) {
        for file in self.records() {
            let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            record["created_at"] = (record["created_at"].as_u64().unwrap() - days * 24 * 60 * 60).into();
            fs::write(&file, record.to_string()).unwrap();
        }
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "it does not say {part:?}: {text}");
    }
}

mod monorepo_ci {
    use super::*;

    const DOCKERFILE: &str = "FROM scratch\nARG GIT_SHA=none\nARG BUILD_ID=0\nARG VERSION=1\n\
                              RUN [\"/bin/make\"]\nRUN [\"/bin/make\", \"${GIT_SHA:-none}\"]\n";
    const SETTINGS: &str = "arguments = \"GIT_SHA, BUILD_*\"";
    const GRANTED: &str = "drop-inputs = true";

    fn keys(user: &User, arguments: &str) -> Vec<String> {
        user.plan(arguments).into_iter().map(|step| step.key.expect("a key")).collect()
    }

    const ONE: &str = "--build-arg=GIT_SHA=one --build-arg=BUILD_ID=1";
    const TWO: &str = "--build-arg=GIT_SHA=two --build-arg=BUILD_ID=2";

    #[test]
    fn what_is_named_and_not_used_does_not_count() {
        let user = User::new("monorepo-ci", DOCKERFILE);
        let (without_one, without_two) = (keys(&user, ONE), keys(&user, TWO));
        assert!(without_one[0] != without_two[0] && without_one[1] != without_two[1]);

        user.says(SETTINGS, GRANTED);
        let (one, two) = (keys(&user, ONE), keys(&user, TWO));
        assert_eq!(one[0], two[0]);
        assert_ne!(one[1], two[1], "a command that uses the argument was served from another's");
        assert_eq!(one[1], keys(&user, "--build-arg=GIT_SHA=one --build-arg=BUILD_ID=2")[1]);
        // The policy's own entries are no one else's.
        assert_ne!(one[0], without_one[0]);
        let other = keys(&user, &format!("{ONE} --build-arg=VERSION=2"));
        assert_ne!(one[0], other[0], "an argument that is not named was dropped");

        let reasons: Vec<String> = user.plan(ONE).into_iter().map(|step| step.reason).collect();
        assert_eq!(reasons, ["whatever GIT_SHA, BUILD_ID is", "whatever BUILD_ID is; it uses GIT_SHA"]);
    }

    #[test]
    fn even_if_used() {
        let user = User::new("monorepo-ci", DOCKERFILE);
        user.says(&format!("{SETTINGS}\neven-if-used = \"true\""), GRANTED);
        assert_eq!(keys(&user, ONE), keys(&user, TWO));
    }

    #[test]
    fn dropping_needs_leave() {
        let user = User::new("monorepo-ci", DOCKERFILE);
        user.says(SETTINGS, "");
        let help = "to allow it, add `drop-inputs = true` under [plugins.monorepo-ci.allow] in your own config.toml";
        says(&user.failure("plan", ""), &["Dockerfile:5: ", "monorepo-ci may not leave an input of a step out", help]);
        says(&user.failure("build", ""), &[help]);
        user.place.write("context/plywood.toml", format!("[plugins.monorepo-ci.allow]\n{GRANTED}\n"));
        says(&user.failure("plan", ""), &["plywood.toml: the project's file cannot grant the plugin monorepo-ci more"]);
    }

    #[test]
    fn with_nothing_to_drop_it_is_as_if_it_was_not_there() {
        let user = User::new("monorepo-ci", DOCKERFILE);
        let standard = keys(&user, ONE);
        // No leave is needed either.
        user.says("arguments = \"OTHER_*\"", "");
        assert_eq!(keys(&user, ONE), standard);
        user.says("", "");
        assert_eq!(keys(&user, ONE), standard);
    }

    #[test]
    fn a_project_may_name_the_arguments() {
        let user = User::new("monorepo-ci", DOCKERFILE);
        user.says("", GRANTED);
        user.project_says(SETTINGS);
        assert_eq!(keys(&user, ONE)[0], keys(&user, TWO)[0]);
        user.says("arguments = \"\"", GRANTED);
        assert_ne!(keys(&user, ONE)[0], keys(&user, TWO)[0], "the project's word counted more than the user's");
    }

    #[test]
    fn a_wrong_setting_is_told() {
        let user = User::new("monorepo-ci", DOCKERFILE);
        user.says("arguments = \"$GIT_SHA\"", GRANTED);
        says(
            &user.failure("plan", ""),
            &["the setting `arguments` of the cache policy is wrong: `$GIT_SHA` is no name"],
        );
        user.says("even-if-used = \"yes\"", GRANTED);
        says(&user.failure("plan", ""), &["the setting `even-if-used` of the cache policy is wrong: `yes` is neither"]);
    }

    #[test]
    fn a_step_is_reused_for_another_commit() {
        need_root();
        let user =
            User::new("monorepo-ci", "FROM base\nARG GIT_SHA\nRUN echo done > /made\nRUN echo $GIT_SHA > /sha\n");
        let base = format!("--build-context={}", user.place.busybox_base());
        user.says(SETTINGS, GRANTED);
        user.build(&format!("{base} --build-arg=GIT_SHA=one"));
        let cached = |sha: &str| -> Vec<bool> {
            user.plan(&format!("{base} --build-arg=GIT_SHA={sha}")).iter().map(|step| step.cached).collect()
        };
        assert_eq!((cached("one"), cached("two")), (vec![true, true], vec![true, false]));
        says(&all(&user.build(&format!("{base} --build-arg=GIT_SHA=two"))), &["CACHED"]);
    }
}

mod branch_scopes {
    use super::*;

    const DOCKERFILE: &str = "FROM scratch\nCOPY a /\n";

    /// What a user says where no CI does.
    fn on(user: &User, branch: &str) {
        user.says(&format!("ci = \"none\"\nbranch = \"{branch}\""), "");
    }

    /// Another content, so that nothing of it is in the cache.
    fn content(user: &User, text: &str) {
        user.place.write("context/a", text);
    }

    #[test]
    fn a_branch_reads_main_and_main_does_not_read_it() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "of main");
        on(&user, "main");
        user.build("");
        let main = user.step("");
        assert!(main.cached && main.reason == "reads and writes main", "{main:?}");
        on(&user, "feature");
        let feature = user.step("");
        assert!(feature.cached && feature.reason == "reads feature and main, writes feature", "{feature:?}");
        assert_ne!(feature.key, main.key);

        content(&user, "of the branch");
        assert!(!user.step("").cached);
        user.build("");
        assert!(user.step("").cached);
        for other in ["main", "another"] {
            on(&user, other);
            assert!(!user.step("").cached, "{other} sees what a branch has made");
        }
        // Nor does a build without the policy.
        fs::remove_file(user.place.join("config/plywood/config.toml")).unwrap();
        assert!(!user.step("").cached);
    }

    #[test]
    fn what_is_not_trusted_or_not_known_writes_nothing() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "of main");
        on(&user, "main");
        user.build("");
        let before = user.records();
        assert_ne!(before, Vec::<PathBuf>::new());
        for (settings, why) in [
            ("ci = \"none\"\nbranch = \"main\"\nfork = \"true\"", "it is a fork, says the setting `fork`"),
            ("ci = \"none\"", "the branch is not known: no variable and no setting says it"),
            (
                "ci = \"none\"\nbranch-variable = \"BRANCH\"",
                "the branch is not known: $BRANCH is not set, or not granted",
            ),
        ] {
            user.says(settings, "");
            content(&user, "of main");
            let step = user.step("");
            assert_eq!((step.cached, &step.key), (true, &None), "{step:?}");
            assert_eq!(step.reason, format!("reads main, writes nothing: {why}"));
            content(&user, "of a stranger");
            user.build("");
            assert!(!user.step("").cached);
            assert_eq!(user.records(), before, "{settings}");
        }
    }

    const GITLAB: &str = "env = [\"GITLAB_CI\", \"CI_PROJECT_PATH\", \"CI_COMMIT_BRANCH\", \"CI_DEFAULT_BRANCH\", \
                          \"CI_MERGE_REQUEST_SOURCE_PROJECT_PATH\", \"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME\"]";
    const JOB: &str = "GITLAB_CI=true CI_PROJECT_PATH=a/b CI_DEFAULT_BRANCH=trunk";

    #[test]
    fn gitlab_says_it() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "a");
        user.says("", GITLAB);
        user.build(&format!("{JOB} CI_COMMIT_BRANCH=trunk"));
        let branch = user.step(&format!("{JOB} CI_COMMIT_BRANCH=x"));
        assert!(branch.cached && branch.reason == "reads a/b:x and a/b:trunk, writes a/b:x", "{branch:?}");
        // A pipeline of a fork's own: its main branch is not ours.
        let own = user.step("GITLAB_CI=true CI_PROJECT_PATH=evil/b CI_DEFAULT_BRANCH=trunk CI_COMMIT_BRANCH=trunk");
        assert!(!own.cached && own.reason == "reads and writes evil/b:trunk", "{own:?}");
    }

    #[test]
    fn a_fork_gains_nothing_by_its_own_file() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "a");
        user.says("", GITLAB);
        let fork =
            format!("{JOB} CI_MERGE_REQUEST_SOURCE_PROJECT_PATH=evil/b CI_MERGE_REQUEST_SOURCE_BRANCH_NAME=trunk");
        for settings in [
            "",
            "fork = \"false\"",
            "branch = \"trunk\"",
            "branch-variable = \"CI_DEFAULT_BRANCH\"\nproject = \"a/b\"",
            "fork-variable = \"GITLAB_CI\"\nfork-values = \"no\"",
        ] {
            user.project_says(settings);
            let step = user.step(&fork);
            assert_eq!(step.key, None, "{settings}: {step:?}");
            let reason = "reads a/b:trunk, writes nothing: the merge request comes from the fork evil/b";
            assert_eq!(step.reason, reason, "{settings}");
            user.build(&fork);
        }
        assert_eq!(user.records(), Vec::<PathBuf>::new());
        // `ci = "none"` would ask no variable: the user's own file has to say otherwise.
        user.project_says("ci = \"none\"\nbranch = \"trunk\"\nproject = \"a/b\"");
        user.says("ci = \"gitlab\"", GITLAB);
        assert_eq!(user.step(&fork).key, None);
        let granted = "[plugins.branch-scopes.allow]\nenv = [\"CI_COMMIT_BRANCH\"]\n";
        user.place.write("context/plywood.toml", granted);
        says(
            &user.failure("plan", ""),
            &["plywood.toml: the project's file cannot grant the plugin branch-scopes more"],
        );
    }

    #[test]
    fn github_says_it() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "a");
        let variables = "env = [\"GITHUB_REPOSITORY\", \"GITHUB_EVENT_NAME\", \"GITHUB_REF_TYPE\", \
                         \"GITHUB_REF_NAME\", \"GITHUB_HEAD_REF\", \"PLYWOOD_FORK\"]";
        user.says("ci = \"github\"", variables);
        let job = "GITHUB_REPOSITORY=a/b";
        user.build(&format!("{job} GITHUB_EVENT_NAME=push GITHUB_REF_TYPE=branch GITHUB_REF_NAME=main"));
        let request = format!("{job} GITHUB_EVENT_NAME=pull_request GITHUB_HEAD_REF=main");
        for (fork, writes, reason) in [
            ("PLYWOOD_FORK=false", true, "reads and writes a/b:main"),
            ("PLYWOOD_FORK=true", false, "reads a/b:main, writes nothing: the pull request comes from a fork"),
            (
                "",
                false,
                "reads a/b:main, writes nothing: the pull request may come from a fork, $PLYWOOD_FORK does not say",
            ),
        ] {
            let step = user.step(&format!("{request} {fork}"));
            assert_eq!((step.cached, step.key.is_some(), step.reason.as_str()), (true, writes, reason));
        }
    }

    #[test]
    fn variables_need_leave() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "a");
        user.says("ci = \"gitlab\"", "env = [\"CI_COMMIT_BRANCH\"]");
        let job = format!("{JOB} CI_COMMIT_BRANCH=trunk");
        let step = user.step(&job);
        assert_eq!(step.key, None);
        says(&step.reason, &["writes nothing: $CI_PROJECT_PATH is not set, or not granted"]);
        let help = "add `env = [\"CI_PROJECT_PATH\"]` under [plugins.branch-scopes.allow] in your own config.toml";
        says(&all(&user.build(&job)), &[help]);
        assert_eq!(user.records(), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_users_word_counts_more_than_the_projects() {
        let user = User::new("branch-scopes", DOCKERFILE);
        content(&user, "a");
        user.says("ci = \"none\"\nfork-variable = \"OWNER\"\nfork-values = \"!acme\"", "env = [\"OWNER\"]");
        user.project_says("branch = \"x\"\nfork-variable = \"NOBODY\"\nfork-values = \"no\"");
        assert_eq!(user.step("OWNER=acme").reason, "reads x and main, writes x");
        assert_eq!(user.step("OWNER=evil").reason, "reads main, writes nothing: it is a fork, since $OWNER is evil");
        user.says("fork = \"maybe\"", "");
        says(&user.failure("plan", ""), &["the setting `fork` is `maybe`, which is neither true nor false"]);
    }
}

mod weekly_updates {
    use super::*;

    const DOCKERFILE: &str =
        "FROM base\nCOPY --chmod=755 apk /bin/apk\nRUN echo apk update\nRUN set -e; apk \\\n  update\nRUN echo last\n";

    /// A user, and the value of --build-context for the base.
    fn user() -> (User, String) {
        need_root();
        let user = User::new("weekly-updates", DOCKERFILE);
        user.place.write("context/apk", "#!/bin/busybox sh\necho updated > /updated\n");
        let base = user.place.busybox_base();
        (user, format!("--build-context={base}"))
    }

    fn cached(steps: &[Step]) -> Vec<bool> {
        steps.iter().map(|step| step.cached).collect()
    }

    #[test]
    fn an_update_grows_old() {
        let (user, base) = user();
        user.says("", "");
        user.build(&base);
        let fresh = user.plan(&base);
        assert_eq!(cached(&fresh), [true; 4], "{fresh:#?}");
        let reasons: Vec<&str> = fresh.iter().map(|step| step.reason.as_str()).collect();
        assert_eq!(reasons, ["", "", "apk update is good for 7d, on this base image", ""]);

        user.age(6);
        assert_eq!(cached(&user.plan(&base)), [true; 4]);
        user.says("max-age = \"5d\"", "");
        assert_eq!(cached(&user.plan(&base)), [true, true, false, false]);
        user.says("", "");
        user.age(2);
        assert_eq!(cached(&user.plan(&base)), [true, true, false, false]);
        user.build(&base);
        assert_eq!(cached(&user.plan(&base)), [true; 4]);
    }

    #[test]
    fn an_update_belongs_to_its_base() {
        let (user, base) = user();
        // The same layers, and another image.
        let layout = user.place.join("other-layout");
        user.place.write("other/Dockerfile", "FROM base\nLABEL made=again\n");
        let mut command = user.place.plywood();
        command.args(["build", "-q", "-t", "base:1", &base, "-o"]);
        command.arg(format!("type=oci,tar=false,dest={}", layout.display())).arg(user.place.join("other"));
        run(&mut command);
        let other = format!("--build-context=base=oci-layout://{}:1", layout.display());
        let keys =
            |base: &str| -> Vec<String> { user.plan(base).into_iter().map(|step| step.key.expect("a key")).collect() };
        let standard = keys(&base);
        assert_eq!(standard, keys(&other));

        user.says("", "");
        let (one, two) = (keys(&base), keys(&other));
        assert_eq!((&one[..2], &two[..2]), (&standard[..2], &standard[..2]));
        assert_ne!(one[2], two[2]);
        assert!(one[2] != standard[2] && two[2] != standard[2]);
        assert_ne!(one[3], two[3], "what stands on an update does not go with it");
        user.build(&base);
        assert_eq!(cached(&user.plan(&base)), [true; 4]);
        assert_eq!(cached(&user.plan(&other)), [true, true, false, false]);
    }

    #[test]
    fn what_updates_nothing_is_as_if_the_policy_was_not_there() {
        let user = User::new("weekly-updates", "FROM scratch\nRUN [\"apk\", \"info\", \"update\"]\n");
        let standard = user.step("");
        user.says("", "");
        let step = user.step("");
        assert_eq!((step.key, step.reason), (standard.key, standard.reason));
        // Here is no base whose digest there could be.
        user.place.write("context/Dockerfile", "FROM scratch\nRUN [\"apk\", \"update\"]\n");
        assert_eq!(user.step("").reason, "apk update is good for 7d");
    }

    #[test]
    fn a_wrong_age_is_told() {
        let user = User::new("weekly-updates", "FROM scratch\nRUN [\"true\"]\n");
        user.says("", "");
        user.project_says("max-age = \"a week\"");
        says(&user.failure("plan", ""), &["the setting `max-age` of the cache policy is `a week`: an age is numbers"]);
        user.says("max-age = \"1w\"", "");
        assert_eq!(user.plan("").len(), 1);
    }
}

/// The READMEs are held to what the policies have, so that no setting stands in one alone.
#[test]
fn every_policy_has_a_readme_that_names_its_settings() {
    for (policy, settings) in [
        ("monorepo-ci", &["arguments", "even-if-used", "drop-inputs"][..]),
        ("branch-scopes", &["`ci`", "`branch`", "branch-variable", "project", "main", "fork-variable", "fork-values"]),
        ("weekly-updates", &["max-age", "package-manager"]),
    ] {
        let folder: &Path = &repository("examples/policies").join(policy);
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        says(&readme, settings);
        says(&readme, &["config.toml", "plywood.toml", "plywood plan"]);
    }
}
