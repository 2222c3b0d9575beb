//! Archives as contexts, and as what ADD unpacks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::artefacts::{Tar, gzip};
use crate::scene::{Ended, Listing, Scene, listing};

/// Builds from an archive that holds a Dockerfile and these entries.
fn context(scene: &Scene, tar: Tar, dockerfile: &str) -> (Ended, PathBuf) {
    let path = scene.fresh("context.tar");
    let all = Tar::new().file("Dockerfile", dockerfile).end();
    // The entries behind it, without the end of the first archive.
    fs::write(&path, [&all[..all.len() - 1024], &tar.end()].concat()).unwrap();
    archive(scene, &path)
}

/// Builds from an archive.
fn archive(scene: &Scene, path: &std::path::Path) -> (Ended, PathBuf) {
    let out = scene.fresh("out");
    let mut command = scene.place.plywood();
    command.args(["build", "--progress=plain", "-o", &format!("type=tar,dest={}", out.display())]).arg(path);
    (scene.watch(command), out)
}

/// What `COPY . /` of an archive gives.
fn copied(scene: &Scene, tar: Tar) -> Listing {
    let (ended, out) = context(scene, tar, "FROM scratch\nCOPY . /\n");
    ended.built();
    listing(&out)
}

/// What ADD of an archive gives, on an image in which `l` leads outside.
fn added(scene: &Scene, archive: &[u8], destination: &str) -> Result<Listing, String> {
    scene.write("context/x.tar", archive);
    let base = scene.image([Tar::new().symlink("l", scene.outside()).dir("d").file("d/x", "below")]);
    let out = scene.fresh("out");
    let dockerfile = format!("FROM base\nADD x.tar {destination}\n");
    let ended = scene.build(&base, &dockerfile, &format!("type=tar,dest={}", out.display()));
    if ended.ok { Ok(listing(&out)) } else { Err(ended.text) }
}

#[test]
fn a_context_has_nothing_outside() {
    let scene = Scene::new();
    for name in ["../x", "a/../../x", "..", "/../x"] {
        let (ended, _) = context(&scene, Tar::new().file(name, "x"), "FROM scratch\nCOPY . /\n");
        ended.refused("leads outside of it");
    }
    for target in [format!("{}/secret", scene.outside()), "../../etc/passwd".into(), "nowhere".into(), "".into()] {
        let (ended, _) = context(&scene, Tar::new().hard_link("x", target), "FROM scratch\nCOPY . /\n");
        ended.refused("leads outside of it");
    }
}

#[test]
fn names_and_links_of_a_context_stay_inside() {
    let scene = Scene::new();
    let outside = scene.outside();
    let tar = Tar::new()
        .file(format!("{outside}/absolute"), "a")
        .symlink("l", &outside)
        .file("l/through", "b")
        .symlink("r", "../../..")
        .file("r/up", "c")
        .hard_link("h", "l/through")
        .hard_link("hl", "l");
    let files = copied(&scene, tar);
    assert_eq!(files[&format!("{}/absolute", &outside[1..])], "Regular 644 0:0 a");
    assert_eq!(files[&format!("{}/through", &outside[1..])], "Regular 644 0:0 b");
    assert_eq!((&*files["up"], &*files["h"]), ("Regular 644 0:0 c", "Regular 644 0:0 b"));
    assert_eq!(files["hl"], files["l"]);
    // A link of the archive is followed within it.
    let tar = Tar::new().symlink("l", &outside).symlink("s", format!("{outside}/secret"));
    for source in ["l/secret", "s"] {
        let (ended, _) = context(&scene, tar.clone(), &format!("FROM scratch\nCOPY {source} /\n"));
        ended.refused("not found");
    }
}

#[test]
fn the_last_of_many_kinds_counts_in_a_context() {
    let scene = Scene::new();
    let tar = Tar::new().file("x", "a").dir("x").file("x/in", "b").symlink("x", scene.outside()).pipe("x").dir("x");
    let files = copied(&scene, tar.file("x/last", "c").file("f", "d").file("f/in", "e"));
    assert_eq!((&*files["x/last"], &*files["f/in"]), ("Regular 644 0:0 c", "Regular 644 0:0 e"));
    assert!(!files.contains_key("x/in"));
}

#[test]
fn names_that_linux_cannot_have_are_no_context() {
    let scene = Scene::new();
    let names = ["a/".repeat(1 << 19) + "x", "n".repeat(300), "a\0b".into()];
    for tar in names.map(|name| Tar::new().file(name, "x")) {
        context(&scene, tar, "FROM scratch\nCOPY . /\n").0.refused("is no path");
    }
    for target in ["".into(), "b\0c".into(), "b/".repeat(1 << 19)] {
        context(&scene, Tar::new().symlink("x", target), "FROM scratch\nCOPY . /\n").0.refused("leads to none");
    }
    let circle = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "x");
    context(&scene, circle, "FROM scratch\nCOPY . /\n").0.refused("leads outside of it");
    copied(&scene, Tar::new().file("a/".repeat(2000) + "x", "x"));
}

#[test]
fn a_build_file_in_an_archive_is_a_file_of_it() {
    let scene = Scene::new();
    let passwd = ["/etc/passwd".to_owned(), format!("{}/secret", scene.outside()), "../secret".into()];
    let mut tars: Vec<Tar> = passwd.iter().map(|target| Tar::new().symlink("Dockerfile", target)).collect();
    tars.extend([
        Tar::new().pipe("Dockerfile"),
        Tar::new().dir("Dockerfile"),
        Tar::new().device(b'3', "Dockerfile", 1, 5),
        Tar::new().symlink("Dockerfile", "Dockerfile"),
        Tar::new(),
    ]);
    for tar in tars {
        let path = scene.write("context.tar", tar.end());
        archive(&scene, &path).0.refused("the Dockerfile Dockerfile in the context");
    }
    let tar =
        Tar::new().dir("sub").file("sub/file", "FROM scratch\nCOPY sub /\n").symlink("Dockerfile", "/../sub/file");
    let path = scene.write("context.tar", tar.end());
    archive(&scene, &path).0.built();
}

#[test]
fn archives_that_are_none() {
    let scene = Scene::new();
    let good = gzip(&Tar::new().file("Dockerfile", "FROM scratch\nCOPY x /\n").file("x", "x".repeat(100_000)).end());
    let plain = Tar::new().file("Dockerfile", "FROM scratch\nCOPY x /\n").file("x", "x".repeat(100_000)).end();
    let cut = |bytes: &[u8], at: usize| bytes[..at].to_vec();
    for bytes in [
        cut(&good, good.len() / 2),
        cut(&plain, 1000),
        cut(&plain, 50_000),
        vec![0x1f, 0x8b],
        b"BZh9garbage".to_vec(),
        b"\xfd7zXZ\0garbage".to_vec(),
        b"\x28\xb5\x2f\xfdgarbage".to_vec(),
        vec![7; 2000],
        Vec::new(),
    ] {
        let path = scene.write("context.tar", bytes);
        let (ended, _) = archive(&scene, &path);
        assert!(!ended.ok && ended.text.contains("context"), "{}", ended.text);
    }
}

#[test]
fn what_add_unpacks_stays_inside() {
    let scene = Scene::new();
    for name in ["../x", "a/../../../x", "/.."] {
        let error = added(&scene, &Tar::new().file("ok", "a").file(name, "x").end(), "/").unwrap_err();
        assert!(error.contains("leads outside of it"), "{error}");
    }
    let secret = format!("{}/secret", scene.outside());
    for target in [&*secret, "../../../etc/passwd", "d/x"] {
        let error = added(&scene, &Tar::new().hard_link("x", target).end(), "/").unwrap_err();
        assert!(error.contains("leads outside of it"), "{error}");
    }
    let through = Tar::new().symlink("m", scene.outside()).file("m/secret", "a").file(&secret, "b").end();
    let files = added(&scene, &through, "/").unwrap();
    assert_eq!(files[&secret[1..]], "Regular 644 0:0 b");
}

/// Links of the image below lead inside as well.
#[test]
fn what_add_unpacks_goes_through_links_of_the_image_inside() {
    let scene = Scene::new();
    let inside = scene.outside()[1..].to_owned();
    let files = added(&scene, &Tar::new().file("secret", "a").end(), "/l/").unwrap();
    assert_eq!(files[&format!("{inside}/secret")], "Regular 644 0:0 a");
    let files = added(&scene, &Tar::new().file("l/secret", "a").end(), "/").unwrap();
    let through = files.get(&format!("{inside}/secret")).or(files.get("l/secret"));
    assert_eq!(through.map(String::as_str), Some("Regular 644 0:0 a"));
    let files = added(&scene, &Tar::new().symlink("d", "x").end(), "/").unwrap();
    assert_eq!(files["d"], "Symlink 777 0:0 x");
    assert!(!files.contains_key("d/x"));
}

#[test]
fn what_add_unpacks_removes_nothing() {
    let scene = Scene::new();
    let error = added(&scene, &Tar::new().file("d/.wh.x", "").end(), "/").unwrap_err();
    assert!(error.contains("whose name means that something is removed"), "{error}");
    let error = added(&scene, &Tar::new().device(b'3', "d/x", 0, 0).end(), "/").unwrap_err();
    assert!(error.contains("which overlayfs would take for a removed file"), "{error}");
}

#[test]
fn what_add_cannot_read_is_told() {
    let scene = Scene::new();
    let tar = Tar::new().file("a", "a".repeat(10_000)).end();
    let error = added(&scene, &tar[..5000], "/").unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
    let error = added(&scene, &[&tar[..10_752], &[7; 2000]].concat(), "/").unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
    // What is no archive is a file, whatever its name.
    let files = added(&scene, b"\x1f\x8bno archive", "/dest/").unwrap();
    assert!(files["dest/x.tar"].starts_with("Regular"));
}

/// A header may ask for more memory than there is before a byte comes.
#[test]
fn compressed_archives_do_not_choose_the_memory() {
    let scene = Scene::new();
    let check = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    // Stream header, then a block header: LZMA2 with a dictionary of 4 GiB (xz file format 1.1.0, 2.1.1 and 3.1).
    let (flags, block) = ([0, 4], [2, 0, 0x21, 1, 40, 0, 0, 0]);
    let xz = [&b"\xfd7zXZ\0"[..], &flags, &check(&flags), &block, &check(&block), &[0; 64]].concat();
    let path = scene.write("context.tar", xz);
    archive(&scene, &path).0.refused("emory limit");
    // A window of 2 TiB (RFC 8878, 3.1.1.1.2).
    let path = scene.write("context.tar", [&b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00"[..]].concat());
    archive(&scene, &path).0.refused("too much memory");
}

#[test]
fn owners_of_an_archive_are_the_images() {
    let scene = Scene::new();
    let owner = |header: &mut tar::Header| {
        header.set_uid(u64::from(u32::MAX));
        header.set_gid(1 << 40);
        header.set_mode(0o6755);
    };
    let files = added(&scene, &Tar::new().entry(b'0', "x", "", "a", owner).end(), "/").unwrap();
    assert_eq!(files["x"], "Regular 6755 0:0 a");
    assert_eq!(fs::metadata(scene.place.join("context/x.tar")).unwrap().uid(), 0);
}
