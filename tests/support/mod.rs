//! What the end-to-end tests share: isolated commands, a registry, a base image of one file, looks at processes.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

pub(crate) mod docker;
pub(crate) mod runc;

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program under test.
pub(crate) const PLYWOOD: &str = env!("CARGO_BIN_EXE_plywood");

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Ends the test when a program is missing: a test that is skipped in silence proves nothing.
pub(crate) fn need(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found =
        std::env::split_paths(&path).chain(standard).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("this test needs {program}: apt-get install {package}"))
}

/// Ends the test when it does not run as root.
pub(crate) fn need_root() {
    use std::os::unix::fs::MetadataExt;
    let uid = fs::metadata("/proc/self").map_or(u32::MAX, |meta| meta.uid());
    assert_eq!(uid, 0, "this test needs root: sudo -E cargo test");
}

/// A folder of a test's own, with a home and a store in it.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("plywood-test-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.join("root")
    }

    /// The program, with nothing of whoever runs the tests.
    pub(crate) fn plywood(&self) -> Command {
        let mut command = Command::new(PLYWOOD);
        for name in ["PLYWOOD_ROOT", "DOCKER_AUTH_CONFIG", "SOURCE_DATE_EPOCH", "REGISTRY_AUTH_FILE"] {
            command.env_remove(name);
        }
        command.env("HOME", self.join("home")).env("DOCKER_CONFIG", self.join("home/.docker"));
        command.env("XDG_CONFIG_HOME", self.join("config")).env("XDG_DATA_HOME", self.join("data"));
        command.env("XDG_CACHE_HOME", compiled());
        // Processes are found by it.
        command.arg("--root").arg(self.root()).stdin(Stdio::null());
        command
    }

    /// Runs the program; gives its last line.
    pub(crate) fn ok<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        run(self.plywood().args(arguments)).lines().last().unwrap_or_default().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A context with busybox as `busybox` and this Dockerfile.
    pub(crate) fn busybox_context(&self, name: &str, dockerfile: &str) -> PathBuf {
        let busybox = need("busybox", "busybox-static");
        self.write(&format!("{name}/Dockerfile"), dockerfile);
        fs::copy(busybox, self.join(name).join("busybox")).unwrap();
        self.join(name)
    }

    /// An image of busybox alone, as an OCI layout; gives the value of --build-context for the name `base`.
    pub(crate) fn busybox_base(&self) -> String {
        let layout = self.join("base-layout");
        let text = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nENV PATH=/bin\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";
        let context = self.busybox_context("base-context", text);
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        run(self.plywood().args(["build", "-q", "-t", "base:1", "-o", &output]).arg(context));
        format!("base=oci-layout://{}:1", layout.display())
    }
}

/// The base image of all examples, made once in each run; gives the value of --build-context.
pub(crate) fn debian_base() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| {
        need_root();
        need("mmdebstrap", "mmdebstrap");
        // A static is never dropped: what lasts as long as the run lies where the next run replaces it.
        let layout = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-base");
        let _ = fs::remove_dir_all(&layout);
        let place = Place::new();
        let mut command = Command::new(repository("examples/debian-base/make"));
        // As `Place::plywood`: nothing of whoever runs the tests.
        command.arg(&layout).env("PLYWOOD", PLYWOOD).env("HOME", place.join("home")).env("PLYWOOD_ROOT", place.root());
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_CACHE_HOME", "cache")] {
            command.env(name, place.join(folder));
        }
        run(&mut command);
        format!("debian-base=oci-layout://{}:latest", layout.display())
    })
}

/// Which index serves Python's packages here; empty: the usual one.
pub(crate) fn python_index() -> String {
    let configured = Command::new("pip").args(["config", "get", "global.index-url"]).stderr(Stdio::null()).output();
    configured.map(|found| String::from_utf8_lossy(&found.stdout).trim().to_owned()).unwrap_or_default()
}

/// Compiling the plugins takes seconds; all tests share what that gives.
fn compiled() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a command that must succeed; gives what it wrote to standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?} ended with {}:\n{}", output.status, all(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Both streams of a command.
pub(crate) fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `skopeo inspect` of a place, as JSON.
pub(crate) fn skopeo_inspect(place: &str) -> serde_json::Value {
    let skopeo = need("skopeo", "skopeo");
    let mut command = Command::new(skopeo);
    command.arg("inspect").args(["--tls-verify=false"]).arg(place);
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// The tags of a repository.
pub(crate) fn skopeo_tags(repository: &str) -> Vec<String> {
    let skopeo = need("skopeo", "skopeo");
    let mut command = Command::new(skopeo);
    command.args(["list-tags", "--tls-verify=false"]).arg(format!("docker://{repository}"));
    let told: serde_json::Value = serde_json::from_str(&run(&mut command)).unwrap();
    told["Tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "{what}: not so after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that is killed when this is dropped.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A free port. Between asking and using it another process may take it, hence the retry in `Registry::start`.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Debian's registry on a port of its own.
pub(crate) struct Registry {
    _process: Guard,
    pub(crate) host: String,
    log: PathBuf,
    _folder: TempDir,
}

impl Registry {
    pub(crate) fn open() -> Self {
        Self::start(None)
    }

    /// One that asks for a name and password.
    pub(crate) fn protected(user: &str, password: &str) -> Self {
        Self::start(Some((user, password)))
    }

    fn start(login: Option<(&str, &str)>) -> Self {
        let program = need("docker-registry", "docker-registry");
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut auth = String::new();
        if let Some((user, password)) = login {
            let htpasswd = need("htpasswd", "apache2-utils");
            let rows = run(Command::new(htpasswd).args(["-Bbn", user, password]));
            let file = folder.path().join("htpasswd");
            fs::write(&file, rows).unwrap();
            auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        for _ in 0..5 {
            let port = free_port();
            let data = folder.path().join("data");
            let config = folder.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: false\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
                data.display()
            );
            fs::write(&config, text).unwrap();
            let out = fs::File::create(&log).unwrap();
            let mut command = Command::new(&program);
            command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
            let mut process = Guard(command.spawn().unwrap());
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(30) {
                if process.0.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { _process: process, host: format!("127.0.0.1:{port}"), log, _folder: folder };
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("the registry does not start:\n{}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Where it keeps a blob.
    pub(crate) fn blob(&self, hex: &str) -> PathBuf {
        let data = self._folder.path().join("data/docker/registry/v2/blobs/sha256");
        data.join(&hex[..2]).join(hex).join("data")
    }

    /// Requests so far, one a line: `POST /v2/a/blobs/uploads/ 202`.
    pub(crate) fn requests(&self) -> Vec<String> {
        // The access log of the registry is in Apache's combined format.
        let text = fs::read_to_string(&self.log).unwrap();
        let request = |line: &str| {
            let mut parts = line.split('"');
            let request = parts.nth(1)?;
            let status = parts.next()?.split_whitespace().next()?;
            let mut words = request.split(' ');
            let (method, path) = (words.next()?, words.next()?);
            path.starts_with("/v2/").then(|| format!("{method} {path} {status}"))
        };
        text.lines().filter_map(request).collect()
    }
}

/// An S3 of moto's on a port of its own, with one bucket.
pub(crate) struct S3 {
    _process: Guard,
    pub(crate) url: String,
    _folder: TempDir,
}

impl S3 {
    pub(crate) const BUCKET: &str = "builds";

    pub(crate) fn open() -> Self {
        // Where `.ci/run` puts it if the machine has none.
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/moto/bin/moto_server");
        let program = if own.exists() { own } else { need("moto_server", "no package: pip install 'moto[s3,server]'") };
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Guard(command.spawn().unwrap());
        wait_for("moto answers", Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let s3 = Self { _process: process, url: format!("http://127.0.0.1:{port}"), _folder: folder };
        run(Command::new("curl").args(["-sSf", "-X", "PUT"]).arg(format!("{}/{}", s3.url, Self::BUCKET)));
        s3
    }

    /// The cache in the bucket, below a prefix.
    pub(crate) fn cache(&self, prefix: &str) -> String {
        format!("type=s3,bucket={},prefix={prefix},region=us-east-1,endpoint_url={}", Self::BUCKET, self.url)
    }

    /// What AWS's tools find in the environment.
    pub(crate) fn environment() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")]
    }
}

/// Every file of a folder, however deep; links are not followed.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found
}

/// The layers of an image in an OCI layout, uncompressed, bottom first.
pub(crate) fn layers(layout: &Path) -> Vec<Vec<u8>> {
    use std::io::Read;
    let json = |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &serde_json::Value| {
        layout.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"))
    };
    let index = json(layout.join("index.json"));
    let manifest = json(blob(&index["manifests"][0]["digest"]));
    let read = |layer: &serde_json::Value| {
        let mut bytes = Vec::new();
        let file = fs::File::open(blob(&layer["digest"])).unwrap();
        flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        bytes
    };
    manifest["layers"].as_array().unwrap().iter().map(read).collect()
}

/// What is in a layer, a line for each entry.
pub(crate) fn entries(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let line = |mut entry: tar::Entry<'_, &[u8]>| {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut entry, &mut text);
        let header = entry.header().clone();
        format!("{:?} {:?} {:?} {text:?}", entry.path().unwrap(), header.entry_type(), header)
    };
    entries.map(line).collect()
}

/// A process, as /proc shows it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) command: String,
}

pub(crate) fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // A zombie is no more than a number.
        if field("State:")?.starts_with('Z') {
            return None;
        }
        Some(Process { pid, parent: field("PPid:")?.parse().ok()?, command })
    };
    entries.filter_map(process).collect()
}

/// A process and all below it, as long as it is there to be asked.
pub(crate) fn family(of: u32) -> Vec<u32> {
    let all = processes();
    let mut family = vec![of];
    let mut at = 0;
    while at < family.len() {
        let parent = family[at];
        family.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        at += 1;
    }
    family
}

/// Processes of builds on this store: the program by its --root, its workers and steps and their commands by mounts.
pub(crate) fn processes_of(root: &Path) -> Vec<Process> {
    let text = root.display().to_string();
    let belongs = |process: &Process| {
        if process.command.contains(&text) {
            return true;
        }
        let folder = PathBuf::from(format!("/proc/{}", process.pid));
        // A step's root is an overlay whose upper directory is in the store.
        fs::read_to_string(folder.join("mountinfo")).is_ok_and(|mounts| mounts.contains(&text))
    };
    processes().into_iter().filter(belongs).collect()
}
