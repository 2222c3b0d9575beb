//! Command lines that were written for kaniko: they work as they are, and `migrate` says what they are here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use support::{Place, Registry, all, need_root, output, run, skopeo_inspect};

/// A machine with the program under kaniko's names, a project and a registry.
struct Pipeline {
    place: Place,
    registry: Registry,
}

impl Pipeline {
    fn new() -> Self {
        need_root();
        let (place, registry) = (Place::new(), Registry::open());
        let base = format!("{}/base:1", registry.host);
        let made = place.busybox_base();
        run(place.plywood().args(["copy", made.trim_start_matches("base=")]).arg(format!("docker://{base}")));
        let text = format!(
            "ARG BASE={base}\nFROM $BASE AS build\nARG WORD=none\nCOPY source /source\n\
             RUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox cat /source > /made; echo $WORD >> /made; busybox date +%N > /when\"]\n\
             FROM $BASE\nCOPY --from=build /made /when /\nLABEL own=1\nCMD [\"/bin/busybox\"]\n"
        );
        place.write("project/Dockerfile", text);
        place.write("project/source", "text\n");
        fs::create_dir(place.join("kaniko")).unwrap();
        for name in ["executor", "warmer"] {
            std::os::unix::fs::symlink(support::PLYWOOD, place.join("kaniko").join(name)).unwrap();
        }
        Self { place, registry }
    }

    /// `/kaniko/executor`, or the warmer; a machine that is new each time.
    fn kaniko(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(self.place.join("kaniko").join(program));
        let template = self.place.plywood();
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let root = tempfile::tempdir_in(self.place.path()).unwrap().keep();
        command.env("PLYWOOD_ROOT", root).current_dir(self.place.path()).args(words);
        command
    }

    fn done(&self, words: &[&str]) -> String {
        let ended = output(&mut self.kaniko("executor", words));
        assert!(ended.status.success(), "{words:?}: {}", all(&ended));
        all(&ended)
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host)
    }

    fn config(&self, name: &str) -> serde_json::Value {
        skopeo_inspect(&format!("docker://{}", self.name(name)))
    }
}

/// The lines of GitLab's, CircleCI's, Travis's and Cloud Build's documentation, and the plain one.
#[test]
fn lines_of_pipelines_work_and_find_everything_the_second_time() {
    let pipeline = Pipeline::new();
    let project = pipeline.place.join("project").display().to_string();
    for (name, words) in [
        ("gitlab", format!("--context {project} --dockerfile {project}/Dockerfile --destination NAME --cache=true")),
        (
            "circleci",
            format!(
                "--dockerfile=Dockerfile --context=dir://{project} --destination=NAME --cache=true --cache-ttl=24h"
            ),
        ),
        ("travis", format!("-f Dockerfile -c {project} -d NAME --cache --snapshotMode=redo --use-new-run")),
        ("cloudbuild", format!("--destination=NAME --cache=true --cache-ttl=6h --context={project}")),
        (
            "plain",
            format!(
                "--context={project} --destination=NAME --cache=true --cache-copy-layers --compressed-caching=false"
            ),
        ),
    ] {
        let words = words.replace("NAME", &pipeline.name(&format!("{name}/app:1")));
        let words: Vec<&str> = words.split(' ').collect();
        let first = pipeline.done(&words);
        assert!(first.contains(" DONE "), "{name}: {first}");
        let digest = pipeline.config(&format!("{name}/app:1"))["Digest"].clone();
        let second = pipeline.done(&words);
        assert!(!second.contains(" DONE ") && second.contains("CACHED"), "{name}: {second}");
        assert_eq!(pipeline.config(&format!("{name}/app:1"))["Digest"], digest, "{name}");
        let tags = support::skopeo_tags(&pipeline.name(&format!("{name}/app/cache")));
        assert!(tags.len() >= 3, "{name}: {tags:?}");
    }
}

#[test]
fn files_that_pipelines_read_are_written() {
    let pipeline = Pipeline::new();
    let (one, two) = (pipeline.name("app:1"), pipeline.name("other:2"));
    let destinations = format!("--destination={one} --destination={two} -c project --label a=b --annotation c=d");
    let files = "--digest-file=out/digest --image-name-with-digest-file=out/names --image-name-tag-with-digest-file out/tags \
                 --tar-path=out.tar --oci-layout-path=layout --image-format=docker";
    let words = format!("{destinations} {files}");
    pipeline.done(&words.split_whitespace().collect::<Vec<_>>());
    let text = |name: &str| fs::read_to_string(pipeline.place.join("out").join(name)).unwrap();
    let digest = pipeline.config("app:1")["Digest"].as_str().unwrap().to_owned();
    assert_eq!(text("digest"), digest);
    let (first, second) = (one.trim_end_matches(":1"), two.trim_end_matches(":2"));
    assert_eq!(text("names"), format!("{first}@{digest}\n{second}@{digest}\n"));
    assert_eq!(text("tags"), format!("{one}@{digest}\n{two}@{digest}\n"));
    assert_eq!(pipeline.config("other:2")["Labels"]["a"], "b");
    let archive = skopeo_inspect(&format!("docker-archive:{}", pipeline.place.join("out.tar").display()));
    assert_eq!(archive["Layers"].as_array().unwrap().len(), 2);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(pipeline.place.join("layout/index.json")).unwrap()).unwrap();
    assert!(index["manifests"].as_array().unwrap().iter().all(|image| image["digest"] == digest.as_str()), "{index}");
    // What is in archives and layouts is pushed afterwards.
    for (source, name) in [("out.tar", "again:1"), ("layout", "again:2")] {
        let destination = pipeline.name(name);
        pipeline.done(&["push", source, "--destination", &destination]);
        assert_eq!(pipeline.config(name)["Labels"]["a"], "b", "{source}");
    }
}

#[test]
fn contexts_targets_and_arguments() {
    let pipeline = Pipeline::new();
    let place = &pipeline.place;
    run(Command::new("tar").args(["czf", "context.tar.gz", "-C", "project", "."]).current_dir(place.path()));
    for (number, context) in ["tar://context.tar.gz", "tar://stdin", "dir://project"].iter().enumerate() {
        let name = pipeline.name(&format!("context:{number}"));
        let words = ["--context", context, "--target=build", "--build-arg=WORD=said", "-d", &name, "-v", "warn"];
        let mut command = pipeline.kaniko("executor", &words);
        if *context == "tar://stdin" {
            command.stdin(fs::File::open(place.join("context.tar.gz")).unwrap());
        }
        let ended = output(&mut command);
        assert!(ended.status.success(), "{context}: {}", all(&ended));
        assert!(pipeline.config(&format!("context:{number}"))["Labels"].is_null(), "it is another stage");
    }
    // An archive in a bucket, as kaniko's users name its place.
    let s3 = support::S3::open();
    let object = format!("{}/{}/contexts/app.tar.gz", s3.url, support::S3::BUCKET);
    run(Command::new("curl").args(["-sSf", "-T"]).arg(place.join("context.tar.gz")).arg(object));
    let context = format!("s3://{}/contexts/app.tar.gz", support::S3::BUCKET);
    let mut command = pipeline.kaniko("executor", &["--context", &context, "--no-push"]);
    command.envs(support::S3::environment()).env("AWS_REGION", "us-east-1").env("S3_ENDPOINT", &s3.url);
    let ended = output(&mut command);
    assert!(ended.status.success() && all(&ended).contains("COPY source /source"), "{}", all(&ended));
    let missing = format!("s3://{}/none.tar", support::S3::BUCKET);
    let mut command = pipeline.kaniko("executor", &["--context", &missing, "--no-push"]);
    command.envs(support::S3::environment()).env("AWS_REGION", "us-east-1").env("S3_ENDPOINT", &s3.url);
    let ended = output(&mut command);
    assert!(!ended.status.success() && all(&ended).contains(&missing), "{}", all(&ended));
    // A Dockerfile of the context, by its path there, below a part of the context.
    place.write("wide/part/docker/Other", format!("FROM {}\nCOPY own /own\n", pipeline.name("base:1")));
    place.write("wide/part/own", "1");
    let name = pipeline.name("sub:1");
    pipeline.done(&["-c", "wide", "--context-sub-path", "part", "-f", "docker/Other", "-d", &name]);
    // Nothing is pushed that is not to be.
    let name = pipeline.name("unpushed:1");
    pipeline.done(&["-c", "project", "-d", &name, "--no-push"]);
    let mut command = pipeline.kaniko("executor", &["-c", "project", "-d", &name]);
    assert!(output(command.env("KANIKO_NO_PUSH", "true")).status.success());
    let gone = Command::new("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{name}")]).output();
    assert!(!gone.unwrap().status.success());
    // The RUN's own exit code.
    place.write(
        "failing/Dockerfile",
        format!("FROM {}\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"exit 42\"]\n", pipeline.name("base:1")),
    );
    let failed = output(&mut pipeline.kaniko("executor", &["-c", "failing", "--no-push"]));
    assert_eq!(failed.status.code(), Some(42), "{}", all(&failed));
}

#[test]
fn what_is_reproducible_is_the_same_each_time() {
    let pipeline = Pipeline::new();
    let text = format!(
        "FROM {}\nCOPY source /source\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\n",
        pipeline.name("base:1")
    );
    pipeline.place.write("project/Dockerfile", text);
    let digests: Vec<String> = ["one", "two"]
        .iter()
        .map(|name| {
            let name = pipeline.name(&format!("{name}:1"));
            pipeline.done(&["-c", "project", "-d", &name, "--reproducible"]);
            std::thread::sleep(std::time::Duration::from_millis(1100));
            skopeo_inspect(&format!("docker://{name}"))["Digest"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn base_images_come_from_mirrors_and_from_what_was_fetched() {
    let pipeline = Pipeline::new();
    let base = pipeline.name("base:1");
    let mirror = pipeline.registry.host.clone();
    // `nowhere.invalid` is no host that answers.
    pipeline.place.write("mirrored/Dockerfile", "FROM nowhere.invalid/base:1\nCOPY Dockerfile /\n");
    let map = format!("--registry-map=nowhere.invalid={mirror}");
    pipeline.done(&["-c", "mirrored", "--no-push", &map, "--skip-default-registry-fallback"]);
    let refused =
        output(&mut pipeline.kaniko("executor", &["-c", "mirrored", "--no-push", "--image-download-retry=0"]));
    assert!(!refused.status.success() && all(&refused).contains("nowhere.invalid"), "{}", all(&refused));
    // Docker Hub's mirror, with a path of its own.
    run(pipeline
        .place
        .plywood()
        .args(["copy", &format!("docker://{base}")])
        .arg(format!("docker://{mirror}/hub/library/thing:2")));
    pipeline.place.write("hub/Dockerfile", "FROM thing:2\nCOPY Dockerfile /\n");
    let mut command = pipeline.kaniko("executor", &["-c", "hub", "--no-push"]);
    let ended = output(command.env("KANIKO_REGISTRY_MIRROR", format!("{mirror}/hub")));
    assert!(ended.status.success(), "{}", all(&ended));
    // The warmer's images need no registry.
    let warmed =
        output(&mut pipeline.kaniko("warmer", &["--dockerfile=project/Dockerfile", "--cache-dir=warm", "-i", &base]));
    assert!(warmed.status.success(), "{}", all(&warmed));
    let since = pipeline.registry.requests().len();
    pipeline.done(&["-c", "project", "--no-push", "--cache-dir=warm"]);
    let blobs =
        |since: usize| pipeline.registry.requests()[since..].iter().filter(|line| line.contains("/blobs/")).count();
    assert_eq!(blobs(since), 0, "the name is asked for, nothing is fetched");
    // A stage of the same name is a stage; another image by now is fetched.
    pipeline.place.write(
        "named/Dockerfile",
        format!("FROM {base} AS base\nCOPY Dockerfile /own\nFROM scratch\nCOPY --from=base /own /\n"),
    );
    pipeline.done(&["-c", "named", "--no-push", "--cache-dir=warm"]);
    let other = format!("{mirror}/hub/library/thing:2");
    pipeline.place.write("new/Dockerfile", format!("FROM {base}\nENV NEW=1\n"));
    pipeline.done(&["-c", "new", "-d", &other]);
    run(pipeline.place.plywood().args(["copy", &format!("docker://{other}")]).arg(format!("docker://{base}")));
    let told = pipeline.done(&["-c", "project", "--no-push", "--cache-dir=warm"]);
    assert!(told.contains("is another image by now"), "{told}");
    let again = output(&mut pipeline.kaniko("warmer", &["--image", &base, "--cache-dir=warm"]));
    assert!(all(&again).contains("is there"), "{}", all(&again));
}

#[test]
fn credentials_are_written_where_they_are_looked_for() {
    let pipeline = Pipeline::new();
    let registry = Registry::protected("user", "pass word");
    let mut login = pipeline.kaniko("executor", &["login", &registry.host, "-u", "user", "--password-stdin"]);
    let folder = pipeline.place.join("kaniko/.docker");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), "{\"credHelpers\":{\"x.example\":\"y\"}}").unwrap();
    let mut child = login.env("DOCKER_CONFIG", &folder).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"pass word\n").unwrap();
    assert!(child.wait().unwrap().success());
    let config: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["credHelpers"]["x.example"], "y", "what was there stays");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(folder.join("config.json")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let name = format!("{}/app:1", registry.host);
    let mut build = pipeline.kaniko("executor", &["-c", "project", "-d", &name]);
    let pushed = output(build.env("DOCKER_CONFIG", &folder));
    assert!(pushed.status.success(), "{}", all(&pushed));
    // Without them it is said before anything is built.
    let early = output(&mut pipeline.kaniko("executor", &["-c", "project", "-d", &name]));
    assert!(!early.status.success() && all(&early).contains("before the build"), "{}", all(&early));
    assert!(!all(&early).contains("COPY source"), "{}", all(&early));
    let late =
        output(&mut pipeline.kaniko("executor", &["-c", "project", "-d", &name, "--skip-push-permission-check"]));
    assert!(!late.status.success() && all(&late).contains("COPY source"), "{}", all(&late));
}

#[test]
fn what_cannot_be_is_said_and_what_is_moot_is_told() {
    let pipeline = Pipeline::new();
    let told = pipeline.done(&["-c", "project", "--no-push", "--snapshot-mode=time", "--ignore-path=/x", "--cleanup"]);
    for flag in ["--snapshot-mode", "--ignore-path", "--cleanup"] {
        assert!(told.contains(&format!("{flag} changes nothing: ")), "{flag}: {told}");
    }
    let version = pipeline.done(&["version"]);
    assert!(version.starts_with("Plywood version "), "{version}");
    let plan = pipeline.done(&["-c", "project", "-d", "r.example/a:1", "--dryrun"]);
    assert!(plan.contains("COPY source /source"), "{plan}");
    let refused = output(&mut pipeline.kaniko("executor", &["-c", "project"]));
    assert!(!refused.status.success() && all(&refused).contains("--no-push"), "{}", all(&refused));
    let migrated = output(pipeline.place.plywood().args([
        "migrate",
        "kaniko",
        "docker",
        "run",
        "-v",
        "x:/workspace",
        "image:debug",
        "/kaniko/executor",
        "--destination=r.example/a:1",
        "--cache",
        "--single-snapshot",
    ]));
    assert_eq!(
        String::from_utf8_lossy(&migrated.stdout).trim(),
        "plywood build --cache-from=type=registry,ref=r.example/a/cache,max-age=336h \
         --cache-to=type=registry,ref=r.example/a/cache,max-age=336h --tag=r.example/a:1 --output=type=registry \
         --progress=plain /workspace/"
    );
    assert!(String::from_utf8_lossy(&migrated.stderr).contains("--single-snapshot"));
}
