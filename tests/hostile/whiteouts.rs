//! Marks of removed files that remove something else.

use crate::artefacts::Tar;
use crate::scene::Scene;

fn folder() -> Tar {
    Tar::new().dir("d").file("d/old", "a").dir("d/e").file("d/e/old", "a").file("f", "b")
}

#[test]
fn a_mark_names_something_in_its_folder() {
    let scene = Scene::new();
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/e/.wh...", "d/../.wh..."] {
        scene.refuses([folder(), Tar::new().file(name, "")], "a whiteout of nothing");
    }
}

#[test]
fn a_mark_that_climbs_stops_at_the_root() {
    let scene = Scene::new();
    let name = format!("{}{}/.wh.secret", "../".repeat(40), scene.outside());
    let files = scene.files([folder(), Tar::new().file(name, "").file("../../.wh.f", "")]).unwrap();
    assert!(!files.contains_key("f") && files.contains_key("d/old"), "{files:?}");
}

#[test]
fn a_mark_goes_through_a_link_inside() {
    let scene = Scene::new();
    let inside = format!("{}/secret", &scene.outside()[1..]);
    let below = folder().file(&inside, "mine");
    let tar = Tar::new().symlink("l", scene.outside()).file("l/.wh.secret", "");
    let files = scene.files([below, tar]).unwrap();
    assert!(!files.contains_key(&inside) && files.contains_key("l"), "{files:?}");
}

#[test]
fn a_mark_in_a_folder_that_was_a_link_makes_the_folder() {
    let scene = Scene::new();
    let below = Tar::new().symlink("d", scene.outside());
    let files = scene.files([below, Tar::new().file("d/.wh.secret", "")]).unwrap();
    assert_eq!(files["d"], "Directory 755 0:0");
}

#[test]
fn an_opaque_mark_goes_through_a_link_inside() {
    let scene = Scene::new();
    let tar = Tar::new().symlink("l", "d").file("l/.wh..wh..opq", "").file("l/new", "n");
    let files = scene.files([folder(), tar]).unwrap();
    assert!(!files.contains_key("d/old") && files.contains_key("d/new"), "{files:?}");
    assert_eq!(files["l"], "Symlink 777 0:0 d");
}

#[test]
fn an_opaque_mark_outside_is_inside() {
    let scene = Scene::new();
    let tar = Tar::new().symlink("l", scene.outside()).file("l/.wh..wh..opq", "");
    let files = scene.files([folder(), tar]).unwrap();
    assert_eq!(files[&scene.outside()[1..]], "Directory 755 0:0");
}

#[test]
fn an_opaque_mark_in_a_folder_that_was_a_link_makes_the_folder() {
    let scene = Scene::new();
    let below = Tar::new().symlink("d", scene.outside());
    let files = scene.files([below, Tar::new().file("d/.wh..wh..opq", "")]).unwrap();
    assert_eq!(files["d"], "Directory 755 0:0");
}

#[test]
fn an_opaque_mark_alone_says_nothing_of_its_folder() {
    let scene = Scene::new();
    let files = scene.files([folder(), Tar::new().file("d/.wh..wh..opq", "")]).unwrap();
    assert_eq!(files["d"], "Directory 755 0:0");
    assert!(!files.contains_key("d/old"), "{files:?}");
}

#[test]
fn an_opaque_mark_counts_before_and_behind_its_folder() {
    let scene = Scene::new();
    let mode = |header: &mut tar::Header| header.set_mode(0o700);
    let (dir, mark) = (Tar::new().entry(b'5', "d", "", "", mode), "d/.wh..wh..opq");
    let behind = dir.file("d/new", "n").file(mark, "");
    let before = Tar::new().file(mark, "").entry(b'5', "d", "", "", mode).file("d/new", "n");
    for tar in [behind, before] {
        let files = scene.files([folder(), tar]).unwrap();
        assert_eq!(files["d"], "Directory 700 0:0");
        assert!(!files.contains_key("d/old") && files.contains_key("d/new"), "{files:?}");
    }
}

/// Overlayfs never makes the root opaque, so the layers below must be left out.
#[test]
fn an_opaque_mark_in_the_root_hides_everything() {
    let scene = Scene::new();
    let busybox = std::fs::read(crate::support::need("busybox", "busybox-static")).unwrap();
    let mode = |header: &mut tar::Header| header.set_mode(0o755);
    let tar = Tar::new().file(".wh..wh..opq", "").dir("bin").entry(b'0', "bin/busybox", "", busybox, mode);
    let files = scene.files([folder(), tar.file("new", "n")]).unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["bin", "bin/busybox", "new"]);
}

#[test]
fn a_mark_that_is_a_directory_is_a_mark() {
    let scene = Scene::new();
    let files = scene.files([folder(), Tar::new().dir(".wh.d").symlink(".wh.f", "x")]).unwrap();
    assert!(!files.contains_key("d") && !files.contains_key("f"), "{files:?}");
}

#[test]
fn a_removed_folder_does_not_come_back_with_a_new_one() {
    let scene = Scene::new();
    let files = scene.files([folder(), Tar::new().file(".wh.d", "").dir("d").file("d/new", "n")]).unwrap();
    assert!(!files.contains_key("d/old") && files.contains_key("d/new"), "{files:?}");
    let files = scene.files([folder(), Tar::new().file(".wh.d", "").file("d/new", "n")]).unwrap();
    assert!(!files.contains_key("d/old") && files.contains_key("d/new"), "{files:?}");
}

/// image-spec, "Whiteouts": a mark hides what is below the layer, never what the layer brings.
#[test]
fn a_mark_does_not_hide_what_its_own_layer_brings() {
    let scene = Scene::new();
    let tar = Tar::new().dir("d").file("d/new", "n").file(".wh.d", "").file("f", "new").file(".wh.f", "");
    let files = scene.files([folder(), tar]).unwrap();
    assert!(!files.contains_key("d/old") && files.contains_key("d/new"), "{files:?}");
    assert_eq!(files["f"], "Regular 644 0:0 new");
}

#[test]
fn a_hard_link_to_a_mark_is_none() {
    let scene = Scene::new();
    let tar = Tar::new().file(".wh.f", "").hard_link("x", "f");
    scene.refuses([folder(), tar], "a hard link to a file that the layer does not hold");
}

#[test]
fn what_aufs_kept_for_itself_means_nothing() {
    let scene = Scene::new();
    let files = scene.files([folder(), Tar::new().file(".wh..wh.aufs", "").dir(".wh..wh.plnk")]).unwrap();
    assert!(files.keys().all(|path| !path.contains(".wh.")), "{files:?}");
}

/// image-spec, "Whiteouts": no layer can hold a file of such a name.
#[test]
fn a_copied_file_cannot_become_a_mark() {
    let scene = Scene::new();
    let base = scene.image([folder()]);
    scene.write("context/.wh.f", "x");
    scene.build(&base, "FROM base\nCOPY .wh.f /\n", "type=tar,dest=/dev/null").refused("`.wh.f`");
    let run = "FROM base\nRUN [\"/bin/busybox\", \"mkdir\", \"/d/.wh..wh..opq\"]\n";
    scene.build(&base, run, "type=tar,dest=/dev/null").refused("`d/.wh..wh..opq`");
}
