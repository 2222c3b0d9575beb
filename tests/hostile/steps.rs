//! Images whose links wait for a step: for its mounts, its folders, its users, its copies.

use std::fs;

use crate::artefacts::Tar;
use crate::scene::{CANARY, Scene};

const SECRET: &str = "a secret that nobody tells";

/// An image in which `l` leads outside.
fn linked(scene: &Scene) -> String {
    scene.image([Tar::new().symlink("l", scene.outside())])
}

/// Builds what must go well, and gives the folder of its files.
fn built(scene: &Scene, base: &str, dockerfile: &str) -> std::path::PathBuf {
    let out = scene.fresh("out");
    scene.build(base, dockerfile, &format!("type=local,dest={}", out.display())).built();
    out
}

#[test]
fn users_are_looked_up_inside() {
    let scene = Scene::new();
    let outer = scene.place.join("passwd");
    scene.write("passwd", "mallory:x:4242:4242::/:/bin/sh\n");
    scene.write("context/x", "x");
    let image = |more: Tar| scene.image([more.dir("etc").symlink("etc/passwd", &*outer.to_string_lossy())]);
    let (run, copy) = ("FROM base\nUSER mallory\nRUN true\n", "FROM base\nCOPY --chown=mallory x /\n");
    let without = image(Tar::new());
    scene.build(&without, run, "type=tar,dest=/dev/null").refused("unable to find user mallory");
    scene.build(&without, copy, "type=tar,dest=/dev/null").warned("no user \"mallory\" in the image's /etc/passwd");
    // The same path, inside.
    let with = image(Tar::new().file(&*outer.to_string_lossy(), "mallory:x:77:78::/:/bin/sh\n"));
    let dockerfile = format!("{copy}USER mallory\nRUN [ \"$(busybox id -u):$(busybox id -g)\" = 77:78 ]\n");
    scene.build(&with, &dockerfile, "type=tar,dest=/dev/null").built();
}

#[test]
fn users_are_read_from_nothing_that_blocks() {
    let scene = Scene::new();
    let etc = || Tar::new().dir("etc");
    let images = [etc().pipe("etc/passwd"), etc().dir("etc/passwd"), etc().device(b'3', "etc/passwd", 1, 5)];
    scene.write("context/x", "x");
    for image in images {
        let base = scene.image([image]);
        let dockerfile = "FROM base\nUSER mallory\nRUN true\n";
        scene.build(&base, dockerfile, "type=tar,dest=/dev/null").refused("unable to find user mallory");
        let dockerfile = "FROM base\nCOPY --chown=mallory x /\n";
        scene
            .build(&base, dockerfile, "type=tar,dest=/dev/null")
            .warned("no user \"mallory\" in the image's /etc/passwd");
    }
}

#[test]
fn files_of_the_network_are_put_inside() {
    let scene = Scene::new();
    let outside = scene.outside();
    for target in [format!("{outside}/secret"), format!("../../../../../..{outside}/secret"), format!("{outside}/new")]
    {
        let tar = Tar::new().dir("etc").symlink("etc/hosts", &target).symlink("etc/resolv.conf", &target);
        let base = scene.image([tar]);
        let out = built(&scene, &base, "FROM base\nRUN busybox grep -q . /etc/resolv.conf && echo > /made\n");
        assert_eq!(fs::read_link(out.join("etc/hosts")).unwrap().to_string_lossy(), target);
        assert!(!out.join(&outside[1..]).exists(), "what was made to mount on is still there");
        assert!(out.join("made").exists());
    }
}

#[test]
fn what_every_step_mounts_on_is_inside() {
    let scene = Scene::new();
    for name in ["etc", "proc", "sys", "dev", "run"] {
        let base = scene.image([Tar::new().symlink(name, scene.outside())]);
        let dockerfile = "FROM base\nRUN --mount=type=secret,id=s echo > /made\n";
        let out = built(&scene, &base, dockerfile);
        assert!(out.join("made").exists(), "{name}");
    }
    let base = scene.image([Tar::new().symlink("etc", "etc").symlink("sys", "proc").symlink("dev", "sys")]);
    let ended = scene.build(&base, "FROM base\nRUN true\n", "type=tar,dest=/dev/null");
    assert!(ended.ok || ended.text.contains("plywood: Dockerfile:2: "), "{}", ended.text);
}

#[test]
fn a_working_directory_is_made_inside() {
    let scene = Scene::new();
    let dockerfile = "FROM base\nWORKDIR /l/a/../b\nRUN echo > c\nWORKDIR ../../../../../x\nRUN echo > d\n";
    let out = built(&scene, &linked(&scene), dockerfile);
    assert!(out.join(&scene.outside()[1..]).join("b/c").exists());
    assert!(out.join("x/d").exists());
}

#[test]
fn a_copy_goes_inside() {
    let scene = Scene::new();
    scene.write("context/secret", "mine");
    let dockerfile =
        "FROM base\nCOPY secret /l/\nCOPY secret /l/new/\nCOPY secret ../../../../up\nCOPY <<E /l/here\nx\nE\n";
    let out = built(&scene, &linked(&scene), dockerfile);
    let inside = out.join(&scene.outside()[1..]);
    assert_eq!(fs::read_to_string(inside.join("secret")).unwrap(), "mine");
    assert!(inside.join("new/secret").exists() && inside.join("here").exists() && out.join("up").exists());
}

#[test]
fn a_copy_from_a_stage_reads_inside() {
    let scene = Scene::new();
    let base = linked(&scene);
    for (path, run) in [("/l/secret", ""), ("/l/secret", "RUN true\n"), ("../../etc/hostname", ""), ("/l/f*", "")] {
        let dockerfile = format!("FROM base AS a\n{run}FROM scratch\nCOPY --from=a {path} /x/\n");
        let ended = scene.build(&base, &dockerfile, "type=tar,dest=/dev/null");
        assert!(!ended.ok || path.contains('*'), "{path}: {}", ended.text);
    }
    // The link itself is nothing but its text.
    let out = built(&scene, &base, "FROM base AS a\nRUN busybox ln -s /l/secret /s\nFROM scratch\nCOPY --from=a / /\n");
    assert_eq!(fs::read_link(out.join("l")).unwrap().to_string_lossy(), scene.outside());
    // What a step puts there is found there.
    let run = format!("RUN busybox mkdir -p {0} && echo mine > {0}/secret\n", scene.outside());
    let out = built(&scene, &base, &format!("FROM base AS a\n{run}FROM scratch\nCOPY --from=a /l/secret /\n"));
    assert_eq!(fs::read_to_string(out.join("secret")).unwrap(), "mine\n");
}

#[test]
fn mounts_go_inside() {
    let scene = Scene::new();
    scene.write("context/file", "mine");
    let base = linked(&scene);
    for kind in ["tmpfs", "cache", "secret,id=s", "bind"] {
        for target in ["/l/x", "/l/folder", "/l/a/b", "../../../../l/x"] {
            let dockerfile = format!("FROM base\nRUN --mount=type={kind},target={target} echo > /made\n");
            let secret = scene.write("mysecret", SECRET);
            scene.write("context/Dockerfile", dockerfile);
            let out = scene.fresh("out");
            let secret = format!("id=s,src={}", secret.display());
            let output = format!("type=local,dest={}", out.display());
            let ended = scene.build_context(&["--build-context", &base, "--secret", &secret, "-o", &output]);
            ended.built();
            assert!(!out.join(&scene.outside()[1..]).exists(), "{kind} {target}: what was made to mount on is left");
        }
    }
}

#[test]
fn mounts_over_a_link_that_leads_nowhere() {
    let scene = Scene::new();
    let tar = Tar::new().symlink("dangling", "nowhere/at/all").symlink("loop", "loop");
    let base = scene.image([tar]);
    let out = built(&scene, &base, "FROM base\nRUN --mount=type=tmpfs,target=/dangling echo > /dangling/x\n");
    assert!(!out.join("nowhere").exists());
    let ended = scene.build(&base, "FROM base\nRUN --mount=type=tmpfs,target=/loop true\n", "type=tar,dest=/dev/null");
    ended.refused("mounting /loop");
}

#[test]
fn names_of_caches_and_secrets_are_no_paths() {
    let scene = Scene::new();
    let base = linked(&scene);
    let before = crate::support::files(scene.place.path());
    for id in ["../../../outside", "/etc", ".", "..", "a/../../../../outside/folder", "x\u{1}y"] {
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=cache,id={id},target=/c echo > /c/made\n\
             RUN --mount=type=secret,id={id},required=false true\n"
        );
        scene.build(&base, &dockerfile, "type=tar,dest=/dev/null").built();
    }
    let made = crate::support::files(scene.place.path());
    let elsewhere = made.iter().filter(|path| path.ends_with("made") && !path.starts_with(scene.place.root()));
    assert_eq!(elsewhere.count(), 0, "{before:?}");
}

#[test]
fn a_secret_of_any_name_is_mounted_inside() {
    let scene = Scene::new();
    let base = linked(&scene);
    let secret = scene.write("mysecret", SECRET);
    for id in ["../../../etc/passwd", "..", "a/b", "../../l/secret"] {
        scene.write("context/Dockerfile", format!("FROM base\nRUN --mount=type=secret,id={id} true\n"));
        let given = format!("id={id},src={}", secret.display());
        let out = scene.fresh("out");
        let output = format!("type=tar,dest={}", out.display());
        let ended = scene.build_context(&["--build-context", &base, "--secret", &given, "-o", &output]);
        assert!(!ended.text.contains(SECRET), "{}", ended.text);
        let tar = fs::read(&out).unwrap_or_default();
        assert!(
            !tar.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()),
            "{id}: the secret is in the image"
        );
    }
}

#[test]
fn what_is_bound_is_of_the_context() {
    let scene = Scene::new();
    let base = linked(&scene);
    scene.symlink("context/out", scene.outside());
    scene.symlink("context/up", "../outside");
    for source in ["../..", "../outside", "out", "up", "/etc", "out/secret", "up/secret"] {
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=bind,source={source},target=/m \
             if busybox grep -r 'canary sing[s]' /m; then exit 7; fi\n"
        );
        let ended = scene.build(&base, &dockerfile, "type=tar,dest=/dev/null");
        assert!(ended.ok || ended.text.contains("not found"), "{source}: {}", ended.text);
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=bind,from=base,source=l/{source},target=/m \
             if busybox grep -r 'canary sing[s]' /m; then exit 7; fi\n"
        );
        let ended = scene.build(&base, &dockerfile, "type=tar,dest=/dev/null");
        assert!(ended.ok || ended.text.contains("No such file"), "{source}: {}", ended.text);
    }
}

/// Masked paths are covered by /dev/null: whoever mounts over /dev must not choose what that is.
#[test]
fn what_is_masked_stays_masked() {
    let scene = Scene::new();
    scene.symlink("context/dev/null", "/proc/sys/kernel/ostype");
    let dockerfile = "FROM base\nRUN --mount=type=bind,source=dev,target=/dev \
        [ -z \"$(busybox cat /proc/keys)\" ] && ! echo x > /proc/sys/kernel/hostname\n";
    scene.build(&linked(&scene), dockerfile, "type=tar,dest=/dev/null").built();
}

/// The kernel's settings are write-protected where they are, not where a link has led before.
#[test]
fn the_kernels_settings_stay_protected() {
    let scene = Scene::new();
    scene.write("context/m/proc/x", "x");
    let tar = Tar::new().symlink("proc", "m/proc").dir("m").symlink("m/proc", "/x");
    let dockerfile = "FROM base\nRUN --mount=type=bind,source=m,target=/m \
        [ -e /x/sys/kernel/hostname ] && ! echo x > /x/sys/kernel/hostname && [ -z \"$(busybox cat /x/keys)\" ]\n";
    scene.build(&scene.image([tar]), dockerfile, "type=tar,dest=/dev/null").built();
}

/// What a step has changed is found by comparing with the layers below, never with what their links lead to here.
#[test]
fn a_steps_changes_are_compared_inside() {
    let scene = Scene::new();
    let (outside, folder) = (scene.outside(), Tar::new().dir("d"));
    crate::support::run(std::process::Command::new("touch").args(["-d", "@1000000000", &format!("{outside}/secret")]));
    let base = scene.image([Tar::new().symlink("d", &outside), folder]);
    let dockerfile = format!(
        "FROM base\nRUN busybox printf '{CANARY}' > /d/secret && busybox touch -d @1000000000 /d/secret && \
         busybox chmod 644 /d/secret\nRUN busybox rm /d/secret\n"
    );
    // Not by `scene`, which takes any sign of the canary for a leak.
    let out = scene.fresh("out");
    scene.write("context/Dockerfile", dockerfile.rsplit_once("RUN").unwrap().0);
    let output = format!("type=local,dest={}", out.display());
    let mut command = scene.place.plywood();
    command.args(["build", "-q", "--build-context", &base, "-o", &output]).arg(scene.place.join("context"));
    crate::support::run(&mut command);
    assert_eq!(fs::read_to_string(out.join("d/secret")).unwrap(), CANARY);
}

#[test]
fn an_image_whose_settings_make_no_sense() {
    use crate::artefacts::{Layer, Layout, MANIFEST, config};
    use serde_json::json;
    let scene = Scene::new();
    let busybox = scene.layout(Vec::<Layer>::new());
    let layer = Layer::plain(fs::read(busybox.path(&busybox_layer(&busybox))).unwrap());
    for (key, value) in [
        ("User", json!("../../etc")),
        ("User", json!("0:0:0")),
        ("User", json!("4294967295")),
        ("WorkingDir", json!("../../..")),
        ("WorkingDir", json!("a\0b")),
        ("WorkingDir", json!("x".repeat(5000))),
        ("Env", json!(["PATH=/bin", "A\0B=c", "=x", "y", "Z==", ""])),
        ("Shell", json!([])),
        ("Shell", json!([""])),
        ("Entrypoint", json!("text")),
        ("Env", json!({ "A": "b" })),
        ("OnBuild", json!(["ONBUILD RUN x", "FROM x"])),
        ("OnBuild", json!(["COPY ../../outside/secret /x"])),
        ("OnBuild", json!(["RUN --mount=type=bind,source=../outside,target=/m busybox cat /m/secret"])),
        ("Volumes", json!({ "../..": {} })),
        ("ExposedPorts", json!({ "x": { "y": 1 } })),
        ("Labels", json!({ "": "\u{0}" })),
    ] {
        let layout = Layout::new(scene.fresh("odd"));
        let mut config = config(std::slice::from_ref(&layer));
        config["config"][key] = value.clone();
        let manifest = layout.manifest(&config, std::slice::from_ref(&layer));
        layout.finish(&layout.json(MANIFEST, &manifest));
        let base = crate::scene::base(&layout.folder);
        scene.build(&base, "FROM base\nCOPY Dockerfile /\nRUN echo > made\n", "type=tar,dest=/dev/null");
    }
}

fn busybox_layer(layout: &crate::artefacts::Layout) -> String {
    let read =
        |path: std::path::PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(layout.folder.join("index.json"));
    let manifest = read(layout.path(index["manifests"][0]["digest"].as_str().unwrap()));
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

/// A path may be longer than any call takes: what is in it is still deleted, and the next build works.
#[test]
fn a_step_that_makes_folders_without_end() {
    let scene = Scene::new();
    let base = linked(&scene);
    // A thousand folders at a time, each time on top of those that are there.
    let dockerfile = "FROM base\nRUN p=d; for i in 1 2 3 4 5 6 7 8 9 10; do p=$p/$p; done; busybox mkdir d; \
        i=0; while [ $i -lt 12 ]; do busybox mkdir -p n/$p && busybox mv d n/$p/d && busybox mv n d; i=$((i+1)); done\n";
    let ended = scene.build(&base, dockerfile, "type=tar,dest=/dev/null");
    ended.refused("File name too long");
    scene.build(&base, "FROM base\nRUN true\n", "type=tar,dest=/dev/null").built();
    assert_eq!(fs::read_dir(scene.place.root().join("tmp")).unwrap().count(), 0, "half-made things are left");
}

#[test]
fn a_step_that_prints_without_end() {
    let scene = Scene::new();
    let base = linked(&scene);
    scene.write("context/Dockerfile", "FROM base\nRUN busybox yes\n");
    let mut command = scene.place.plywood();
    command.args(["build", "--progress=plain", "--build-context", &base]).arg(scene.place.join("context"));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let child = crate::support::Guard(command.spawn().unwrap());
    for _ in 0..30 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let memory = crate::scene::memory(child.0.id());
        assert!(memory < crate::scene::MEMORY, "what is printed fills the memory: {memory} KiB");
    }
}
