//! What `--output` says of where an image goes and of what it is there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::Path;

use support::{Place, all, files, layers, output, run};

/// Paths of a tar with their times.
fn times(layer: &[u8]) -> Vec<(String, u64)> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
    let time = |entry: tar::Entry<'_, &[u8]>| {
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), entry.header().mtime().unwrap())
    };
    entries.map(time).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        files(folder).iter().map(|file| file.strip_prefix(folder).unwrap().display().to_string()).collect();
    names.sort();
    names
}

#[test]
fn no_file_of_the_images_own_layers_is_younger_than_the_builds_time() {
    support::need_root();
    let place = Place::new();
    let base = place.busybox_base();
    place.write("c/Dockerfile", "FROM base\nCOPY --chmod=644 old young /\nRUN echo a > /made && ln /made /also\n");
    for (name, time) in [("old", 1_000), ("young", 1_700_000_000)] {
        let file = fs::File::create(place.join("c").join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time)).unwrap();
    }
    let build = |layout: &str, words: &[&str]| {
        let dest = format!("type=oci,tar=false,dest={},rewrite-timestamp=true", place.join(layout).display());
        let mut command = place.plywood();
        command.args(["build", "--progress=plain", "--build-context", &base, "-o", &dest]).args(words);
        let output = output(command.arg(place.join("c")));
        assert!(output.status.success(), "{}", all(&output));
        (layers(&place.join(layout)), all(&output))
    };
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=2000";
    let (plain, told) = build("plain", &[]);
    assert!(told.contains("rewrite-timestamp=true changes nothing"), "{told}");
    let (rewritten, _) = build("rewritten", &[epoch]);
    assert_eq!(rewritten[0], plain[0], "the base image's layer is what it was");
    let of = |layer: usize, name: &str| {
        let times = times(&rewritten[layer]);
        times.iter().find(|(path, _)| path == name).unwrap_or_else(|| panic!("{name} is not in {times:?}")).1
    };
    assert_eq!([of(1, "old"), of(1, "young"), of(2, "made"), of(2, "also")], [1_000, 2_000, 2_000, 2_000]);
    assert!(times(&plain[1]).contains(&("young".to_owned(), 1_700_000_000)));
    // Run anew on another day, it is the same image.
    let (again, _) = build("again", &[epoch, "--no-cache"]);
    assert_eq!(rewritten, again);
}

#[test]
fn a_folder_is_emptied_only_where_that_is_meant() {
    let place = Place::new();
    place.write("c/Dockerfile", "FROM scratch\nCOPY a b/\n");
    place.write("c/a", "a");
    let build = |here: &str, dest: &str, words: &[&str]| {
        let mut command = place.plywood();
        fs::create_dir_all(place.join(here)).unwrap();
        command.current_dir(place.join(here)).args(["build", "-q", "-o", dest]).args(words);
        output(command.arg(place.join("c")))
    };
    place.write("here/out/b/kept", "k");
    place.write("here/out/kept", "k");
    assert!(build("here", "type=local,dest=out", &[]).status.success());
    assert_eq!(names(&place.join("here/out")), ["b/a", "b/kept", "kept"]);
    assert!(build("here", "type=local,dest=out,mode=delete", &[]).status.success());
    assert_eq!(names(&place.join("here/out")), ["b/a"]);
    // Elsewhere it must be said, and neither `..` nor a link makes here of it.
    place.write("elsewhere/kept", "k");
    std::os::unix::fs::symlink("../elsewhere", place.join("here/link")).unwrap();
    let absolute = place.join("elsewhere").display().to_string();
    for dest in ["../elsewhere", "link", "new/../../elsewhere", ".", &absolute] {
        let refused = build("here", &format!("type=local,dest={dest},mode=delete"), &[]);
        assert!(!refused.status.success(), "{dest}");
        assert!(all(&refused).contains("--allow buildx.local.delete"), "{}", all(&refused));
    }
    assert_eq!(names(&place.join("elsewhere")), ["kept"]);
    let allowed = build("here", "type=local,dest=../elsewhere,mode=delete", &["--allow", "buildx.local.delete"]);
    assert!(allowed.status.success(), "{}", all(&allowed));
    assert_eq!(names(&place.join("elsewhere")), ["b/a"]);
}

#[test]
fn several_platforms_share_a_folder_where_that_is_meant() {
    let place = Place::new();
    place.write(
        "c/Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY <<file /name-$TARGETARCH\n$TARGETARCH\nfile\nCOPY Dockerfile /both/\n",
    );
    place
        .write("d/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY <<file /both/name-$TARGETARCH\n$TARGETARCH\nfile\n");
    let build = |dest: &str, context: &str| {
        let mut command = place.plywood();
        command.args(["build", "-q", "--platform=linux/amd64,linux/arm64", "-o", dest]).arg(place.join(context));
        output(&mut command)
    };
    let at = |name: &str, more: &str| format!("type=local,dest={}{more}", place.join(name).display());
    assert!(build(&at("apart", ""), "c").status.success());
    assert_eq!(
        names(&place.join("apart")),
        [
            "linux_amd64/both/Dockerfile",
            "linux_amd64/name-amd64",
            "linux_arm64/both/Dockerfile",
            "linux_arm64/name-arm64"
        ]
    );
    assert!(build(&at("shared", ",platform-split=false"), "d").status.success());
    assert_eq!(names(&place.join("shared")), ["both/name-amd64", "both/name-arm64"]);
    let refused = build(&at("refused", ",platform-split=false"), "c");
    assert!(!refused.status.success());
    assert!(
        all(&refused).contains("/both/Dockerfile is in the images for linux_amd64 and linux_arm64"),
        "{}",
        all(&refused)
    );
    let tar = place.join("files.tar");
    assert!(build(&format!("type=tar,dest={}", tar.display()), "d").status.success());
    let listed: Vec<String> = times(&fs::read(tar).unwrap()).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        listed,
        [
            "linux_amd64/",
            "linux_amd64/both/",
            "linux_amd64/both/name-amd64",
            "linux_arm64/",
            "linux_arm64/both/",
            "linux_arm64/both/name-arm64"
        ]
    );
    // One platform can have a folder of its own, too.
    let one = at("one", ",platform-split=true");
    run(place.plywood().args(["build", "-q", "--platform=linux/arm64", "-o", &one]).arg(place.join("d")));
    assert_eq!(names(&place.join("one")), ["linux_arm64/both/name-arm64"]);
}

#[test]
fn words_that_do_not_fit_are_refused() {
    let place = Place::new();
    place.write("c/Dockerfile", "FROM scratch\n");
    for (words, phrase) in [
        ("type=oci,dest=x,mode=delete", "mode is for type=local"),
        ("type=local,dest=x,mode=move", "mode is copy or delete, not move"),
        ("type=oci,dest=x,platform-split=true", "platform-split is for type=local and type=tar"),
        ("type=oci,dest=x,colour=red", "`colour` is not supported"),
        ("type=oci,dest=x,rewrite-timestamp=perhaps", "true or false, not perhaps"),
    ] {
        let refused = output(place.plywood().args(["build", "-o", words]).arg(place.join("c")));
        assert!(!refused.status.success(), "{words}");
        assert!(all(&refused).contains(phrase), "{words}: {}", all(&refused));
    }
}
