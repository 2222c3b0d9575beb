//! Results that are kept outside of the store: found again by machines that have nothing, moved no more than needed, and
//! never wrong. The registry is Debian's `docker-registry`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::{Place, Registry, all, files, need_root, output, run};

/// Machines that share a registry, a base image and a context, and nothing else.
struct Farm {
    place: Place,
    registry: Registry,
    base: String,
}

impl Farm {
    /// `dockerfile` stands on `base`, an image of the registry.
    fn new(dockerfile: &str) -> Self {
        need_root();
        let (place, registry) = (Place::new(), Registry::open());
        let made = place.busybox_base();
        let base = format!("{}/base:1", registry.host);
        run(place.plywood().args(["copy", made.trim_start_matches("base=")]).arg(format!("docker://{base}")));
        place.write("c/Dockerfile", dockerfile.replace("BASE", &base));
        Self { place, registry, base }
    }

    fn write(&self, name: &str, text: &str) {
        self.place.write(&format!("c/{name}"), text);
    }

    fn cache(&self) -> String {
        format!("type=registry,ref={}/app/cache", self.registry.host)
    }

    /// A build on a machine, whose store is its own.
    fn machine(&self, name: &str) -> Command {
        let mut command = Command::new(support::PLYWOOD);
        let template = self.place.plywood();
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.arg("--root").arg(self.place.join(format!("machine-{name}")));
        command.args(["build", "--progress=plain"]);
        command
    }

    /// Builds with the registry's cache and pushes; gives the digest and all that was said.
    fn build(&self, machine: &str, words: &[&str]) -> (String, String) {
        let cache = self.cache();
        let tag = format!("{}/app:1", self.registry.host);
        let mut command = self.machine(machine);
        command.args(["--cache-from", &cache, "--cache-to", &cache, "-t", &tag, "--push"]).args(words);
        finished(command.arg(self.place.join("c")))
    }

    /// Blobs that have been fetched or sent since the requests `since`, as `GET` or `PUT` with the digest.
    fn moved(&self, since: usize) -> Vec<String> {
        let requests = self.registry.requests();
        let blob = |line: &String| {
            let mut words = line.split(' ');
            let (method, path, status) = (words.next()?, words.next()?, words.next()?);
            match method {
                "GET" if path.contains("/blobs/sha256:") && status == "200" => {
                    Some(format!("GET {}", path.rsplit('/').next()?))
                }
                "PUT" if path.contains("/blobs/uploads/") => Some(format!("PUT {}", path.rsplit("digest=").next()?)),
                _ => None,
            }
        };
        requests[since..].iter().filter_map(blob).collect()
    }

    fn entries(&self) -> Vec<String> {
        let mut tags: Vec<String> = support::skopeo_tags(&format!("{}/app/cache", self.registry.host));
        tags.sort();
        tags
    }
}

fn finished(command: &mut Command) -> (String, String) {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", all(&output));
    let digest = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (digest, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The steps that ran.
fn ran(log: &str) -> Vec<String> {
    let done: Vec<&str> =
        log.lines().filter_map(|line| line.strip_suffix('s')?.split_once(" DONE ")).map(|(n, _)| n).collect();
    let began = log.lines().filter_map(|line| line.split_once(" ["));
    let began = began.filter(|(number, _)| done.contains(number));
    began.filter_map(|(_, text)| Some(text.split_once("] ")?.1.split("  (").next()?.to_owned())).collect()
}

const TWO_STAGES: &str = "FROM BASE AS build\nCOPY source /source\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox sort /source > /made; busybox date > /when\"]\n\
    FROM BASE\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox mkdir -p /data; echo base > /data/base\"]\nCOPY --from=build /made /data/made\nCOPY late /data/late\n";

fn two_stages() -> Farm {
    let farm = Farm::new(TWO_STAGES);
    farm.write("source", "b\na\n");
    farm.write("late", "1\n");
    farm
}

#[test]
fn a_machine_that_has_nothing_moves_no_layer() {
    let farm = two_stages();
    let (first, log) = farm.build("a", &[]);
    assert_eq!(ran(&log).len(), 5, "{log}");
    // Layers are sent once, whether they go to the cache or the image first.
    let sent: Vec<String> = farm.moved(0).into_iter().filter(|line| line.starts_with("PUT")).collect();
    let mut once = sent.clone();
    once.sort();
    once.dedup();
    assert_eq!(sent.len(), once.len(), "{sent:?}");
    let since = farm.registry.requests().len();
    let (second, log) = farm.build("b", &["--require-cached"]);
    assert_eq!((&first, ran(&log)), (&second, vec![]), "{log}");
    let moved = farm.moved(since);
    // The base image's configuration is read; nothing else travels.
    assert!(moved.len() <= 1 && moved.iter().all(|line| line.starts_with("GET")), "{moved:?}");
    let blobs: u64 =
        files(&farm.place.join("machine-b/blobs")).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(blobs < 64 << 10, "{blobs} bytes");
    assert!(!farm.place.join("machine-b/layers").exists() || files(&farm.place.join("machine-b/layers")).is_empty());
    // To another repository of the registry layers are mounted.
    let since = farm.registry.requests().len();
    let cache = farm.cache();
    let tag = format!("{}/other/app:1", farm.registry.host);
    let mut command = farm.machine("c");
    command.args(["--cache-from", &cache, "-t", &tag, "--push", "--require-cached"]);
    let (third, log) = finished(command.arg(farm.place.join("c")));
    assert_eq!(first, third);
    assert!(log.contains("mounted from another repository"), "{log}");
    let moved = farm.moved(since);
    assert!(moved.iter().filter(|line| line.starts_with("PUT")).count() <= 1, "{moved:?}");
    // And the image is whole.
    let told = support::skopeo_inspect(&format!("docker://{tag}"));
    assert_eq!(told["Digest"], first.as_str());
}

#[test]
fn a_changed_step_fetches_only_what_it_stands_on() {
    let farm = two_stages();
    farm.build("a", &[]);
    farm.write("late", "2\n");
    let since = farm.registry.requests().len();
    let (_, log) = farm.build("b", &[]);
    assert_eq!(ran(&log), ["COPY late /data/late"], "{log}");
    // The copy goes into a folder of a layer below, which its index tells of.
    let fetched: Vec<String> = farm.moved(since).into_iter().filter(|line| line.starts_with("GET")).collect();
    let sizes = |digest: &String| {
        let hex = digest.rsplit(':').next().unwrap();
        fs::metadata(farm.registry.blob(hex)).unwrap().len()
    };
    let bytes: u64 = fetched.iter().map(sizes).sum();
    assert!(bytes < 1 << 20, "{fetched:?}: {bytes} bytes; the base image's layer has more than a million");
}

#[test]
fn what_comes_out_the_same_leaves_what_follows_as_it_is() {
    let farm = two_stages();
    let (first, _) = farm.build("a", &[]);
    // Sorted, it is the same; the other stage is run again, and nothing behind it.
    farm.write("source", "a\nb\n");
    for machine in ["a", "b"] {
        let (second, log) = farm.build(machine, &[]);
        let expected: &[&str] = if machine == "a" { &["COPY source /source", "RUN"] } else { &[] };
        let ran = ran(&log);
        assert_eq!(ran.len(), expected.len(), "{machine}: {log}");
        assert_eq!(first, second, "{machine}");
    }
}

#[test]
fn a_cache_that_cannot_be_used_is_left_out() {
    let farm = two_stages();
    let nowhere = format!("127.0.0.1:{}", support::free_port());
    let to = format!("type=registry,ref={nowhere}/cache");
    let mut command = farm.machine("a");
    command.args(["--cache-from", &to, "--cache-to", &to, "-t", "app:1"]);
    let (_, log) = finished(command.arg(farm.place.join("c")));
    assert!(log.contains("it is left out of this build"), "{log}");
    let mut command = farm.machine("b");
    command.args(["--cache-to", &format!("{to},ignore-error=false"), "-t", "app:1"]);
    let failed = output(command.arg(farm.place.join("c")));
    assert!(!failed.status.success() && all(&failed).contains(&nowhere), "{}", all(&failed));
    // The image is there all the same.
    let root = farm.place.join("machine-b");
    run(Command::new(support::PLYWOOD).arg("--root").arg(root).args(["inspect", "app:1"]));
}

#[test]
fn entries_of_no_use_are_passed_over_and_kept() {
    let farm = two_stages();
    let (first, _) = farm.build("a", &[]);
    let entries = farm.entries();
    // Documents that are none, in the place of all.
    let junk = format!("docker://{}/base:1", farm.registry.host);
    for entry in &entries {
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", "-q", &junk]);
        run(copy.arg(format!("docker://{}/app/cache:{entry}", farm.registry.host)));
    }
    let (second, log) = farm.build("a", &[]);
    assert_eq!(first, second);
    assert!(ran(&log).is_empty(), "{log}");
    let now = farm.entries();
    assert!(now.len() > entries.len() && now.iter().any(|tag| tag.ends_with("-1")), "{now:?}");
    let (third, log) = farm.build("b", &["--require-cached"]);
    assert_eq!((first, ran(&log)), (third, vec![]), "{log}");
}

#[test]
fn a_folder_is_a_cache_as_well() {
    let farm = two_stages();
    let folder = farm.place.join("cache");
    let build = |machine: &str, words: &[&str]| {
        let mut command = farm.machine(machine);
        command.arg(format!("--cache-from=type=local,src={}", folder.display()));
        command.arg(format!("--cache-to=type=local,dest={}", folder.display()));
        command.args(["-t", "app:1"]).args(words);
        finished(command.arg(farm.place.join("c")))
    };
    let (first, _) = build("a", &[]);
    let (second, log) = build("b", &["--require-cached"]);
    assert_eq!((&first, ran(&log)), (&second, vec![]), "{log}");
    // An entry that has lost its layer is no entry.
    for blob in files(&folder.join("blobs")) {
        fs::remove_file(blob).unwrap();
    }
    let (_, log) = build("c", &[]);
    assert_eq!(ran(&log).len(), 5, "{log}");
    let entries = files(&folder.join("entries"));
    assert!(entries.iter().any(|path| path.to_string_lossy().contains("-1.json")), "{entries:?}");
    let (_, log) = build("d", &["--require-cached"]);
    assert!(ran(&log).is_empty(), "{log}");
}

#[test]
fn only_what_is_in_the_image_is_kept_where_that_is_asked_for() {
    let farm = two_stages();
    let cache = farm.cache();
    let mut command = farm.machine("a");
    command.args(["--cache-to", &format!("{cache},mode=min"), "-t", "app:1"]);
    finished(command.arg(farm.place.join("c")));
    let few = farm.entries().len();
    let (_, log) = farm.build("b", &[]);
    assert!(ran(&log).is_empty(), "what is in the image does not need what it was made of: {log}");
    let mut command = farm.machine("c");
    command.args(["--cache-from", &cache, "--cache-to", &cache, "-t", "app:1", "--target", "build"]);
    let (_, log) = finished(command.arg(farm.place.join("c")));
    assert_eq!(ran(&log).len(), 2, "{log}");
    assert!(farm.entries().len() > few);
}

#[test]
fn the_first_miss_ends_a_build_that_must_be_cached() {
    let farm = two_stages();
    let failed = output(farm.machine("a").args(["--require-cached", "-t", "app:1"]).arg(farm.place.join("c")));
    assert_eq!(failed.status.code(), Some(1));
    let told = all(&failed);
    assert!(told.contains("Dockerfile:5: ") && told.contains("is not in the cache: nothing like it"), "{told}");
}

#[test]
fn many_builds_at_once_serve_nothing_wrong() {
    let farm = two_stages();
    let (cache, base) = (farm.cache(), farm.base.clone());
    assert!(base.contains("/base:1"));
    let context = |number: usize| -> PathBuf {
        let folder = farm.place.join(format!("c{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(farm.place.join("c/Dockerfile"), folder.join("Dockerfile")).unwrap();
        fs::write(folder.join("source"), format!("b\na\n{number}\n")).unwrap();
        fs::write(folder.join("late"), format!("{number}\n")).unwrap();
        folder
    };
    // Ten at once on one store and one repository, of which some are killed.
    let mut builds: Vec<_> = (0..10)
        .map(|number| {
            let mut command = farm.machine("shared");
            command.args(["--cache-from", &cache, "--cache-to", &cache, "-q", "-t", &format!("app:{number}")]);
            command.arg(context(number % 5)).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            support::Guard(command.spawn().unwrap())
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(150));
    for killed in builds.iter_mut().take(3) {
        killed.0.kill().unwrap();
    }
    for build in &mut builds {
        build.0.wait().unwrap();
    }
    // Whatever is found afterwards is what it must be.
    for (number, machine) in (0..5).flat_map(|number| [(number, "shared"), (number, "fresh")]) {
        let out = farm.place.join(format!("out-{machine}-{number}"));
        let mut command = farm.machine(machine);
        command.args(["--cache-from", &cache, "-o"]).arg(&out).arg(context(number));
        finished(&mut command);
        let text = |name: &str| fs::read_to_string(out.join("data").join(name)).unwrap();
        let mut lines = ["a".to_owned(), "b".to_owned(), number.to_string()];
        lines.sort();
        assert_eq!(text("made"), lines.join("\n") + "\n", "{machine} {number}");
        assert_eq!(text("late"), format!("{number}\n"), "{machine} {number}");
    }
}

#[test]
fn words_that_make_no_sense_are_refused() {
    let place = Place::new();
    place.write("c/Dockerfile", "FROM scratch\n");
    for (flag, words, phrase) in [
        ("--cache-from", "type=gha", "the type gha is not supported; the types are registry, local, s3 and store"),
        ("--cache-from", "ref=a/b", "it has no type"),
        ("--cache-from", "type=registry", "it needs ref=REPOSITORY"),
        ("--cache-from", "type=registry,ref=a,mode=max", "`mode` is not supported"),
        ("--cache-to", "type=local,src=x", "it needs dest=FOLDER"),
        ("--cache-to", "type=registry,ref=a,mode=most", "mode is max or min, not most"),
        ("--cache-to", "type=registry,ref=a,ignore-error=perhaps", "ignore-error is true or false"),
    ] {
        let refused = output(place.plywood().args(["build", flag, words]).arg(place.join("c")));
        assert!(!refused.status.success(), "{words}");
        assert!(all(&refused).contains(phrase), "{words}: {}", all(&refused));
    }
}
