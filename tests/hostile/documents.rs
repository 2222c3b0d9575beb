//! Manifests, indexes and configurations that lie, and registries that never stop.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use crate::artefacts::{CONFIG, GZIP, INDEX, Layer, Layout, MANIFEST, PLAIN, Tar, config, digest};
use crate::scene::{Ended, Scene, base};
use crate::support::run;

fn layer() -> Layer {
    Tar::new().file("x", "x").into()
}

/// A layout whose manifest has been changed.
fn changed(scene: &Scene, change: impl FnOnce(&Layout, &mut Value)) -> String {
    let layout = Layout::new(scene.fresh("changed"));
    let mut manifest = layout.manifest(&config(&[layer()]), &[layer()]);
    change(&layout, &mut manifest);
    layout.finish(&layout.json(MANIFEST, &manifest));
    base(&layout.folder)
}

/// A layout with this configuration.
fn configured(scene: &Scene, text: &[u8]) -> String {
    changed(scene, |layout, manifest| manifest["config"] = layout.blob(CONFIG, text))
}

/// A layout with this index.json.
fn indexed(scene: &Scene, text: impl AsRef<[u8]>) -> String {
    let layout = Layout::new(scene.fresh("indexed"));
    fs::write(layout.folder.join("index.json"), text).unwrap();
    base(&layout.folder)
}

/// Whatever a build takes from it.
fn build(scene: &Scene, base: &str) -> Ended {
    scene.build(base, "FROM base\nENV a=b\n", "type=oci,dest=/dev/null")
}

#[test]
fn blobs_are_what_their_digests_say() {
    let scene = Scene::new();
    let layout = scene.layout([layer()]);
    let other = Tar::new().file("x", "y").end();
    fs::write(layout.path(&layer().diff_id), other).unwrap();
    let base = base(&layout.folder);
    build(&scene, &base).refused("and should be");
    scene.build(&base, "FROM base\nRUN true\n", "type=tar,dest=/dev/null").refused("and should be");
    let base = changed(&scene, |layout, manifest| {
        fs::write(layout.path(manifest["config"]["digest"].as_str().unwrap()), "{}").unwrap();
    });
    build(&scene, &base).refused("and should be");
}

/// A layer is what its configuration says, whoever looks first; and what one image says is not believed of another.
#[test]
fn layers_are_what_their_configuration_says() {
    let scene = Scene::new();
    let (mine, other) = (layer(), Tar::new().file("x", "evil").end());
    let lie = || Layer { blob: other.clone(), media_type: PLAIN, diff_id: mine.diff_id.clone() };
    let evil = scene.image([lie()]);
    for step in ["ENV a=b", "COPY Dockerfile /", "COPY --from=base /x /y", "RUN true"] {
        let ended = scene.build(&evil, &format!("FROM base\n{step}\n"), "type=oci,dest=/dev/null");
        ended.refused("and the image's configuration says");
    }
    for step in ["ENV a=b", "RUN true"] {
        let out = scene.fresh("out");
        let output = format!("type=oci,tar=false,compression=none,dest={}", out.display());
        scene.build(&scene.image([mine.clone()]), &format!("FROM base\n{step}\n"), &output).built();
        assert!(Layout::new(out.clone()).path(&mine.diff_id).exists(), "another blob stands for the layer");
        // And when the store knows the layer, it still does not believe it of another blob.
        scene.build(&evil, "FROM base\nENV c=d\n", "type=oci,dest=/dev/null");
        let out = scene.fresh("out");
        let output = format!("type=oci,tar=false,compression=none,dest={}", out.display());
        scene.build(&scene.image([mine.clone()]), &format!("FROM base\n{step}\nENV e=f\n"), &output).built();
        assert!(!Layout::new(out).path(&digest(&other)).exists(), "another blob stands for the layer");
    }
}

#[test]
fn sizes_are_numbers_that_are_so() {
    let scene = Scene::new();
    for size in [json!(-1), json!(i64::MIN), json!(1.5), json!("1"), json!(null), json!([1]), json!(1e300)] {
        let base = changed(&scene, |_, manifest| manifest["layers"][0]["size"] = size.clone());
        build(&scene, &base).refused("cannot be read");
    }
    for size in [json!(0), json!(1), json!(u64::MAX), json!(1u64 << 62)] {
        let base = changed(&scene, |_, manifest| manifest["layers"][0]["size"] = size.clone());
        build(&scene, &base).refused("bytes long");
    }
    // Also of a blob that the store has.
    build(&scene, &changed(&scene, |_, _| {})).built();
    let base = changed(&scene, |_, manifest| manifest["layers"][0]["size"] = json!(7));
    let out = scene.fresh("out");
    scene.build(&base, "FROM base\nENV a=c\n", &format!("type=oci,tar=false,dest={}", out.display())).built();
    let index: Value = serde_json::from_slice(&fs::read(out.join("index.json")).unwrap()).unwrap();
    let layout = Layout::new(out);
    let manifest = fs::read(layout.path(index["manifests"][0]["digest"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"][0]["size"], layer().blob.len());
}

#[test]
fn digests_are_no_paths() {
    let scene = Scene::new();
    let long = format!("sha256:{}", "a".repeat(10_000));
    let climbing = format!("sha256:../../../{}", "a".repeat(55));
    let sha512 = format!("sha512:{}", "a".repeat(128));
    let upper = format!("sha256:{}", "A".repeat(64));
    for wrong in [&*long, &climbing, &sha512, &upper, "sha256:", "", "../../outside/secret", "sha256:a/b", "x:y:z"] {
        for place in ["config", "layers"] {
            let base = changed(&scene, |_, manifest| match place {
                "config" => manifest["config"]["digest"] = json!(wrong),
                _ => manifest["layers"][0]["digest"] = json!(wrong),
            });
            assert!(!build(&scene, &base).ok, "{wrong}");
        }
        let entry = json!({ "mediaType": MANIFEST, "digest": wrong, "size": 1 });
        assert!(!build(&scene, &indexed(&scene, json!({ "schemaVersion": 2, "manifests": [entry] }).to_string())).ok);
    }
}

#[test]
fn configurations_that_are_none() {
    let scene = Scene::new();
    let deep = "[".repeat(1 << 20);
    for text in ["", "null", "[]", "{", "text", "\u{0}", "{\"rootfs\":7}", &deep, "{\"config\":{\"Env\":[1]}}"] {
        build(&scene, &configured(&scene, text.as_bytes())).refused("cannot be read");
    }
    build(&scene, &configured(&scene, &[0xff; 100])).refused("cannot be read");
    build(&scene, &configured(&scene, b"{}")).refused("its configuration names 0");
    let mut many = config(&[layer()]);
    many["rootfs"]["diff_ids"] = json!([layer().diff_id, layer().diff_id]);
    build(&scene, &configured(&scene, many.to_string().as_bytes())).refused("its configuration names 2");
    build(&scene, &configured(&scene, &vec![b' '; 20 << 20])).refused("longer than");
}

#[test]
fn manifests_that_are_none() {
    let scene = Scene::new();
    for text in ["", "null", "[]", "{}", "text", "{\"schemaVersion\":2,\"layers\":{}}", &"[".repeat(1 << 20)] {
        let layout = Layout::new(scene.fresh("layout"));
        layout.finish(&layout.blob(MANIFEST, text.as_bytes()));
        build(&scene, &base(&layout.folder)).refused("cannot be read");
    }
    for kind in ["text/plain", "", "application/vnd.oci.image.layer.v1.tar+lzma", MANIFEST, CONFIG] {
        let base = changed(&scene, |_, manifest| manifest["layers"][0]["mediaType"] = json!(kind));
        build(&scene, &base).refused("nothing that can be unpacked");
    }
    // What the bytes are is seen by them.
    let base = changed(&scene, |_, manifest| manifest["layers"][0]["mediaType"] = json!(GZIP));
    scene.build(&base, "FROM base\nCOPY --from=base /x /y\n", "type=tar,dest=/dev/null").built();
}

#[test]
fn indexes_that_are_none_or_never_end() {
    let scene = Scene::new();
    for text in ["", "null", "{}", "[]", "text", "{\"manifests\":7}", &"[".repeat(1 << 20)] {
        assert!(!build(&scene, &indexed(&scene, text)).ok);
    }
    build(&scene, &indexed(&scene, json!({ "schemaVersion": 2, "manifests": [] }).to_string())).refused("say which");
    build(&scene, &indexed(&scene, vec![b' '; 20 << 20])).refused("longer than");
    // One in another, each naming the next a hundred times.
    let layout = Layout::new(scene.fresh("nested"));
    let mut inner = layout.json(MANIFEST, &layout.manifest(&config(&[layer()]), &[layer()]));
    for _ in 0..50 {
        let names = vec![inner; 100];
        inner = layout.json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": names }));
        layout.finish(&inner);
    }
    assert!(!build(&scene, &base(&layout.folder)).ok);
    let mut command = scene.place.plywood();
    command.args(["copy", &format!("oci-layout://{}", layout.folder.display()), "store:x:1"]);
    scene.watch(command).refused("nested too deeply");
    // One that says it is what it is in.
    let mut itself = json!({ "mediaType": INDEX, "digest": digest(b"itself"), "size": 6 });
    itself["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    fs::write(layout.path(&digest(b"itself")), json!({ "schemaVersion": 2, "manifests": [itself] }).to_string())
        .unwrap();
    layout.finish(&itself);
    build(&scene, &base(&layout.folder)).refused("and should be");
}

#[test]
fn things_in_a_layout_that_are_no_files() {
    let scene = Scene::new();
    let pipe = |path: &std::path::Path| {
        fs::remove_file(path).unwrap();
        run(Command::new("mkfifo").arg(path));
    };
    let zero = |path: &std::path::Path| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    };
    let folder = |path: &std::path::Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    for make in [pipe, zero, folder] {
        let layout = scene.layout([layer()]);
        let layout_base = base(&layout.folder);
        make(&layout.path(&layer().diff_id));
        build(&scene, &layout_base).refused("no regular file");
        let index: Value = serde_json::from_slice(&fs::read(layout.folder.join("index.json")).unwrap()).unwrap();
        make(&layout.path(index["manifests"][0]["digest"].as_str().unwrap()));
        build(&scene, &layout_base).refused("no regular file");
        make(&layout.folder.join("index.json"));
        build(&scene, &layout_base).refused("no regular file");
    }
}

#[test]
fn names_in_a_layout_are_no_paths() {
    let scene = Scene::new();
    let layout = scene.layout([layer()]);
    for name in [":../../outside/secret", "@sha256:..", ":/etc/passwd", ":", ":\u{1}", "/../../outside", "/nowhere"] {
        let base = format!("base=oci-layout://{}{name}", layout.folder.display());
        build(&scene, &base);
    }
}

/// `plywood copy` from an archive.
fn copied(scene: &Scene, kind: &str, tar: Vec<u8>) -> Ended {
    let path = scene.write("archive.tar", tar);
    let mut command = scene.place.plywood();
    command.args(["copy", &format!("{kind}:{}", path.display()), "store:x:1"]);
    scene.watch(command)
}

#[test]
fn archives_of_images_name_only_what_is_in_them() {
    let scene = Scene::new();
    for (config, layer) in
        [("../../etc/passwd", "l.tar"), ("/etc/passwd", "l.tar"), ("c.json", "/etc/passwd"), ("", "")]
    {
        let list = json!([{ "Config": config, "Layers": [layer], "RepoTags": ["x:1"] }]).to_string();
        let tar = Tar::new().file("manifest.json", list).file("c.json", "{}").file("l.tar", layer);
        copied(&scene, "docker-archive", tar.end()).refused("is missing");
    }
    let bytes = Tar::new().file("index.json", json!({ "schemaVersion": 2, "manifests": [] }).to_string()).end();
    copied(&scene, "oci-archive", bytes).refused("say which");
    copied(&scene, "oci-archive", Tar::new().file("x", "x").end()).refused("no index.json");
    copied(&scene, "docker-archive", vec![7; 4096]).refused("archive.tar");
    copied(&scene, "docker-archive", Tar::new().file("manifest.json", "[".repeat(1 << 20)).end())
        .refused("cannot be read");
}

#[test]
fn documents_in_archives_are_bounded_and_checked() {
    let scene = Scene::new();
    let wrong = digest(b"other");
    let entry = json!({ "mediaType": MANIFEST, "digest": wrong, "size": 10 });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    let name = format!("blobs/sha256/{}", &wrong[7..]);
    let tar = Tar::new().file("index.json", &index).file(&name, "{}");
    copied(&scene, "oci-archive", tar.end()).refused("and should be");
    let tar = Tar::new().file("index.json", &index).file(&name, vec![b' '; 20 << 20]);
    copied(&scene, "oci-archive", tar.end()).refused("longer than");
    let holes = |header: &mut tar::Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize.copy_from_slice(b"077777777770");
        gnu.sparse[0].offset.copy_from_slice(b"077777777770");
        gnu.sparse[0].numbytes[..1].copy_from_slice(b"0");
    };
    let tar = Tar::new().file("index.json", &index).entry(b'S', &name, "", "", holes);
    assert!(!copied(&scene, "oci-archive", tar.end()).ok);
}

/// Answers each request by its path; what it answers with may never end.
fn registry(answer: impl Fn(&str, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = Vec::new();
            let mut byte = [0; 1];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
                request.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            // Whoever has heard enough hangs up.
            let _ = answer(text.split(' ').nth(1).unwrap_or_default(), &mut stream);
        }
    });
    host
}

/// A head, and zeros until the other side has had enough.
fn endless(out: &mut dyn Write, kind: &str) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n")?;
    loop {
        out.write_all(&[b' '; 1 << 16])?;
    }
}

fn whole(out: &mut dyn Write, kind: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    out.write_all(body)
}

#[test]
fn registries_that_never_stop() {
    let scene = Scene::new();
    let pull = |host: &str| {
        let mut command = scene.place.plywood();
        command.args(["build", "--progress=plain", "-o", "type=oci,dest=/dev/null"]);
        scene.write("context/Dockerfile", format!("FROM {host}/x:1\nENV a=b\n"));
        scene.watch({
            command.arg(scene.place.join("context"));
            command
        })
    };
    pull(&registry(|_, out| endless(out, MANIFEST))).refused("longer than");
    // A configuration, and a layer, of a tebibyte.
    let document = |size: u64, layer: u64| {
        let blob =
            |kind: &str, size: u64| json!({ "mediaType": kind, "digest": digest(kind.as_bytes()), "size": size });
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": blob(CONFIG, size), "layers": [blob(GZIP, layer)] })
    };
    let serve = |manifest: Value, known: Vec<(String, Vec<u8>)>| {
        registry(move |path, out| {
            if path == "/v2/" || path.contains("/manifests/") {
                return whole(out, MANIFEST, manifest.to_string().as_bytes());
            }
            match known.iter().find(|(digest, _)| path.ends_with(&**digest)) {
                Some((_, body)) => whole(out, "application/octet-stream", body),
                None => endless(out, "application/octet-stream"),
            }
        })
    };
    pull(&serve(document(1 << 40, 1), Vec::new())).refused("longer than");
    let text = config(&[Layer { diff_id: digest(b"any"), ..layer() }]).to_string().into_bytes();
    let mut manifest = document(text.len() as u64, 5 << 20);
    manifest["config"]["digest"] = json!(digest(&text));
    pull(&serve(manifest, vec![(digest(&text), text)])).refused("more than 5242880 bytes");
}
