//! Where it takes place: a registry with a base image, machines that share nothing else, and images that are looked at.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::proxy;
use crate::support::{self, Guard, Place, Registry, need, need_root, run};

/// Longer than any build here takes on a loaded machine, all its tries and pauses counted.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// Cases at a time: most of the time they pause.
const AT_ONCE: usize = 12;

/// Two stages, a step that never gives the same again, and one that shows whether it stands on what it was made on.
pub(crate) const CHANCE: &str = "ARG HOST=localhost\nFROM $HOST/base:1 AS build\nCOPY source /source\nRUN sort /source > /made\n\
    FROM $HOST/base:1\nRUN mkdir -p /data; echo base > /data/base; cat /proc/sys/kernel/random/uuid > /data/when\n\
    RUN cat /data/when > /data/again\nCOPY --from=build /made /data/made\nCOPY late /data/late\n";
/// The same without chance.
pub(crate) const CERTAIN: &str = "ARG HOST=localhost\nFROM $HOST/base:1 AS build\nCOPY source /source\nRUN sort /source > /made\n\
    FROM $HOST/base:1\nRUN mkdir -p /data; echo base > /data/base; echo certain > /data/when\n\
    RUN cat /data/when > /data/again\nCOPY --from=build /made /data/made\nCOPY late /data/late\n";
/// One that runs nothing.
pub(crate) const PLAIN: &str = "ARG HOST=localhost\nFROM $HOST/base:1\nCOPY data /data\nCOPY late /data/late\n";

pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) registry: Registry,
    /// What there is to do in the context `c`.
    pub(crate) steps: usize,
    fresh: AtomicUsize,
}

/// How a command has ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// Both streams.
    pub(crate) text: String,
}

impl Ended {
    pub(crate) fn has(&self, phrases: &[&str]) -> Result<(), String> {
        match phrases.iter().find(|phrase| !self.text.contains(**phrase)) {
            Some(phrase) => Err(format!("it does not say {phrase:?}:\n{}", self.text)),
            None => Ok(()),
        }
    }

    pub(crate) fn lacks(&self, phrase: &str) -> Result<(), String> {
        if self.text.contains(phrase) { Err(format!("it says {phrase:?}:\n{}", self.text)) } else { Ok(()) }
    }

    pub(crate) fn built(&self) -> Result<(), String> {
        if self.code == Some(0) { Ok(()) } else { Err(format!("it ended with {:?}:\n{}", self.code, self.text)) }
    }

    /// It failed, and says what is wrong.
    pub(crate) fn failed(&self, phrases: &[&str]) -> Result<(), String> {
        if self.code != Some(1) {
            return Err(format!("it ended with {:?}, not 1:\n{}", self.code, self.text));
        }
        self.has(&["plywood: "])?;
        self.lacks("panicked")?;
        self.has(phrases)
    }

    /// Steps that were done and not found.
    pub(crate) fn ran(&self) -> usize {
        let done = |line: &&str| line.split_once(" DONE ").is_some_and(|(_, rest)| rest.ends_with('s'));
        self.text.lines().filter(done).count()
    }
}

impl Scene {
    pub(crate) fn new(dockerfile: &str) -> Self {
        need_root();
        let (place, registry) = (Place::new(), Registry::open());
        let made = place.busybox_base();
        let base = format!("docker://{}/base:1", registry.host);
        run(place.plywood().args(["copy", made.trim_start_matches("base=")]).arg(base));
        let steps = dockerfile.lines().filter(|line| line.starts_with("RUN") || line.starts_with("COPY")).count();
        let scene = Self { place, registry, steps, fresh: AtomicUsize::new(0) };
        scene.context("c", dockerfile, "1");
        scene
    }

    /// A context whose image says `word`.
    pub(crate) fn context(&self, name: &str, dockerfile: &str, word: &str) -> PathBuf {
        self.place.write(&format!("{name}/Dockerfile"), dockerfile);
        self.place.write(&format!("{name}/source"), format!("{word}\nb\na\n"));
        self.place.write(&format!("{name}/data/made"), format!("{word}\na\nb\n"));
        for same in ["base", "when", "again"] {
            self.place.write(&format!("{name}/data/{same}"), "base\n");
        }
        self.place.write(&format!("{name}/late"), word);
        self.place.join(name)
    }

    /// A name that nothing has yet.
    pub(crate) fn fresh(&self, name: &str) -> String {
        format!("{name}-{}", self.fresh.fetch_add(1, Ordering::Relaxed))
    }

    /// The program on a machine, whose store is its own.
    pub(crate) fn machine(&self, name: &str) -> Command {
        let mut command = Command::new(support::PLYWOOD);
        let template = self.place.plywood();
        for (name, value) in template.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("--root").arg(self.root(name)).stdin(std::process::Stdio::null());
        command
    }

    pub(crate) fn root(&self, machine: &str) -> PathBuf {
        self.place.join(format!("machine-{machine}"))
    }

    /// A build on a machine, its base image from `host`.
    pub(crate) fn command(&self, machine: &str, host: &str, context: &str, words: &[String]) -> Command {
        let mut command = self.machine(machine);
        command.args(["build", "--progress=plain", "--build-arg", &format!("HOST={host}")]).args(words);
        command.arg(self.place.join(context));
        command
    }

    /// Starts a command whose words are kept.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let log = self.place.join(self.fresh("log"));
        let file = fs::File::create(&log).unwrap();
        let child = Guard(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap());
        Running { child, log, started: Instant::now() }
    }

    /// A build that ends in time, whichever way.
    pub(crate) fn build(&self, machine: &str, host: &str, words: &[String]) -> Result<Ended, String> {
        self.start(&mut self.command(machine, host, "c", words)).end()
    }

    /// A repository that keeps all results of the context `c`.
    pub(crate) fn filled(&self, repository: &str) {
        let host = &self.registry.host;
        let words = [to(host, repository, ""), "-t=app:1".into()];
        let ended = self.build(&self.fresh("filler"), host, &words).unwrap();
        ended.built().and_then(|()| ended.lacks("warning:")).unwrap();
    }

    /// The image of `c` in a repository, as a tool that is not ours reads it.
    pub(crate) fn pushed_is_right(&self, reference: &str) -> Result<(), String> {
        let layout = self.place.join(self.fresh("pulled"));
        let mut command = Command::new(need("skopeo", "skopeo"));
        command.args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"]);
        command.arg(format!("docker://{reference}")).arg(format!("oci:{}", layout.display()));
        let ended = self.start(&mut command).end()?;
        ended.built().map_err(|reason| format!("what was pushed cannot be read: {reason}"))?;
        is_right(&layout, "1")
    }

    /// The documents of all entries of a repository.
    pub(crate) fn entries(&self, repository: &str) -> Vec<Value> {
        let host = &self.registry.host;
        let tags = support::skopeo_tags(&format!("{host}/{repository}"));
        tags.iter().map(|tag| proxy::document(host, &format!("/v2/{repository}/manifests/{tag}"))).collect()
    }
}

/// A command under way.
pub(crate) struct Running {
    pub(crate) child: Guard,
    log: PathBuf,
    started: Instant,
}

impl Running {
    /// Waits, and kills what does not end.
    pub(crate) fn end(mut self) -> Result<Ended, String> {
        let child: &mut Child = &mut self.child.0;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
                return Ok(Ended { code: status.code(), text });
            }
            if self.started.elapsed() > LIMIT {
                child.kill().unwrap();
                return Err(format!("it hangs:\n{}", fs::read_to_string(&self.log).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) fn from(host: &str, repository: &str) -> String {
    format!("--cache-from=type=registry,ref={host}/{repository}")
}

pub(crate) fn to(host: &str, repository: &str, more: &str) -> String {
    format!("--cache-to=type=registry,ref={host}/{repository}{more}")
}

/// Runs cases side by side, each to its end, and tells of all that went wrong.
pub(crate) fn all<N, C>(cases: &[(N, C)], check: impl Fn(&C) -> Result<(), String> + Sync)
where
    N: Display + Sync,
    C: Sync,
{
    let (next, problems) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((name, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(reason) = check(case) {
                problems.lock().unwrap().push(format!("{name}: {reason}"));
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {} cases:\n\n{}", problems.len(), cases.len(), problems.join("\n\n"));
}

/// Looks at every byte of an image in a layout: all is what its name and its configuration say, and so is its content.
pub(crate) fn is_right(layout: &Path, word: &str) -> Result<(), String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let sum = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = read(&layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;
        if descriptor["size"] != bytes.len() || sum(&bytes) != digest {
            return Err(format!("{descriptor} is another: {} bytes", bytes.len()));
        }
        Ok(bytes)
    };
    let json = |bytes: Vec<u8>| -> Result<Value, String> { serde_json::from_slice(&bytes).map_err(|e| e.to_string()) };
    let index = json(read(&layout.join("index.json"))?)?;
    let manifest = json(blob(&index["manifests"][0])?)?;
    let config = json(blob(&manifest["config"])?)?;
    let mut files = BTreeMap::new();
    let mut diff_ids = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let mut bytes = Vec::new();
        let compressed = blob(layer)?;
        let unpacked = flate2::read::MultiGzDecoder::new(&compressed[..]).read_to_end(&mut bytes);
        unpacked.map_err(|error| format!("{layer}: {error}"))?;
        diff_ids.push(sum(&bytes));
        for entry in tar::Archive::new(&bytes[..]).entries().map_err(|error| error.to_string())? {
            let mut entry = entry.map_err(|error| format!("{layer}: {error}"))?;
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            if name.starts_with("data/") && entry.header().entry_type().is_file() {
                entry.read_to_string(&mut text).map_err(|error| error.to_string())?;
                files.insert(name, text);
            }
        }
    }
    if config["rootfs"]["diff_ids"] != Value::from(diff_ids.clone()) {
        return Err(format!("its layers are {diff_ids:?}, and its configuration says {}", config["rootfs"]));
    }
    let text = |name: &str| files.get(name).cloned().unwrap_or_default();
    let mut lines = ["a", "b", word];
    lines.sort_unstable();
    let expected = ["base\n".to_owned(), lines.join("\n") + "\n", word.to_owned()];
    let found = ["data/base", "data/made", "data/late"].map(text);
    if found != expected || text("data/when").is_empty() || text("data/when") != text("data/again") {
        return Err(format!("it is a wrong image, of {word}: {files:?}"));
    }
    Ok(())
}
