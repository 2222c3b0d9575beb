//! Containers of Docker's, and Plywood's own image in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::{Guard, need, output, repository, run, wait_for};

/// A Docker daemon for one test program.
pub(crate) struct Docker {
    socket: String,
    /// Killing `unshare --kill-child` takes the daemon along, and its mounts end with its namespace.
    _daemon: Guard,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Starts one without a network of its own. What the machine is used by stays as it is.
    pub(crate) fn start() -> Self {
        super::need_root();
        need("dockerd", "docker.io");
        let folder = tempfile::Builder::new().prefix("plywood-docker-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let socket = format!("unix://{}", path("socket"));
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new("unshare");
        let script = "mount --make-rprivate / && exec dockerd \"$@\"";
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "dockerd"]);
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]);
        command.args(["-H", &socket, "--iptables=false", "--ip6tables=false", "--bridge=none"]);
        let daemon = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let docker = Self { socket, _daemon: Guard(daemon), folder };
        wait_for("dockerd answers", Duration::from_secs(60), || docker.output(&["version"]).status.success());
        docker
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket]).args(words).stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, words: &[&str]) -> Output {
        output(&mut self.command(words))
    }

    pub(crate) fn run(&self, words: &[&str]) -> String {
        run(&mut self.command(words))
    }

    /// As the program's environment has it.
    pub(crate) fn host(&self) -> &str {
        &self.socket
    }

    /// One with Plywood's own images, `plywood:latest` and `plywood:debug`, for the tests that run at the same time.
    pub(crate) fn shared() -> Arc<Self> {
        // Not kept for ever: a static is never dropped, and the daemon would outlive the tests.
        static SHARED: Mutex<Weak<Docker>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let docker = Arc::new(Self::start());
            for name in ["plywood-image.tar", "plywood-image-debug.tar"] {
                docker.run(&["load", "-i", &own_images().join(name).display().to_string()]);
            }
            *shared = Arc::downgrade(&docker);
            docker
        })
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Containers would outlive the daemon.
        let running = self.output(&["ps", "-q"]);
        for id in String::from_utf8_lossy(&running.stdout).split_whitespace() {
            self.output(&["kill", id]);
        }
    }
}

/// Where the archives of Plywood's own images are; built once for each test program, in the profile of the tests.
pub(crate) fn own_images() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build_own_images);
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// Builds them anew.
pub(crate) fn build_own_images() {
    let mut command = Command::new(repository("host/cli/image/build"));
    // What cargo tells the tests is not meant for the program.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        command.env_remove(name);
    }
    run(command.arg("release"));
}
