//! Builds the examples as their texts say, and has other tools read, hold and run what comes out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use support::docker::Docker;
use support::{Guard, Place, Registry, all, free_port, need, output, repository, run, skopeo_inspect, wait_for};

/// Packages are fetched from a mirror, on a machine that does other things as well.
const LONG: Duration = Duration::from_secs(300);

/// Builds an example under a name into the store; gives its digest.
fn build(place: &Place, example: &str, name: &str, more: &[String]) -> String {
    let mut command = place.plywood();
    command.args(["build", "--progress=plain", "--ca-inject", "-t", name, "--build-context", support::debian_base()]);
    command.args(more).arg("--iidfile").arg(place.join("digest")).arg(repository("examples").join(example));
    let built = output(&mut command);
    assert!(built.status.success(), "{example}: {}", all(&built));
    fs::read_to_string(place.join("digest")).unwrap().trim().to_owned()
}

/// Unpacks the image of a layout with umoci; gives the root file system.
fn unpack(place: &Place, name: &str) -> PathBuf {
    let umoci = need("umoci", "umoci");
    let layout = place.join("layout");
    place.ok(&["copy", &format!("store:{name}"), &format!("oci-layout://{}:unpack", layout.display())]);
    let bundle = place.join("bundle");
    run(Command::new(umoci).arg("unpack").arg("--image").arg(format!("{}:unpack", layout.display())).arg(&bundle));
    bundle.join("rootfs")
}

/// A command in a root file system, with namespaces of its own and nothing of the machine's in them.
fn inside(rootfs: &Path, argv: &[&str]) -> Command {
    let mut command = Command::new(need("unshare", "util-linux"));
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["chroot"]).arg(rootfs).args(argv).env_clear().stdin(Stdio::null());
    command.env("PATH", "/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn check_archive(place: &Place, name: &str, digest: &str) {
    let archive = place.join("image.tar");
    assert_eq!(place.ok(&["copy", &format!("store:{name}"), &format!("oci-archive:{}", archive.display())]), digest);
    assert_eq!(skopeo_inspect(&format!("oci-archive:{}", archive.display()))["Digest"], digest);
}

#[test]
fn hello() {
    let place = Place::new();
    let mut command = place.plywood();
    let archive = place.join("hello.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let digest = run(command.args(["build", "-q", "-t", "hello", "-o", &output]).arg(repository("examples/hello")));
    let found = skopeo_inspect(&format!("oci-archive:{}", archive.display()));
    assert_eq!(found["Digest"], digest.trim());
    assert_eq!(found["Labels"]["org.opencontainers.image.title"], "hello");
    let bundle = place.join("bundle");
    let layout = format!("oci-layout://{}:hello", place.join("layout").display());
    place.ok(&["copy", &format!("oci-archive:{}", archive.display()), &layout]);
    let mut umoci = Command::new(need("umoci", "umoci"));
    run(umoci
        .args(["unpack", "--rootless", "--image"])
        .arg(format!("{}:hello", place.join("layout").display()))
        .arg(&bundle));
    let text = fs::read_to_string(bundle.join("rootfs/usr/share/hello/hello.txt")).unwrap();
    assert_eq!(text, "Hello from an image that no daemon has built.\n");
    run(place.plywood().args(["build", "-q", "-t", "hello"]).arg(repository("examples/hello")));
    load(&place, "hello", None);
}

#[test]
fn go_multistage() {
    let place = Place::new();
    let digest = build(&place, "go-multistage", "hello-go", &[]);
    check_archive(&place, "hello-go", &digest);
    let rootfs = unpack(&place, "hello-go");
    let names: Vec<_> = fs::read_dir(&rootfs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["hello"], "nothing of the compiler");
    let mut command = Command::new("chroot");
    assert_eq!(run(command.arg(&rootfs).arg("/hello")), "Hello from an image with one file.\n");
    load(&place, "hello-go", Some("Hello from an image with one file.\n"));
}

#[test]
fn flask() {
    need("curl", "curl");
    let place = Place::new();
    let registry = Registry::open();
    let name = format!("{}/flask:1", registry.host);
    let index = support::python_index();
    let more = if index.is_empty() { vec![] } else { vec!["--build-arg".into(), format!("PIP_INDEX_URL={index}")] };
    let digest = build(&place, "flask", &name, &more);
    check_archive(&place, &name, &digest);
    let config = run(place.plywood().args(["inspect", &name]));
    assert!(index.is_empty() || !config.contains(&index), "an argument of the other stage is in the image: {config}");
    assert!(!config.contains("CERT"), "the machine's certificates are no part of the image: {config}");

    assert_eq!(place.ok(&["push", &name]), digest);
    assert_eq!(skopeo_inspect(&format!("docker://{name}"))["Digest"], digest.as_str());
    let other = Place::new();
    assert_eq!(other.ok(&["pull", &name]), digest);
    let rootfs = unpack(&other, &name);
    assert!(rootfs.join("venv/bin/flask").exists());
    assert!(!rootfs.join("run/plywood").exists(), "where certificates were mounted");
    assert!(!rootfs.join("root/.cache").exists(), "where the cache was mounted");
    assert!(!rootfs.join("usr/bin/pip").exists(), "the first stage's tools");

    let port = free_port();
    let log = fs::File::create(other.join("log")).unwrap();
    let script = "cd /app && exec python3 app.py";
    let mut command = inside(&rootfs, &["/bin/sh", "-c", script]);
    command.env("HOST", "127.0.0.1").env("PORT", port.to_string());
    let _app = Guard(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    let answer = || {
        let mut curl = Command::new("curl");
        let asked = output(curl.args(["-sf", "--noproxy", "*", &format!("http://127.0.0.1:{port}/")]));
        String::from_utf8_lossy(&asked.stdout).into_owned()
    };
    wait_for(&format!("the app answers (its log is {})", other.join("log").display()), LONG, || {
        answer() == "Hello, World!"
    });

    load(&place, &name, None);

    // Everything is found the second time, and the image is the same to the byte.
    assert_eq!(build(&place, "flask", &name, &more), digest);
}

#[test]
fn debian_base_runs_commands() {
    let place = Place::new();
    place.write(
        "context/Dockerfile",
        "FROM debian-base\nRUN dpkg --audit && apt-get --version && test -s /etc/ssl/certs/ca-certificates.crt\n",
    );
    let mut command = place.plywood();
    let built = output(
        command
            .args(["build", "--progress=plain", "--build-context", support::debian_base()])
            .arg(place.join("context")),
    );
    assert!(built.status.success(), "{}", all(&built));
}

/// `docker load` of an image, by file and by --load; one that prints a text must do so.
fn load(place: &Place, name: &str, text: Option<&str>) {
    // One at a time: the images have the same names, and a daemon of one's own is large.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let docker = Docker::start();
    let archive = place.join("docker.tar");
    place.ok(&["copy", &format!("store:{name}"), &format!("docker-archive:{}:plywood-test:1", archive.display())]);
    let loaded = docker.run(&["load", "-i", &archive.display().to_string()]);
    assert!(loaded.contains("plywood-test:1"), "{loaded}");
    let config = run(place.plywood().args(["inspect", name]));
    let ours: serde_json::Value = serde_json::from_str(&config).unwrap();
    let theirs: serde_json::Value = serde_json::from_str(&docker.run(&["inspect", "plywood-test:1"])).unwrap();
    assert_eq!(theirs[0]["RootFS"]["Layers"], ours["config"]["rootfs"]["diff_ids"]);
    if let Some(text) = text {
        assert_eq!(docker.run(&["run", "--rm", "--network=none", "plywood-test:1"]), text);
    }
    let mut loading = place.plywood();
    loading.args(["build", "-q", "--load", "-t", "plywood-test:2"]).arg(repository("examples/hello"));
    run(loading.env("DOCKER_HOST", docker.host()));
    docker.run(&["inspect", "plywood-test:2"]);
}
