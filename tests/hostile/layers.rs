//! Base images whose layers lead elsewhere: names, links, and one thing in another's place.

use crate::artefacts::Tar;
use crate::scene::{Listing, Scene};

/// What is at a path.
fn at<'l>(files: &'l Listing, path: &str) -> Option<&'l str> {
    files.get(path.trim_start_matches('/')).map(String::as_str)
}

#[test]
fn names_that_climb_stop_at_the_root() {
    let scene = Scene::new();
    let (up, outside) = ("../".repeat(40), scene.outside());
    let tar = Tar::new().file(format!("{up}x"), "a").file(format!("{up}{outside}/secret"), "b").file("a/../../y", "c");
    let files = scene.files([tar]).unwrap();
    assert_eq!(at(&files, "x"), Some("Regular 644 0:0 a"));
    assert_eq!(at(&files, &format!("{outside}/secret")), Some("Regular 644 0:0 b"));
    assert_eq!(at(&files, "y"), Some("Regular 644 0:0 c"));
}

#[test]
fn absolute_names_are_the_images_own() {
    let scene = Scene::new();
    let secret = format!("{}/secret", scene.outside());
    let files = scene.files([Tar::new().file(&secret, "a").file("//etc//passwd", "b")]).unwrap();
    assert_eq!(at(&files, &secret), Some("Regular 644 0:0 a"));
    assert_eq!(at(&files, "etc/passwd"), Some("Regular 644 0:0 b"));
}

#[test]
fn a_hard_link_cannot_name_a_file_of_the_machine() {
    let scene = Scene::new();
    let secret = format!("{}/secret", scene.outside());
    scene.refuses([Tar::new().hard_link("x", &secret)], "a hard link to a file that the layer does not hold");
}

#[test]
fn a_hard_link_cannot_climb() {
    let scene = Scene::new();
    let target = format!("{}etc/passwd", "../".repeat(40));
    scene.refuses([Tar::new().dir("a").hard_link("a/x", target)], "a hard link to a file that the layer does not hold");
}

#[test]
fn a_hard_link_cannot_go_through_a_symbolic_one() {
    let scene = Scene::new();
    let tar = Tar::new().symlink("d", scene.outside()).hard_link("x", "d/secret");
    scene.refuses([tar], "a hard link to a file that the layer does not hold");
}

#[test]
fn a_hard_link_to_itself_is_none() {
    let scene = Scene::new();
    let tar = Tar::new().file("x", "a").hard_link("x", "x").hard_link("y", "y");
    scene.refuses([tar], "a hard link to a file that the layer does not hold");
}

#[test]
fn a_hard_link_to_a_directory_is_refused() {
    Scene::new().refuses([Tar::new().dir("d").hard_link("x", "d")], "a hard link to a directory");
}

#[test]
fn a_hard_link_to_the_root_is_refused() {
    Scene::new().refuses([Tar::new().hard_link("x", "..")], "a hard link to the root");
}

#[test]
fn a_hard_link_to_a_symbolic_one_is_that_link() {
    let scene = Scene::new();
    let files =
        scene.files([Tar::new().symlink("s", scene.outside()).hard_link("x", "s").hard_link("y", "x")]).unwrap();
    assert_eq!(at(&files, "x"), at(&files, "s"));
    assert_eq!(at(&files, "y"), at(&files, "s"));
}

#[test]
fn a_hard_link_to_a_device_is_that_device() {
    let scene = Scene::new();
    let files = scene.files([Tar::new().device(b'3', "n", 1, 3).hard_link("x", "n")]).unwrap();
    assert_eq!(at(&files, "x"), Some("Char 644 0:0 1 3"));
}

#[test]
fn a_file_goes_through_an_absolute_link_inside() {
    let scene = Scene::new();
    let outside = scene.outside();
    let files = scene.files([Tar::new().symlink("a", &outside).file("a/file", "b").file("a/secret", "c")]).unwrap();
    assert_eq!(at(&files, "a"), Some(&*format!("Symlink 777 0:0 {outside}")));
    assert_eq!(at(&files, &format!("{outside}/secret")), Some("Regular 644 0:0 c"));
}

#[test]
fn a_chain_of_relative_links_stays_inside() {
    let scene = Scene::new();
    let tar = Tar::new()
        .dir("d")
        .symlink("d/a", "../../../../../../..")
        .symlink("d/b", format!("a/../..{}", scene.outside()))
        .file("d/b/secret", "x");
    let files = scene.files([tar]).unwrap();
    assert_eq!(at(&files, &format!("{}/secret", scene.outside())), Some("Regular 644 0:0 x"));
}

#[test]
fn links_in_a_circle_lead_nowhere() {
    let scene = Scene::new();
    let circle = Tar::new().symlink("a", "b").symlink("b", "a").symlink("c", "c");
    let files = scene.files([circle.clone()]).unwrap();
    assert_eq!(at(&files, "a"), Some("Symlink 777 0:0 b"));
    scene.refuses([circle.file("a/x", "x")], "whose symbolic links lead in a circle");
}

#[test]
fn many_entries_through_links_take_no_longer() {
    let scene = Scene::new();
    let mut tar = Tar::new().dir("real").symlink("d", "real");
    for number in 0..30_000 {
        tar = tar.symlink(format!("l{number}"), "real").dir(format!("d/{number}"));
    }
    let base = scene.image([tar]);
    assert_eq!(scene.exported(&base).unwrap().len(), 60_000 + 4);
}

#[test]
fn a_later_directory_takes_the_place_of_a_link() {
    let scene = Scene::new();
    let link = Tar::new().symlink("d", scene.outside());
    let files = scene.files([link, Tar::new().dir("d").file("d/x", "a")]).unwrap();
    assert_eq!(at(&files, "d"), Some("Directory 755 0:0"));
    assert_eq!(at(&files, "d/x"), Some("Regular 644 0:0 a"));
}

#[test]
fn a_later_file_in_a_folder_that_was_a_link_makes_the_folder() {
    let scene = Scene::new();
    let link = Tar::new().symlink("d", scene.outside());
    let base = scene.image([link, Tar::new().file("d/x", "a")]);
    let files = scene.exported(&base).unwrap();
    assert_eq!(at(&files, "d"), Some("Directory 755 0:0"));
    assert_eq!(files, {
        let mut seen = scene.stepped(&base).unwrap();
        seen.retain(|path, _| !path.starts_with("etc"));
        seen
    });
    // What a copy finds is the same.
    let out = scene.fresh("out");
    scene
        .build(&base, "FROM scratch\nCOPY --from=base /d/x /\n", &format!("type=local,dest={}", out.display()))
        .built();
    assert_eq!(std::fs::read_to_string(out.join("x")).unwrap(), "a");
}

#[test]
fn a_later_link_takes_a_directory_with_all_that_is_in_it() {
    let scene = Scene::new();
    let folder = Tar::new().dir("d").file("d/secret", "a");
    let files = scene.files([folder, Tar::new().symlink("d", scene.outside())]).unwrap();
    assert_eq!(at(&files, "d"), Some(&*format!("Symlink 777 0:0 {}", scene.outside())));
    assert_eq!(at(&files, "d/secret"), None);
}

#[test]
fn a_link_takes_a_directory_of_its_own_layer_with_all_that_is_in_it() {
    let scene = Scene::new();
    let tar = Tar::new().dir("d").file("d/secret", "a").symlink("d", scene.outside()).file("d/new", "b");
    let files = scene.files([tar]).unwrap();
    assert_eq!(at(&files, "d"), Some(&*format!("Symlink 777 0:0 {}", scene.outside())));
    assert_eq!(at(&files, "d/secret"), None);
    assert_eq!(at(&files, &format!("{}/new", scene.outside())), Some("Regular 644 0:0 b"));
}

#[test]
fn the_last_of_many_kinds_counts() {
    let scene = Scene::new();
    let tar = Tar::new()
        .file("x", "a")
        .dir("x")
        .file("x/in", "b")
        .symlink("x", scene.outside())
        .pipe("x")
        .device(b'3', "x", 1, 3)
        .dir("x")
        .file("x/last", "c");
    let files = scene.files([tar]).unwrap();
    assert_eq!(at(&files, "x"), Some("Directory 755 0:0"));
    assert_eq!(at(&files, "x/last"), Some("Regular 644 0:0 c"));
    assert_eq!(at(&files, "x/in"), None);
}

#[test]
fn the_last_of_a_thousand_counts() {
    let scene = Scene::new();
    let mut tar = Tar::new().file("one", "a");
    for number in 0..1000 {
        tar = tar.dir("d").file("d/x", number.to_string()).symlink("y", number.to_string()).hard_link("z", "one");
    }
    let files = scene.files([tar]).unwrap();
    assert_eq!(at(&files, "d/x"), Some("Regular 644 0:0 999"));
    assert_eq!(at(&files, "y"), Some("Symlink 777 0:0 999"));
    assert_eq!(at(&files, "z"), Some("Regular 644 0:0 a"));
}

#[test]
fn a_file_of_several_names_cannot_be_replaced() {
    let scene = Scene::new();
    let tar = Tar::new().dir("d").file("d/x", "a").hard_link("y", "d/x");
    scene.refuses([tar.clone().file("d/x", "b")], "in the place of a file that has other names");
    scene.refuses([tar.symlink("d", scene.outside())], "in the place of a file that has other names");
}

#[test]
fn nothing_can_lie_in_a_file() {
    let scene = Scene::new();
    scene.refuses([Tar::new().file("f", "a").file("f/x", "b")], "in something that is not a directory");
    scene.refuses([Tar::new().pipe("f").dir("f/x")], "in something that is not a directory");
}

#[test]
fn a_later_file_in_what_was_a_file_makes_a_folder() {
    let scene = Scene::new();
    let files = scene.files([Tar::new().file("f", "a"), Tar::new().file("f/x", "b")]).unwrap();
    assert_eq!(at(&files, "f/x"), Some("Regular 644 0:0 b"));
}

#[test]
fn nothing_takes_the_place_of_the_root() {
    let scene = Scene::new();
    for name in ["/", ".", "./", "..", "a/.."] {
        scene.refuses([Tar::new().symlink(name, scene.outside())], "which would replace the root");
        scene.refuses([Tar::new().file(name, "a")], "which would replace the root");
    }
}

#[test]
fn names_of_any_bytes_are_names() {
    let scene = Scene::new();
    let tar = Tar::new()
        .file("new\nline", "a")
        .file("\x1b[31mred", "b")
        .file(b"\xff\xfe", "c")
        .file("stub etc/passwd\nerror x", "d")
        .symlink("back\\slash\n", "to\nnowhere");
    let files = scene.files([tar]).unwrap();
    assert_eq!(at(&files, "new\nline"), Some("Regular 644 0:0 a"));
    assert_eq!(at(&files, "\u{fffd}\u{fffd}"), Some("Regular 644 0:0 c"));
}

#[test]
fn names_with_a_zero_byte_are_refused() {
    let scene = Scene::new();
    scene.refuses([Tar::new().file("a\0b", "a")], "which is no path");
    scene.refuses([Tar::new().symlink("a", "b\0c")], "a symbolic link to nowhere");
    scene.refuses([Tar::new().symlink("a", "")], "a symbolic link to nowhere");
}

#[test]
fn names_that_linux_cannot_have_are_refused() {
    let scene = Scene::new();
    scene.refuses([Tar::new().file("a/".repeat(3000) + "x", "a")], "which is no path");
    scene.refuses([Tar::new().file("n".repeat(300), "a")], "which is no path");
    scene.refuses([Tar::new().symlink("a", "b/".repeat(3000))], "a symbolic link to nowhere");
}

#[test]
fn a_path_as_long_as_may_be() {
    let scene = Scene::new();
    // Overlayfs and tars in a step have limits of their own: what counts is that nothing crashes.
    let deep = "a/".repeat(2000) + "x";
    let base = scene.image([Tar::new().file(&deep, "a").dir(&deep[..3998])]);
    let files = scene.exported(&base).unwrap();
    assert_eq!(at(&files, &deep), Some("Regular 644 0:0 a"));
    let out = scene.fresh("out");
    let output = format!("type=tar,dest={}", out.display());
    scene.build(&base, "FROM base\nRUN [\"/bin/busybox\", \"true\"]\nCOPY --from=base /a /b\n", &output).built();
}

#[test]
fn set_user_id_bits_are_kept() {
    let scene = Scene::new();
    let mode = |header: &mut tar::Header| {
        header.set_mode(0o6755);
        header.set_uid(33);
        header.set_gid(34);
    };
    let files = scene.files([Tar::new().entry(b'0', "x", "", "a", mode).entry(b'5', "d", "", "", mode)]).unwrap();
    assert_eq!(at(&files, "x"), Some("Regular 6755 33:34 a"));
    assert_eq!(at(&files, "d"), Some("Directory 6755 33:34"));
}

#[test]
fn owners_that_linux_has_not_are_refused() {
    let scene = Scene::new();
    let owner = |header: &mut tar::Header| header.set_uid(1 << 40);
    scene.refuses([Tar::new().entry(b'0', "x", "", "a", owner)], "whose owner is no number of Linux");
    let text = |header: &mut tar::Header| header.as_old_mut().uid = *b"zzzzzzzz";
    scene.refuses([Tar::new().entry(b'0', "x", "", "a", text)], "whose owner is no number of Linux");
}

#[test]
fn times_beyond_all_reason_do_no_harm() {
    let scene = Scene::new();
    let far = |header: &mut tar::Header| header.set_mtime(u64::MAX >> 1);
    let tar = Tar::new()
        .entry(b'0', "far", "", "a", far)
        .pax(&[("mtime", b"99999999999999999999")])
        .file("too-far", "b")
        .pax(&[("mtime", b"-9223372036854775808.999999999")])
        .file("long-ago", "c")
        .pax(&[("mtime", b"1e400")])
        .dir("d");
    scene.files([tar]).unwrap();
}

#[test]
fn an_entry_that_overlayfs_would_take_for_its_own_is_refused() {
    let scene = Scene::new();
    scene.refuses([Tar::new().device(b'3', "x", 0, 0)], "which overlayfs would take for a removed file");
    scene.refuses([Tar::new().device(b'3', "x", 1 << 12, 1 << 20)], "a device without number");
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.x"] {
        let key = format!("SCHILY.xattr.{name}");
        scene.refuses([Tar::new().pax(&[(&key, b"y")]).dir("d")], "with an attribute that is overlayfs's own");
    }
}

#[test]
fn attributes_that_make_no_sense_do_no_harm() {
    let scene = Scene::new();
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.nonsense", b"a"), ("SCHILY.xattr.user.x", b"b"), ("SCHILY.xattr.", b"c")])
        .file("x", "a")
        .pax(&[("SCHILY.xattr.user.\u{fffd}", b"d"), ("SCHILY.xattr.system.posix_acl_access", b"e"), ("", b"f")])
        .file("y", "b")
        .pax(&[("SCHILY.xattr.trusted.x", b"g")])
        .symlink("z", "x");
    scene.files([tar]).unwrap();
}

#[test]
fn an_attribute_that_is_too_long_is_refused() {
    let scene = Scene::new();
    let value = vec![7; 200_000];
    let base = scene.image([Tar::new().pax(&[("SCHILY.xattr.user.x", &value)]).file("x", "a")]);
    scene.exported(&base).unwrap();
    assert!(scene.stepped(&base).unwrap_err().contains("/x: "));
}

#[test]
fn kinds_that_no_layer_has_are_refused() {
    let scene = Scene::new();
    for kind in [b'D', b'M', b'V', b'Z', 0xff] {
        scene.refuses([Tar::new().entry(kind, "x", "", "", |_| {})], "of a type that no layer has");
    }
}

/// A node that names a device of the machine is a node in the image, and no more.
#[test]
fn devices_of_a_layer_cannot_be_opened() {
    let scene = Scene::new();
    let tar = Tar::new().device(b'3', "zero", 1, 5).device(b'4', "disk", 8, 0);
    let files = scene.files([tar.clone()]).unwrap();
    assert_eq!(at(&files, "disk"), Some("Block 644 0:0 8 0"));
    let dockerfile = "FROM base\nRUN ! head -c 1 /zero && mknod /own c 1 5 && ! head -c 1 /own && \
        mknod /dev/own c 1 5 && ! head -c 1 /dev/own && head -c 1 /dev/zero\n\
        RUN --mount=type=cache,target=/c mknod /c/own c 1 5 && ! head -c 1 /c/own\n\
        RUN --mount=type=bind,from=base,target=/c,rw ! head -c 1 /c/zero && mknod /c/own c 1 5 && ! head -c 1 /c/own\n\
        RUN --mount=type=tmpfs,target=/c mknod /c/own c 1 5 && ! head -c 1 /c/own\n";
    let dockerfile = dockerfile.replace("head", "busybox head").replace("mknod", "busybox mknod");
    scene.build(&scene.image([tar]), &dockerfile, "type=tar,dest=/dev/null").built();
}
