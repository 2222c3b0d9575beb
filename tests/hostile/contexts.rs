//! Folders as contexts: links out of them, things that block, files without an end.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::artefacts::Tar;
use crate::scene::{CANARY, Scene};
use crate::support::run;

/// Copies from the context, and gives the folder of what came.
fn copied(scene: &Scene, copy: &str) -> std::path::PathBuf {
    let out = scene.fresh("out");
    let dockerfile = format!("FROM scratch\n{copy}\n");
    scene.build("base=.", &dockerfile, &format!("type=local,dest={}", out.display())).built();
    out
}

/// Copying is refused with these words.
fn refused(scene: &Scene, copy: &str, phrase: &str) {
    scene.build("base=.", &format!("FROM scratch\n{copy}\n"), "type=tar,dest=/dev/null").refused(phrase);
}

#[test]
fn a_link_out_of_the_context_leads_to_nothing() {
    let scene = Scene::new();
    scene.symlink("context/abs", format!("{}/secret", scene.outside()));
    scene.symlink("context/rel", "../outside/secret");
    scene.symlink("context/folder", scene.outside());
    scene.symlink("context/chain", "folder/folder");
    for source in ["abs", "rel", "folder", "folder/", "folder/secret", "folder/folder/inner", "chain/inner"] {
        refused(&scene, &format!("COPY {source} /x"), "not found");
        refused(&scene, &format!("ADD {source} /x"), "not found");
    }
    for source in ["fold*/secret", "folder/*", "c[h]ain/*"] {
        let ended = scene.build("base=.", &format!("FROM scratch\nCOPY {source} /x/\n"), "type=tar,dest=/dev/null");
        assert!(!ended.text.contains("secret\""), "{}", ended.text);
    }
    // Within what is copied, a link is its text.
    let out = copied(&scene, "COPY . /");
    assert_eq!(fs::read_link(out.join("abs")).unwrap().to_string_lossy(), format!("{}/secret", scene.outside()));
}

#[test]
fn a_link_within_the_context_is_followed() {
    let scene = Scene::new();
    scene.write("context/d/x", "mine");
    scene.symlink("context/abs", "/d");
    scene.symlink("context/rel", "../../../context/../d/x");
    let out = copied(&scene, "COPY abs/x /a\nCOPY rel /b");
    assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(out.join("b")).unwrap(), "mine");
}

#[test]
fn what_climbs_out_of_the_context_stops_at_its_top() {
    let scene = Scene::new();
    scene.write("context/outside/secret", "mine");
    for source in
        ["../outside/secret", "a/../../outside/secret", "/../../outside/secret", "./outside/../../outside/secret"]
    {
        let out = copied(&scene, &format!("COPY {source} /"));
        assert_eq!(fs::read_to_string(out.join("secret")).unwrap(), "mine");
    }
    fs::remove_dir_all(scene.place.join("context/outside")).unwrap();
    refused(&scene, "COPY ../outside/secret /", "not found");
    refused(&scene, "COPY --parents ../outside/./secret /", "not found");
}

#[test]
fn a_named_context_is_no_other() {
    let scene = Scene::new();
    scene.write("named/x", "x");
    scene.symlink("named/out", "../outside");
    scene.write("context/Dockerfile", "FROM scratch\nCOPY --from=named ../context/x out/secret /x/\n");
    let named = format!("named={}", scene.place.join("named").display());
    scene.build_context(&["--build-context", &named, "-o", "type=tar,dest=/dev/null"]).refused("not found");
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let scene = Scene::new();
    scene.write("context/d/secret", "x".repeat(CANARY.len()));
    scene.write("context/big", vec![7; 64 << 20]);
    let folder = scene.place.join("context/d");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..400 {
                std::thread::sleep(std::time::Duration::from_millis(2));
                let _ = fs::rename(&folder, folder.with_extension("old"));
                let _ = std::os::unix::fs::symlink(scene.outside(), &folder);
                std::thread::sleep(std::time::Duration::from_millis(1));
                let _ = fs::remove_file(&folder);
                let _ = fs::rename(folder.with_extension("old"), &folder);
            }
        });
        for _ in 0..4 {
            let out = scene.fresh("out");
            let output = format!("type=tar,dest={}", out.display());
            scene.build("base=.", "FROM scratch\nCOPY big /\nCOPY d /d\n", &output);
            let tar = fs::read(out).unwrap_or_default();
            assert!(!tar.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "it was followed");
        }
    });
}

#[test]
fn a_file_that_changes_while_it_is_copied() {
    use std::io::Write;
    let scene = Scene::new();
    let path = scene.write("context/x", vec![7; 1 << 20]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            for number in 0.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let _ = if number % 50 == 0 { file.set_len(0) } else { file.write_all(&[8; 100_000]) };
            }
        });
        for _ in 0..5 {
            let out = scene.fresh("out");
            let output = format!("type=tar,dest={}", out.display());
            let ended = scene.build("base=.", "FROM scratch\nCOPY x /\n", &output);
            if ended.ok {
                let mut archive = tar::Archive::new(fs::File::open(out).unwrap());
                assert_eq!(archive.entries().unwrap().map(Result::unwrap).count(), 1);
            } else {
                ended.refused("it got shorter while it was read");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn pipes_and_sockets_block_nothing() {
    let scene = Scene::new();
    run(Command::new("mkfifo").arg(scene.place.join("context/pipe")));
    let _socket = UnixListener::bind(scene.place.join("context/socket")).unwrap();
    let out = scene.fresh("out");
    let output = format!("type=tar,dest={}", out.display());
    scene.build("base=.", "FROM scratch\nCOPY . /\nADD pipe /b\n", &output).built();
    let kinds: Vec<_> = tar::Archive::new(fs::File::open(out).unwrap())
        .entries()
        .unwrap()
        .map(|entry| {
            (entry.as_ref().unwrap().path().unwrap().display().to_string(), entry.unwrap().header().entry_type())
        })
        .collect();
    assert!(kinds.contains(&("pipe".into(), tar::EntryType::Fifo)), "{kinds:?}");
    // As BuildKit has it: an empty file.
    assert!(kinds.contains(&("socket".into(), tar::EntryType::Regular)), "{kinds:?}");
}

#[test]
fn a_build_file_that_blocks_or_never_ends() {
    let scene = Scene::new();
    let file = scene.place.join("context/Dockerfile");
    let build = |file: &str| scene.build_context(&["-f", file, "-o", "type=tar,dest=/dev/null"]);
    fs::remove_file(&file).unwrap();
    run(Command::new("mkfifo").arg(&file));
    scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("no regular file");
    build("Dockerfile").refused("no regular file");
    build(&file.display().to_string()).refused("no regular file");
    fs::remove_file(&file).unwrap();
    scene.symlink("context/Dockerfile", "/dev/zero");
    scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("leads out of the context");
    build("/dev/zero").refused("longer than");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("Dockerfile");
    fs::remove_dir(&file).unwrap();
    fs::File::create(&file).unwrap().set_len(100 << 30).unwrap();
    scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("longer than");
    fs::write(&file, vec![0xff; 1000]).unwrap();
    scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("is not UTF-8");
    fs::write(&file, [0; 1000]).unwrap();
    scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("unknown instruction");
}

/// A build file that is somebody else's must not be quoted.
#[test]
fn a_build_file_that_is_a_link_out_is_not_read() {
    let scene = Scene::new();
    fs::remove_file(scene.place.join("context/Dockerfile")).unwrap();
    for target in [format!("{}/secret", scene.outside()), "../outside/secret".into()] {
        scene.symlink("context/Dockerfile", &target);
        scene.build_context(&["-o", "type=tar,dest=/dev/null"]).refused("leads out of the context");
        scene.build_context(&["-f", "Dockerfile", "-o", "type=tar,dest=/dev/null"]).refused("leads out of the context");
        fs::remove_file(scene.place.join("context/Dockerfile")).unwrap();
    }
}

#[test]
fn ignore_files_that_block_or_lead_out() {
    let scene = Scene::new();
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let build = || scene.build("base=.", dockerfile, "type=tar,dest=/dev/null");
    for name in [".dockerignore", "Dockerfile.dockerignore"] {
        let file = scene.place.join("context").join(name);
        run(Command::new("mkfifo").arg(&file));
        build().refused("no regular file");
        fs::remove_file(&file).unwrap();
        for target in [format!("{}/secret", scene.outside()), "../outside/secret".into(), "/dev/zero".into()] {
            scene.symlink(&format!("context/{name}"), &target);
            build().refused("leads out of the context");
            fs::remove_file(&file).unwrap();
        }
        fs::File::create(&file).unwrap().set_len(100 << 30).unwrap();
        build().refused("longer than");
        fs::write(&file, "[".repeat(10_000)).unwrap();
        build().refused("is no pattern");
        fs::write(&file, [0xff, 0xfe]).unwrap();
        build().refused(name);
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn patterns_that_take_long_elsewhere() {
    let scene = Scene::new();
    let name = "a".repeat(250);
    scene.write(&format!("context/{name}"), "x");
    scene.write("context/.dockerignore", format!("{}b\n", "*a".repeat(2000)).repeat(20) + &"**/".repeat(2000));
    let dockerfile = format!("FROM scratch\nCOPY {}b* {name} /x/\n", "a*".repeat(200));
    scene.build("base=.", &dockerfile, "type=tar,dest=/dev/null");
}

#[test]
fn settings_of_the_project_that_block() {
    let scene = Scene::new();
    let file = scene.place.join("context/plywood.toml");
    let build = || scene.build("base=.", "FROM scratch\nCOPY Dockerfile /\n", "type=tar,dest=/dev/null");
    run(Command::new("mkfifo").arg(&file));
    build().refused("no regular file");
    fs::remove_file(&file).unwrap();
    for target in ["/dev/zero", "../outside/secret"] {
        scene.symlink("context/plywood.toml", target);
        build().refused("leads out of the context");
        fs::remove_file(&file).unwrap();
    }
    fs::File::create(&file).unwrap().set_len(100 << 30).unwrap();
    build().refused("longer than");
    run(Command::new("mkfifo").arg(scene.place.join("context/p.wasm")));
    for source in ["p.wasm", "../outside/secret", "/dev/zero"] {
        fs::write(&file, format!("[plugins.p]\nsource = \"path:{source}\"\n")).unwrap();
        assert!(!build().ok, "{source}");
    }
    fs::write(&file, "a = ".to_owned() + &"[".repeat(100_000)).unwrap();
    assert!(!build().ok);
}

#[test]
fn folders_in_folders_without_end() {
    let scene = Scene::new();
    let mut path = scene.place.join("context");
    while path.as_os_str().len() < 4000 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("x"), "x").unwrap();
    scene.build("base=.", "FROM scratch\nCOPY . /a\n", "type=tar,dest=/dev/null");
}

#[test]
fn lines_without_end() {
    let scene = Scene::new();
    let long = "x".repeat(8 << 20);
    for (dockerfile, phrase) in [
        (format!("FROM scratch\n{long}\n"), "unknown instruction"),
        (format!("FROM scratch\nCOPY {long} /\n"), "more than the 64 MiB of memory"),
        (format!("FROM {long}\n"), "failed to parse stage name"),
        (format!("FROM scratch\nENV a={}\n", "${a:-".repeat(1 << 20)), "failed to process"),
        (format!("FROM scratch\nCOPY {} /\n", "[".repeat(1 << 20)), "is no pattern"),
        (format!("FROM scratch\nWORKDIR /{}\n", "a/".repeat(1 << 20)), "too long a path"),
        (format!("FROM scratch\nCOPY Dockerfile /{}\n", "a/".repeat(1 << 20)), "too long a path"),
        (format!("FROM scratch\nCOPY {}x /\n", "a/".repeat(1 << 20)), "Dockerfile:2: "),
        ("FROM scratch\n".repeat(2000) + "COPY --from=1998 /x /\n", "not found"),
    ] {
        scene.build("base=.", &dockerfile, "type=tar,dest=/dev/null").refused(phrase);
    }
    let dockerfile = format!("FROM scratch\nCOPY <<E /x\n{long}\nE\nLABEL a={}\n", &long[..1 << 20]);
    scene.build("base=.", &dockerfile, "type=tar,dest=/dev/null").built();
}

#[test]
fn values_that_grow_by_the_power() {
    let scene = Scene::new();
    let mut dockerfile = String::from("FROM scratch\nENV a0=0123456789\n");
    for number in 0..12 {
        dockerfile += &format!("ENV a{}={}\n", number + 1, format!("${{a{number}}}").repeat(10));
    }
    scene.build("base=.", &dockerfile, "type=tar,dest=/dev/null").refused("substitutions make more than 1 MiB");
    let args = dockerfile.replace("ENV", "ARG").replacen("FROM scratch\n", "", 1) + "FROM $a12\n";
    scene.build("base=.", &args, "type=tar,dest=/dev/null").refused("substitutions make more than 1 MiB");
    // And replacements, by the square.
    let many = "aaaaaaaaaa".repeat(1000);
    let dockerfile = format!("ARG a={many}\nARG b=${{a//a/$a}}\nARG c=${{b//a/$b}}\nFROM $c\n");
    scene.build("base=.", &dockerfile, "type=tar,dest=/dev/null").refused("substitutions make more than 1 MiB");
    let dockerfile =
        format!("FROM scratch\nENV a={many}\nENV b=${{a//*b/c}} c=${{a##*a*b}} d=${{a%%b*a}} e=${{a//ab/}}\n");
    scene.build("base=.", &dockerfile, "type=tar,dest=/dev/null").built();
}

#[test]
fn ten_thousand_files() {
    let scene = Scene::new();
    for number in 0..10_000 {
        let folder = scene.place.join(format!("context/{}", number % 100));
        if number < 100 {
            fs::create_dir(&folder).unwrap();
        }
        fs::write(folder.join(number.to_string()), "").unwrap();
    }
    scene.build("base=.", "FROM scratch\nCOPY . /\n", "type=tar,dest=/dev/null").built();
}

#[test]
fn a_copy_over_itself() {
    let scene = Scene::new();
    scene.symlink("context/loop", "loop");
    scene.symlink("context/up", "..");
    refused(&scene, "COPY loop /", "symbolic links");
    refused(&scene, "COPY loop/x /", "symbolic links");
    copied(&scene, "COPY . /\nCOPY up/up/up/Dockerfile /x");
    let base = scene.image([Tar::new().symlink("loop", "loop")]);
    scene.write("context/x", "x");
    scene.build(&base, "FROM base\nCOPY x /loop/y\n", "type=tar,dest=/dev/null").refused("symbolic links");
}
