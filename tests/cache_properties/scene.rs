//! Where the tests build: a base image, caches, machines that share nothing else, and images compared to the byte.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, Place, Registry, S3, all, files, need_root, output, run};

/// No file of an image is younger.
pub(crate) const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
/// Two processors are kept busy by three builds; more would only make the machine slow for others.
const AT_ONCE: usize = 3;

/// What all scenarios of a test share.
pub(crate) struct Scene {
    place: Place,
    base: PathBuf,
    registry: Registry,
    s3: S3,
}

impl Scene {
    /// The base image has busybox, `/open`, where anyone may write, and a user.
    pub(crate) fn new() -> Self {
        need_root();
        let (place, registry) = (Place::new(), Registry::open());
        let text = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nCOPY passwd /etc/passwd\nENV PATH=/bin\n\
            SHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN busybox mkdir -m 1777 /open\n";
        let context = place.busybox_context("base-context", text);
        place.write("base-context/passwd", "root:x:0:0:::\nuser:x:1000:1000:::\n");
        let base = place.join("base");
        let words = format!("type=oci,tar=false,dest={}", base.display());
        run(place.plywood().args(["build", "-q", "-t", "base:1", "-o", &words]).arg(context));
        Self { place, base, registry, s3: S3::open() }
    }

    pub(crate) fn work(&self) -> Work<'_> {
        let folder = tempfile::tempdir_in(self.place.path()).unwrap();
        let context = folder.path().join("context");
        fs::create_dir(&context).unwrap();
        Work { scene: self, base: self.base.clone(), context, folder, outputs: AtomicUsize::new(0) }
    }
}

/// A context, and machines that build it.
pub(crate) struct Work<'s> {
    scene: &'s Scene,
    /// The layout of the image that FROM calls `base`.
    pub(crate) base: PathBuf,
    pub(crate) context: PathBuf,
    folder: TempDir,
    outputs: AtomicUsize,
}

impl Work<'_> {
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of the context, rw-r--r--.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.context.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        self.mode(name, 0o644);
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.context.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn name(&self) -> String {
        let name = self.folder.path().file_name().unwrap().to_string_lossy();
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
    }

    fn registry_cache(&self) -> String {
        format!("type=registry,ref={}/{}/cache", self.scene.registry.host, self.name())
    }

    fn bucket_cache(&self) -> String {
        self.scene.s3.cache(&self.name())
    }

    /// The image that says of what its layers are.
    fn inline_image(&self) -> String {
        format!("{}/{}/image:latest", self.scene.registry.host, self.name())
    }

    /// The folder of the local cache.
    pub(crate) fn cache_folder(&self) -> PathBuf {
        self.join("cache")
    }

    /// Words that write all caches; failing counts.
    pub(crate) fn fills(&self) -> Vec<String> {
        let local = format!("type=local,dest={}", self.cache_folder().display());
        let to = [self.registry_cache(), local, self.bucket_cache()]
            .map(|place| format!("--cache-to={place},ignore-error=false"));
        to.to_vec()
    }

    /// Words that read the cache in the registry.
    pub(crate) fn reads_registry(&self) -> Vec<String> {
        vec![format!("--cache-from={}", self.registry_cache())]
    }

    /// Words that read the cache in the folder.
    pub(crate) fn reads_folder(&self) -> Vec<String> {
        vec![format!("--cache-from=type=local,src={}", self.cache_folder().display())]
    }

    /// Words that read each of the places that keep results, the store of the machine that filled them among them.
    pub(crate) fn reads(&self, filler: &str) -> Vec<Vec<String>> {
        let store = self.join(format!("machine-{filler}"));
        vec![
            self.reads_registry(),
            self.reads_folder(),
            vec![format!("--cache-from={}", self.bucket_cache())],
            vec![format!("--cache-from={}", self.inline_image())],
            vec![format!("--cache-from=type=store,src={}", store.display())],
        ]
    }

    /// Pushes an image that says of what its layers are.
    pub(crate) fn publish(&self, machine: &str, words: &[String]) -> Result<(), String> {
        let mut command = self.command(machine, "build");
        command.args(["--cache-to=type=inline", "--push", "-t", &self.inline_image()]).args(words).arg(&self.context);
        let ended = output(&mut command);
        if ended.status.success() { Ok(()) } else { Err(format!("pushing an inline cache: {}", all(&ended))) }
    }

    /// A command on the context; the machine's store is its own.
    fn command(&self, machine: &str, verb: &str) -> Command {
        let mut command = Command::new(support::PLYWOOD);
        let template = self.scene.place.plywood();
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?)))).envs(S3::environment());
        for name in ["SOURCE_DATE_EPOCH", "PLYWOOD_ROOT", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(name);
        }
        command.arg("--root").arg(self.join(format!("machine-{machine}"))).arg(verb);
        command.arg(format!("--build-context=base=oci-layout://{}:1", self.base.display()));
        command.current_dir(self.folder.path());
        command
    }

    /// The image as an OCI layout, and what was said.
    fn image(&self, machine: &str, settings: &str, words: &[String]) -> Result<(PathBuf, String), String> {
        let to = self.join(format!("image-{}", self.outputs.fetch_add(1, Ordering::Relaxed)));
        let mut command = self.command(machine, "build");
        command
            .args(["--progress=plain", "-o"])
            .arg(format!("type=oci,tar=false,dest={}{settings}", to.display()))
            .args(words)
            .arg(&self.context);
        let ended = output(&mut command);
        if !ended.status.success() {
            return Err(format!("{machine} {words:?} ends with {}:\n{}", ended.status, all(&ended)));
        }
        Ok((to, String::from_utf8_lossy(&ended.stderr).into_owned()))
    }

    /// Builds; the image bears the times of its making.
    pub(crate) fn build(&self, machine: &str, words: &[String]) -> Result<PathBuf, String> {
        Ok(self.image(machine, "", words)?.0)
    }

    /// Builds; no file of the image is younger than a certain time, so that building twice gives one image.
    pub(crate) fn timeless(&self, machine: &str, words: &[String]) -> Result<PathBuf, String> {
        let words: Vec<String> = words.iter().cloned().chain([EPOCH.to_owned()]).collect();
        Ok(self.image(machine, ",rewrite-timestamp=true", &words)?.0)
    }

    /// Builds, and gives what was said.
    pub(crate) fn log(&self, machine: &str, words: &[String]) -> Result<String, String> {
        Ok(self.image(machine, "", words)?.1)
    }

    /// An image of its own, made on the base image from this text; gives its layout.
    pub(crate) fn derived(&self, dockerfile: &str) -> PathBuf {
        let number = self.outputs.fetch_add(1, Ordering::Relaxed);
        let (context, to) = (self.join(format!("base-{number}-context")), self.join(format!("base-{number}")));
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let words = format!("type=oci,tar=false,dest={}", to.display());
        // Made anew each time, or it would bear the time of the one before.
        run(self.command("bases", "build").args(["--no-cache", "-q", "-t", "base:1", "-o", &words]).arg(context));
        to
    }

    /// Builds the files alone; gives their folder.
    pub(crate) fn tree(&self, machine: &str, words: &[String]) -> PathBuf {
        let to = self.join(format!("tree-{}", self.outputs.fetch_add(1, Ordering::Relaxed)));
        run(self.command(machine, "build").args(["-q", "-o"]).arg(&to).args(words).arg(&self.context));
        to
    }

    /// The steps' keys.
    pub(crate) fn keys<W: AsRef<OsStr>>(&self, words: &[W]) -> Vec<String> {
        let told = run(self.command("plan", "plan").arg("--json").args(words).arg(&self.context));
        let steps: Value = serde_json::from_str(&told).unwrap();
        steps.as_array().unwrap().iter().filter_map(|step| Some(step["key"].as_str()?.to_owned())).collect()
    }
}

/// The word that makes the first miss an error, beside others.
pub(crate) fn all_cached(words: &[String]) -> Vec<String> {
    words.iter().cloned().chain(["--require-cached".to_owned()]).collect()
}

/// What one image has and another has not; none where they are the same, byte for byte.
pub(crate) fn difference(one: &Path, other: &Path) -> Option<String> {
    let blobs = |layout: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let read = |path: PathBuf| (path.strip_prefix(layout).unwrap().to_owned(), fs::read(&path).unwrap());
        files(layout).into_iter().map(read).collect()
    };
    if blobs(one) == blobs(other) {
        return None;
    }
    let (one, other) = (lines(one), lines(other));
    let mut text = String::new();
    for (sign, lines, others) in [('-', &one, &other), ('+', &other, &one)] {
        for line in lines.iter().filter(|line| !others.contains(line)) {
            writeln!(text, "{sign} {line}").unwrap();
        }
    }
    Some(text)
}

/// Everything about an image, a line for each thing.
fn lines(layout: &Path) -> Vec<String> {
    let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob =
        |digest: &Value| layout.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
    let manifest = json(blob(&json(layout.join("index.json"))["manifests"][0]["digest"]));
    let config = serde_json::to_string_pretty(&json(blob(&manifest["config"]["digest"]))).unwrap();
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    for (number, layer) in support::layers(layout).iter().enumerate() {
        for entry in tar::Archive::new(&layer[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            content.truncate(400);
            let header = entry.header();
            let (mode, uid, gid) = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
            let (kind, time) = (header.entry_type(), header.mtime().unwrap());
            let link = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
            lines.push(format!(
                "layer {number}: {} {kind:?} {mode:o} {uid}:{gid} {time} {link:?} {:?}",
                String::from_utf8_lossy(&entry.path_bytes()),
                String::from_utf8_lossy(&content)
            ));
        }
    }
    lines
}

/// Does the same for each of many, a few at once; ends the test with all that has failed, by name.
pub(crate) fn side_by_side<T: Sync>(
    many: &[T],
    name: impl Fn(&T) -> String + Sync,
    each: impl Fn(&T) -> Result<(), String> + Sync,
) {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(item) = many.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ended = catch_unwind(AssertUnwindSafe(|| each(item)));
            let failure = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure,
                Err(_) => "it ended with the panic above".to_owned(),
            };
            failures.lock().unwrap().push(format!("{}: {failure}", name(item)));
        }
    };
    std::thread::scope(|scope| {
        (0..AT_ONCE).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), many.len(), failures.join("\n"));
}
