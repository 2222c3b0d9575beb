//! Why a step was not found: `plywood explain` names what has changed, and so do `plan` and the build's own log.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::{Place, all, files, output, run};

const DOCKERFILE: &str = "FROM scratch AS build\nARG VERSION=1\nENV MODE=fast\nWORKDIR /x/$VERSION\nCOPY src /src\n\
    FROM scratch\nCOPY --from=build /src /made\nCOPY late /late\n";

struct Project(Place);

impl Project {
    fn new() -> Self {
        let place = Place::new();
        place.write("c/Dockerfile", DOCKERFILE);
        for name in ["src/a", "src/b", "src/deep/c", "late"] {
            place.write(&format!("c/{name}"), name);
        }
        Self(place)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.0.plywood();
        command.args(words.split(' '));
        command
    }

    /// Builds, and gives the log.
    fn build(&self, words: &str) -> String {
        let mut command = self.command("build --progress=plain");
        command.args(words.split(' ').filter(|word| !word.is_empty())).arg(self.0.join("c"));
        let built = output(&mut command);
        assert!(built.status.success(), "{}", all(&built));
        String::from_utf8(built.stderr).unwrap()
    }

    fn told(&self, words: &str) -> Vec<Value> {
        let mut command = self.command("explain --json");
        command.args(words.split(' ').filter(|word| !word.is_empty())).arg("--context").arg(self.0.join("c"));
        serde_json::from_str(&run(&mut command)).unwrap()
    }

    /// The only step of this text, as `plan` has it before a build and `explain` after; they say the same.
    #[track_caller]
    fn changes(&self, step: &str, words: &str) -> Value {
        let mut plan = self.command("plan --json");
        plan.args(words.split(' ').filter(|word| !word.is_empty())).arg(self.0.join("c"));
        let planned: Vec<Value> = serde_json::from_str(&run(&mut plan)).unwrap();
        let log = self.build(words);
        let told = self.told("");
        let of = |steps: &[Value]| {
            steps
                .iter()
                .find(|state| state["name"].as_str().unwrap().contains(step))
                .unwrap_or_else(|| panic!("{steps:#?}"))
                .clone()
        };
        let (planned, told) = (of(&planned), of(&told));
        assert_eq!((&planned["reason"], &planned["changes"]), (&told["reason"], &told["changes"]));
        assert_eq!(told["cached"], false);
        let reason = told["reason"].as_str().unwrap();
        assert!(log.lines().any(|line| line.contains(step) && line.contains(reason)), "{reason}: {log}");
        told
    }
}

/// Paths and what became of them.
fn changed_files(state: &Value) -> Vec<(String, String)> {
    let files = state["changes"][0]["files"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    files.iter().map(|file| (text(&file["path"]), text(&file["how"]))).collect()
}

#[test]
fn what_was_never_built_is_said_to_be_so_and_what_is_found_is_found() {
    let project = Project::new();
    project.build("");
    let reasons: Vec<Value> = project.told("").iter().map(|state| state["reason"].clone()).collect();
    assert_eq!(reasons, vec!["nothing like it has been built here"; 4]);
    project.build("");
    assert!(project.told("").iter().all(|state| state["cached"] == true && state["reason"].is_null()));
    let mut text = project.command("explain --context");
    let text = run(text.arg(project.0.join("c")).arg("COPY --from"));
    assert!(text.starts_with("cached  ") && text.lines().count() == 1, "{text}");
}

#[test]
fn files_are_named() {
    let project = Project::new();
    project.build("");
    fs::write(project.0.join("c/src/a"), "other").unwrap();
    fs::remove_file(project.0.join("c/src/b")).unwrap();
    project.0.write("c/src/new", "");
    let state = project.changes("COPY src", "");
    let named = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(path, how)| ((*path).to_owned(), (*how).to_owned())).collect()
    };
    assert_eq!(changed_files(&state), named(&[("src/a", "changed"), ("src/b", "removed"), ("src/new", "added")]));
    assert_eq!(state["reason"], "src/a has changed, and 2 more");
    assert_eq!(state["changes"][0]["component"], "context:src");
    // The mode counts, the time does not.
    run(Command::new("chmod").arg("600").arg(project.0.join("c/src/deep/c")));
    run(Command::new("touch").arg(project.0.join("c/src/a")));
    let state = project.changes("COPY src", "");
    assert_eq!(changed_files(&state), named(&[("src/deep/c", "changed")]));
    // And what stands on it says what it stands on.
    let told = project.told("/made");
    assert_eq!(told[0]["reason"], "what it takes from build is made otherwise");
    let told = project.told("3/3");
    let below = told.iter().find(|state| state["name"].as_str().unwrap().contains("late")).unwrap();
    assert!(below["reason"].as_str().unwrap().starts_with("the step below it is another: [stage-1 2/3] COPY"));
}

#[test]
fn arguments_options_and_text_are_named() {
    let project = Project::new();
    let with = |dockerfile: &str| project.0.write("c/Dockerfile", dockerfile);
    project.build("");
    let state = project.changes("WORKDIR", "--build-arg=VERSION=2");
    assert_eq!(state["reason"], "it has other options, or its variables have other values");
    with(&DOCKERFILE.replace("COPY late /late", "COPY --chmod=600 late /late"));
    let state = project.changes("late", "--build-arg=VERSION=2");
    assert_eq!(state["reason"], "it was `COPY late /late`");
    with(&DOCKERFILE.replace("COPY late /late", "COPY late /later"));
    let state = project.changes("late", "--build-arg=VERSION=2");
    assert!(state["reason"].as_str().unwrap().starts_with("it was `COPY"), "{state}");
}

#[test]
fn variables_and_base_images_are_named() {
    support::need_root();
    let project = Project::new();
    let base = project.0.busybox_base();
    let base = format!("--build-context={base}");
    let step = "RUN [\"/bin/busybox\", \"true\"]";
    let dockerfile = |env: &str, step: &str| {
        project.0.write("c/Dockerfile", format!("FROM base\nARG VERSION=1\nENV MODE={env}\n{step}\n"));
    };
    dockerfile("fast", step);
    project.build(&base);
    let state = project.changes("RUN", &format!("{base} --build-arg=VERSION=2"));
    assert_eq!(state["reason"], "the argument VERSION has another value");
    dockerfile("slow", step);
    let state = project.changes("RUN", &format!("{base} --build-arg=VERSION=2"));
    assert_eq!(state["reason"], "the variable MODE has another value");
    dockerfile("slow\nENV NEW=1", step);
    let state = project.changes("RUN", &format!("{base} --build-arg=VERSION=3"));
    assert_eq!(state["reason"], "the argument VERSION has another value; 1 more");
    assert_eq!(state["changes"][1]["text"], "the variable NEW is new");
    // The same with another layer below.
    project.0.write("o/Dockerfile", "FROM base\nCOPY file /file\n");
    project.0.write("o/file", "");
    let other = project.0.join("other");
    let mut command = project.command("build -q");
    run(command
        .arg(&base)
        .arg("-o")
        .arg(format!("type=oci,tar=false,dest={}", other.display()))
        .arg(project.0.join("o")));
    let base = format!("--build-context=base=oci-layout://{}", other.display());
    let state = project.changes("RUN", &format!("{base} --build-arg=VERSION=3"));
    assert_eq!(state["reason"], "the base image base is another");
}

#[test]
fn what_is_gone_or_refused_is_told() {
    let project = Project::new();
    project.build("");
    for blob in files(&project.0.root().join("blobs/blobs")) {
        fs::remove_file(blob).unwrap();
    }
    assert_eq!(project.changes("WORKDIR", "")["reason"], "the layer of the entry is gone");
    project.build("--no-cache");
    assert_eq!(project.told("WORKDIR")[0]["reason"], "--no-cache");
    // A build that fails is explained as well.
    project.0.write("c/late", "other");
    let mut command = project.command("build --require-cached");
    let failed = output(command.arg(project.0.join("c")));
    assert_eq!(failed.status.code(), Some(1));
    assert!(all(&failed).contains("late has changed"), "{}", all(&failed));
    assert_eq!(project.told("/late")[0]["reason"], "late has changed");
    let unknown = output(project.command("explain nothing --context").arg(project.0.join("c")));
    assert!(!unknown.status.success() && all(&unknown).contains("no step `nothing`"), "{}", all(&unknown));
    let nowhere = output(project.command("explain --context").arg(project.0.root()));
    assert!(!nowhere.status.success() && all(&nowhere).contains("nothing has been built here"), "{}", all(&nowhere));
}

/// What counts for a build counts for its plan, if it is told the same.
#[test]
fn a_plan_knows_what_commands_get() {
    support::need_root();
    let project = Project::new();
    let base = project.0.busybox_base();
    project.0.write("c/Dockerfile", "FROM base\nRUN [\"/bin/busybox\", \"true\"]\n");
    let words = format!("--build-context {base} --add-host one:10.0.0.1 --ulimit nofile=512 --shm-size 32m");
    project.build(&words);
    let cached = |words: &str| {
        let mut plan = project.command("plan --json");
        plan.args(words.split(' ')).arg(project.0.join("c"));
        let planned: Vec<Value> = serde_json::from_str(&run(&mut plan)).unwrap();
        planned.iter().all(|state| state["cached"] == true)
    };
    assert!(cached(&words));
    assert!(!cached(&words.replace("10.0.0.1", "10.0.0.2")));
}
