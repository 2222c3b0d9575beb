//! Several platforms at once, and commands for other processors than this one's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Place, all, need, need_root, output, run};

/// Debian's busybox for arm64, from the mirror that this machine has its packages from.
fn foreign_busybox(place: &Place) -> std::path::PathBuf {
    let listed = run(Command::new("apt-get").args(["download", "--print-uris", "busybox-static"]));
    let native = listed.split_whitespace().next().unwrap().trim_matches('\'').to_owned();
    let (stem, _) = native.rsplit_once('_').unwrap();
    let package = place.join("busybox.deb");
    run(Command::new(need("curl", "curl")).args(["-sSfL", "-o"]).arg(&package).arg(format!("{stem}_arm64.deb")));
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(place.join("foreign")));
    let paths = ["bin/busybox", "usr/bin/busybox"].map(|path| place.join("foreign").join(path));
    paths.into_iter().find(|path| path.exists()).unwrap()
}

/// Makes the kernel run programs for arm64, as installing Debian's package does where nothing keeps it from it.
fn emulate() {
    need_root();
    let handlers = Path::new("/proc/sys/fs/binfmt_misc");
    if !handlers.join("register").exists() {
        run(Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc"]).arg(handlers));
    }
    if !handlers.join("qemu-aarch64").exists() {
        run(Command::new(need("update-binfmts", "qemu-user-static binfmt-support")).args(["--enable", "qemu-aarch64"]));
    }
}

#[test]
fn several_platforms_make_an_index() {
    let place = Place::new();
    let base = place.busybox_base();
    let text = "FROM --platform=$BUILDPLATFORM base AS build\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
        FROM scratch\nARG TARGETPLATFORM\nLABEL p=$TARGETPLATFORM\nCOPY --from=build /arch /\n";
    place.write("c/Dockerfile", text);
    let (layout, local) = (place.join("layout"), place.join("local"));
    let dest = format!("type=oci,tar=false,dest={}", layout.display());
    let mut build = place.plywood();
    build.args(["build", "--platform", "linux/arm64,linux/amd64", "--platform", "linux/arm/v7"]);
    build.args(["--build-context", &base, "-o", &dest]);
    let digest = run(build.arg("-o").arg(&local).arg(place.join("c")));
    let index = run(Command::new("skopeo").args(["inspect", "--raw"]).arg(format!("oci:{}", layout.display())));
    let index: Value = serde_json::from_str(&index).unwrap();
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| format!("{}/{}", manifest["platform"]["architecture"], manifest["platform"]["variant"]))
        .collect();
    assert_eq!(platforms, ["\"arm64\"/null", "\"amd64\"/null", "\"arm\"/\"v7\""]);
    for (folder, expected) in [("linux_arm64", "arm64"), ("linux_amd64", "amd64"), ("linux_arm_v7", "arm")] {
        assert_eq!(fs::read_to_string(local.join(folder).join("arch")).unwrap().trim(), expected);
    }
    let of_arm = Command::new("skopeo")
        .args(["inspect", "--override-arch", "arm64"])
        .arg(format!("oci:{}", layout.display()))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&of_arm.stdout).contains("linux/arm64"), "{of_arm:?}");
    let text = fs::read_to_string(layout.join("index.json")).unwrap();
    assert!(text.contains(digest.trim()), "{digest} {text}");
    // The store keeps an index under a name, and gives it away again.
    let words = ["build", "-q", "--platform", "linux/arm64,linux/amd64", "-t", "multi:1", "--build-context", &base];
    run(place.plywood().args(words).arg(place.join("c")));
    let copied = format!("oci-layout://{}", place.join("copied").display());
    run(place.plywood().args(["copy", "store:multi:1", &copied]));
    let refused = output(place.plywood().args(words).args(["-o", "type=docker,dest=-"]).arg(place.join("c")));
    assert!(all(&refused).contains("holds one platform"), "{}", all(&refused));
}

#[test]
fn foreign_commands_run_where_the_kernel_can() {
    emulate();
    let place = Place::new();
    let layout = place.join("foreign-layout");
    place.write(
        "base/Dockerfile",
        "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n",
    );
    fs::copy(foreign_busybox(&place), place.join("base/busybox")).unwrap();
    let dest = format!("type=oci,tar=false,dest={}", layout.display());
    run(place
        .plywood()
        .args(["build", "-q", "--platform=linux/arm64", "-t", "f:1", "-o", &dest])
        .arg(place.join("base")));
    let base = format!("base=oci-layout://{}:1", layout.display());
    place.write("c/Dockerfile", "FROM base\nRUN /bin/busybox uname -m > /machine\n");
    let built = |name: &str, words: &[&str]| {
        let layout = place.join(name);
        let dest = format!("type=oci,tar=false,dest={}", layout.display());
        let local = place.join(format!("{name}-files"));
        let mut build = place.plywood();
        build.args(["build", "-q", "--build-context", &base, "-o", &dest, "-o"]).arg(&local).args(words);
        run(build.arg(place.join("c")));
        assert_eq!(fs::read_to_string(local.join("machine")).unwrap(), "aarch64\n");
        support::skopeo_inspect(&format!("oci:{}", layout.display()))["Architecture"].as_str().unwrap().to_owned()
    };
    assert_eq!(built("asked", &["--platform=linux/arm64"]), "arm64");
    // Nobody asks for a platform: the base's own is taken.
    assert_eq!(built("found", &[]), "arm64");
}

#[test]
fn what_nothing_can_run_is_told() {
    let place = Place::new();
    place.write("c/Dockerfile", "FROM scratch\nCOPY Dockerfile /\nRUN [\"/Dockerfile\"]\n");
    let failed = output(place.plywood().args(["build", "--platform=linux/pdp11"]).arg(place.join("c")));
    assert!(!failed.status.success());
    assert!(all(&failed).contains("a command for linux/pdp11 cannot run on"), "{}", all(&failed));
    assert!(all(&failed).contains("Dockerfile:3"), "{}", all(&failed));
}

#[test]
fn an_image_is_for_what_was_asked_for() {
    let place = Place::new();
    let base = place.busybox_base();
    let architecture = |dockerfile: &str, words: &[&str]| {
        place.write("d/Dockerfile", dockerfile);
        let mut build = place.plywood();
        build.args(["build", "-q", "-t", "it:1", "--build-context", &base]).args(words);
        run(build.arg(place.join("d")));
        let told: Value = serde_json::from_str(&run(place.plywood().args(["inspect", "it:1"]))).unwrap();
        told["config"]["architecture"].as_str().unwrap().to_owned()
    };
    let foreign = ["--platform", "linux/arm64"];
    // Whatever the last stage stands on, and though it is made here.
    assert_eq!(architecture("FROM --platform=$BUILDPLATFORM base\nLABEL a=b\n", &foreign), "arm64");
    assert_eq!(architecture("FROM --platform=$BUILDPLATFORM scratch\nLABEL a=b\n", &foreign), "arm64");
    // Nothing is for all.
    let own = architecture("FROM scratch\nLABEL a=b\n", &[]);
    assert_eq!(architecture("FROM --platform=linux/s390x scratch\nLABEL a=b\n", &[]), own);
}
