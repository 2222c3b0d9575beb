//! What is in the store: how much room it takes, and what goes when room is made.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{Place, all, files, need_root, output, run};

fn project(name: &str, bytes: usize) -> Place {
    let place = Place::new();
    write(&place, name, bytes);
    place
}

/// A context whose image holds a file that does not compress.
fn write(place: &Place, name: &str, bytes: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(name.len() as u64 + bytes as u64);
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect();
    place.write(&format!("{name}/Dockerfile"), format!("FROM scratch\nCOPY {name} /{name}\n"));
    place.write(&format!("{name}/{name}"), noise);
}

fn build(place: &Place, name: &str, words: &[&str]) -> String {
    let mut command = place.plywood();
    command.args(["build", "--progress=plain"]).args(words).arg(place.join(name));
    let built = output(&mut command);
    assert!(built.status.success(), "{}", all(&built));
    String::from_utf8(built.stderr).unwrap()
}

fn cache(place: &Place, words: &str) -> String {
    run(place.plywood().arg("cache").args(words.split(' ')))
}

fn usage(place: &Place) -> Value {
    serde_json::from_str(&cache(place, "du --json")).unwrap()
}

fn du(folder: &Path) -> u64 {
    let text = run(Command::new("du").args(["-s", "-B1"]).arg(folder));
    text.split('\t').next().unwrap().parse().unwrap()
}

/// Makes all blobs that are there look unused for so many days.
fn age(place: &Place, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    for blob in files(&place.root().join("blobs/blobs")) {
        fs::File::open(blob).unwrap().set_modified(then).unwrap();
    }
}

fn blobs(place: &Place) -> u64 {
    files(&place.root().join("blobs/blobs")).iter().map(|file| fs::metadata(file).unwrap().len()).sum()
}

fn is_cached(log: &str) -> bool {
    log.contains("CACHED")
}

#[test]
fn usage_is_what_the_disk_says() {
    need_root();
    let place = project("one", 300_000);
    let base = place.busybox_base();
    place.write(
        "run/Dockerfile",
        "FROM base\nRUN --mount=type=cache,target=/c busybox dd if=/dev/zero of=/c/x bs=1k count=200\n",
    );
    build(&place, "one", &["-t", "one"]);
    build(&place, "run", &["--build-context", &base]);
    let usage = usage(&place);
    assert_eq!(usage["total"], du(&place.root()));
    assert!(usage["images"].as_u64().unwrap() >= 300_000);
    assert!(usage["mounts"].as_u64().unwrap() >= 200 << 10);
    assert!(usage["trees"].as_u64().unwrap() > 500_000, "{usage}");
    assert!(cache(&place, "du").lines().last().unwrap().starts_with("total"));
    assert!(cache(&place, "ls").contains("COPY one /one"));
}

#[test]
fn what_was_used_least_recently_goes_first_and_images_stay() {
    let place = project("one", 300_000);
    for (name, bytes) in [("second", 200_000), ("thirds", 100_000)] {
        write(&place, name, bytes);
    }
    build(&place, "one", &["-t", "one"]);
    build(&place, "second", &[]);
    age(&place, 10);
    build(&place, "thirds", &[]);
    let before = blobs(&place);
    // Nothing is too much, too old, or of no use.
    assert!(cache(&place, "gc").starts_with("gone: 0 blobs"));
    let dry = cache(&place, "gc --keep-within 7d --dry-run");
    assert!(dry.starts_with("would go: ") && blobs(&place) == before, "{dry}");
    let real = cache(&place, "gc --keep-within 7d");
    assert_eq!(dry.replace("would go", "gone"), real);
    assert!(blobs(&place) < before - 190_000);
    assert!(is_cached(&build(&place, "one", &[])) && is_cached(&build(&place, "thirds", &[])));
    let log = build(&place, "second", &[]);
    assert!(log.contains("COPY second /second  (the layer of the entry is gone)"), "{log}");
    // A build counts as use: `second` is the newest now.
    age(&place, 10);
    build(&place, "second", &[]);
    cache(&place, "gc --keep-bytes 550k");
    assert!(is_cached(&build(&place, "second", &[])));
    assert!(!is_cached(&build(&place, "thirds", &[])));
    // All but the image.
    cache(&place, "prune");
    let left = blobs(&place);
    assert!((300_000..310_000).contains(&left), "{left}");
    assert_eq!(usage(&place)["blobs"], 0);
    run(place.plywood().args(["copy", "store:one"]).arg(format!("oci-archive:{}", place.join("one.tar").display())));
}

#[test]
fn a_ceiling_holds() {
    let place = Place::new();
    for (at, name) in ["a", "bb", "ccc", "dddd", "eeeee"].iter().enumerate() {
        write(&place, name, 200_000);
        build(&place, name, &["--store-max", "600k"]);
        let usage = usage(&place);
        let counted = usage["total"].as_u64().unwrap() - usage["other"].as_u64().unwrap();
        // Folders are counted by the disk, not by the ceiling.
        assert!(counted < (600 << 10) + (64 << 10), "after {at}: {usage}");
    }
    assert!(is_cached(&build(&place, "eeeee", &[])));
    let refused = output(place.plywood().args(["build", "--store-max", "much"]).arg(place.join("a")));
    assert_eq!(refused.status.code(), Some(1));
    assert!(all(&refused).contains("--store-max much"), "{}", all(&refused));
}

#[test]
fn nothing_goes_while_a_build_runs() {
    need_root();
    let place = project("one", 100_000);
    let base = place.busybox_base();
    build(&place, "one", &[]);
    place.write(
        "slow/Dockerfile",
        "FROM base\nCOPY --from=base /bin/busybox /copy\nRUN busybox sleep 3\nCOPY --from=base /bin/busybox /again\n",
    );
    let mut slow = place.plywood();
    slow.args(["build", "-q", "--build-context", &base]).arg(place.join("slow"));
    let mut slow = slow.stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    assert!(slow.try_wait().unwrap().is_none());
    // Who keeps a ceiling does not wait, and takes nothing.
    let before = blobs(&place);
    build(&place, "one", &["--store-max", "1k"]);
    assert!(blobs(&place) >= before);
    let pruned = output(place.plywood().args(["cache", "prune"]));
    assert!(pruned.status.success() && all(&pruned).contains("waiting"), "{}", all(&pruned));
    assert!(slow.try_wait().unwrap().is_some_and(|status| status.success()));
    assert!(blobs(&place) < 1000);
}
