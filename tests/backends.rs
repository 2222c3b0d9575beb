//! Every place that a cache can be in, and keeping it small. The registry is Debian's `docker-registry`, S3 is moto's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use support::{Place, Registry, S3, all, files, need_root, output, run};

const DOCKERFILE: &str = "FROM BASE AS build\nCOPY source /source\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox sort /source > /made; busybox date +%N > /when\"]\n\
    FROM BASE\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox mkdir /data; busybox date +%N > /data/when\"]\nCOPY --from=build /made /when /data/\n";
const STEPS: usize = 4;

/// Machines that share what is given to them, and nothing else.
struct Farm {
    place: Place,
    registry: Registry,
}

impl Farm {
    fn new() -> Self {
        need_root();
        let (place, registry) = (Place::new(), Registry::open());
        let base = format!("{}/base:1", registry.host);
        let made = place.busybox_base();
        run(place.plywood().args(["copy", made.trim_start_matches("base=")]).arg(format!("docker://{base}")));
        place.write("c/Dockerfile", DOCKERFILE.replace("BASE", &base));
        place.write("c/source", "b\na\n");
        Self { place, registry }
    }

    /// The program on a machine, whose store is its own.
    fn on(&self, machine: &str) -> Command {
        let mut command = Command::new(support::PLYWOOD);
        let template = self.place.plywood();
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(S3::environment());
        command.arg("--root").arg(self.place.join(format!("machine-{machine}")));
        command
    }

    /// Builds; gives the digest, the number of steps that ran, and all that was said.
    fn build(&self, machine: &str, words: &[&str]) -> (String, usize, String) {
        let mut command = self.on(machine);
        command.args(["build", "--progress=plain"]).args(words).arg(self.place.join("c"));
        let output = output(&mut command);
        assert!(output.status.success(), "{command:?}: {}", all(&output));
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let ran = log.lines().filter(|line| line.contains(" DONE ")).count();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), ran, log)
    }

    fn cache(&self, words: &[&str]) -> String {
        let output = output(self.on("any").arg("cache").args(words));
        assert!(output.status.success(), "{words:?}: {}", all(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn from(cache: &str) -> String {
    format!("--cache-from={cache}")
}

fn to(cache: &str) -> String {
    format!("--cache-to={cache}")
}

#[test]
fn every_place_gives_back_what_was_built_and_lets_go_of_it() {
    let (farm, s3) = (Farm::new(), S3::open());
    let folder = farm.place.join("cache");
    let local = |field: &str| format!("type=local,{field}={}", folder.display());
    let registry = format!("type=registry,ref={}/app/cache", farm.registry.host);
    let bucket = s3.cache("team/app");
    for (name, source, target) in [
        ("registry", registry.clone(), registry),
        ("local", local("src"), local("dest")),
        ("s3", bucket.clone(), bucket),
    ] {
        let (first, ran, _) = farm.build(&format!("{name}-a"), &[&from(&source), &to(&target), "-t", "app:1"]);
        assert_eq!(ran, STEPS, "{name}");
        let (second, ran, log) = farm.build(&format!("{name}-b"), &[&from(&source), "--require-cached", "-t", "app:1"]);
        assert_eq!((&first, ran), (&second, 0), "{name}: {log}");
        // Each step by what it is made of, where it is made of steps by their content, and the base image's layer.
        let listed = farm.cache(&["ls", &source]);
        assert!(listed.lines().count() > STEPS && listed.contains("COPY source /source"), "{name}: {listed}");
        assert!(listed.contains("the index of the base image's layer"), "{name}: {listed}");
        let told = farm.cache(&["du", "--json", &source]);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["entries"], listed.lines().count(), "{name}");
        // Nothing goes that is of use, whatever the limits would keep.
        for words in [&["gc"][..], &["gc", "--keep-within=1h"], &["gc", "--keep-bytes=1g"], &["prune", "--dry-run"]] {
            farm.cache(&[words, &[&source]].concat());
            assert_eq!(farm.cache(&["ls", &source]), listed, "{name}: {words:?}");
        }
        assert!(farm.cache(&["prune", &source]).starts_with("gone: "), "{name}");
        assert_eq!(farm.cache(&["ls", &source]), "", "{name}");
        let (_, ran, _) = farm.build(&format!("{name}-c"), &[&from(&source), "-t", "app:1"]);
        assert_eq!(ran, STEPS, "{name}");
    }
}

#[test]
fn what_is_none_of_ours_stays() {
    let farm = Farm::new();
    let cache = format!("{}/app", farm.registry.host);
    let image = format!("{cache}:1");
    // One repository for both, as kaniko's users have it; a tag of kaniko's own is a digest in hex.
    farm.build("a", &[&from(&cache), &to(&cache), "-t", &image, "--push"]);
    let foreign = format!("{cache}:{}", "0".repeat(64));
    run(farm.place.plywood().args(["copy"]).arg(format!("docker://{image}")).arg(format!("docker://{foreign}")));
    assert!(farm.cache(&["du", &cache]).contains("others              2"), "{}", farm.cache(&["du", &cache]));
    farm.cache(&["prune", &cache]);
    let mut left = support::skopeo_tags(&cache);
    left.sort();
    assert_eq!(left, ["0".repeat(64), "1".to_owned()]);
    run(farm
        .place
        .plywood()
        .args(["copy"])
        .arg(format!("docker://{image}"))
        .arg("oci:out:1")
        .current_dir(farm.place.join("")));
}

#[test]
fn what_is_too_old_is_superseded_and_then_goes() {
    let farm = Farm::new();
    let folder = farm.place.join("cache");
    let (source, target) =
        (format!("type=local,src={}", folder.display()), format!("type=local,dest={}", folder.display()));
    let (first, ..) = farm.build("a", &[&from(&source), &to(&target), "-t", "app:1"]);
    std::thread::sleep(Duration::from_millis(3100));
    let aged = |text: &str| format!("{text},max-age=2s");
    let (second, ran, log) = farm.build("b", &[&from(&aged(&source)), &to(&aged(&target)), "-t", "app:1"]);
    assert_eq!(ran, STEPS, "{log}");
    assert_ne!(first, second, "it was made anew");
    // Who does not mind the age is given the first that counts, the old one.
    let (third, ..) = farm.build("c", &[&from(&source), "--require-cached", "-t", "app:1"]);
    assert_eq!(first, third);
    let numbered =
        || files(&folder.join("entries")).iter().filter(|path| path.display().to_string().contains("-1.json")).count();
    assert!(numbered() > 0);
    let told = farm.cache(&["gc", &source]);
    assert!(told.contains("superseded") && numbered() == 0, "{told}");
    // What was written last is what there is now.
    let (fourth, ran, log) = farm.build("d", &[&from(&source), "--require-cached", "-t", "app:1"]);
    assert_eq!((second, ran), (fourth, 0), "{log}");
    // Blobs go once they are old enough to be no build's that is under way.
    let blobs = || files(&folder.join("blobs")).len();
    farm.cache(&["prune", &source]);
    assert!(blobs() > 0);
    for blob in files(&folder.join("blobs")) {
        fs::File::open(blob).unwrap().set_modified(SystemTime::now() - Duration::from_secs(2 * 60 * 60)).unwrap();
    }
    farm.cache(&["gc", &source]);
    assert_eq!(blobs(), 0);
}

#[test]
fn an_image_says_of_what_its_layers_are() {
    let farm = Farm::new();
    let image = format!("{}/app:latest", farm.registry.host);
    let (first, ran, _) = farm.build("a", &[&to("type=inline"), "-t", &image, "--push"]);
    assert_eq!(ran, STEPS);
    // What is in the image is found; what led to it need not be. Found or made, it is the same image.
    let words = [&from(&image), "--build-arg=BUILDKIT_INLINE_CACHE=1", "-t", &image, "--push"];
    let (second, ran, log) = farm.build("b", &words);
    assert_eq!((&first, ran), (&second, 0), "{log}");
    let (third, ran, log) = farm.build("c", &[&from(&image), "--require-cached", "-t", "app:1"]);
    assert_ne!(first, third, "without a word of caches it is another configuration");
    assert_eq!(ran, 0, "{log}");
    farm.place.write("c/source", "c\n");
    let (_, ran, log) = farm.build("d", &[&from(&image), "-t", "app:1"]);
    assert_eq!(ran, 3, "{log}");
    // An image without it, or none, is no trouble.
    let none = format!("{}/none:1", farm.registry.host);
    let base = format!("{}/base:1", farm.registry.host);
    let (.., log) = farm.build("e", &[&from(&none), &from(&base), "-t", "app:1"]);
    assert!(!log.contains("warning"), "{log}");
}

#[test]
fn another_store_is_only_read() {
    let farm = Farm::new();
    let (first, ..) = farm.build("a", &["-t", "app:1"]);
    let store = farm.place.join("machine-a");
    let before = files(&store);
    let cache = format!("type=store,src={}", store.display());
    // On a disk that cannot be written; the mount is in a namespace of its own.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(&store).arg(support::PLYWOOD);
    let template = farm.on("b");
    command.args(template.get_args()).envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["build", "--progress=plain", &from(&cache), "--require-cached", "-t", "app:1"]);
    let built = output(command.arg(farm.place.join("c")));
    assert!(built.status.success(), "{}", all(&built));
    assert_eq!(String::from_utf8_lossy(&built.stdout).trim(), first);
    assert_eq!(files(&store), before);
    let refused = farm.on("b").args(["cache", "prune"]).arg(&cache).output().unwrap();
    assert!(!refused.status.success() && all(&refused).contains("is only read"), "{}", all(&refused));
    let none = format!("type=store,src={}", farm.place.join("nowhere").display());
    let (.., log) = farm.build("b", &[&from(&none), "-t", "app:1"]);
    assert!(log.contains("it is left out of this build"), "{log}");
}

#[test]
fn a_bucket_is_opened_as_awss_tools_would() {
    let (farm, s3) = (Farm::new(), S3::open());
    let plain = format!("type=s3,bucket={},prefix=p", S3::BUCKET);
    farm.place.write("aws/credentials", "[ci]\naws_access_key_id = testing\naws_secret_access_key = testing\n");
    farm.place.write("aws/config", format!("[profile ci]\nregion = eu-west-1\nendpoint_url = {}\n", s3.url));
    let build = |machine: &str, profile: &str| {
        let mut command = farm.on(machine);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_PROFILE", profile);
        command.env("AWS_SHARED_CREDENTIALS_FILE", farm.place.join("aws/credentials"));
        command.env("AWS_CONFIG_FILE", farm.place.join("aws/config"));
        // Another tool's variable names no bucket of ours.
        command.env("AWS_BUCKET_NAME", "nobodys");
        command.args(["build", "--progress=plain", &from(&plain), &to(&format!("{plain},ignore-error=false"))]);
        output(command.args(["-t", "app:1"]).arg(farm.place.join("c")))
    };
    let built = build("a", "ci");
    assert!(built.status.success() && all(&built).contains("entries written"), "{}", all(&built));
    let again = build("b", "ci");
    assert!(again.status.success() && !all(&again).contains(" DONE "), "{}", all(&again));
    let refused = build("c", "other");
    assert!(
        all(&refused).contains("the profile other that AWS_PROFILE names is in none of AWS's files"),
        "{}",
        all(&refused)
    );
    // A bucket that is not there is a warning, or an error where it must not be ignored.
    let missing = s3.cache("x").replace(S3::BUCKET, "nobodys");
    let (.., log) = farm.build("d", &[&from(&missing), &to(&missing), "-t", "app:1"]);
    assert!(log.contains("warning: ") && log.contains("s3://nobodys/x"), "{log}");
    let mut command = farm.on("e");
    command.args(["build", &to(&format!("{missing},ignore-error=false")), "-t", "app:1"]);
    let failed = output(command.arg(farm.place.join("c")));
    assert!(!failed.status.success() && all(&failed).contains("s3://nobodys/x"), "{}", all(&failed));
}

/// The secret of the environment is in no log, and in no file that a build leaves.
#[test]
fn keys_of_a_bucket_stay_where_they_are() {
    let (farm, s3) = (Farm::new(), S3::open());
    let secret = "a1b2c3-very-secret";
    let mut command = farm.on("a");
    command.env("AWS_SECRET_ACCESS_KEY", secret).env("PLYWOOD_DEBUG", "1");
    command.args(["build", "--progress=plain", &from(&s3.cache("p")), &to(&s3.cache("p")), "-t", "app:1"]);
    let built = output(command.arg(farm.place.join("c")));
    assert!(built.status.success() && !all(&built).contains(secret), "{}", all(&built));
    let holds = |path: &Path| fs::read(path).unwrap().windows(secret.len()).any(|window| window == secret.as_bytes());
    assert!(files(&farm.place.join("machine-a")).iter().all(|path| !holds(path)));
}

/// What a mount holds comes to machines that have none of it; only what has changed is sent.
#[test]
fn cache_mounts_outlive_a_machine() {
    let (farm, s3) = (Farm::new(), S3::open());
    let base = format!("{}/base:1", farm.registry.host);
    let step = |word: &str| {
        format!(
            "FROM {base}\nCOPY lock /lock\nRUN --mount=type=cache,id=packages,target=/cache [\"/bin/busybox\", \"sh\", \"-c\", \
             \"busybox ls /cache > /seen; [ -e /cache/bulk ] || busybox dd if=/dev/urandom of=/cache/bulk bs=1M count=24 2> /dev/null; \
             echo {word} > /cache/{word}; busybox chown 7:8 /cache/{word}; busybox chmod 600 /cache/{word}\"]\n"
        )
    };
    let stores = [
        ("registry", format!("type=registry,ref={}/mounts", farm.registry.host)),
        ("local", format!("type=local,dest={}", farm.place.join("mounts").display())),
        ("s3", s3.cache("mounts")),
    ];
    for (name, store) in stores {
        let build = |machine: &str, word: &str, lock: &str, fields: &str| {
            farm.place.write("c/Dockerfile", step(word));
            farm.place.write("c/lock", lock);
            let out = farm.place.join(format!("out-{name}-{machine}"));
            let flag = format!("--cache-mount-store={store},key-files=lock{fields}");
            let (.., log) = farm.build(&format!("{name}-{machine}"), &[&flag, "-o", &out.display().to_string()]);
            (fs::read_to_string(out.join("seen")).unwrap(), log)
        };
        let sent = |log: &str| -> u64 {
            let line = log.lines().find(|line| line.contains(": saved in ")).unwrap_or_else(|| panic!("{name}: {log}"));
            line.split(", ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
        };
        let (seen, log) = build("a", "one", "1", "");
        assert_eq!(seen, "", "{name}: {log}");
        assert!(sent(&log) > 20 << 20, "{name}: {log}");
        let (seen, log) = build("b", "two", "1", "");
        assert_eq!(seen, "bulk\none\n", "{name}: {log}");
        assert!(log.contains("cache mount packages: restored, "), "{name}: {log}");
        assert!(sent(&log) < 24 << 20, "only what has changed is sent: {name}: {log}");
        // Other key files: what there is of another state is better than nothing, and is kept for the new one.
        let (seen, log) = build("c", "three", "2", "");
        assert_eq!(seen, "bulk\none\ntwo\n", "{name}: {log}");
        assert!(log.contains("of other key files"), "{name}: {log}");
        let (seen, log) = build("d", "four", "1", "");
        assert_eq!(seen, "bulk\none\ntwo\n", "the same key files first: {name}: {log}");
        // What a machine has is newer than what anyone has kept.
        let (seen, _) = build("a", "five", "1", "");
        assert_eq!(seen, "bulk\none\n", "{name}");
        let (seen, log) = build("e", "six", "1", ",scope=fork");
        assert_eq!(seen, "", "{name}: {log}");
        let (seen, log) = build("f", "seven", "1", ",max-size=1m");
        assert!(seen.is_empty() && log.contains("more than max-size") && log.contains("not saved"), "{name}: {log}");
        let listed = farm.cache(&["ls", &store]);
        assert!(listed.contains("the cache mount packages"), "{name}: {listed}");
        farm.cache(&["gc", &store]);
        assert_eq!(farm.cache(&["ls", &store]), listed, "{name}");
        let (seen, log) = build("g", "eight", "1", "");
        assert!(seen.contains("bulk\n"), "{name}: {log}");
        if name == "local" {
            // Pieces that have gone are told of, and are there again afterwards.
            for blob in files(&farm.place.join("mounts/blobs")) {
                fs::remove_file(blob).unwrap();
            }
            let (seen, log) = build("h", "nine", "1", "");
            assert!(seen.is_empty() && log.contains("warning: not restored"), "{log}");
            let (seen, log) = build("i", "ten", "1", "");
            assert_eq!(seen, "bulk\nnine\n", "{log}");
        }
    }
}

/// A store of mounts that fails, lies or is not there is told of, and no more.
#[test]
fn a_store_of_mounts_never_fails_a_build() {
    let farm = Farm::new();
    let base = format!("{}/base:1", farm.registry.host);
    farm.place.write(
        "c/Dockerfile",
        format!("FROM {base}\nRUN --mount=type=cache,target=/cache [\"/bin/busybox\", \"sh\", \"-c\", \"busybox ls /cache > /seen; echo 1 > /cache/file\"]\n"),
    );
    let build = |machine: &str, store: &str| {
        let out = farm.place.join(format!("out-{machine}"));
        let (.., log) =
            farm.build(machine, &[&format!("--cache-mount-store={store}"), "-o", &out.display().to_string()]);
        (fs::read_to_string(out.join("seen")).unwrap(), log)
    };
    let (_, log) = build("a", &format!("type=registry,ref=127.0.0.1:{}/x", support::free_port()));
    assert!(log.contains("warning: cache mounts are neither restored nor saved"), "{log}");
    let folder = farm.place.join("mounts");
    let store = format!("type=local,dest={}", folder.display());
    build("b", &store);
    // Its pieces are others now.
    for blob in files(&folder.join("blobs")) {
        let length = fs::metadata(&blob).unwrap().len();
        fs::write(&blob, vec![7; usize::try_from(length).unwrap()]).unwrap();
    }
    let (seen, log) = build("c", &store);
    assert!(seen.is_empty() && log.contains("cache mount /cache: warning: not restored: "), "{log}");
    for entry in files(&folder.join("entries")) {
        fs::write(entry, "{}").unwrap();
    }
    let (seen, log) = build("d", &store);
    assert!(seen.is_empty() && log.contains(": saved in "), "{log}");
}
