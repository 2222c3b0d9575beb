//! Where an attack takes place: a folder with something outside that must stay as it is, and builds that are watched.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::artefacts::{self, Layer, Layout, Tar};
use crate::support::{Guard, Place, family, need, need_root};

/// What stands outside and must come out nowhere.
pub(crate) const CANARY: &str = "the canary sings outside";
/// Longer than any build here takes on a loaded machine.
const SOON: Duration = Duration::from_secs(40);
/// More than any build here needs, in KiB, and less than any bomb would take.
pub(crate) const MEMORY: u64 = 400 << 10;
/// Nobody reads a longer error.
const WORDY: usize = 32 << 10;

pub(crate) struct Scene {
    pub(crate) place: Place,
    before: BTreeMap<PathBuf, String>,
    images: AtomicUsize,
}

/// How a build has ended.
pub(crate) struct Ended {
    pub(crate) ok: bool,
    /// Both streams.
    pub(crate) text: String,
}

impl Ended {
    pub(crate) fn built(&self) {
        assert!(self.ok, "it must be built:\n{}", self.text);
    }

    /// It was built, and these words were said.
    pub(crate) fn warned(&self, phrase: &str) {
        self.built();
        assert!(self.text.contains(phrase), "the message lacks {phrase:?}:\n{}", self.text);
    }

    /// It was refused with these words.
    pub(crate) fn refused(&self, phrase: &str) {
        assert!(!self.ok, "it was built, and must not be:\n{}", self.text);
        assert!(self.text.contains(phrase), "the message lacks {phrase:?}:\n{}", self.text);
    }
}

/// What is in a tree, each path with what is told of it.
pub(crate) type Listing = BTreeMap<String, String>;

impl Scene {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        place.write("outside/secret", CANARY);
        place.write("outside/folder/inner", CANARY);
        place.write("context/Dockerfile", "FROM base\n");
        let before = outside(place.path());
        Self { place, before, images: AtomicUsize::new(0) }
    }

    /// The folder outside, absolute.
    pub(crate) fn outside(&self) -> String {
        self.place.join("outside").display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        self.place.write(name, text)
    }

    pub(crate) fn symlink(&self, name: &str, target: impl AsRef<Path>) {
        let path = self.place.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// A layout of these layers on top of one with busybox; gives its folder.
    pub(crate) fn layout(&self, layers: impl IntoIterator<Item = impl Into<Layer>>) -> Layout {
        let busybox = fs::read(need("busybox", "busybox-static")).unwrap();
        let mode = |header: &mut tar::Header| header.set_mode(0o755);
        let first = Tar::new().dir("bin").entry(b'0', "bin/busybox", "", busybox, mode);
        let layers: Vec<Layer> = [first.into()].into_iter().chain(layers.into_iter().map(Into::into)).collect();
        artefacts::image(&self.fresh("image"), &layers)
    }

    /// The same as the value of --build-context for the name `base`.
    pub(crate) fn image(&self, layers: impl IntoIterator<Item = impl Into<Layer>>) -> String {
        base(&self.layout(layers).folder)
    }

    /// A path that is not used yet.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}-{}", self.images.fetch_add(1, Ordering::Relaxed)))
    }

    /// `plywood build` of the context with this Dockerfile on a base image.
    pub(crate) fn build(&self, base: &str, dockerfile: &str, output: &str) -> Ended {
        self.write("context/Dockerfile", dockerfile);
        self.build_context(&["--build-context", base, "-o", output])
    }

    /// `plywood build` of the context as it is.
    pub(crate) fn build_context(&self, arguments: &[&str]) -> Ended {
        let mut command = self.place.plywood();
        command.args(["build", "--progress=plain"]).args(arguments).arg(self.place.join("context"));
        self.watch(command)
    }

    /// Runs a command and looks whether it behaves, whatever it does.
    pub(crate) fn watch(&self, mut command: Command) -> Ended {
        let log = self.fresh("log");
        let file = fs::File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let start = Instant::now();
        let mut child = Guard(command.spawn().unwrap());
        let mut peak = 0;
        let status = loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < SOON, "it hangs: {command:?}\n{}", read_lossy(&log));
            peak = peak.max(memory(child.0.id()));
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = read_lossy(&log);
        assert!(matches!(status.code(), Some(0 | 1)), "it crashed: {status}\n{text}");
        assert!(!text.contains("panicked"), "it panicked:\n{text}");
        assert!(peak < MEMORY, "it took {peak} KiB of memory:\n{text}");
        assert!(text.len() < WORDY, "it printed {} bytes:\n{}", text.len(), &text[..2000]);
        assert!(!text.contains(CANARY), "it printed what is outside:\n{text}");
        assert_eq!(self.before, outside(self.place.path()), "what is outside has changed");
        Ended { ok: status.success(), text }
    }

    /// The files of an image as `-o type=tar` gives them.
    pub(crate) fn exported(&self, base: &str) -> Result<Listing, String> {
        let path = self.fresh("exported");
        let ended = self.build(base, "FROM base\n", &format!("type=tar,dest={}", path.display()));
        if ended.ok { Ok(listing(&path)) } else { Err(ended.text) }
    }

    /// The files of an image as a step in it sees them. A mark of removal in a folder that only its layer has is listed
    /// by overlayfs, but is not there.
    pub(crate) fn stepped(&self, base: &str) -> Result<Listing, String> {
        need_root();
        let folder = self.fresh("stepped");
        let dockerfile = "FROM base AS seen\n\
            RUN cd /; set --; for n in * .[!.]* ..?*; do case \"$n\" in proc|sys|dev) ;; \
            *) if [ -e \"$n\" ] || [ -L \"$n\" ]; then set -- \"$@\" \"./$n\"; fi;; esac; done; \
            busybox tar -cf /dev/shm/seen.tar \"$@\" 2>/dev/shm/log || \
            ! busybox grep -v 'No such file\\|delayed' /dev/shm/log && busybox mv /dev/shm/seen.tar /seen.tar\n\
            FROM scratch\nCOPY --from=seen /seen.tar /\n";
        let ended = self.build(base, dockerfile, &format!("type=local,dest={}", folder.display()));
        if ended.ok { Ok(listing(&folder.join("seen.tar"))) } else { Err(ended.text) }
    }

    /// The files of an image, which must be the same for a step, in a tar and in a folder; or why it was refused, which
    /// must be so for all of them.
    pub(crate) fn files(&self, layers: impl IntoIterator<Item = impl Into<Layer>>) -> Result<Listing, String> {
        let base = self.image(layers);
        let exported = self.exported(&base);
        let stepped = self.stepped(&base);
        let folder = self.fresh("folder");
        let local = self.build(&base, "FROM base\n", &format!("type=local,dest={}", folder.display()));
        assert_eq!(exported.is_ok(), local.ok, "a tar and a folder differ: {exported:?}\n{}", local.text);
        match (&exported, &stepped) {
            (Ok(exported), Ok(stepped)) => {
                let machine = |path: &str| {
                    ["proc", "sys", "dev", "etc/hosts", "etc/resolv.conf"]
                        .iter()
                        .any(|own| path == *own || path.strip_prefix(own).is_some_and(|rest| rest.starts_with('/')))
                };
                let kept = |listing: &Listing| -> Listing {
                    let entries = listing.iter().filter(|(path, _)| !machine(path));
                    entries.map(|(path, what)| (path.clone(), what.clone())).collect()
                };
                let (exported, mut stepped) = (kept(exported), kept(stepped));
                if !exported.contains_key("etc") {
                    stepped.remove("etc");
                }
                assert_eq!(exported, stepped, "what is exported is not what a step sees");
            }
            (Err(_), Err(_)) => {}
            _ => panic!("only one of the ways refuses it:\nexported: {exported:?}\nstepped: {stepped:?}"),
        }
        exported
    }

    /// It is refused in each way, with these words.
    pub(crate) fn refuses(&self, layers: impl IntoIterator<Item = impl Into<Layer>>, phrase: &str) {
        let error = self.files(layers).expect_err("it must be refused");
        assert!(error.contains(phrase), "the message lacks {phrase:?}:\n{error}");
    }
}

/// The value of --build-context for a layout as `base`.
pub(crate) fn base(layout: &Path) -> String {
    format!("base=oci-layout://{}", layout.display())
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// What a process and all below it have needed of memory at most, in KiB.
pub(crate) fn memory(pid: u32) -> u64 {
    let needed = |pid: u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").parse().ok()
    };
    family(pid).into_iter().filter_map(needed).max().unwrap_or(0)
}

/// What must not change: the folder outside, and the files of this machine that an image has as well.
fn outside(place: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut paths = vec![place.join("outside")];
    paths.extend(["/etc/passwd", "/etc/hosts", "/etc/resolv.conf"].map(PathBuf::from));
    while let Some(path) = paths.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let content = if meta.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let told = format!("{:o} {}:{} {} {:?}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), content);
        if meta.is_dir() && path.starts_with(place) {
            paths.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
        }
        found.insert(path, told);
    }
    found
}

/// The entries of a tar, which must be one that anybody can unpack: nothing leads out, nothing lies in a link.
pub(crate) fn listing(path: &Path) -> Listing {
    let mut found = Listing::new();
    oci::tar::each(
        fs::File::open(path).unwrap(),
        |error| error,
        |item| {
            add(&mut found, &item.path, &item.link, item.entry);
            Ok(ControlFlow::Continue(()))
        },
    )
    .unwrap();
    found
}

fn add<R: Read>(found: &mut Listing, path: &[u8], link: &[u8], entry: &mut tar::Entry<'_, R>) {
    let (raw, link) = (String::from_utf8_lossy(path), String::from_utf8_lossy(link));
    let path = raw.trim_start_matches("./").trim_end_matches('/').to_owned();
    assert!(!raw.starts_with('/') && path.split('/').all(|part| part != ".."), "an entry leads out: {raw}");
    if path.is_empty() || path == "." {
        return;
    }
    let mut parent = path.as_str();
    while let Some((above, _)) = parent.rsplit_once('/') {
        parent = above;
        let known = found.get(parent).map_or("Directory", String::as_str);
        assert!(known.starts_with("Directory"), "{path} lies in {parent}, which is a {known}");
    }
    let mut body = Vec::new();
    entry.read_to_end(&mut body).unwrap();
    assert!(!String::from_utf8_lossy(&body).contains(CANARY), "{path} holds what is outside");
    let header = entry.header();
    let kind = header.entry_type();
    if kind == tar::EntryType::Link {
        let target = found[link.trim_start_matches("./")].clone();
        found.insert(path, target);
        return;
    }
    let number = |value: std::io::Result<Option<u32>>| value.unwrap().unwrap();
    let told = match kind {
        tar::EntryType::Char | tar::EntryType::Block => {
            format!("{} {}", number(header.device_major()), number(header.device_minor()))
        }
        tar::EntryType::Regular if body.len() < 100 => String::from_utf8_lossy(&body).into_owned(),
        tar::EntryType::Regular => format!("{} bytes, {}", body.len(), artefacts::digest(&body)),
        _ => link.into_owned(),
    };
    let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
    let mode = if kind == tar::EntryType::Symlink { 0o777 } else { header.mode().unwrap() & 0o7777 };
    found.insert(path, format!("{kind:?} {mode:o} {owner} {told}").trim_end().to_owned());
}
