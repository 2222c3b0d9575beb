//! The recipes of examples/ci. Each is read as its system reads it, and run twice in a container with the rights that it has
//! there: the first run pushes the image, the second finds everything in the cache. Which isolation its README tells of is
//! what the build's log must tell.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine;
use serde_json::{Value, json};
use support::docker::{Docker, own_images};
use support::runc::UserNamespace;
use support::{Place, Registry, all, need, need_root, output, repository, run};

/// Who may push.
const USER: &str = "user";
const PASSWORD: &str = "pass word";
/// What the project's version is called.
const VERSION: &str = "v1.0";
/// What `docker run` is told where containers have docker's usual rights, and where they have others.
const USUAL: &[&str] = &[];
const PRIVILEGED: &[&str] = &["--privileged"];
const UNCONFINED: &[&str] = &["--security-opt=seccomp=unconfined"];

/// Flags for `docker run`. `--privileged` gives every capability; where this machine's root has not all of them, what matters
/// of it.
fn rights<'a>(flags: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    let has_all = u64::from_str_radix(bounding, 16).unwrap().count_ones() == last + 1;
    let mut given = Vec::new();
    for flag in flags {
        if flag == "--privileged" && !has_all {
            given.push("--cap-add=SYS_ADMIN".to_owned());
            given
                .extend(["seccomp", "apparmor", "systempaths"].map(|what| format!("--security-opt={what}=unconfined")));
        } else {
            given.push(flag.to_owned());
        }
    }
    given
}

/// A container that leaves nothing behind, on the machine's network.
fn container(docker: &Docker, flags: &[String], image: &str, words: &[String]) -> Command {
    let mut command = docker.command(&["run", "--rm", "--network=host"]);
    command.args(flags).arg(image).args(words);
    command
}

/// A project as a CI system has it, and a registry that wants to know who pushes and who reads.
struct Project {
    place: Place,
    registry: Registry,
}

impl Project {
    fn new() -> Self {
        Self::with(
            "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox cat /source > /made; busybox date +%N > /when\"]\n",
        )
    }

    /// One whose Dockerfile has this line in its first stage.
    fn with(line: &str) -> Self {
        need_root();
        let (place, registry) = (Place::new(), Registry::protected(USER, PASSWORD));
        let project = Self { place, registry };
        let place = &project.place;
        place.write("home/.docker/config.json", project.credentials());
        let base = format!("{}/base:1", project.registry.host);
        let made = place.busybox_base();
        run(place.plywood().args(["copy", made.trim_start_matches("base=")]).arg(format!("docker://{base}")));
        let text = format!(
            "FROM {base} AS build\nCOPY source /source\n{line}FROM {base}\nCOPY --from=build /source* /made* /\nLABEL own=1\n"
        );
        place.write("project/Dockerfile", text);
        place.write("project/source", "text\n");
        let git = |words: &[&str]| {
            let mut git = Command::new(need("git", "git"));
            git.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"]).arg(place.join("project"));
            run(git.args(words).env("GIT_CONFIG_GLOBAL", "/dev/null"));
        };
        git(&["init", "-q", "-b", "main"]);
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "all"]);
        project
    }

    /// What `docker login` writes.
    fn credentials(&self) -> String {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let auths = BTreeMap::from([(&self.registry.host, json!({ "auth": auth }))]);
        json!({ "auths": auths }).to_string()
    }

    fn folder(&self) -> PathBuf {
        self.place.join("project")
    }

    /// A name in the registry.
    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host)
    }

    /// A recipe as JSON; what stands for a place somewhere is a place here.
    fn recipe(&self, name: &str) -> Value {
        let mut text = fs::read_to_string(repository("examples/ci").join(name)).unwrap();
        for (placeholder, here) in [
            ("registry.example/plywood:", "plywood:"),
            ("registry.example", &self.registry.host),
            ("ghcr.io", &self.registry.host),
            ("https://git.example/team/app.git", &format!("file://{}", self.folder().display())),
        ] {
            text = text.replace(placeholder, here);
        }
        let file = self.place.write(name, text);
        // Debian's, whichever other python comes first.
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)"]);
        let read = output(python.arg(file));
        assert!(read.status.success(), "{name}: {}(it needs python3-yaml: apt-get install python3-yaml)", all(&read));
        serde_json::from_slice(&read.stdout).unwrap()
    }

    fn skopeo(&self, verb: &str, name: &str) -> Value {
        let mut skopeo = Command::new(need("skopeo", "skopeo"));
        skopeo.args([verb, "--tls-verify=false", "--creds", &format!("{USER}:{PASSWORD}")]);
        serde_json::from_str(&run(skopeo.arg(format!("docker://{}", self.name(name))))).unwrap()
    }

    /// Runs a recipe twice. `place` is which of the README's the rights are of.
    fn check(&self, recipe: &str, place: usize, repository: &str, tag: &str, mut build: impl FnMut() -> Output) {
        let mut told = || {
            let ended = build();
            assert!(ended.status.success(), "{recipe}: {}", all(&ended));
            all(&ended)
        };
        let name = format!("{repository}:{tag}");
        let first = told();
        assert!(first.contains(" DONE "), "{recipe}: {first}");
        assert_eq!(isolation(&first), readme_isolation(recipe)[place], "{recipe}: {first}");
        let image = self.skopeo("inspect", &name);
        assert_eq!(image["Labels"]["own"], "1", "{recipe}: {image}");
        let second = told();
        assert!(second.contains("CACHED") && !second.contains(" DONE "), "{recipe}: {second}");
        assert_eq!(self.skopeo("inspect", &name)["Digest"], image["Digest"], "{recipe}");
        let kept = self.skopeo("list-tags", &format!("{repository}/cache"));
        assert!(kept["Tags"].as_array().unwrap().len() >= 2, "{recipe}: {kept}");
    }

    /// Runs a script on a machine with docker. Containers have the rights that the script gives them, and `more`.
    fn script(&self, docker: &Docker, shell: &[&str], script: &str, more: &[&str], env: &[(&str, &str)]) -> Output {
        let real = need("docker", "docker.io");
        // The daemon has no network of its own.
        let wrapper = format!(
            "#!/bin/sh\n[ \"$1\" != run ] || {{ shift; set -- run --network=host {} \"$@\"; }}\nexec {} \"$@\"\n",
            more.join(" "),
            real.display()
        );
        let wrapper = self.place.write("bin/docker", wrapper);
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        let home = tempfile::tempdir_in(self.place.path()).unwrap();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script]).current_dir(self.folder()).stdin(Stdio::null()).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.place.join("bin").display()));
        command.env("HOME", home.path()).env("DOCKER_HOST", docker.host()).envs(env.iter().copied());
        output(&mut command)
    }

    /// What `docker run` is told to have the project's folder where a system has it.
    fn mount(&self, at: &str) -> String {
        format!("--volume={}:{at}", self.folder().display())
    }

    /// A new folder that everyone may write to.
    fn empty(&self) -> PathBuf {
        let folder = tempfile::tempdir_in(self.place.path()).unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        folder
    }
}

/// How the log says that commands are isolated.
fn isolation(log: &str) -> &str {
    log.split("commands run in ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or("none")
}

/// The rows of the README's tables, as cells.
fn readme() -> Vec<Vec<String>> {
    let text = fs::read_to_string(repository("examples/ci/README.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands between backquotes.
fn codes(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What the README says of a recipe's isolation, for each kind of place.
fn readme_isolation(recipe: &str) -> Vec<String> {
    let row = readme().into_iter().find(|row| row[0] == format!("[{recipe}]({recipe})"));
    codes(&row.unwrap_or_else(|| panic!("README.md has no {recipe}"))[2])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A list of texts; nothing is an empty one, and one text a list of one.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(texts) => texts.iter().map(|value| text(value).to_owned()).collect(),
        one => vec![text(one).to_owned()],
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Puts what is meant where a name stands between two marks.
fn expanded(text: &str, open: &str, close: &str, value: &dyn Fn(&str) -> String) -> String {
    let mut parts = text.split(open);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(close).unwrap_or_else(|| panic!("`{text}` has no end"));
        out += &value(name.trim());
        out += rest;
    }
    out
}

/// The value of a name in a list that holds all there are.
fn known(of: &[(&str, &str)], name: &str) -> String {
    let found = of.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("nothing is called `{name}` there")).1.to_owned()
}

#[test]
fn gitlab() {
    for (place, given) in [USUAL, PRIVILEGED].into_iter().enumerate() {
        let (docker, project) = (Docker::shared(), Project::new());
        let recipe = project.recipe("gitlab-ci.yml");
        let job = recipe.as_object().unwrap().values().find(|job| job.get("script").is_some()).unwrap();
        assert_eq!(job["rules"][0]["if"], "$CI_COMMIT_TAG", "in other pipelines there is no such variable");
        let mut flags = vec![project.mount("/builds/team/app"), "--workdir=/builds/team/app".into(), "-i".into()];
        flags.extend(rights(given.iter().copied()));
        for (name, value) in [
            ("CI_PROJECT_DIR", "/builds/team/app"),
            ("CI_REGISTRY", &project.registry.host),
            ("CI_REGISTRY_IMAGE", &project.name("team/app")),
            ("CI_REGISTRY_USER", USER),
            ("CI_REGISTRY_PASSWORD", PASSWORD),
            ("CI_COMMIT_TAG", VERSION),
        ] {
            flags.push(format!("--env={name}={value}"));
        }
        // The runner starts a shell behind the image's entrypoint, and writes the script into it.
        if !job["image"]["entrypoint"].is_null() {
            flags.push(format!("--entrypoint={}", texts(&job["image"]["entrypoint"]).join(" ")));
        }
        let script = [texts(&job["before_script"]), texts(&job["script"])].concat().join("\n");
        let script = project.place.write("script", script);
        project.check("gitlab-ci.yml", place, "team/app", VERSION, || {
            let shell = ["sh", "-eo", "pipefail"].map(str::to_owned);
            let mut command = container(&docker, &flags, text(&job["image"]["name"]), &shell);
            output(command.stdin(fs::File::open(&script).unwrap()))
        });
    }
}

#[test]
fn circleci() {
    let (docker, project) = (Docker::shared(), Project::new());
    let recipe = project.recipe("circleci.yml");
    let (name, job) = recipe["jobs"].as_object().unwrap().iter().next().unwrap();
    let used = items(&recipe["workflows"]["release"]["jobs"]).iter().find_map(|job| job.get(name)).unwrap();
    assert!(job["machine"].is_object() && used["context"].is_string() && used["filters"]["tags"].is_object(), "{used}");
    let script: Vec<&str> = items(&job["steps"]).iter().filter_map(|step| step["run"]["command"].as_str()).collect();
    let env = [("REGISTRY_USER", USER), ("REGISTRY_PASSWORD", PASSWORD), ("CIRCLE_TAG", VERSION)];
    project.check("circleci.yml", 0, "team/app", VERSION, || {
        project.script(&docker, &["bash", "-eo", "pipefail"], &script.join("\n"), &[], &env)
    });
}

#[test]
fn travis() {
    let (docker, project) = (Docker::shared(), Project::new());
    let recipe = project.recipe("travis.yml");
    assert!(texts(&recipe["services"]).contains(&"docker".to_owned()) && recipe["if"] == "tag IS present");
    let script = [texts(&recipe["before_script"]), texts(&recipe["script"])].concat().join("\n");
    let folder = project.folder().display().to_string();
    let env = [
        ("REGISTRY_USER", USER),
        ("REGISTRY_PASSWORD", PASSWORD),
        ("TRAVIS_BUILD_DIR", &folder),
        ("TRAVIS_TAG", VERSION),
    ];
    project
        .check("travis.yml", 0, "team/app", VERSION, || project.script(&docker, &["bash", "-e"], &script, &[], &env));
}

#[test]
fn github_actions() {
    let (docker, project) = (Docker::shared(), Project::new());
    let recipe = project.recipe("github-actions.yml");
    // YAML 1.1, which python reads, has `on` for true.
    assert!(recipe["true"]["push"]["tags"].is_array() && recipe["permissions"]["packages"] == "write");
    let secrets = [("secrets.GITHUB_TOKEN", PASSWORD)];
    let value = |name: &str| known(&secrets, name);
    let steps: Vec<&Value> =
        items(&recipe["jobs"]["build"]["steps"]).iter().filter(|step| step.get("run").is_some()).collect();
    let [step] = steps[..] else { panic!("{recipe}") };
    let given = step["env"].as_object().unwrap();
    let given: Vec<_> =
        given.iter().map(|(name, of)| (name.as_str(), expanded(text(of), "${{", "}}", &value))).collect();
    let script = expanded(text(&step["run"]), "${{", "}}", &value);
    let mut env = vec![("GITHUB_ACTOR", USER), ("GITHUB_REPOSITORY", "Team/App"), ("GITHUB_REF_NAME", VERSION)];
    env.extend(given.iter().map(|(name, value)| (*name, value.as_str())));
    project.check("github-actions.yml", 0, "team/app", VERSION, || {
        project.script(&docker, &["bash", "-e"], &script, &[], &env)
    });
}

#[test]
fn cloudbuild() {
    for (place, given) in [PRIVILEGED, USUAL].into_iter().enumerate() {
        let (docker, project) = (Docker::shared(), Project::new());
        let recipe = project.recipe("cloudbuild.yaml");
        let [step] = items(&recipe["steps"]) else { panic!("{recipe}") };
        let (registry, variables) = (&project.registry.host, recipe["substitutions"].as_object().unwrap());
        // What a trigger of this project says in place of the file's own.
        assert!(variables.keys().eq(["_REGISTRY"]), "{recipe}");
        let values = [("_REGISTRY", registry.as_str()), ("PROJECT_ID", "project"), ("SHORT_SHA", "abc1234")];
        let words: Vec<String> = texts(&step["args"])
            .iter()
            .map(|word| {
                let is_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
                let mut parts = word.split('$');
                let mut out = parts.next().unwrap().to_owned();
                for part in parts {
                    let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
                    out += &known(&values, &part[..end]);
                    out += &part[end..];
                }
                out
            })
            .collect();
        let home = project.place.join("home").display().to_string();
        let mut flags = vec![project.mount("/workspace"), "--workdir=/workspace".into()];
        flags.extend([format!("--volume={home}:/builder/home"), "--env=HOME=/builder/home".into()]);
        flags.extend(texts(&step["env"]).iter().map(|variable| format!("--env={variable}")));
        flags.extend(rights(given.iter().copied()));
        project.check("cloudbuild.yaml", place, "project/images/app", "abc1234", || {
            output(&mut container(&docker, &flags, text(&step["name"]), &words))
        });
    }
}

#[test]
fn tekton() {
    for (place, given) in [UNCONFINED, USUAL].into_iter().enumerate() {
        let (docker, project) = (Docker::shared(), Project::new());
        let recipe = project.recipe("tekton-task.yaml");
        let spec = &recipe["spec"];
        let [step] = items(&spec["steps"]) else { panic!("{recipe}") };
        let image = project.name("team/app:1");
        let mut values = vec![("params.IMAGE".to_owned(), image.clone())];
        for param in items(&spec["params"]).iter().filter(|param| param["default"].is_string()) {
            values.push((format!("params.{}", text(&param["name"])), text(&param["default"]).to_owned()));
        }
        let credentials = project.empty();
        fs::write(credentials.join("config.json"), project.credentials()).unwrap();
        let results = project.empty();
        let mut flags = vec![format!("--volume={}:/tekton/results", results.display())];
        for result in items(&spec["results"]) {
            let name = text(&result["name"]);
            values.push((format!("results.{name}.path"), format!("/tekton/results/{name}")));
        }
        for workspace in items(&spec["workspaces"]) {
            let name = text(&workspace["name"]);
            let at = workspace["mountPath"].as_str().map_or_else(|| format!("/workspace/{name}"), str::to_owned);
            let from = if name == "source" { project.folder() } else { credentials.clone() };
            let access = if workspace["readOnly"] == true { "ro" } else { "rw" };
            flags.push(format!("--volume={}:{at}:{access}", from.display()));
            values.push((format!("workspaces.{name}.path"), at));
        }
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let value = |text: &str| expanded(text, "$(", ")", &|name| known(&values, name));
        flags.push(format!("--workdir={}", value(text(&step["workingDir"]))));
        // A pod that says nothing of a profile has none, unless the cluster gives it one.
        flags.extend(pod_rights(&Value::Null, step).into_iter().filter(|flag| !flag.contains("seccomp")));
        flags.extend(rights(given.iter().copied()));
        let words: Vec<String> = texts(&step["args"]).iter().map(|word| value(word)).collect();
        project.check("tekton-task.yaml", place, "team/app", "1", || {
            output(&mut container(&docker, &flags, text(&step["image"]), &words))
        });
        let digest = text(&project.skopeo("inspect", "team/app:1")["Digest"]).to_owned();
        let result = |name: &str| fs::read_to_string(results.join(name)).unwrap();
        assert_eq!(result("IMAGE_DIGEST"), digest);
        assert_eq!(result("IMAGES").trim(), format!("{}@{digest}", project.name("team/app")));
    }
}

/// What docker is told so that a container has the rights that kubelet gives it.
fn pod_rights(spec: &Value, container: &Value) -> Vec<String> {
    let own = |name: &str| match &container["securityContext"][name] {
        Value::Null => &spec["securityContext"][name],
        own => own,
    };
    let mut flags = Vec::new();
    let user = own("runAsUser").as_u64();
    if let Some(user) = user {
        let group = own("runAsGroup").as_u64().map_or_else(String::new, |group| format!(":{group}"));
        flags.push(format!("--user={user}{group}"));
    }
    assert!(
        own("runAsNonRoot") != true || user.is_some_and(|user| user != 0),
        "kubelet starts no root here: {container}"
    );
    for (list, flag) in [("drop", "--cap-drop"), ("add", "--cap-add")] {
        flags.extend(texts(&own("capabilities")[list]).iter().map(|name| format!("{flag}={name}")));
    }
    if own("allowPrivilegeEscalation") == false {
        flags.push("--security-opt=no-new-privileges".into());
    }
    if own("readOnlyRootFilesystem") == true {
        flags.push("--read-only".into());
    }
    if own("privileged") == true {
        flags.push("--privileged".into());
    }
    if own("procMount") == "Unmasked" {
        flags.push("--security-opt=systempaths=unconfined".into());
    }
    match own("seccompProfile")["type"].as_str() {
        Some("RuntimeDefault") => {}
        None | Some("Unconfined") => flags.extend(UNCONFINED.iter().map(|&flag| flag.to_owned())),
        Some(other) => panic!("{other} is on the nodes, or is nothing"),
    }
    flags
}

/// What a Pod Security level has against a pod (kubernetes.io/docs/concepts/security/pod-security-standards).
fn pod_security(level: &str, spec: &Value) -> Vec<String> {
    let mut against = Vec::new();
    let mut must = |is_so: bool, what: String| against.extend((!is_so).then_some(what));
    let is_restricted = level == "restricted";
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        must(spec[name] != true, name.into());
    }
    for volume in items(&spec["volumes"]) {
        let of_pods =
            ["configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
        let is_of_pods = of_pods.iter().any(|kind| volume.get(kind).is_some());
        must(volume.get("hostPath").is_none() && (is_of_pods || !is_restricted), format!("volume {volume}"));
    }
    for container in items(&spec["initContainers"]).iter().chain(items(&spec["containers"])) {
        let of = |what: &str| format!("{}: {what}", container["name"]);
        let context = &container["securityContext"];
        let own = |name: &str| if context[name].is_null() { &spec["securityContext"][name] } else { &context[name] };
        must(context["privileged"] != true, of("privileged"));
        must(["", "Default"].contains(&context["procMount"].as_str().unwrap_or_default()), of("procMount"));
        must(own("appArmorProfile")["type"] != "Unconfined", of("appArmorProfile"));
        let profile = own("seccompProfile")["type"].as_str();
        must(profile != Some("Unconfined") && (profile.is_some() || !is_restricted), of("seccompProfile"));
        let usual = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ];
        let addable = if is_restricted { &["NET_BIND_SERVICE"][..] } else { &usual };
        let added = texts(&context["capabilities"]["add"]);
        must(added.iter().all(|name| addable.contains(&name.as_str())), of("capabilities.add"));
        if is_restricted {
            must(texts(&context["capabilities"]["drop"]).contains(&"ALL".into()), of("capabilities.drop"));
            must(context["allowPrivilegeEscalation"] == false, of("allowPrivilegeEscalation"));
            must(own("runAsNonRoot") == true && *own("runAsUser") != 0, of("runAsNonRoot"));
        }
    }
    against
}

/// A container of a Job, and what is mounted in it.
struct Pod {
    spec: Value,
    container: Value,
    /// Folder, place, and whether it is only to be read.
    mounts: Vec<(PathBuf, String, bool)>,
}

impl Pod {
    /// Makes the volumes, and fills them as the init containers do.
    fn new(project: &Project, recipe: &Value) -> Self {
        assert!(recipe["kind"] == "Job" && recipe["spec"]["template"]["spec"]["restartPolicy"] == "Never", "{recipe}");
        let spec = recipe["spec"]["template"]["spec"].clone();
        let mut volumes = BTreeMap::new();
        for volume in items(&spec["volumes"]) {
            let folder = project.empty();
            for item in items(&volume["secret"]["items"]) {
                // The one key of a secret of the type docker-registry.
                assert_eq!(item["key"], ".dockerconfigjson");
                fs::write(folder.join(text(&item["path"])), project.credentials()).unwrap();
            }
            assert!(volume.get("secret").is_some() || volume.get("emptyDir").is_some(), "{volume}");
            volumes.insert(text(&volume["name"]).to_owned(), folder);
        }
        let mounts = |container: &Value| -> Vec<(PathBuf, String, bool)> {
            let mount = |mount: &Value| {
                let folder = &volumes[text(&mount["name"])];
                (folder.clone(), text(&mount["mountPath"]).to_owned(), mount["readOnly"] == true)
            };
            items(&container["volumeMounts"]).iter().map(mount).collect()
        };
        for container in items(&spec["initContainers"]) {
            // An image whose entrypoint is git; this machine's does what it would.
            assert_eq!(container["image"], "alpine/git");
            let mut git = Command::new(need("git", "git"));
            git.env("GIT_CONFIG_GLOBAL", "/dev/null");
            for word in texts(&container["args"]) {
                let mounted = mounts(container).into_iter().find(|(_, at, _)| *at == word);
                git.arg(mounted.map_or(word, |(folder, ..)| folder.display().to_string()));
            }
            run(&mut git);
        }
        let [container] = items(&spec["containers"]) else { panic!("{recipe}") };
        Self { mounts: mounts(container), container: container.clone(), spec }
    }

    fn run(&self, docker: &Docker) -> Output {
        assert!(self.spec["hostUsers"] != false, "docker has no such containers");
        let mut flags = pod_rights(&self.spec, &self.container);
        for (folder, at, is_read) in &self.mounts {
            flags.push(format!("--volume={}:{at}:{}", folder.display(), if *is_read { "ro" } else { "rw" }));
        }
        output(&mut container(docker, &flags, text(&self.container["image"]), &texts(&self.container["args"])))
    }
}

#[test]
fn kubernetes_baseline() {
    let (docker, project) = (Docker::shared(), Project::new());
    let recipe = project.recipe("kubernetes-job-baseline.yaml");
    let against = pod_security("baseline", &recipe["spec"]["template"]["spec"]);
    assert!(against.is_empty(), "{against:?}");
    project.check("kubernetes-job-baseline.yaml", 0, "team/app", "1", || Pod::new(&project, &recipe).run(&docker));
}

#[test]
fn kubernetes_restricted() {
    let (docker, project) = (Docker::shared(), Project::with(""));
    let recipe = project.recipe("kubernetes-job-restricted.yaml");
    let against = pod_security("restricted", &recipe["spec"]["template"]["spec"]);
    assert!(against.is_empty(), "{against:?}");
    project.check("kubernetes-job-restricted.yaml", 0, "team/app", "1", || Pod::new(&project, &recipe).run(&docker));
    let project = Project::new();
    let recipe = project.recipe("kubernetes-job-restricted.yaml");
    let refused = Pod::new(&project, &recipe).run(&docker);
    assert!(!refused.status.success() && all(&refused).contains("commands cannot be run here"), "{}", all(&refused));
}

#[test]
fn kubernetes_user_namespaces() {
    let project = Project::new();
    let recipe = project.recipe("kubernetes-job-user-namespaces.yaml");
    let spec = &recipe["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    assert_eq!(spec["hostUsers"], false);
    let (name, tag) = text(&container["image"]).split_once(':').unwrap();
    let suffix = if tag == "latest" { String::new() } else { format!("-{tag}") };
    let archive = own_images().join(format!("{name}-image{suffix}.tar"));
    let mut place = UserNamespace::new(&archive);
    // It has no profile in any case, neither of seccomp nor of AppArmor.
    assert_eq!(spec["securityContext"]["appArmorProfile"]["type"], "Unconfined");
    let mut rights = pod_rights(spec, container);
    rights.retain(|right| right != "--security-opt=systempaths=unconfined");
    assert_eq!(rights, UNCONFINED, "others are not tried");
    place.unmasked = container["securityContext"]["procMount"] == "Unmasked";
    let mut skopeo = Command::new(need("skopeo", "skopeo"));
    skopeo.args(["inspect", "--config", &format!("docker-archive:{}", archive.display())]);
    let config: Value = serde_json::from_str(&run(&mut skopeo)).unwrap();
    // Root of the namespace must reach what is mounted.
    fs::set_permissions(project.place.path(), fs::Permissions::from_mode(0o711)).unwrap();
    project.check("kubernetes-job-user-namespaces.yaml", 0, "team/app", "1", || {
        let pod = Pod::new(&project, &recipe);
        let words = [texts(&config["config"]["Entrypoint"]), texts(&pod.container["args"])].concat();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // The store's volume is given to the namespace's root, as kubelet does it.
        let mounts = pod.mounts.iter().filter(|(_, at, _)| at != "/kaniko/volume");
        let mounts: Vec<(&Path, &str)> = mounts.map(|(folder, at, _)| (folder.as_path(), at.as_str())).collect();
        place.run(&words, &[], &mounts)
    });
}

#[test]
fn every_recipe_is_in_the_readme() {
    let files = fs::read_dir(repository("examples/ci")).unwrap().map(|entry| entry.unwrap().file_name().into_string());
    let files: BTreeSet<String> = files.map(Result::unwrap).filter(|name| name != "README.md").collect();
    let named = readme().into_iter().filter_map(|row| Some(row[0].strip_prefix('[')?.split_once(']')?.0.to_owned()));
    assert_eq!(named.collect::<BTreeSet<_>>(), files);
}

/// What the README would have changed gives what it says.
#[test]
fn what_is_to_be_changed_helps() {
    let (docker, project) = (Docker::shared(), Project::new());
    let mut tried = 0;
    for row in readme() {
        let change = codes(&row[1]).into_iter().next().unwrap_or_default();
        let flags: Vec<String> = if change.starts_with("--") && row[0].contains("docker run") {
            rights(change.split(' '))
        } else if change.starts_with("security_opt") {
            let table: toml::Table = toml::from_str(&change).unwrap();
            let options = table["security_opt"].as_array().unwrap().iter();
            options.map(|option| format!("--security-opt={}", option.as_str().unwrap())).collect()
        } else {
            continue;
        };
        tried += 1;
        let credentials = project.place.join("home/.docker").display().to_string();
        let more = [project.mount("/workspace"), format!("--volume={credentials}:/kaniko/.docker:ro")];
        let built =
            output(&mut container(&docker, &[&flags[..], &more].concat(), "plywood:latest", &["--no-push".into()]));
        assert!(built.status.success(), "{change}: {}", all(&built));
        assert_eq!(isolation(&all(&built)), codes(&row[2])[0], "{change}: {}", all(&built));
    }
    assert_eq!(tried, 3, "rows of the README");
}
