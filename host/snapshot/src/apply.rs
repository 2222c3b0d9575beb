//! Unpacking a layer into a folder of its own, whiteouts in the form that overlayfs wants.
//!
//! Runs where the trees are made: in the worker. The layer is hostile: each path is opened beneath the folder without
//! following a link, and what is made never replaces the folder itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::DiffId;
use oci::tree::{self, Entry, Kind, Layer, Time};
use sys::Root;
use sys::rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, futimens, linkat, mkdirat, mknodat,
    symlinkat, unlinkat, utimensat,
};
use sys::rustix::io::Errno;

use crate::compress;
use crate::error::{At, Error};
use crate::index::{Collector, Hashing, NO_TARGET};
use crate::read::{self, Item};

/// What the place can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Device nodes can be made; else the index alone knows them.
    pub devices: bool,
    /// Overlayfs keeps its notes in `user.` attributes.
    pub user_xattrs: bool,
    /// Files are root's alone: an attribute says whose they are ([`sys::owner`]).
    pub one_user: bool,
}

/// Unpacks the blob of the layer `expected` into `target`, an empty folder; gives the layer's index.
///
/// # Errors
/// When the blob is not that layer, holds what no layer may, or the place is full.
pub fn unpack(blob: impl Read + Send, expected: DiffId, target: &Path, abilities: Abilities) -> Result<Layer, Error> {
    let mut source = Hashing::new(compress::reader(blob).map_err(Error::Read)?);
    let mut unpacker = Unpacker {
        root: Root::open(target).at(target)?,
        target: target.to_owned(),
        abilities,
        collector: Collector::default(),
        parent: None,
        times: Vec::new(),
        buffer: vec![0; 256 << 10],
    };
    read::entries(&mut source, |item, bytes| unpacker.add(item, bytes))?;
    unpacker.finish_directories()?;
    match source.finish().map_err(Error::Read)? {
        got if got == expected.0 => Ok(unpacker.collector.finish()),
        got => Err(Error::Mismatch { expected, got }),
    }
}

struct Unpacker {
    root: Root,
    target: PathBuf,
    abilities: Abilities,
    collector: Collector,
    /// The folder that was last written to: the next entry is mostly in it as well.
    parent: Option<(tree::Path, OwnedFd)>,
    /// Writing into a directory changes its time, so those are set last.
    times: Vec<(tree::Path, Time)>,
    buffer: Vec<u8>,
}

pub(crate) fn os(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

pub(crate) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

impl Unpacker {
    fn add(&mut self, item: Item, bytes: &mut dyn Read) -> Result<(), Error> {
        for item in self.collector.settle(item)? {
            self.make(item, bytes)?;
        }
        Ok(())
    }

    fn make(&mut self, item: Item, bytes: &mut dyn Read) -> Result<(), Error> {
        let (path, entry) = (item.path.clone(), item.entry.clone());
        if path.is_empty() {
            match entry.kind {
                Kind::Dir { opaque: true } => self.hide_below(&self.target)?,
                _ => self.directory_attributes(&path, &entry)?,
            }
            return self.collector.add(item);
        }
        let at = self.target.join(os(&path));
        let parent = self.open_parent(&path)?;
        let name = os(tree::name(&path));
        let is_dir = entry.is_dir();
        if !is_dir {
            self.clear(&parent, name).at(&at)?;
        }
        if let Some(from) = &item.link {
            let (from_parent, from_name) = self.root.parent(os(from)).at(&at)?;
            linkat(&from_parent, from_name, &parent, name, AtFlags::empty()).map_err(|error| match error {
                Errno::NOENT => Error::Hostile { path: crate::error::show(&path), problem: NO_TARGET },
                error => Error::Io { path: at.clone(), source: error.into() },
            })?;
            return self.collector.add(item);
        }
        match &entry.kind {
            Kind::Dir { opaque } => {
                match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) if is_directory(&parent, name) => {}
                    Err(Errno::EXIST) => {
                        self.clear(&parent, name).at(&at)?;
                        mkdirat(&parent, name, Mode::from_raw_mode(0o755)).at(&at)?;
                    }
                    Err(error) => return Err(error).at(&at),
                }
                if *opaque {
                    self.hide_below(&at)?;
                }
                self.collector.add(item)?;
                // An opaque mark alone says nothing of the directory's owner and mode.
                if !opaque {
                    self.directory_attributes(&path, &entry)?;
                }
                return Ok(());
            }
            Kind::File(_) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)).at(&at)?;
                let mut file = File::from(fd);
                let digest = self.write(&mut file, bytes).at(&at)?;
                self.collector.add(item)?;
                self.collector.set_digest(&path, digest);
                attributes(&file, &at, &entry, self.abilities)?;
                return Ok(());
            }
            Kind::Symlink(target) => symlinkat(os(target), &parent, name).at(&at)?,
            Kind::Fifo => self.node(&parent, name, FileType::Fifo, (0, 0)).at(&at)?,
            Kind::Whiteout => self.node(&parent, name, FileType::CharacterDevice, (0, 0)).at(&at)?,
            Kind::Char(..) | Kind::Block(..) if !self.abilities.devices => return self.collector.add(item),
            Kind::Char(major, minor) => {
                self.node(&parent, name, FileType::CharacterDevice, (*major, *minor)).at(&at)?;
            }
            Kind::Block(major, minor) => {
                self.node(&parent, name, FileType::BlockDevice, (*major, *minor)).at(&at)?;
            }
        }
        let is_whiteout = entry.kind == Kind::Whiteout;
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        self.collector.add(item)?;
        if is_whiteout {
            return Ok(());
        }
        if !self.abilities.one_user {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(&at)?;
        }
        if !is_link {
            fs::chmodat(&parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).at(&at)?;
        }
        xattrs(&at, &entry)?;
        utimensat(&parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).at(&at)
    }

    /// Makes a directory hide what the layers below have in it.
    fn hide_below(&self, at: &Path) -> Result<(), Error> {
        let attribute = if self.abilities.user_xattrs { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        sys::xattr::set(at, attribute, b"y").at(at)
    }

    /// Copies a file's bytes, taking their digest.
    fn write(&mut self, file: &mut File, bytes: &mut dyn Read) -> io::Result<oci::Digest> {
        let mut hasher = oci::Hasher::default();
        loop {
            match bytes.read(&mut self.buffer)? {
                0 => return Ok(hasher.finish()),
                length => {
                    hasher.update(&self.buffer[..length]);
                    file.write_all(&self.buffer[..length])?;
                }
            }
        }
    }

    fn node(&self, parent: &OwnedFd, name: &Path, kind: FileType, (major, minor): (u32, u32)) -> Result<(), Errno> {
        mknodat(parent, name, kind, Mode::from_raw_mode(0o600), fs::makedev(major, minor))
    }

    /// Takes away what an earlier entry of the layer has put there.
    fn clear(&self, parent: &OwnedFd, name: &Path) -> io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                let folder = fs::openat(
                    parent,
                    name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                sys::remove::content(&folder)?;
                Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The folder that an entry goes to, made with the parents that the layer does not mention.
    fn open_parent(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let parent = tree::parent(path);
        if let Some((known, fd)) = &self.parent
            && known == parent
        {
            return fd.as_fd().try_clone_to_owned().at(&self.target);
        }
        let at = self.target.join(os(parent));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = match self.root.open_plain(os(parent), flags) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = self.open_parent(parent)?;
                match mkdirat(&above, os(tree::name(parent)), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).at(&at),
                }
                self.root.open_plain(os(parent), flags).at(&at)?
            }
            Err(_) => {
                return Err(Error::Hostile {
                    path: crate::error::show(path),
                    problem: "in something that is not a directory",
                });
            }
        };
        self.parent = Some((parent.to_vec(), fd.try_clone().at(&at)?));
        Ok(fd)
    }

    fn directory_attributes(&mut self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        let at = self.target.join(os(path));
        let folder = self.root.open_plain(os(path), OFlags::RDONLY | OFlags::DIRECTORY).at(&at)?;
        attributes(&folder, &at, entry, self.abilities)?;
        self.times.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    fn finish_directories(&mut self) -> Result<(), Error> {
        for (path, time) in std::mem::take(&mut self.times).into_iter().rev() {
            let at = self.target.join(os(&path));
            // A later entry may have taken its place.
            if let Ok(folder) = self.root.open_plain(os(&path), OFlags::RDONLY | OFlags::DIRECTORY) {
                futimens(&folder, &timestamps(time)).at(&at)?;
            }
        }
        Ok(())
    }
}

fn is_directory(parent: &OwnedFd, name: &Path) -> bool {
    fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Owner before mode, since a change of owner takes set-user-ID away; time last.
pub(crate) fn attributes(file: &impl AsFd, at: &Path, entry: &Entry, abilities: Abilities) -> Result<(), Error> {
    match abilities.one_user {
        false => fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).at(at)?,
        true if (entry.uid, entry.gid) != (0, 0) => sys::owner::record(file, entry.uid, entry.gid).at(at)?,
        true => {}
    }
    fs::fchmod(file, Mode::from_raw_mode(entry.mode)).at(at)?;
    xattrs(at, entry)?;
    futimens(file, &timestamps(entry.mtime)).at(at)
}

pub(crate) fn xattrs(at: &Path, entry: &Entry) -> Result<(), Error> {
    // An attribute that says whose a file is counts where it was put by whom it is about.
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| name != sys::owner::ATTRIBUTE) {
        match sys::xattr::set(at, name, value) {
            Ok(()) => {}
            // The index keeps what this place cannot hold: `trusted.` in a user namespace, labels of another system.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::PERM | Errno::NOTSUP | Errno::INVAL | Errno::ACCESS)
                ) => {}
            Err(error) => return Err(error).at(at),
        }
    }
    Ok(())
}
