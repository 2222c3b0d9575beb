//! What a step has changed, from the upper directory of its overlay.
//!
//! Runs where the trees are: in the worker, once no process of the step is left. An entry that overlayfs has copied up
//! without a change is left out, and so is a whiteout of nothing (overlayfs.rst, "whiteouts and opaque directories").

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci::DiffId;
use oci::tree::{self, Entry, Inode, Kind, Time};
use sys::Root;
use sys::rustix::fs::OFlags;
use sys::rustix::io::Errno;

use crate::error::{At, Error};
use crate::write::{LayerWriter, TarWriter};

/// The trees of a step: what it wrote, and what was below, topmost first.
#[derive(Debug)]
pub struct Changes<'c> {
    /// What overlayfs wrote to.
    pub upper: &'c Path,
    /// What it could not write to.
    pub lowers: &'c [PathBuf],
    /// Where there is one user: attributes say whose files are, and new ones without are this user's, by number and group.
    /// Elsewhere attributes are a step's own to set, and say nothing.
    pub one_user: Option<(u32, u32)>,
}

impl Changes<'_> {
    /// Whose a file is, by what it says itself and by its attributes.
    fn owner(&self, meta: &Metadata, attributes: &[(String, Vec<u8>)]) -> (u32, u32) {
        let recorded = self.one_user.and_then(|_| sys::owner::of(attributes));
        recorded.unwrap_or((meta.uid(), meta.gid()))
    }

    fn owner_at(&self, at: &Path, meta: &Metadata) -> Result<(u32, u32), Error> {
        match self.one_user {
            Some(_) => Ok(self.owner(meta, &sys::xattr::list(at).at(at)?)),
            None => Ok((meta.uid(), meta.gid())),
        }
    }
}

/// Writes what has changed as a layer.
///
/// # Errors
/// When the trees cannot be read or the layer not be written.
pub fn write(changes: &Changes<'_>, mut layer: LayerWriter) -> Result<DiffId, Error> {
    walk(changes, &mut layer.tar)?;
    layer.finish()
}

/// Writes the entries of what has changed.
pub(crate) fn walk<W: io::Write>(changes: &Changes<'_>, layer: &mut TarWriter<W>) -> Result<(), Error> {
    let open = |lower: &PathBuf| Root::open(lower).at(lower);
    let roots = changes.lowers.iter().map(open).collect::<Result<_, _>>()?;
    let mut walk = Walk { changes, roots, layer, links: BTreeMap::new(), pending: Vec::new(), level: None };
    walk.directory(&[], false)
}

struct Walk<'w, W: io::Write> {
    changes: &'w Changes<'w>,
    /// The lower trees.
    roots: Vec<Root>,
    layer: &'w mut TarWriter<W>,
    /// The first path of each inode that has several.
    links: BTreeMap<(u64, u64), tree::Path>,
    /// Directories on the way that are as they were: written only once something in them is.
    pending: Vec<(tree::Path, Entry)>,
    /// The folder that was last looked at: the next entry is mostly in it as well.
    level: Option<(tree::Path, Vec<Level>)>,
}

/// A folder in one of the lower trees.
#[derive(Clone, Copy)]
struct Level {
    is_there: bool,
    /// Whether the trees further down have nothing more to say of it.
    hides: bool,
}

fn os(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

impl<W: io::Write> Walk<'_, W> {
    /// Writes what a directory of the upper tree holds. Below an opaque one nothing counts as there before.
    fn directory(&mut self, path: &[u8], opaque: bool) -> Result<(), Error> {
        let folder = self.changes.upper.join(os(path));
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).at(&folder)? {
            names.push(entry.at(&folder)?.file_name().into_vec());
        }
        // By name: a directory, then what is in it, then what comes after it.
        let mut entries = Vec::new();
        for name in names {
            let child = tree::join(path, &name);
            let at = self.changes.upper.join(os(&child));
            let meta = fs::symlink_metadata(&at).at(&at)?;
            entries.push((child, meta));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        for (child, meta) in entries {
            self.entry(&child, &meta, opaque)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &[u8], meta: &Metadata, opaque: bool) -> Result<(), Error> {
        let at = self.changes.upper.join(os(path));
        let below = if opaque { None } else { self.below(path)? };
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            if below.is_some() {
                let whiteout = Entry { kind: Kind::Whiteout, ..Entry::dir(0o644, Time::default()) };
                self.add(path, whiteout, None)?;
            }
            return Ok(());
        }
        if kind.is_socket() {
            return Ok(());
        }
        let attributes = sys::xattr::list(&at).at(&at)?;
        let is_opaque = attributes.iter().any(|(name, value)| name.ends_with(".overlay.opaque") && value == b"y");
        let owner = match self.changes.one_user {
            Some(user) if below.is_none() => sys::owner::of(&attributes).unwrap_or(user),
            _ => self.changes.owner(meta, &attributes),
        };
        let entry = Entry {
            kind: kind_of(path, &at, meta, is_opaque && below.is_some(), &mut self.links)?,
            mode: meta.mode() & 0o7777,
            uid: owner.0,
            gid: owner.1,
            mtime: Time { seconds: meta.mtime(), nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0) },
            xattrs: attributes.into_iter().filter(|(name, _)| is_content(name)).collect(),
        };
        if kind.is_dir() {
            let hides = opaque || is_opaque || below.is_none();
            let same = match &below {
                Some((at, old)) => (meta.mode(), owner) == (old.mode(), self.changes.owner_at(at, old)?),
                None => false,
            };
            if same && !is_opaque {
                self.pending.push((path.to_vec(), entry));
                self.directory(path, hides)?;
                self.pending.pop_if(|(pending, _)| pending == path);
                return Ok(());
            }
            self.add(path, entry, None)?;
            return self.directory(path, hides);
        }
        if let Some(below) = below
            && self.is_unchanged(&at, meta, &entry, &below)?
        {
            return Ok(());
        }
        match &entry.kind {
            Kind::File(file) if file.inode.path == path => {
                let mut body = File::open(&at).at(&at)?;
                self.add(path, entry, Some(&mut body))
            }
            _ => self.add(path, entry, None),
        }
    }

    fn add(&mut self, path: &[u8], entry: Entry, body: Option<&mut dyn Read>) -> Result<(), Error> {
        for (path, entry) in std::mem::take(&mut self.pending) {
            self.layer.add(&path, entry, None)?;
        }
        self.layer.add(path, entry, body)
    }

    /// What was at a path before: the topmost lower tree that has it decides, and a whiteout or a file among the
    /// parents there hides what is further down.
    fn below(&mut self, path: &[u8]) -> Result<Option<(PathBuf, Metadata)>, Error> {
        let folder = tree::parent(path);
        if self.level.as_ref().is_none_or(|(known, _)| known != folder) {
            let levels = self.roots.iter().zip(self.changes.lowers).map(|(root, lower)| level(root, lower, folder));
            self.level = Some((folder.to_vec(), levels.collect::<Result<_, _>>()?));
        }
        let levels = self.level.iter().flat_map(|(_, levels)| levels);
        for (level, lower) in levels.zip(self.changes.lowers) {
            if level.is_there {
                let at = lower.join(os(path));
                match fs::symlink_metadata(&at) {
                    Ok(meta) if meta.file_type().is_char_device() && meta.rdev() == 0 => return Ok(None),
                    Ok(meta) => return Ok(Some((at, meta))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).at(&at),
                }
            }
            if level.hides {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Whether an entry of the upper tree is what was there before, copied up for a write that did not come.
    fn is_unchanged(
        &self,
        at: &Path,
        meta: &Metadata,
        entry: &Entry,
        below: &(PathBuf, Metadata),
    ) -> Result<bool, Error> {
        let (lower, old) = below;
        let same = meta.file_type() == old.file_type()
            && (meta.mode(), meta.rdev()) == (old.mode(), old.rdev())
            && (entry.uid, entry.gid) == self.changes.owner_at(lower, old)?
            && (meta.mtime(), meta.mtime_nsec()) == (old.mtime(), old.mtime_nsec())
            && meta.size() == old.size();
        // A file with further names is told whole, so that the names stay together.
        if !same || meta.nlink() > 1 {
            return Ok(false);
        }
        let attributes = sys::xattr::list(lower).at(lower)?;
        if !attributes.iter().filter(|(name, _)| is_content(name)).eq(&entry.xattrs) {
            return Ok(false);
        }
        match &entry.kind {
            Kind::File(_) => equal(File::open(at).at(at)?, File::open(lower).at(lower)?).at(at),
            Kind::Symlink(target) => Ok(fs::read_link(lower).at(lower)?.as_os_str().as_bytes() == target),
            _ => Ok(true),
        }
    }
}

/// What is at a path that holds no socket. `links` has the first path of each inode with several.
pub(crate) fn kind_of(
    path: &[u8],
    at: &Path,
    meta: &Metadata,
    opaque: bool,
    links: &mut BTreeMap<(u64, u64), tree::Path>,
) -> Result<Kind, Error> {
    let kind = meta.file_type();
    let device = || (sys::rustix::fs::major(meta.rdev()), sys::rustix::fs::minor(meta.rdev()));
    Ok(if kind.is_dir() {
        Kind::Dir { opaque }
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(at).at(at)?.into_os_string().into_vec())
    } else if kind.is_char_device() {
        Kind::Char(device().0, device().1)
    } else if kind.is_block_device() {
        Kind::Block(device().0, device().1)
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        let mut first = path.to_vec();
        if meta.nlink() > 1 {
            first = links.entry((meta.dev(), meta.ino())).or_insert(first).clone();
        }
        Kind::File(tree::File { size: meta.size(), digest: None, inode: Inode { layer: None, path: first } })
    })
}

/// What a folder is in a lower tree. A link of that tree on the way is no folder of the step's: here it would lead to
/// what is this machine's.
fn level(root: &Root, lower: &Path, folder: &[u8]) -> Result<Level, Error> {
    let is_there = match root.open_plain(os(folder), OFlags::PATH | OFlags::DIRECTORY) {
        Ok(_) => true,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => false,
            Some(Errno::LOOP | Errno::NOTDIR) => return Ok(Level { is_there: false, hides: true }),
            _ => return Err(error).at(lower.join(os(folder))),
        },
    };
    let mut parent = folder;
    loop {
        let at = lower.join(os(parent));
        let opaque = || {
            ["trusted.overlay.opaque", "user.overlay.opaque"]
                .iter()
                .any(|name| matches!(sys::xattr::get(&at, name), Ok(Some(value)) if value == b"y"))
        };
        if fs::symlink_metadata(&at).is_ok_and(|meta| !meta.is_dir() || opaque()) {
            return Ok(Level { is_there, hides: true });
        }
        if parent.is_empty() {
            return Ok(Level { is_there, hides: false });
        }
        parent = tree::parent(parent);
    }
}

/// The attribute that a layer keeps. Others are the machine's (labels, overlayfs's notes) or lost by every other builder
/// and most registries' tools; BuildKit keeps this one alone.
pub(crate) fn is_content(name: &str) -> bool {
    name == "security.capability"
}

fn equal(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut x, mut y) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length = a.read(&mut x)?;
        if length == 0 {
            return Ok(b.read(&mut y)? == 0);
        }
        match b.read_exact(&mut y[..length]) {
            Ok(()) if x[..length] == y[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
