//! Files of an image in a folder that is not empty: nothing outside of it is touched.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::artefacts::Tar;
use crate::scene::{CANARY, Ended, Scene};

/// Writes these files into the folder `out`.
fn write(scene: &Scene, tar: Tar) -> Ended {
    let out = scene.place.join("out");
    scene.build(&scene.image([tar]), "FROM base\n", &format!("type=local,dest={}", out.display()))
}

#[test]
fn a_folder_that_is_a_link_there_is_not_followed() {
    let scene = Scene::new();
    scene.symlink("out/d", scene.outside());
    let mode = |header: &mut tar::Header| header.set_mode(0o777);
    write(&scene, Tar::new().entry(b'5', "d", "", "", mode)).built();
    assert!(fs::symlink_metadata(scene.place.join("out/d")).unwrap().is_dir());
    scene.symlink("out/e", scene.outside());
    write(&scene, Tar::new().dir("e").file("e/secret", "a").dir("e/folder").file("e/folder/inner", "b")).built();
    assert_eq!(fs::read_to_string(scene.place.join("out/e/secret")).unwrap(), "a");
}

#[test]
fn links_of_an_earlier_build_are_not_followed() {
    let scene = Scene::new();
    write(&scene, Tar::new().symlink("d", scene.outside()).symlink("x", format!("{}/secret", scene.outside()))).built();
    let mode = |header: &mut tar::Header| header.set_mode(0o777);
    let tar = Tar::new().entry(b'5', "d", "", "", mode).file("d/secret", "a").entry(b'0', "x", "", "b", mode);
    write(&scene, tar).built();
    assert_eq!(fs::read_to_string(scene.place.join("out/x")).unwrap(), "b");
}

#[test]
fn a_file_that_is_another_name_of_one_outside_is_replaced() {
    let scene = Scene::new();
    fs::create_dir(scene.place.join("out")).unwrap();
    fs::hard_link(scene.place.join("outside/secret"), scene.place.join("out/x")).unwrap();
    write(&scene, Tar::new().file("x", "a")).built();
    assert_eq!(fs::read_to_string(scene.place.join("out/x")).unwrap(), "a");
    assert_eq!(fs::read_to_string(scene.place.join("outside/secret")).unwrap(), CANARY);
}

#[test]
fn a_pipe_in_the_way_blocks_nothing() {
    let scene = Scene::new();
    fs::create_dir(scene.place.join("out")).unwrap();
    crate::support::run(std::process::Command::new("mkfifo").arg(scene.place.join("out/x")));
    write(&scene, Tar::new().file("x", "a")).built();
    assert_eq!(fs::read_to_string(scene.place.join("out/x")).unwrap(), "a");
}

#[test]
fn a_folder_in_the_way_of_a_file_is_told() {
    let scene = Scene::new();
    scene.write("out/x/y", "kept");
    write(&scene, Tar::new().file("x", "a")).refused("out/x");
    assert_eq!(fs::read_to_string(scene.place.join("out/x/y")).unwrap(), "kept");
}

#[test]
fn odd_attributes_do_no_harm() {
    let scene = Scene::new();
    let odd = |mode| {
        move |header: &mut tar::Header| {
            header.set_mode(mode);
            header.set_uid(4_000_000_000);
            header.set_mtime(1 << 62);
        }
    };
    let tar = Tar::new()
        .entry(b'5', "d", "", "", odd(0o000))
        .entry(b'0', "d/x", "", "a", odd(0o6755))
        .entry(b'0', "d/y", "", "a", odd(0o000))
        .hard_link("d/z", "d/y")
        .device(b'4', "disk", 8, 0)
        .pipe("pipe");
    write(&scene, tar).built();
    let meta = fs::metadata(scene.place.join("out/d/x")).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid()), (0o755, 0));
    assert!(!scene.place.join("out/disk").exists() && !scene.place.join("out/pipe").exists());
}
