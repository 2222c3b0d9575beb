//! Containers in a user namespace of their own, as kubelet makes them for pods with `hostUsers: false`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{need, need_root, output, run};

/// The number outside that stands for root inside, and how many follow it.
const FIRST: u32 = 200_000;
const COUNT: u32 = 65_536;

/// What engines leave to a container's root.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// An image, unpacked for such containers.
pub(crate) struct UserNamespace {
    folder: tempfile::TempDir,
    /// Capabilities beyond the usual, as `add` of a pod's securityContext has them.
    pub(crate) more: Vec<&'static str>,
    /// `procMount: Unmasked`.
    pub(crate) unmasked: bool,
}

impl UserNamespace {
    /// Of an archive for `docker load`.
    pub(crate) fn new(archive: &Path) -> Self {
        need_root();
        need("runc", "runc");
        let (skopeo, umoci) = (need("skopeo", "skopeo"), need("umoci", "umoci"));
        let folder = tempfile::Builder::new().prefix("plywood-runc-").tempdir().unwrap();
        // Root of the namespace must reach the root file system.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let source = format!("docker-archive:{}", archive.display());
        run(Command::new(skopeo).args(["copy", "-q", &source, "oci:image:1"]).current_dir(folder.path()));
        let map = format!("0:{FIRST}:{COUNT}");
        let mut unpack = Command::new(umoci);
        unpack.args(["unpack", "--uid-map", &map, "--gid-map", &map, "--image", "image:1", "bundle"]);
        run(unpack.current_dir(folder.path()));
        fs::set_permissions(folder.path().join("bundle"), fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder, more: Vec::new(), unmasked: false }
    }

    /// Runs a command line, in the image's environment and `env`, with folders of the machine mounted, on the machine's network.
    pub(crate) fn run(&self, args: &[&str], env: &[(&str, &str)], mounts: &[(&Path, &str)]) -> Output {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("plywood-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bundle = self.folder.path().join("bundle");
        let volume = self.folder.path().join(format!("volume-{name}"));
        fs::create_dir(&volume).unwrap();
        chown(&volume, Some(FIRST), Some(FIRST)).unwrap();
        let kept = self.folder.path().join("config.json");
        if !kept.exists() {
            fs::copy(bundle.join("config.json"), &kept).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
        self.configure(&mut config, args, env, mounts, &volume);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.path().join("state")).args(["run", "--bundle"]).arg(&bundle).arg(&name);
        output(command.stdin(Stdio::null()))
    }

    fn configure(
        &self,
        config: &mut Value,
        args: &[&str],
        env: &[(&str, &str)],
        mounts: &[(&Path, &str)],
        volume: &Path,
    ) {
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["noNewPrivileges"] = json!(false);
        process["args"] = json!(args);
        for (name, value) in env {
            process["env"].as_array_mut().unwrap().push(json!(format!("{name}={value}")));
        }
        let capabilities: Vec<&str> = CAPABILITIES.into_iter().chain(self.more.iter().copied()).collect();
        process["capabilities"] =
            json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
        let bind = |from: PathBuf, to: &str, access: &str| json!({"destination": to, "type": "none", "source": from, "options": ["rbind", access]});
        let places = config["mounts"].as_array_mut().unwrap();
        // On the machine's network nobody may mount another /sys.
        places.retain(|place| {
            !["/sys", "/sys/fs/cgroup", "/kaniko/volume"].contains(&place["destination"].as_str().unwrap())
        });
        places.push(bind("/sys".into(), "/sys", "ro"));
        places.push(bind(volume.to_owned(), "/kaniko/volume", "rw"));
        for file in ["/etc/hosts", "/etc/resolv.conf"] {
            places.push(bind(file.into(), file, "ro"));
        }
        for (from, to) in mounts {
            places.push(bind(from.to_path_buf(), to, "rw"));
        }
        let linux = &mut config["linux"];
        linux["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
        if self.unmasked {
            linux["maskedPaths"] = json!([]);
            linux["readonlyPaths"] = json!([]);
        }
    }
}
