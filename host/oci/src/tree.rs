//! File-system trees as layers describe them: what is where, without the bytes of files (image-spec, "layer").
//!
//! Paths are relative, without a leading or trailing slash; the root is the empty path. Names are bytes, as on Linux.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DiffId, Digest};

/// A path in a tree.
pub type Path = Vec<u8>;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content last changed.
    pub mtime: Time,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File(File),
    /// A directory.
    Dir {
        /// In a layer: it hides what the layers below have in it.
        opaque: bool,
    },
    /// A symbolic link, and where it points.
    Symlink(Vec<u8>),
    /// A character device, major and minor.
    Char(u32, u32),
    /// A block device, major and minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// In a layer: what the layers below have here is gone.
    Whiteout,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// In bytes.
    pub size: u64,
    /// Of its bytes, where they have been read.
    pub digest: Option<Digest>,
    /// Where its bytes are. Files of one inode are hard links of one another.
    pub inode: Inode,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Inode {
    /// The layer that holds it; none: the directory or archive that the tree was read from.
    pub layer: Option<DiffId>,
    /// Where it is there.
    pub path: Path,
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Below a second.
    pub nanoseconds: u32,
}

/// The entries of one layer, sorted by path: what the layer changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Sorted by path; a parent comes before what is in it.
    pub entries: Vec<(Path, Entry)>,
}

/// A whole tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<Path, Entry>,
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many levels of symbolic links, or too long a path, at {}", shown(.0))]
pub struct LinkLoop(pub Path);

/// As much of a path as a person reads.
fn shown(path: &[u8]) -> String {
    let cut = path.len().min(200);
    format!("/{}", String::from_utf8_lossy(&path[..cut]).trim_start_matches('/'))
}

/// As many links as Linux follows in one path (path_resolution(7) says 40; container tools are more patient).
const MOST_LINKS: u32 = 255;
/// Linux takes no longer path. Links can make any length out of a few bytes.
const LONGEST_PATH: usize = 4096;
/// Names in a path and in the links on its way: some times as many as the longest path has.
const MOST_PARTS: usize = 10_000;

impl Entry {
    /// A directory of root's.
    #[must_use]
    pub fn dir(mode: u32, mtime: Time) -> Self {
        Self { kind: Kind::Dir { opaque: false }, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }
}

/// `parent/name`, or `name` in the root.
#[must_use]
pub fn join(parent: &[u8], name: &[u8]) -> Path {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The path of the directory that holds `path`; the root's own is the root.
#[must_use]
pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

/// The last component.
#[must_use]
pub fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..])
}

/// The order of paths in a layer: a directory, then what is in it, then what comes after it by name.
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.split(|byte| *byte == b'/').cmp(b.split(|byte| *byte == b'/'))
}

/// A path in normal form; `..` stops at the root.
#[must_use]
pub fn clean(path: &[u8]) -> Path {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

impl Tree {
    /// What is at a path; the root is there even when nothing says so.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Whether there is a directory at a path.
    #[must_use]
    pub fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.get(path).is_some_and(Entry::is_dir)
    }

    /// Puts an entry at a path. What was there is gone, with everything in it unless both are directories.
    pub fn insert(&mut self, path: Path, entry: Entry) {
        if !(entry.is_dir() && self.is_dir(&path)) {
            self.remove(&path);
        }
        self.entries.insert(path, entry);
    }

    /// Gives everything this time.
    pub fn set_times(&mut self, time: Time) {
        self.entries.values_mut().for_each(|entry| entry.mtime = time);
    }

    /// Takes a path away, and everything in it.
    pub fn remove(&mut self, path: &[u8]) {
        let gone: Vec<Path> = self.below(path).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.entries.remove(&path);
        }
        self.entries.remove(path);
    }

    /// Everything in a directory, at any depth, parents first.
    pub fn below<'t>(&'t self, path: &[u8]) -> impl Iterator<Item = (&'t Path, &'t Entry)> {
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let start = prefix.clone();
        self.entries
            .range(start..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| !path.is_empty())
    }

    /// What is directly in a directory, sorted by name.
    pub fn children<'t>(&'t self, path: &'t [u8]) -> impl Iterator<Item = (&'t [u8], &'t Entry)> {
        let skip = if path.is_empty() { 0 } else { path.len() + 1 };
        self.below(path).filter(move |(p, _)| !p[skip..].contains(&b'/')).map(move |(p, e)| (&p[skip..], e))
    }

    /// All entries, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter()
    }

    /// Puts a layer on top: its whiteouts take away, its entries are added.
    pub fn apply(&mut self, layer: &Layer, id: DiffId) {
        // Whiteouts mean what the layers below have, never what this one brings.
        for (path, entry) in &layer.entries {
            match entry.kind {
                Kind::Whiteout => self.remove(path),
                Kind::Dir { opaque: true } => {
                    let gone: Vec<Path> = self.below(path).map(|(path, _)| path.clone()).collect();
                    gone.iter().for_each(|path| {
                        self.entries.remove(path);
                    });
                }
                _ => {}
            }
        }
        for (path, entry) in &layer.entries {
            self.make_parents(path);
            let mut entry = entry.clone();
            match &mut entry.kind {
                Kind::Whiteout => continue,
                Kind::Dir { opaque } => *opaque = false,
                Kind::File(file) if file.inode.layer.is_none() => file.inode.layer = Some(id),
                _ => {}
            }
            self.insert(path.clone(), entry);
        }
    }

    /// Folders that a layer passes through without telling of them: whoever unpacks it makes them, also in the place of
    /// a link or file of a layer below.
    fn make_parents(&mut self, path: &[u8]) {
        let mut missing = Vec::new();
        let mut parent = parent(path);
        while !self.is_dir(parent) {
            missing.push(parent.to_vec());
            parent = self::parent(parent);
        }
        for path in missing.into_iter().rev() {
            self.insert(path, Entry::dir(0o755, Time::default()));
        }
    }

    /// Where a path leads for a process whose root this is: symbolic links followed, `..` stopping at the root.
    /// Components that are not there stay as they are.
    ///
    /// # Errors
    /// When links lead in a circle.
    pub fn resolve(&self, path: &[u8]) -> Result<Path, LinkLoop> {
        resolve(path, |path| self.get(path))
    }

    /// As [`Self::resolve`], but the last component stays even when it is a link.
    ///
    /// # Errors
    /// When links lead in a circle.
    pub fn resolve_parent(&self, path: &[u8]) -> Result<Path, LinkLoop> {
        let path = clean(path);
        if path.is_empty() {
            return Ok(path);
        }
        Ok(join(&self.resolve(parent(&path))?, name(&path)))
    }
}

/// Where a path leads in whatever `look_up` shows, as [`Tree::resolve`] says.
///
/// # Errors
/// When links lead in a circle.
pub fn resolve<'e>(path: &[u8], look_up: impl Fn(&[u8]) -> Option<&'e Entry>) -> Result<Path, LinkLoop> {
    let mut done: Path = Vec::new();
    let mut rest: Vec<Vec<u8>> = split(path);
    let (mut links, mut parts) = (0, rest.len());
    while let Some(part) = rest.pop() {
        if part == b".." {
            done.truncate(parent(&done).len());
            continue;
        }
        let above = done.len();
        if above > 0 {
            done.push(b'/');
        }
        done.extend_from_slice(&part);
        if done.len() > LONGEST_PATH {
            return Err(LinkLoop(path.to_vec()));
        }
        let Some(Entry { kind: Kind::Symlink(target), .. }) = look_up(&done) else {
            continue;
        };
        done.truncate(if target.starts_with(b"/") { 0 } else { above });
        let target = split(target);
        links += 1;
        parts += target.len();
        if links > MOST_LINKS || parts > MOST_PARTS {
            return Err(LinkLoop(path.to_vec()));
        }
        rest.extend(target);
    }
    Ok(done)
}

/// The components of a path, last first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.rev().map(<[u8]>::to_vec).collect()
}

impl FromIterator<(Path, Entry)> for Tree {
    fn from_iter<I: IntoIterator<Item = (Path, Entry)>>(entries: I) -> Self {
        let mut tree = Self::default();
        entries.into_iter().for_each(|(path, entry)| tree.insert(path, entry));
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(target: &str) -> Entry {
        Entry { kind: Kind::Symlink(target.into()), ..Entry::dir(0o777, Time::default()) }
    }

    fn dir() -> Entry {
        Entry::dir(0o755, Time::default())
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        entries.iter().map(|(path, entry)| (path.as_bytes().to_vec(), entry.clone())).collect()
    }

    #[test]
    fn links_stay_inside() {
        let tree = tree(&[
            ("a", dir()),
            ("a/up", link("../../../b")),
            ("abs", link("/a")),
            ("loop", link("loop")),
            ("b", dir()),
        ]);
        let resolve = |path: &str| tree.resolve(path.as_bytes()).map(|p| String::from_utf8_lossy(&p).into_owned());
        assert_eq!(resolve("/abs/up/x"), Ok("b/x".into()));
        assert_eq!(resolve("../../a/./up"), Ok("b".into()));
        assert_eq!(resolve("new/dir"), Ok("new/dir".into()));
        assert!(resolve("loop/x").is_err());
        assert_eq!(tree.resolve_parent(b"abs/up"), Ok(b"a/up".to_vec()));
    }

    #[test]
    fn links_that_multiply_are_followed_for_a_short_while() {
        for parts in ["x/", "x/../"] {
            let target = |next: usize| format!("/l{next}/{}", parts.repeat(4000 / parts.len()));
            let links = (0..250).map(|at| (format!("l{at}").into_bytes(), link(&target(at + 1))));
            let tree: Tree = links.collect();
            assert!((0..100).all(|_| tree.resolve(b"l0").is_err()), "{parts}");
        }
    }

    #[test]
    fn a_layer_hides_what_is_below_and_not_its_own() {
        let mut lower = tree(&[("d", dir()), ("d/old", link("x")), ("gone", dir()), ("gone/x", link("x"))]);
        let whiteout = Entry { kind: Kind::Whiteout, ..dir() };
        let opaque = Entry { kind: Kind::Dir { opaque: true }, ..dir() };
        let layer = Layer {
            entries: vec![(b"d".to_vec(), opaque), (b"d/new".to_vec(), link("y")), (b"gone".to_vec(), whiteout)],
        };
        lower.apply(&layer, DiffId(Digest::of(b"layer")));
        let paths: Vec<_> = lower.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(paths, ["d", "d/new"]);
    }

    #[test]
    fn what_is_in_a_directory_follows_it() {
        let mut paths: Vec<&[u8]> = vec![b"a-b", b"a/c", b"a", b"a.d", b"a/b/c", b"a/b"];
        paths.sort_by(|a, b| order(a, b));
        let expected: [&[u8]; 6] = [b"a", b"a/b", b"a/b/c", b"a/c", b"a-b", b"a.d"];
        assert_eq!(paths, expected);
    }

    #[test]
    fn children_are_direct_and_names_do_not_run_together() {
        let tree = tree(&[("a", dir()), ("a/b", dir()), ("a/b/c", dir()), ("a-b", dir())]);
        assert_eq!(tree.children(b"a").map(|(name, _)| name).collect::<Vec<_>>(), [b"b"]);
        assert_eq!(tree.children(b"").count(), 2);
        assert_eq!(tree.below(b"a").count(), 2);
    }
}
