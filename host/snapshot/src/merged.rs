//! One tree of several layers on disk, for places where nothing can be mounted.
//!
//! What is in it is what the indexes say together; each layer's blob is read once, and of its files only those are written
//! that no layer above hides. The layers are hostile: nothing is opened but beneath the folder, through no link.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci::DiffId;
use oci::tree::{self, Entry, Inode, Kind, Tree};
use sys::Root;
use sys::rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, linkat, mkdirat, mknodat, symlinkat, unlinkat, utimensat,
};
use sys::rustix::io::Errno;

use crate::apply::{Abilities, attributes, os, timestamps, xattrs};
use crate::compress;
use crate::error::{At, Error};
use crate::index::{Collector, Hashing};
use crate::read;

/// Bytes that pass at once.
const PIECE: usize = 256 << 10;

/// Makes `to` of `from`, a tree that lies in `target`. `blobs` hold the layers that its files are in, by layer. A folder that
/// `stays` is not taken away, though `to` has none; what else is in `target`, and in neither tree, stays as well unless it is in
/// the way.
///
/// # Errors
/// When a blob is not the layer that it should be, a layer has not what the tree says, or the place is full.
pub fn change(
    from: &Tree,
    to: &Tree,
    blobs: &BTreeMap<DiffId, PathBuf>,
    target: &Path,
    stays: &dyn Fn(&[u8]) -> bool,
    abilities: Abilities,
) -> Result<(), Error> {
    let mut maker = Maker { root: Root::open(target).at(target)?, target, abilities, parent: None };
    let same = same(from, to);
    // Folders that get other attributes, and those in which something changes, which changes their time.
    let mut touched: HashSet<&[u8]> = HashSet::new();
    for (path, entry) in from.iter().filter(|(path, _)| !path.is_empty() && !same.contains(path)) {
        let is_folder = entry.is_dir() && to.get(path).map_or_else(|| stays(path), Entry::is_dir);
        if !is_folder {
            touched.insert(tree::parent(path));
            maker.remove(path)?;
        }
    }
    // Where each file's bytes go: the first of its names, and those that are links to it.
    let mut wanted: BTreeMap<DiffId, BTreeMap<&tree::Path, Vec<&tree::Path>>> = BTreeMap::new();
    for (path, entry) in to.iter().filter(|(path, _)| !path.is_empty() && !same.contains(path)) {
        let is_there = entry.is_dir() && from.get(path).is_some_and(Entry::is_dir);
        if !is_there {
            touched.insert(tree::parent(path));
        }
        if from.get(path) != Some(entry) {
            touched.insert(path);
        }
        match &entry.kind {
            Kind::Dir { .. } if is_there => {}
            Kind::Dir { .. } => maker.directory(path)?,
            Kind::File(file) => {
                let Inode { layer: Some(layer), path: place } = &file.inode else {
                    return Err(nowhere(path));
                };
                wanted.entry(*layer).or_default().entry(place).or_default().push(path);
            }
            _ => maker.node(path, entry)?,
        }
    }
    for (layer, files) in &wanted {
        let blob = blobs.get(layer).ok_or_else(|| crate::index::missing(*layer))?;
        maker.files(to, File::open(blob).at(blob)?, *layer, files)?;
    }
    if from.get(&[]) != to.get(&[]) {
        touched.insert(&[]);
    }
    let directories: Vec<_> =
        to.iter().filter(|(path, entry)| entry.is_dir() && touched.contains(path.as_slice())).collect();
    for (path, entry) in directories.into_iter().rev() {
        let at = target.join(os(path));
        let folder = match path.is_empty() {
            true => maker.root.open_plain(Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY).at(&at)?,
            false => maker.root.open_plain(os(path), OFlags::RDONLY | OFlags::DIRECTORY).at(&at)?,
        };
        attributes(&folder, &at, entry, abilities)?;
    }
    Ok(())
}

/// What is in both trees as it is: of a file with several names all or none of them.
fn same<'t>(from: &'t Tree, to: &'t Tree) -> HashSet<&'t tree::Path> {
    let names = |tree: &'t Tree| {
        let mut names: HashMap<&Inode, Vec<&tree::Path>> = HashMap::new();
        for (path, entry) in tree.iter() {
            if let Kind::File(file) = &entry.kind {
                names.entry(&file.inode).or_default().push(path);
            }
        }
        names
    };
    if from.iter().next().is_none() {
        return HashSet::new();
    }
    let (old, new) = (names(from), names(to));
    let changed: HashSet<&Inode> = new
        .iter()
        .filter(|(inode, paths)| {
            old.get(*inode) != Some(paths) || paths.iter().any(|path| from.get(path) != to.get(path))
        })
        .map(|(inode, _)| *inode)
        .collect();
    let is_same = |(path, entry): &(&tree::Path, &Entry)| match &entry.kind {
        Kind::Dir { .. } => false,
        Kind::File(file) => !changed.contains(&file.inode),
        _ => from.get(path) == Some(*entry),
    };
    to.iter().filter(is_same).map(|(path, _)| path).collect()
}

fn nowhere(path: &[u8]) -> Error {
    Error::Hostile { path: crate::error::show(path), problem: "a file that is in no layer" }
}

struct Maker<'t> {
    root: Root,
    target: &'t Path,
    abilities: Abilities,
    /// The folder that was last written to.
    parent: Option<(tree::Path, OwnedFd)>,
}

impl Maker<'_> {
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let parent = tree::parent(path);
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let at = self.target.join(os(parent));
            let place = if parent.is_empty() { Path::new(".") } else { os(parent) };
            let fd = self.root.open_plain(place, OFlags::PATH | OFlags::DIRECTORY).at(&at)?;
            self.parent = Some((parent.to_vec(), fd));
        }
        let (_, fd) = self.parent.as_ref().ok_or_else(|| nowhere(path))?;
        fd.try_clone().at(self.target)
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        self.root.open_plain(os(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW).is_ok()
    }

    /// Takes a path away, and everything in it.
    fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        // The folder that is remembered may be in it.
        self.parent = None;
        let at = self.target.join(os(path));
        let Ok(parent) = self.parent(path) else { return Ok(()) };
        self.parent = None;
        match unlinkat(&parent, os(tree::name(path)), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                self.empty(path)?;
                unlinkat(&parent, os(tree::name(path)), AtFlags::REMOVEDIR).at(&at)
            }
            Err(error) => Err(error).at(&at),
        }
    }

    /// Takes everything in a folder away.
    fn empty(&mut self, path: &[u8]) -> Result<(), Error> {
        let at = self.target.join(os(path));
        let place = if path.is_empty() { Path::new(".") } else { os(path) };
        let folder = self.root.open_plain(place, OFlags::RDONLY | OFlags::DIRECTORY).at(&at)?;
        sys::remove::content(&folder).at(&at)
    }

    fn directory(&mut self, path: &[u8]) -> Result<(), Error> {
        let parent = self.parent(path)?;
        // Its own mode comes last: what is in it must be made first.
        let make = || mkdirat(&parent, os(tree::name(path)), Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) if self.is_dir(path) => Ok(()),
            Err(Errno::EXIST) => {
                self.remove(path)?;
                make().at(self.target.join(os(path)))
            }
            result => result.at(self.target.join(os(path))),
        }
    }

    fn node(&mut self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        // A socket that a step has left, say: it is in no layer.
        self.remove(path)?;
        let at = self.target.join(os(path));
        let (parent, name) = (self.parent(path)?, os(tree::name(path)));
        let make = |kind, (major, minor)| {
            mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), fs::makedev(major, minor)).at(&at)
        };
        match &entry.kind {
            Kind::Symlink(target) => symlinkat(os(target), &parent, name).at(&at)?,
            Kind::Fifo => make(FileType::Fifo, (0, 0))?,
            Kind::Char(..) | Kind::Block(..) if !self.abilities.devices => return Ok(()),
            Kind::Char(major, minor) => make(FileType::CharacterDevice, (*major, *minor))?,
            Kind::Block(major, minor) => make(FileType::BlockDevice, (*major, *minor))?,
            Kind::File(_) | Kind::Dir { .. } | Kind::Whiteout => return Ok(()),
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        if !self.abilities.one_user {
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(&at)?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            fs::chmodat(&parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).at(&at)?;
        }
        xattrs(&at, entry)?;
        utimensat(&parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).at(&at)
    }

    /// Writes the files that are in a layer's blob.
    fn files(
        &mut self,
        tree: &Tree,
        blob: impl Read + Send,
        layer: DiffId,
        wanted: &BTreeMap<&tree::Path, Vec<&tree::Path>>,
    ) -> Result<(), Error> {
        let mut source = Hashing::new(compress::reader(blob).map_err(Error::Read)?);
        let mut collector = Collector::default();
        let mut written: BTreeSet<tree::Path> = BTreeSet::new();
        read::entries(&mut source, |item, bytes| {
            // As the layer's index was made: what is at a place in the end is what came there last.
            let Some(place) = collector.take(item)? else { return Ok(()) };
            if let Some(path) = wanted.get(&place).and_then(|paths| paths.first()) {
                self.file(path, bytes)?;
                written.insert(place);
            }
            Ok(())
        })?;
        match source.finish().map_err(Error::Read)? {
            got if got == layer.0 => {}
            got => return Err(Error::Mismatch { expected: layer, got }),
        }
        for (place, paths) in wanted {
            let [first, links @ ..] = &paths[..] else { continue };
            if !written.contains(*place) {
                return Err(nowhere(first));
            }
            let at = self.target.join(os(first));
            let file = self.root.open_plain(os(first), OFlags::RDONLY | OFlags::NONBLOCK).at(&at)?;
            if let Some(entry) = tree.get(first) {
                attributes(&file, &at, entry, self.abilities)?;
            }
            for link in links {
                let (from, name) = (self.parent(first)?, os(tree::name(first)));
                let into = self.parent(link)?;
                linkat(&from, name, &into, os(tree::name(link)), AtFlags::empty()).at(self.target.join(os(link)))?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], bytes: &mut dyn Read) -> Result<(), Error> {
        let at = self.target.join(os(path));
        let parent = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || fs::openat(&parent, os(tree::name(path)), flags, Mode::from_raw_mode(0o600));
        let fd = match open() {
            Err(Errno::EXIST) => {
                self.remove(path)?;
                open().at(&at)?
            }
            result => result.at(&at)?,
        };
        let mut file = io::BufWriter::with_capacity(PIECE, File::from(fd));
        io::copy(bytes, &mut file).at(&at)?;
        io::Write::flush(&mut file).at(&at)
    }
}
