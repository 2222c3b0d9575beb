//! A layer being planned: what is below, and what has been put on it so far.

use std::collections::BTreeMap;

use oci::tree::{self, Entry, Inode, Kind, LinkLoop, Path, Time, Tree};

/// Where a planned file's bytes are: which source, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) source: usize,
    pub(crate) inode: Inode,
}

/// An entry of the planned layer.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) path: Path,
    pub(crate) entry: Entry,
    /// A file's bytes; none for a further name of a file.
    pub(crate) origin: Option<Origin>,
}

/// The destination of a copy.
pub(crate) struct View<'v> {
    base: &'v Tree,
    made: Tree,
    origins: BTreeMap<Path, Origin>,
    /// Files that are names of one another: a number for each copy operation's inodes.
    links: BTreeMap<Path, (usize, Inode)>,
}

impl<'v> View<'v> {
    pub(crate) fn new(base: &'v Tree) -> Self {
        Self { base, made: Tree::default(), origins: BTreeMap::new(), links: BTreeMap::new() }
    }

    /// What is at a path now.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.made.get(path).or_else(|| {
            let below = self.base.get(path)?;
            // Something that was put over a folder hides what was in it.
            let mut parent = tree::parent(path);
            while !parent.is_empty() {
                if self.made.get(parent).is_some_and(|entry| !entry.is_dir()) {
                    return None;
                }
                parent = tree::parent(parent);
            }
            Some(below)
        })
    }

    pub(crate) fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.get(path).is_some_and(Entry::is_dir)
    }

    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Path, LinkLoop> {
        tree::resolve(path, |path| self.get(path))
    }

    /// Puts an entry at a path.
    pub(crate) fn put(&mut self, path: Path, entry: Entry, origin: Option<Origin>, link: Option<(usize, Inode)>) {
        self.links.remove(&path);
        self.origins.remove(&path);
        self.links.extend(link.map(|link| (path.clone(), link)));
        self.origins.extend(origin.map(|origin| (path.clone(), origin)));
        self.made.insert(path, entry);
    }

    /// Makes a folder and the parents that it lacks; `Err` with what is in the way.
    pub(crate) fn make_dirs(&mut self, path: &[u8], mode: u32, owner: (u32, u32), time: Time) -> Result<(), Path> {
        if self.is_dir(path) {
            return Ok(());
        }
        // Linux takes no longer path, and no longer name.
        if path.len() > 4096 || tree::name(path).len() > 255 {
            return Err(path[..path.len().min(64)].to_vec());
        }
        if self.get(path).is_some() {
            return Err(path.to_vec());
        }
        self.make_dirs(tree::parent(path), mode, owner, time)?;
        let entry = Entry { uid: owner.0, gid: owner.1, ..Entry::dir(mode, time) };
        self.put(path.to_vec(), entry, None, None);
        Ok(())
    }

    /// The layer: what was put, and the folders below that it lies in, with what they have now. Without those, whoever
    /// unpacks the layer by itself would make them anew.
    pub(crate) fn finish(self) -> Vec<Planned> {
        let mut entries: BTreeMap<Path, Entry> = BTreeMap::new();
        for (path, entry) in self.made.iter() {
            entries.insert(path.clone(), entry.clone());
            let mut parent = tree::parent(path);
            while !parent.is_empty() && !entries.contains_key(parent) && self.made.get(parent).is_none() {
                if let Some(below) = self.base.get(parent) {
                    entries.insert(parent.to_vec(), below.clone());
                }
                parent = tree::parent(parent);
            }
        }
        // The first name of each file gets its bytes.
        let mut first: BTreeMap<(usize, Inode), Path> = BTreeMap::new();
        let mut planned = Vec::new();
        let mut entries: Vec<(Path, Entry)> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| tree::order(a, b));
        for (path, mut entry) in entries {
            let mut origin = self.origins.get(&path).cloned();
            if let Kind::File(file) = &mut entry.kind {
                let name = match self.links.get(&path) {
                    Some(link) => first.entry(link.clone()).or_insert_with(|| path.clone()).clone(),
                    None => path.clone(),
                };
                if name != path {
                    origin = None;
                }
                file.inode = Inode { layer: None, path: name };
            }
            planned.push(Planned { path, entry, origin });
        }
        planned
    }
}
