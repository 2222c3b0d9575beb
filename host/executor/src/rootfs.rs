//! The root file system of a step, made in its own mount namespace.
//!
//! Every target is opened in the new root as a process there would see it, so that links in the image lead nowhere else.
//! Of devices only those of /dev can be opened: a node that an image or a step has made stands for none of the machine's.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use sys::rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat, symlinkat};
use sys::rustix::mount::MountAttrFlags;
use sys::{Root, mount};

use crate::spec::{Mount, MountKind, Spec, Surroundings};

/// Kernel knobs and memory that a step must not see (the runtime-spec's usual masked paths).
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Of /dev/shm, in bytes, as Docker has it.
const SHM_SIZE: u64 = 64 << 20;
/// The host name that a step sees.
const HOSTNAME: &str = "plywood";

pub(crate) fn host_name(surroundings: &Surroundings) -> &str {
    surroundings.host_name.as_deref().unwrap_or(HOSTNAME)
}

/// /etc/hosts.
pub(crate) fn hosts(surroundings: &Surroundings) -> String {
    let name = host_name(surroundings);
    let usual = format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    usual + &more_hosts(surroundings)
}

/// Lines for /etc/hosts that the user asks for.
pub(crate) fn more_hosts(surroundings: &Surroundings) -> String {
    surroundings.hosts.iter().map(|(name, address)| format!("{address}\t{name}\n")).collect()
}

/// What a privileged command gets beyond the usual, where the machine has it: BuildKit's list.
fn privileged_devices() -> Vec<String> {
    let names = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_loop = |name: &str| name.strip_prefix("loop").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    let others = ["kmsg", "cuse", "fuse", "kvm", "loop-control"];
    names.filter(|name| others.contains(&name.as_str()) || is_loop(name)).collect()
}

/// Says what was being done when something failed.
pub(crate) trait During<T> {
    fn during(self, what: impl std::fmt::Display) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> During<T> for Result<T, E> {
    fn during(self, what: impl std::fmt::Display) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// The root being made, and what was put into it only to mount on.
pub(crate) struct Rootfs {
    root: Root,
    pub(crate) stubs: Vec<String>,
    /// Files can be given to nobody.
    one_user: bool,
}

/// Apt becomes another user for downloads, and looks whether that has worked.
const APT: (&str, &[u8]) = ("etc/apt/apt.conf.d", b"APT::Sandbox::User \"root\";\n");

/// Mounts everything and makes the new root the root of this process.
pub(crate) fn enter(spec: &Spec) -> (Vec<String>, Result<Root, String>) {
    let mut stubs = Vec::new();
    let result = build(spec, &mut stubs);
    (stubs, result)
}

fn build(spec: &Spec, stubs: &mut Vec<String>) -> Result<Root, String> {
    if spec.without_mounts {
        if spec.upper != Path::new("/") {
            sys::rustix::process::chroot(&spec.upper).during("changing the root")?;
        }
        sys::rustix::process::chdir("/").during("entering the new root")?;
        return Root::open(Path::new("/")).during("opening the new root");
    }
    mount::make_private().during("making mounts private")?;
    let lowers: Vec<&Path> = spec.lowers.iter().map(PathBuf::as_path).collect();
    let overlay = mount::overlay(&lowers, Some((&spec.upper, &spec.work)), spec.user_namespace)
        .during("mounting the root file system")?;
    mount::attach_at(overlay.as_fd(), &spec.root).during("mounting the root file system")?;
    let root = Root::open(&spec.root).during("opening the root file system")?;
    let mut rootfs = Rootfs { root, stubs: Vec::new(), one_user: spec.one_user };
    let result = rootfs.fill(spec);
    stubs.append(&mut rootfs.stubs);
    result?;
    pivot(&spec.root)?;
    Root::open(Path::new("/")).during("opening the new root")
}

/// Makes `root` the root, and what was above it unreachable (pivot_root(2), "pivot_root(".", ".")").
fn pivot(root: &Path) -> Result<(), String> {
    use sys::rustix::process::{chdir, pivot_root};
    chdir(root).during("entering the root file system")?;
    pivot_root(".", ".").during("changing the root")?;
    mount::detach(Path::new(".")).during("leaving the old root")?;
    chdir("/").during("entering the new root")
}

/// A folder of this place with what is mounted below it: a user namespace cannot have parts of what it was given.
fn outer(path: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = sys::rustix::fs::open(path, flags, Mode::empty()).during(path)?;
    mount::clone_tree(folder.as_fd(), true).during(format!("mounting {path}"))
}

impl Rootfs {
    fn fill(&mut self, spec: &Spec) -> Result<(), String> {
        let safe =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = match spec.binds_proc {
            false => mount::fresh("proc", &[], safe).during("mounting /proc")?,
            true => outer("/proc")?,
        };
        self.attach(&proc, "/proc", true)?;
        self.devices(spec)?;
        self.sysfs(spec)?;
        if !spec.privileged {
            // While all of it is ours: a step's own mount could put something else where these paths lead.
            self.protect()?;
        }
        let hosts = hosts(&spec.surroundings);
        for (target, content) in [("/etc/hosts", hosts.into_bytes()), ("/etc/resolv.conf", spec.resolv_conf.clone())] {
            self.file(target, &content, 0, 0, 0o644, true)?;
        }
        let (folder, content) = APT;
        if self.one_user && self.root.open_inside(Path::new(folder), OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            self.file(&format!("/{folder}/zz-one-user"), content, 0, 0, 0o644, true)?;
        }
        for mount in &spec.mounts {
            self.mount(mount, spec.user_namespace).map_err(|reason| format!("mounting {}: {reason}", mount.target))?;
        }
        Ok(())
    }

    /// Hides and write-protects what of the kernel's a step must not reach.
    fn protect(&self) -> Result<(), String> {
        for path in MASKED {
            self.mask(path)?;
        }
        for path in READ_ONLY {
            let Ok(file) = self.root.open_inside(Path::new(path), OFlags::PATH) else {
                continue;
            };
            let copy = mount::clone_tree(file.as_fd(), true).during(path)?;
            mount::set_read_only(copy.as_fd(), true).during(path)?;
            mount::attach(copy.as_fd(), file.as_fd()).during(path)?;
        }
        Ok(())
    }

    /// A file is made when the source is none of a directory.
    fn target(&mut self, path: &str, directory: bool) -> io::Result<OwnedFd> {
        // Links lead to where the target is made, also those that lead to nothing yet.
        let place = self.root.resolve(Path::new(path))?;
        match self.root.open_plain(&place, OFlags::PATH) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let folder = if directory { Some(&*place) } else { place.parent() };
        if let Some(folder) = folder {
            let made = self.root.make_dirs_inside(folder, 0o755)?;
            self.stubs.extend(made.iter().map(|path| path.to_string_lossy().into_owned()));
        }
        if !directory {
            let (parent, name) = self.root.parent(&place)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
            self.stubs.push(place.to_string_lossy().into_owned());
        }
        self.root.open_plain(&place, OFlags::PATH)
    }

    fn attach(&mut self, mount: &OwnedFd, path: &str, directory: bool) -> Result<(), String> {
        let target = self.target(path, directory).during(path)?;
        mount::attach(mount.as_fd(), target.as_fd()).during(format!("mounting {path}"))
    }

    fn devices(&mut self, spec: &Spec) -> Result<(), String> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
        let inert = attributes | MountAttrFlags::MOUNT_ATTR_NODEV;
        let dev = mount::fresh("tmpfs", &[("mode", "755"), ("size", "64k")], inert).during("mounting /dev")?;
        self.attach(&dev, "/dev", true)?;
        let folder = self.root.open_inside(Path::new("dev"), OFlags::RDONLY | OFlags::DIRECTORY).during("/dev")?;
        let mut names: Vec<String> = DEVICES.map(str::to_owned).to_vec();
        if spec.privileged {
            names.extend(privileged_devices());
        }
        for name in &names {
            let outer = Path::new("/dev").join(name);
            let Ok(outer) = sys::rustix::fs::open(&outer, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let inner = openat(&folder, name, flags, Mode::from_raw_mode(0o666)).during(name)?;
            let copy = mount::clone_tree(outer.as_fd(), false).during(format!("mounting /dev/{name}"))?;
            mount::attach(copy.as_fd(), inner.as_fd()).during(format!("mounting /dev/{name}"))?;
        }
        for (target, name) in LINKS {
            symlinkat(target, &folder, name).during(name)?;
        }
        let safe = attributes | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let pts = mount::fresh("devpts", &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")], safe);
        self.attach(&pts.during("mounting /dev/pts")?, "/dev/pts", true)?;
        let size = spec.surroundings.shm_size.unwrap_or(SHM_SIZE).to_string();
        let options = [("mode", "1777"), ("size", size.as_str())];
        let shm = mount::fresh("tmpfs", &options, safe | MountAttrFlags::MOUNT_ATTR_NODEV);
        self.attach(&shm.during("mounting /dev/shm")?, "/dev/shm", true)?;
        if let Ok(queues) = mount::fresh("mqueue", &[], safe | MountAttrFlags::MOUNT_ATTR_NODEV) {
            self.attach(&queues, "/dev/mqueue", true)?;
        }
        // /dev and what was made in it are memory: nothing of it is the step's.
        self.stubs.retain(|stub| !stub.starts_with("dev/"));
        Ok(())
    }

    /// A fresh sysfs needs a network namespace of one's own; else the outer one is shown.
    fn sysfs(&mut self, spec: &Spec) -> Result<(), String> {
        let safe =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let safe = if spec.privileged { safe } else { safe | MountAttrFlags::MOUNT_ATTR_RDONLY };
        let fresh = if spec.user_namespace && spec.network == crate::Network::Host {
            None
        } else {
            mount::fresh("sysfs", &[], safe).ok()
        };
        let sysfs = match fresh {
            Some(fresh) => fresh,
            None => {
                let copy = outer("/sys")?;
                mount::set_read_only(copy.as_fd(), true).during("mounting /sys")?;
                copy
            }
        };
        self.attach(&sysfs, "/sys", true)
    }

    fn mask(&self, path: &str) -> Result<(), String> {
        let Ok(target) = self.root.open_inside(Path::new(path), OFlags::PATH) else {
            return Ok(());
        };
        let stat = fstat(&target).during(path)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            mount::fresh("tmpfs", &[("size", "0"), ("mode", "0")], MountAttrFlags::MOUNT_ATTR_RDONLY).during(path)?
        } else {
            let null = self.root.open_inside(Path::new("dev/null"), OFlags::PATH).during("/dev/null")?;
            mount::clone_tree(null.as_fd(), false).during(path)?
        };
        mount::attach(cover.as_fd(), target.as_fd()).during(format!("masking {path}"))
    }

    /// Mounts a file that is nowhere on disk.
    fn file(
        &mut self,
        target: &str,
        content: &[u8],
        uid: u32,
        gid: u32,
        mode: u32,
        read_only: bool,
    ) -> Result<(), String> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let memory = mount::fresh("tmpfs", &[("mode", "700")], attributes).during("memory for a file")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&memory, "file", flags, Mode::from_raw_mode(0o600)).during("a file in memory")?;
        let mut file = std::fs::File::from(file);
        file.write_all(content).during("a file in memory")?;
        let (uid, gid) = self.owner(uid, gid);
        fchown(&file, uid, gid).during("the owner of a file in memory")?;
        fchmod(&file, Mode::from_raw_mode(mode)).during("the mode of a file in memory")?;
        drop(file);
        let file = openat(&memory, "file", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("a file in memory")?;
        // A detached mount can be cloned only once it is attached somewhere (open_tree(2), before Linux 6.15).
        let parking = self.target("/dev/shm", true).during("/dev/shm")?;
        mount::attach(memory.as_fd(), parking.as_fd()).during("memory for a file")?;
        let copy = mount::clone_tree(file.as_fd(), false);
        let unparked = self.root.open_inside(Path::new("dev/shm"), OFlags::PATH).during("/dev/shm")?;
        let copy = copy.during("a file in memory")?;
        mount::detach(Path::new(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&unparked))))
            .during("memory for a file")?;
        if read_only {
            mount::set_read_only(copy.as_fd(), false).during("a file in memory")?;
        }
        self.attach(&copy, target, false)
    }

    fn owner(&self, uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
        match self.one_user {
            true => (None, None),
            false => (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
        }
    }

    fn mount(&mut self, mount: &Mount, user_xattrs: bool) -> Result<(), String> {
        match &mount.kind {
            MountKind::File { content, uid, gid, mode } => self.file(&mount.target, content, *uid, *gid, *mode, true),
            MountKind::Socket { path, uid, gid, mode } => {
                let socket = sys::rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
                let socket = socket.during("its socket")?;
                let (owner, group) = self.owner(*uid, *gid);
                sys::rustix::fs::chown(path, owner, group).during("the owner of its socket")?;
                sys::rustix::fs::chmod(path, Mode::from_raw_mode(*mode)).during("the mode of its socket")?;
                let copy = mount::clone_tree(socket.as_fd(), false).during("its socket")?;
                self.attach(&copy, &mount.target, false)
            }
            MountKind::Tmpfs { size } => {
                let size = size.map(|size| size.to_string());
                let mut options = vec![("mode", "1777")];
                options.extend(size.as_deref().map(|size| ("size", size)));
                let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                let memory = mount::fresh("tmpfs", &options, attributes).during("memory")?;
                self.attach(&memory, &mount.target, true)
            }
            MountKind::Folder { path, read_only } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = sys::rustix::fs::open(path, flags, Mode::empty()).during("its folder")?;
                let copy = mount::clone_tree(folder.as_fd(), false).during("its folder")?;
                mount::set_no_devices(copy.as_fd()).during("its folder")?;
                if *read_only {
                    mount::set_read_only(copy.as_fd(), false).during("its folder")?;
                }
                self.attach(&copy, &mount.target, true)
            }
            MountKind::Trees { lowers, source, writable } => {
                let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
                let trees = match (&lowers[..], writable) {
                    ([], _) => return Err("there is nothing in it".into()),
                    // Overlayfs wants two lower directories where there is no upper one.
                    ([only], None) => {
                        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                        let tree = sys::rustix::fs::open(*only, flags, Mode::empty()).during("its tree")?;
                        let copy = mount::clone_tree(tree.as_fd(), false).during("its tree")?;
                        mount::set_no_devices(copy.as_fd()).during("its tree")?;
                        copy
                    }
                    (lowers, writable) => {
                        let upper = writable.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path()));
                        mount::overlay(lowers, upper, user_xattrs).during("its trees")?
                    }
                };
                // Attached first, since only then a path in it can be cloned; /dev/shm is empty and ours.
                let parking = self.target("/dev/shm", true).during("/dev/shm")?;
                mount::attach(trees.as_fd(), parking.as_fd()).during("its trees")?;
                let parked = self.root.open_inside(Path::new("dev/shm"), OFlags::PATH).during("/dev/shm")?;
                let copy =
                    Root::open(Path::new(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parked))))
                        .and_then(|root| {
                            let source = Path::new(source.trim_start_matches('/'));
                            let file = root.open_inside(source, OFlags::PATH)?;
                            let is_dir = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory;
                            Ok((mount::clone_tree(file.as_fd(), false)?, is_dir))
                        });
                mount::detach(Path::new(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parked))))
                    .during("its trees")?;
                let (copy, is_dir) = copy.during(source)?;
                if writable.is_none() {
                    mount::set_read_only(copy.as_fd(), false).during("its trees")?;
                }
                self.attach(&copy, &mount.target, is_dir)
            }
        }
    }
}
