//! Images between registries, the store, layouts and archives: the same digest everywhere, and others can read them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::process::Command;

use support::{Place, Registry, all, output, run, skopeo_inspect};

const DOCKERFILE: &str = "\
FROM scratch AS empty\n\
FROM scratch\n\
COPY one /one\n\
COPY two /folder/two\n\
ENV A=b\n\
LABEL title=images\n\
CMD [\"/one\"]\n";

/// A store with an image of two layers in it, under this name; gives its digest.
fn image(place: &Place, name: &str, more: &[&str]) -> String {
    place.write("context/Dockerfile", DOCKERFILE);
    // More than one piece of whatever is read in pieces.
    place.write(
        "context/one",
        (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    );
    place.write("context/two", "two\n");
    let mut command = place.plywood();
    command.args(["build", "-q", "-t", name]).args(more).arg(place.join("context"));
    run(&mut command).trim().to_owned()
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64)
}

fn inspect(place: &Place, what: &str) -> serde_json::Value {
    serde_json::from_str(&run(place.plywood().args(["inspect", what]))).unwrap()
}

#[test]
fn an_archive_does_not_take_the_place_of_a_pipe() {
    use std::os::unix::fs::FileTypeExt;
    let place = support::Place::new();
    let pipe = place.join("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    place.write("c/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let mut reader = Command::new("cat").arg(&pipe).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let dest = format!("type=oci,dest={}", pipe.display());
    run(place.plywood().args(["build", "-q", "-o", &dest]).arg(place.join("c")));
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut reader.stdout.take().unwrap(), &mut read).unwrap();
    reader.wait().unwrap();
    assert!(read.len() > 1024 && fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn the_digest_is_the_same_everywhere() {
    let place = Place::new();
    let registry = Registry::open();
    let digest = image(&place, "app:1", &[]);
    assert!(is_digest(&digest), "{digest}");
    let remote = format!("docker://{}/team/app:1", registry.host);
    let second = format!("docker://{}/other/app:2", registry.host);
    let layout = format!("oci-layout://{}:v1", place.join("layout").display());
    let oci_archive = format!("oci-archive:{}:app:1", place.join("oci.tar").display());
    let docker_archive = format!("docker-archive:{}:app:1", place.join("docker.tar").display());
    // Each place gets it from the one before.
    let chain = ["store:app:1", &remote, &layout, &oci_archive, &docker_archive, "store:back:1", &second];
    for pair in chain.windows(2) {
        assert_eq!(place.ok(&["copy", pair[0], pair[1]]), digest, "{} to {}", pair[0], pair[1]);
    }
    for at in chain {
        let found = inspect(&place, at);
        assert_eq!(found["digest"], digest.as_str(), "{at}");
        assert_eq!(found["layers"].as_array().unwrap().len(), 2, "{at}");
        assert_eq!(found["config"]["config"]["Cmd"], serde_json::json!(["/one"]), "{at}: {found:#}");
    }
    // What skopeo makes of them.
    let readable = [
        (remote.clone(), true),
        (second, true),
        (format!("oci:{}:v1", place.join("layout").display()), true),
        (format!("oci-archive:{}", place.join("oci.tar").display()), true),
        // It makes a manifest of its own for these, with layers that are not compressed.
        (format!("docker-archive:{}", place.join("docker.tar").display()), false),
    ];
    for (at, has_digest) in readable {
        let found = skopeo_inspect(&at);
        if has_digest {
            assert_eq!(found["Digest"], digest.as_str(), "{at}");
        }
        assert_eq!(found["Layers"].as_array().unwrap().len(), 2, "{at}");
        assert_eq!(found["Labels"]["title"], "images", "{at}");
        // Inspecting reads documents only; copying reads and checks every byte.
        let target = place.join("dir");
        let mut command = Command::new("skopeo");
        command.args(["copy", "--insecure-policy", "--src-tls-verify=false"]).arg(&at);
        run(command.arg(format!("dir:{}", target.display())));
        fs::remove_dir_all(target).unwrap();
    }
    // And what skopeo writes is read, old Docker archives included.
    let theirs = place.join("theirs.tar");
    let mut command = Command::new("skopeo");
    command.args(["copy", "--insecure-policy", "--src-tls-verify=false"]).arg(&remote);
    run(command.arg(format!("docker-archive:{}:theirs:1", theirs.display())));
    place.ok(&["copy", &format!("docker-archive:{}", theirs.display()), "store:theirs:1"]);
    let (theirs, ours) = (inspect(&place, "theirs:1"), inspect(&place, "app:1"));
    assert_eq!(theirs["config"]["rootfs"], ours["config"]["rootfs"]);
}

#[test]
fn names_come_and_go() {
    let place = Place::new();
    let registry = Registry::open();
    let name = format!("{}/app:1", registry.host);
    let digest = image(&place, &name, &[]);
    let list = || run(place.plywood().arg("images"));
    assert_eq!(list(), format!("{name}  {digest}\n"));
    place.ok(&["tag", &name, "short"]);
    assert_eq!(list(), format!("{name}  {digest}\ndocker.io/library/short:latest  {digest}\n"));
    assert_eq!(place.ok(&["push", &name]), digest);
    assert_eq!(place.ok(&["push", "short", &format!("{}/short", registry.host)]), digest);
    run(place.plywood().args(["rmi", &name, "short:latest"]));
    assert_eq!(list(), "");
    let gone = output(place.plywood().args(["rmi", "short"]));
    assert_eq!(gone.status.code(), Some(1));
    assert!(all(&gone).contains("short"), "{}", all(&gone));
    // A store that has never seen it.
    let other = Place::new();
    assert_eq!(other.ok(&["pull", &name]), digest);
    assert_eq!(run(other.plywood().arg("images")), format!("{name}  {digest}\n"));
    assert_eq!(inspect(&other, &name)["digest"], digest.as_str());
    let pinned = format!("{}/app@{digest}", registry.host);
    assert_eq!(other.ok(&["copy", &format!("docker://{pinned}"), "store:pinned:1"]), digest);
    let absent = output(other.plywood().args(["pull", &format!("{}/app:none", registry.host)]));
    assert_eq!(absent.status.code(), Some(1));
    assert!(all(&absent).contains("app:none"), "{}", all(&absent));
}

#[test]
fn dockers_media_types_survive_copies() {
    let place = Place::new();
    let registry = Registry::open();
    let digest = image(&place, "docker:1", &["--format=docker"]);
    let remote = format!("docker://{}/docker:1", registry.host);
    assert_eq!(place.ok(&["copy", "store:docker:1", &remote]), digest);
    let found = inspect(&place, &remote);
    assert_eq!(found["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(skopeo_inspect(&remote)["Digest"], digest.as_str());
    let archive = format!("docker-archive:{}:docker:1", place.join("docker.tar").display());
    assert_eq!(place.ok(&["copy", &remote, &archive]), digest);
    assert_eq!(place.ok(&["copy", &archive, "store:again:1"]), digest);
    assert_eq!(
        skopeo_inspect(&format!("docker-archive:{}", place.join("docker.tar").display()))["Labels"]["title"],
        "images"
    );
}

#[test]
fn layers_are_mounted_from_another_repository() {
    let place = Place::new();
    let registry = Registry::open();
    let digest = image(&place, "app:1", &[]);
    let (first, second) = (format!("docker://{}/a:1", registry.host), format!("docker://{}/b:1", registry.host));
    assert_eq!(place.ok(&["copy", "store:app:1", &first]), digest);
    let sent = registry.requests();
    let uploads = |requests: &[String], word: &str| {
        requests
            .iter()
            .filter(|line| line.starts_with("PUT /v2/") && line.contains("/blobs/uploads/") && line.contains(word))
            .count()
    };
    assert_eq!(uploads(&sent, "/v2/a/"), 3, "two layers and the configuration: {sent:#?}");
    assert_eq!(place.ok(&["copy", &first, &second]), digest);
    let all = registry.requests();
    let later = &all[sent.len()..];
    assert_eq!(uploads(later, "/v2/b/"), 0, "{later:#?}");
    let mounts =
        later.iter().filter(|line| line.starts_with("POST ") && line.contains("from=a") && line.ends_with(" 201"));
    assert_eq!(mounts.count(), 3, "{later:#?}");
    assert!(!later.iter().any(|line| line.starts_with("GET /v2/a/blobs/")), "nothing need be read: {later:#?}");
    assert_eq!(skopeo_inspect(&second)["Digest"], digest.as_str());
    // Once more: nothing but questions, and the manifest.
    let before = registry.requests().len();
    assert_eq!(place.ok(&["copy", "store:app:1", &second]), digest);
    let all = registry.requests();
    assert!(!all[before..].iter().any(|line| line.contains("/blobs/uploads/")), "{:#?}", &all[before..]);
}

/// Base layers of the same registry are mounted when what was built on them is pushed.
#[test]
fn a_push_mounts_the_base() {
    let place = Place::new();
    let registry = Registry::open();
    image(&place, "app:1", &[]);
    let base = format!("{}/base:1", registry.host);
    place.ok(&["push", "app:1", &base]);
    place.write("on-top/Dockerfile", format!("FROM {base}\nCOPY three /three\n"));
    place.write("on-top/three", "three\n");
    let other = Place::new();
    let before = registry.requests().len();
    let name = format!("{}/top:1", registry.host);
    run(other.plywood().args(["build", "-q", "--push", "-t", &name]).arg(place.join("on-top")));
    let requests = registry.requests().split_off(before);
    let mounted = requests
        .iter()
        .filter(|line| line.starts_with("POST ") && line.contains("from=base") && line.ends_with(" 201"));
    assert_eq!(mounted.count(), 2, "{requests:#?}");
    assert_eq!(skopeo_inspect(&format!("docker://{name}"))["Layers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_registry_that_asks_for_a_password() {
    let registry = Registry::protected("someone", "a pass:word");
    let place = Place::new();
    let digest = image(&place, "app:1", &[]);
    let name = format!("{}/private/app:1", registry.host);
    let refused = output(place.plywood().args(["push", "app:1", &name]));
    assert_eq!(refused.status.code(), Some(1));
    let text = all(&refused);
    assert!(text.contains(&registry.host) && !text.contains("panicked"), "{text}");
    // base64 of `someone:a pass:word`, and of the same with a wrong password.
    let config = |auth: &str| format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.host);
    place.write("docker/config.json", config("c29tZW9uZTp3cm9uZw=="));
    let with = |arguments: &[&str]| {
        let mut command = place.plywood();
        command.env("DOCKER_CONFIG", place.join("docker")).args(arguments);
        command
    };
    let wrong = output(&mut with(&["push", "app:1", &name]));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!all(&wrong).contains("c29tZW9uZTp3cm9uZw"), "{}", all(&wrong));
    place.write("docker/config.json", config("c29tZW9uZTphIHBhc3M6d29yZA=="));
    assert_eq!(run(&mut with(&["push", "app:1", &name])).trim(), digest);
    assert_eq!(run(&mut with(&["copy", &format!("docker://{name}"), "store:back:1"])).trim(), digest);
    place.write("on-top/Dockerfile", format!("FROM {name}\nENV ON=top\n"));
    let context = place.join("on-top").display().to_string();
    let built = run(&mut with(&[
        "build",
        "-q",
        "--pull",
        "--push",
        "-t",
        &format!("{}/private/top:1", registry.host),
        &context,
    ]));
    assert!(is_digest(built.trim()), "{built}");
    let anonymous = output(place.plywood().args(["pull", &name]));
    assert_eq!(anonymous.status.code(), Some(1), "{}", all(&anonymous));
}
