//! What a step has changed in a tree that it shared with nothing, by walking it before and after.
//!
//! Every change moves a file's ctime, which nobody can set (inode(7)), so an entry whose numbers are the same is the same.
//! Where only those numbers differ that say nothing of an entry (ctime, inode, links), its content decides. Nothing is
//! synced, watched or traced.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use oci::DiffId;
use oci::tree::{self, Entry, Kind, Time, Tree};

use crate::apply::os;
use crate::error::{At, Error};
use crate::index::Hashing;
use crate::write::LayerWriter;

/// The numbers of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    size: u64,
    device: u64,
    links: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: meta.size(),
            device: meta.rdev(),
            links: meta.nlink(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether what these numbers say of the entry itself is the same.
    fn looks_like(&self, other: &Self) -> bool {
        let own = |stamp: &Self| (stamp.mode, stamp.owner, stamp.device);
        let of_file = |stamp: &Self| (stamp.size, stamp.modified);
        own(self) == own(other) && (self.is_dir() || of_file(self) == of_file(other))
    }
}

/// A tree as it was at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    stamps: HashMap<tree::Path, Stamp>,
}

impl Snapshot {
    /// Looks at everything in `root`, but for what is at `left_out`, paths in it. What is mounted in it is left out as well.
    ///
    /// # Errors
    /// When something cannot be looked at.
    pub fn take(root: &Path, left_out: &BTreeSet<tree::Path>) -> Result<Self, Error> {
        let device = fs::symlink_metadata(root).at(root)?.dev();
        let queue = Queue::new();
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let walk = || -> Result<Vec<(tree::Path, Stamp)>, Error> {
            let mut found = Vec::new();
            while let Some(folder) = queue.next() {
                let at = root.join(os(&folder));
                let looked: Result<(), Error> = (|| {
                    for entry in fs::read_dir(&at).at(&at)? {
                        let entry = entry.at(&at)?;
                        let path = tree::join(&folder, &entry.file_name().into_vec());
                        // Of what vanishes meanwhile there is nothing to tell.
                        let Ok(meta) = entry.metadata() else { continue };
                        // The files of an overlay may bear the numbers of the file systems below it; its folders never do.
                        if meta.is_dir() && meta.dev() != device || left_out.contains(&path) {
                            continue;
                        }
                        if meta.is_dir() {
                            queue.add(path.clone());
                        }
                        found.push((path, Stamp::of(&meta)));
                    }
                    Ok(())
                })();
                queue.done();
                looked?;
            }
            Ok(found)
        };
        let parts: Vec<_> = std::thread::scope(|scope| {
            let walkers: Vec<_> = (0..threads).map(|_| scope.spawn(walk)).collect();
            walkers.into_iter().map(|walker| walker.join().unwrap_or_else(|_| Ok(Vec::new()))).collect()
        });
        let mut stamps = HashMap::new();
        for part in parts {
            stamps.extend(part?);
        }
        Ok(Self { stamps })
    }

    /// Waits until a change that comes now has another time than all that were seen: before Linux 6.13 ctime is counted in
    /// ticks, of which one lasts ten milliseconds at most.
    pub fn settle(&self) {
        let newest = self.stamps.values().map(|stamp| stamp.changed).max().unwrap_or_default();
        let clock = || {
            let now = sys::rustix::time::clock_gettime(sys::rustix::time::ClockId::RealtimeCoarse);
            (now.tv_sec, now.tv_nsec)
        };
        // A clock that is behind the file system's is not waited for.
        for _ in 0..20 {
            if clock() > newest {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Entries that were looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stamps.len()
    }

    /// Whether there was nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stamps.is_empty()
    }
}

/// Folders that are still to be looked at.
struct Queue {
    state: Mutex<(Vec<tree::Path>, usize)>,
    changed: Condvar,
}

impl Queue {
    fn new() -> Self {
        Self { state: Mutex::new((vec![tree::Path::new()], 0)), changed: Condvar::new() }
    }

    /// A folder, once there is one; none when all have been looked at.
    fn next(&self) -> Option<tree::Path> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(folder) = state.0.pop() {
                state.1 += 1;
                return Some(folder);
            }
            if state.1 == 0 {
                self.changed.notify_all();
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, folder: tree::Path) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.push(folder);
        self.changed.notify_one();
    }

    fn done(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 -= 1;
        if state.1 == 0 {
            self.changed.notify_all();
        }
    }
}

/// Writes what is in `root` otherwise than it was `before`, when it was `tree`, as a layer; gives it with the tree as it
/// is now.
///
/// # Errors
/// When the tree cannot be read or the layer not be written.
pub fn write(
    before: &Snapshot,
    tree: &Tree,
    root: &Path,
    left_out: &BTreeSet<tree::Path>,
    mut layer: LayerWriter,
) -> Result<(DiffId, Snapshot), Error> {
    let after = Snapshot::take(root, left_out)?;
    let mut changed: HashSet<&tree::Path> = HashSet::new();
    for (path, now) in &after.stamps {
        if is_changed(path, now, before.stamps.get(path), tree, root)? {
            changed.insert(path);
        }
    }
    // Names of one file stay together.
    let linked: HashSet<(u64, u64)> = changed
        .iter()
        .filter_map(|path| after.stamps.get(*path))
        .filter(|stamp| stamp.links > 1 && !stamp.is_dir())
        .map(|stamp| stamp.inode)
        .collect();
    changed.extend(after.stamps.iter().filter(|(_, stamp)| linked.contains(&stamp.inode)).map(|(path, _)| path));
    let gone = before.stamps.keys().filter(|path| {
        // What is none of the tree's, but of the place that it lies in, is nobody's loss.
        let is_gone = !after.stamps.contains_key(*path) && tree.get(path).is_some();
        // With the folder that it was in everything is gone; in what has taken the folder's place it never was.
        is_gone && (tree::parent(path).is_empty() || after.stamps.get(tree::parent(path)).is_some_and(Stamp::is_dir))
    });
    // Each folder on the way is in the layer.
    let mut wanted: BTreeMap<tree::Path, bool> = gone.map(|path| (path.clone(), true)).collect();
    wanted.extend(changed.into_iter().map(|path| (path.clone(), false)));
    for path in wanted.keys().cloned().collect::<Vec<_>>() {
        let mut parent = tree::parent(&path);
        while !parent.is_empty() && wanted.insert(parent.to_vec(), false).is_none() {
            parent = tree::parent(parent);
        }
    }
    let mut ordered: Vec<(tree::Path, bool)> = wanted.into_iter().collect();
    ordered.sort_by(|(one, _), (other, _)| tree::order(one, other));
    let mut links = BTreeMap::new();
    for (path, is_gone) in ordered {
        if is_gone {
            layer.add(&path, Entry { kind: Kind::Whiteout, ..Entry::dir(0o644, Time::default()) }, None)?;
            continue;
        }
        let at = root.join(os(&path));
        let meta = fs::symlink_metadata(&at).at(&at)?;
        if meta.file_type().is_socket() {
            continue;
        }
        let entry = Entry {
            kind: crate::diff::kind_of(&path, &at, &meta, false, &mut links)?,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: Time { seconds: meta.mtime(), nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0) },
            xattrs: content_attributes(&at)?,
        };
        match &entry.kind {
            Kind::File(file) if file.inode.path == path => {
                let mut body = File::open(&at).at(&at)?;
                layer.add(&path, entry, Some(&mut body))?;
            }
            _ => layer.add(&path, entry, None)?,
        }
    }
    Ok((layer.finish()?, after))
}

fn content_attributes(at: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let attributes = sys::xattr::list(at).at(at)?;
    Ok(attributes.into_iter().filter(|(name, _)| crate::diff::is_content(name)).collect())
}

/// Whether an entry is another than it was.
fn is_changed(path: &[u8], now: &Stamp, was: Option<&Stamp>, tree: &Tree, root: &Path) -> Result<bool, Error> {
    let Some(was) = was else { return Ok(true) };
    if now == was {
        return Ok(false);
    }
    let Some(known) = tree.get(path) else {
        // None of the tree's, but of the place that it lies in: nobody's business, unless something else has been written.
        let content = |stamp: &Stamp| (stamp.mode & 0o170_000, stamp.size, stamp.modified);
        return Ok(!now.is_dir() && content(now) != content(was));
    };
    if !now.looks_like(was) {
        return Ok(true);
    }
    let at = root.join(os(path));
    if content_attributes(&at)? != known.xattrs {
        return Ok(true);
    }
    match &known.kind {
        Kind::File(file) => {
            // Of a file with several names, the first one's entry tells.
            let first = tree.get(&file.inode.path).and_then(|first| match &first.kind {
                Kind::File(first) if first.inode == file.inode => first.digest,
                _ => None,
            });
            let Some(digest) = file.digest.or(first) else { return Ok(true) };
            let mut bytes = Hashing::new(File::open(&at).at(&at)?);
            io::copy(&mut bytes, &mut io::sink()).at(&at)?;
            Ok(bytes.finish().at(&at)? != digest)
        }
        Kind::Symlink(target) => Ok(fs::read_link(&at).at(&at)?.as_os_str().as_bytes() != target),
        _ => Ok(false),
    }
}
