//! What a step is given where nothing can be mounted: put into its tree before, taken out of it after. What was in the
//! same place waits in a folder beside the tree meanwhile.
//!
//! The tree is hostile: every place is looked up as a process in it would, and opened beneath it through no link.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sys::Root;
use sys::rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown,
    linkat, makedev, mkdirat, mknodat, openat, renameat, statat, statx, symlinkat, unlinkat, utimensat,
};
use sys::rustix::io::Errno;

use crate::rootfs::{self, During};
use crate::spec::{Mount, MountKind, Surroundings};

/// Devices that every step has, with their numbers (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// What has been put into a tree.
#[derive(Debug)]
pub struct Covers {
    root: Root,
    aside: PathBuf,
    /// Whether the tree is this place's root, where devices and /proc are.
    in_place: bool,
    covered: Vec<Covered>,
    /// Files that are mounted in this place's root, with what they held.
    kept: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Debug)]
struct Covered {
    /// Resolved, in the tree.
    place: PathBuf,
    /// The name of what was there in the folder beside the tree.
    was: Option<String>,
    /// Where it goes when it is taken out; none: nowhere.
    back: Option<PathBuf>,
    /// Device, number and kind of what was put there, once it was: a step may have put something else in its place, which may
    /// have been given the same number.
    inode: Option<(u64, u64, FileType)>,
    /// Folders that were made on the way, deepest last.
    made: Vec<PathBuf>,
}

/// What keeps a place from being as it was before.
const MOVED: &str = "the command has moved or replaced what was mounted there; without mounts that cannot be undone";

impl Covers {
    /// For the tree at `tree`, which may be this place's root; what is covered waits in `aside`, an empty folder on the same
    /// file system.
    ///
    /// # Errors
    /// When the tree cannot be opened.
    pub fn new(tree: &Path, aside: &Path) -> io::Result<Self> {
        let (root, in_place) = (Root::open(tree)?, tree == Path::new("/"));
        Ok(Self { root, aside: aside.to_owned(), in_place, covered: Vec::new(), kept: Vec::new() })
    }

    /// What every step has: devices, an empty /proc and /sys, /etc/hosts, /etc/resolv.conf. In this place's root there are
    /// such already, which get only what is asked for beyond them.
    ///
    /// # Errors
    /// In words.
    pub fn system(&mut self, surroundings: &Surroundings, resolv_conf: &[u8]) -> Result<(), String> {
        if self.in_place {
            let more = rootfs::more_hosts(surroundings);
            self.mounted("/etc/resolv.conf", resolv_conf, b"").during("/etc/resolv.conf")?;
            return self
                .mounted("/etc/hosts", rootfs::hosts(surroundings).as_bytes(), more.as_bytes())
                .during("/etc/hosts");
        }
        for folder in ["/proc", "/sys", "/dev"] {
            self.folder(folder, 0o755).during(folder)?;
        }
        self.folder("/dev/shm", 0o1777).during("/dev/shm")?;
        for (name, major, minor) in DEVICES {
            let (parent, name) = self.inside(&format!("dev/{name}")).during("/dev")?;
            let mode = Mode::from_raw_mode(0o666);
            mknodat(&parent, &name, FileType::CharacterDevice, mode, makedev(major, minor)).during("making devices")?;
            chmodat(&parent, &name, mode, AtFlags::empty()).during("making devices")?;
        }
        for (target, name) in [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
            let (parent, name) = self.inside(&format!("dev/{name}")).during("/dev")?;
            symlinkat(target, &parent, &name).during("/dev")?;
        }
        self.file("/etc/hosts", rootfs::hosts(surroundings).as_bytes(), (0, 0), 0o644).during("/etc/hosts")?;
        self.file("/etc/resolv.conf", resolv_conf, (0, 0), 0o644).during("/etc/resolv.conf")
    }

    /// What a step asks for.
    ///
    /// # Errors
    /// In words.
    pub fn put(&mut self, mount: &Mount) -> Result<(), String> {
        let target = &mount.target;
        let put = match &mount.kind {
            MountKind::File { content, uid, gid, mode } => self.file(target, content, (*uid, *gid), *mode),
            MountKind::Tmpfs { .. } => self.folder(target, 0o1777),
            MountKind::Folder { path, .. } => self.moved(target, path),
            MountKind::Socket { path, uid, gid, mode } => self.socket(target, path, (*uid, *gid), *mode),
            MountKind::Trees { lowers, source, .. } => self.copied(target, lowers, source),
        };
        put.during(format!("putting {target} into the tree"))
    }

    fn inside(&self, path: &str) -> io::Result<(OwnedFd, PathBuf)> {
        let (parent, name) = self.root.parent(Path::new(path))?;
        Ok((parent, PathBuf::from(name)))
    }

    /// Makes room at a place; gives the folder that it is in and its name there.
    fn clear(&mut self, target: &str, back: Option<PathBuf>) -> io::Result<(OwnedFd, PathBuf)> {
        let place = self.root.resolve(Path::new(target))?;
        let made = match place.parent() {
            Some(folder) => self.root.make_dirs_inside(folder, 0o755)?,
            None => Vec::new(),
        };
        let (parent, name) = self.root.parent(&place)?;
        let name = PathBuf::from(name);
        let was = match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {
                let aside = self.covered.len().to_string();
                shift(&parent, &name, &self.aside()?, Path::new(&aside))?;
                Some(aside)
            }
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        self.covered.push(Covered { place, was, back, inode: None, made });
        Ok((parent, name))
    }

    fn aside(&self) -> io::Result<OwnedFd> {
        open_folder(&self.aside)
    }

    /// Remembers what has just been put to a place.
    fn note(&mut self, parent: &OwnedFd, name: &Path) -> io::Result<()> {
        let inode = inode(parent, name)?;
        if let Some(covered) = self.covered.last_mut() {
            covered.inode = Some(inode);
        }
        Ok(())
    }

    fn file(&mut self, target: &str, content: &[u8], owner: (u32, u32), mode: u32) -> io::Result<()> {
        let (parent, name) = self.clear(target, None)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = fs::File::from(openat(&parent, &name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(content)?;
        fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        fchmod(&file, Mode::from_raw_mode(mode))?;
        self.note(&parent, &name)
    }

    /// A file that engines mount: it gets more, and is as it was afterwards. Where it is not mounted, one with `content` is put
    /// there.
    fn mounted(&mut self, target: &'static str, content: &[u8], more: &[u8]) -> io::Result<()> {
        let path = Path::new(target.trim_start_matches('/'));
        let is_mounted = match (self.root.read(path), self.root.parent(path)) {
            (Ok(file), Ok((folder, _))) => mount_of(&file)? != mount_of(&folder)?,
            _ => false,
        };
        if !is_mounted {
            return self.file(target, content, (0, 0), 0o644);
        }
        let mut held = Vec::new();
        self.root.read(path)?.take(LARGEST).read_to_end(&mut held)?;
        if !more.is_empty() {
            write_over(&self.root, path, &[&held[..], more].concat())?;
        }
        self.kept.push((target, held));
        Ok(())
    }

    fn folder(&mut self, target: &str, mode: u32) -> io::Result<()> {
        let (parent, name) = self.clear(target, None)?;
        mkdirat(&parent, &name, Mode::from_raw_mode(0o700))?;
        chmodat(&parent, &name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        self.note(&parent, &name)
    }

    /// A folder of this machine's, which goes back where it was.
    fn moved(&mut self, target: &str, path: &Path) -> io::Result<()> {
        let (parent, name) = self.clear(target, Some(path.to_owned()))?;
        match renameat(CWD, path, &parent, &name) {
            // It stays where it is as well, until it is given back.
            Err(Errno::XDEV) => copy(path, &parent, &name)?,
            result => result?,
        }
        self.note(&parent, &name)
    }

    fn socket(&mut self, target: &str, path: &Path, owner: (u32, u32), mode: u32) -> io::Result<()> {
        let (parent, name) = self.clear(target, None)?;
        match linkat(CWD, path, &parent, &name, AtFlags::empty()) {
            // A link leads to a socket as well; who may use it is for the folders that it is in to say.
            Err(Errno::XDEV) => {
                symlinkat(path, &parent, &name)?;
                return self.note(&parent, &name);
            }
            result => result?,
        }
        chownat(&parent, &name, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)), AtFlags::empty())?;
        chmodat(&parent, &name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        self.note(&parent, &name)
    }

    fn copied(&mut self, target: &str, trees: &[PathBuf], source: &str) -> io::Result<()> {
        let tree = trees.first().ok_or(io::ErrorKind::NotFound)?;
        let source = Root::open(tree)?.resolve(Path::new(source))?;
        let (parent, name) = self.clear(target, None)?;
        copy(&tree.join(source.strip_prefix("/").unwrap_or(&source)), &parent, &name)?;
        self.note(&parent, &name)
    }

    /// Takes everything out, the last first, and puts back what was there.
    ///
    /// # Errors
    /// In words; also when the step has moved what it was given: somewhere in the tree there may be a secret then, and
    /// nobody may make a layer of it.
    pub fn take_away(mut self) -> Result<(), String> {
        let mut failed = Ok(());
        for covered in self.covered.drain(..).rev() {
            let taken = take(&self.root, &self.aside, &covered).during(covered.place.display());
            failed = failed.and(taken);
        }
        for (target, held) in self.kept.drain(..) {
            let path = Path::new(target.trim_start_matches('/'));
            let restored = restore(&self.root, path, &held).during(target);
            failed = failed.and(restored);
        }
        failed
    }
}

/// Nobody needs longer files of hosts.
const LARGEST: u64 = 16 << 20;

/// Which mount something is on (statx(2)).
fn mount_of(file: &impl AsFd) -> io::Result<u64> {
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

fn write_over(root: &Root, path: &Path, content: &[u8]) -> io::Result<()> {
    let file = root.open_plain(path, OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC)?;
    fs::File::from(file).write_all(content)
}

fn restore(root: &Root, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut now = Vec::new();
    root.read(path)?.take(LARGEST).read_to_end(&mut now)?;
    if now == content { Ok(()) } else { write_over(root, path, content) }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Moves something, also to another file system, or where an overlay lets no folder be renamed.
fn shift(parent: &OwnedFd, name: &Path, to: &OwnedFd, new: &Path) -> io::Result<()> {
    match renameat(parent, name, to, new) {
        Err(Errno::XDEV) => {
            copy(&path_of(parent).join(name), to, new)?;
            delete(parent, name)
        }
        result => Ok(result?),
    }
}

fn path_of(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn inode(parent: &OwnedFd, name: &Path) -> io::Result<(u64, u64, FileType)> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino, FileType::from_raw_mode(stat.st_mode)))
}

fn take(root: &Root, aside: &Path, covered: &Covered) -> io::Result<()> {
    let moved = || io::Error::other(MOVED);
    let (parent, name) = root.parent(&covered.place).map_err(|_| moved())?;
    let name = Path::new(name);
    let there = inode(&parent, name).ok();
    let is_ours = covered.inode.is_some() && there == covered.inode;
    match &covered.back {
        Some(back) if is_ours => give_back(&parent, name, back, aside)?,
        _ => delete(&parent, name)?,
    }
    if let Some(was) = &covered.was {
        shift(&open_folder(aside)?, Path::new(was), &parent, name)?;
    }
    for folder in covered.made.iter().rev() {
        if let Ok((parent, name)) = root.parent(folder) {
            // One that the step has put something into stays.
            let _ = unlinkat(&parent, name, AtFlags::REMOVEDIR);
        }
    }
    // What was never put there cannot have been moved.
    if is_ours || covered.inode.is_none() { Ok(()) } else { Err(moved()) }
}

/// Puts a folder back; what somebody has made in its place meanwhile makes way.
fn give_back(parent: &OwnedFd, name: &Path, back: &Path, aside: &Path) -> io::Result<()> {
    match renameat(parent, name, CWD, back) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            let made = back.file_name().map(|name| aside.join(name)).ok_or(io::ErrorKind::InvalidInput)?;
            renameat(CWD, back, CWD, made)?;
            Ok(renameat(parent, name, CWD, back)?)
        }
        Err(Errno::XDEV) => {
            let (Some(folder), Some(own)) = (back.parent(), back.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let (folder, new) = (open_folder(folder)?, PathBuf::from(format!("{}.new", own.display())));
            // A build that was killed may have left one.
            delete(&folder, &new)?;
            copy(&path_of(parent).join(name), &folder, &new)?;
            delete(&folder, Path::new(own))?;
            renameat(&folder, &new, &folder, own)?;
            delete(parent, name)
        }
        result => Ok(result?),
    }
}

fn delete(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = openat(parent, name, flags, Mode::empty())?;
            sys::remove::content(&folder)?;
            Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies what is at a path of a tree that nobody changes, with owners, modes and times.
fn copy(from: &Path, parent: &OwnedFd, name: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(parent, name, flags, Mode::empty())?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &folder, Path::new(&entry.file_name()))?;
        }
    } else if kind.is_symlink() {
        symlinkat(fs::read_link(from)?.as_os_str().as_bytes(), parent, name)?;
    } else if kind.is_file() {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = fs::File::from(openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        io::copy(&mut fs::File::open(from)?, &mut file)?;
    } else {
        // Pipes and devices are nobody's business here.
        return Ok(());
    }
    chownat(parent, name, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())), AtFlags::SYMLINK_NOFOLLOW)?;
    if !kind.is_symlink() {
        chmodat(parent, name, Mode::from_raw_mode(meta.permissions().mode() & 0o7777), AtFlags::empty())?;
    }
    let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
