//! What COPY and ADD make of trees: which entries of the sources go where.
//!
//! The rules are those of BuildKit's file operation: a directory is copied by its content; a destination that ends in a
//! slash, or is a directory, takes files by their names; links among the sources are followed, links within a copied
//! directory are copied; what is made on the way belongs to root or to `--chown`.

use std::collections::BTreeMap;
use std::sync::Arc;

use context::Context;
use context::pattern::{Matched, Matcher, Pattern, has_wildcard};
use oci::tree::{self, Entry, File, Inode, Kind, Path, Time, Tree};

use super::mode::Mode;
use super::owner::Owner;
use super::view::Origin;
use super::{Planned, View};

/// Something to copy from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// What is in it.
    pub(crate) tree: Arc<Tree>,
    /// Paths and patterns, in order.
    pub(crate) patterns: Vec<String>,
    /// Files that are archives, by path, and what is in them; unpacked instead of copied.
    pub(crate) archives: BTreeMap<Path, (usize, Arc<Context>)>,
    /// Which number its files' origins bear.
    pub(crate) number: usize,
}

/// How it is copied.
#[derive(Clone, Debug)]
pub(crate) struct How {
    /// Absolute; a trailing slash makes it a directory.
    pub(crate) destination: String,
    pub(crate) owner: Option<Owner>,
    pub(crate) mode: Option<Mode>,
    pub(crate) exclude: Matcher,
    pub(crate) parents: bool,
    /// For the directories that are made on the way.
    pub(crate) now: Time,
}

pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Plans the layer.
///
/// # Errors
/// In words, when a source is not there or the destination is in the way.
pub(crate) fn plan(sources: &[Source], how: &How, base: &Tree) -> Result<Vec<Planned>, String> {
    let mut view = View::new(base);
    let mut operation = 0;
    for source in sources {
        for pattern in &source.patterns {
            let mut copier = Copier { view: &mut view, how, source, operation, include: None };
            copier.pattern(pattern)?;
            operation = copier.operation;
        }
    }
    Ok(view.finish())
}

/// The paths of a source that a pattern means. A pattern without wildcards means itself, whether it is there or not.
pub(crate) fn matches(tree: &Tree, pattern: &str) -> Result<Vec<Path>, String> {
    let clean = tree::clean(pattern.as_bytes());
    if !has_wildcard(&clean) {
        return Ok(vec![unescape(&clean)]);
    }
    // The part in front of the first wildcard is a path, through whose links one goes.
    let parts: Vec<&[u8]> = clean.split(|byte| *byte == b'/').collect();
    let first = parts.iter().position(|part| has_wildcard(part)).unwrap_or(0);
    let folder = unescape(&parts[..first].join(&b'/'));
    let folder = tree.resolve(&folder).map_err(|error| error.to_string())?;
    if !folder.is_empty() && tree.get(&folder).is_none() {
        return Err(not_found(&folder));
    }
    let rest = Pattern::within(&parts[first..].join(&b'/')).map_err(|error| error.to_string())?;
    let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
    let mut found: Vec<Path> =
        tree.below(&folder).map(|(path, _)| path).filter(|path| rest.matches(&path[skip..])).cloned().collect();
    // As a walk meets them: what is in a folder before what comes after it.
    found.sort_by(|a, b| tree::order(a, b));
    // A match is copied whole, so nothing in it matches again.
    found.dedup_by(|path, last| path.starts_with(last) && path.get(last.len()) == Some(&b'/'));
    Ok(found)
}

/// A path as a pattern that means nothing else.
pub(crate) fn literally(path: &str) -> String {
    path.chars().flat_map(|c| if "*?[\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

/// A path with escape characters taken away.
fn unescape(path: &[u8]) -> Path {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        out.push(*if *byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    out
}

struct Copier<'c, 'v> {
    view: &'c mut View<'v>,
    how: &'c How,
    source: &'c Source,
    /// Names of one file stay together within one operation.
    operation: usize,
    /// `--parents`: only what matches is copied.
    include: Option<Matcher>,
}

impl Copier<'_, '_> {
    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        if !self.how.parents {
            for path in matches(&self.source.tree, pattern)? {
                self.one(&path, &self.how.destination.clone())?;
                self.operation += 1;
            }
            return Ok(());
        }
        // `a/./b`: the parents that are kept start behind the dot.
        let (pivot, rest) = pattern.split_once("/./").unwrap_or(("/", pattern));
        let rest = show(&tree::clean(rest.as_bytes()));
        for pivot_path in matches(&self.source.tree, pivot)? {
            let root = self.source.tree.resolve(&pivot_path).map_err(|error| error.to_string())?;
            if !has_wildcard(pivot.as_bytes()) && !has_wildcard(rest.as_bytes()) {
                let wanted = tree::join(&root, &unescape(rest.as_bytes()));
                if !rest.is_empty() && self.source.tree.get(&wanted).is_none() {
                    return Err(not_found(&wanted));
                }
            }
            if !rest.is_empty() {
                let matcher = Matcher::new([rest.as_str()]).map_err(|error| error.to_string())?;
                self.include = Some(matcher);
            }
            self.one(&pivot_path, &self.how.destination.clone())?;
            self.operation += 1;
        }
        Ok(())
    }

    fn owner(&self) -> Owner {
        self.how.owner.unwrap_or((0, 0))
    }

    fn make_dirs(&mut self, path: &[u8]) -> Result<(), String> {
        let (owner, now) = (self.owner(), self.how.now);
        // Clauses change what there is, and here is nothing yet; the special bits are for what is copied.
        let mode = match &self.how.mode {
            Some(Mode::Octal(bits)) => bits & 0o777,
            _ => 0o755,
        };
        self.view
            .make_dirs(path, mode, owner, now)
            .map_err(|at| format!("cannot copy to non-directory: /{}", show(&at)))
    }

    /// Copies one path of the source to the destination.
    fn one(&mut self, path: &[u8], destination: &str) -> Result<(), String> {
        let links = |error: tree::LinkLoop| error.to_string();
        let from = self.source.tree.resolve(path).map_err(links)?;
        let is_dir = self.source.tree.is_dir(&from);
        let entry = self.source.tree.get(&from);
        if entry.is_none() && !is_dir {
            return Err(not_found(path));
        }
        if let Some((number, archive)) = self.source.archives.get(&from).cloned() {
            return self.unpack(number, &archive, destination);
        }
        let last = destination.rsplit('/').next().unwrap_or_default();
        let ensured =
            if matches!(last, "" | ".") { destination } else { &destination[..destination.len() - last.len()] };
        let ensured = self.view.resolve(ensured.as_bytes()).map_err(links)?;
        self.make_dirs(&ensured)?;
        let mut target = self.view.resolve(destination.as_bytes()).map_err(links)?;
        if !is_dir && self.view.is_dir(&target) {
            target = tree::join(&target, tree::name(&tree::clean(path)));
        }
        let folder =
            if is_dir && self.view.get(&target).is_none() { target.clone() } else { tree::parent(&target).to_vec() };
        self.make_dirs(&folder)?;
        match entry.cloned() {
            Some(entry) if !is_dir => self.file(&entry, target),
            _ => {
                if !self.view.is_dir(&target) {
                    return Err(format!("cannot copy to non-directory: /{}", show(&target)));
                }
                let mut walk = Walk { pending: Vec::new() };
                let (excluded, included) = (Matched::default(), Matched::default());
                self.content(&from, &[], &target, &excluded, &included, self.include.is_none(), &mut walk)
            }
        }
    }

    fn attributes(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if let Some((uid, gid)) = self.how.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Some(mode) = &self.how.mode {
            entry.mode = mode.apply(&entry);
        }
        entry
    }

    fn file(&mut self, entry: &Entry, target: Path) -> Result<(), String> {
        if self.view.is_dir(&target) {
            return Err(format!("cannot replace to directory /{} with file", show(&target)));
        }
        if let Kind::File(File { inode, size, .. }) = &entry.kind {
            let inode = Inode { layer: inode.layer, path: inode.path.clone() };
            let origin = Origin { source: self.source.number, inode: inode.clone() };
            let link = Some((self.operation, inode));
            // An empty file has no bytes to be looked for.
            self.view.put(target, self.attributes(entry), Some(origin).filter(|_| *size > 0), link);
        } else {
            self.view.put(target, self.attributes(entry), None, None);
        }
        Ok(())
    }

    /// Copies what is in a folder of the source. `below` is where that folder is in what is copied, for patterns.
    #[expect(clippy::too_many_arguments, reason = "the state of a walk")]
    fn content(
        &mut self,
        from: &[u8],
        below: &[u8],
        target: &[u8],
        excluded: &Matched,
        included: &Matched,
        all: bool,
        walk: &mut Walk,
    ) -> Result<(), String> {
        let tree = self.source.tree.clone();
        for (name, entry) in tree.children(from) {
            let (child, place) = (tree::join(from, name), tree::join(target, name));
            let relative = tree::join(below, name);
            let (is_excluded, child_excluded) = self.how.exclude.matches(&relative, excluded);
            let (mut is_included, mut child_included) = (all, Matched::default());
            if let Some(include) = &self.include
                && !all
            {
                (is_included, child_included) = include.matches(&relative, included);
            }
            let is_dir = entry.is_dir();
            let wanted = is_included && !is_excluded;
            if !wanted && (!is_dir || is_excluded && !self.how.exclude.brings_back()) {
                continue;
            }
            if !is_dir {
                self.make_pending(walk)?;
                self.file(entry, place)?;
                continue;
            }
            if wanted {
                self.make_pending(walk)?;
                self.directory(entry, &place, true)?;
                let mut inner = Walk { pending: Vec::new() };
                self.content(&child, &relative, &place, &child_excluded, &child_included, is_included, &mut inner)?;
            } else {
                // Made once something in it is copied.
                walk.pending.push((place.clone(), entry.clone()));
                self.content(&child, &relative, &place, &child_excluded, &child_included, is_included, walk)?;
                walk.pending.pop_if(|(path, _)| *path == place);
            }
        }
        Ok(())
    }

    fn make_pending(&mut self, walk: &mut Walk) -> Result<(), String> {
        for (place, entry) in std::mem::take(&mut walk.pending) {
            self.directory(&entry, &place, false)?;
        }
        Ok(())
    }

    /// A folder of the source gives its attributes to the one in its place, or only its mode.
    fn directory(&mut self, entry: &Entry, place: &[u8], overwrite: bool) -> Result<(), String> {
        let there = self.view.is_dir(place);
        if !there && self.view.get(place).is_some() {
            return Err(format!("cannot copy to non-directory: /{}", show(place)));
        }
        let mut given = self.attributes(entry);
        if there && !overwrite {
            let mode = given.mode;
            given = self.view.get(place).cloned().unwrap_or(given);
            given.mode = mode;
        }
        self.view.put(place.to_vec(), given, None, None);
        Ok(())
    }

    /// Puts what an archive holds into the destination, which is a directory whatever its name.
    fn unpack(&mut self, number: usize, archive: &Context, destination: &str) -> Result<(), String> {
        let links = |error: tree::LinkLoop| error.to_string();
        let in_the_way = |at: Path| format!("cannot unpack into /{}, which is no directory", show(&at));
        let root = self.view.resolve(destination.as_bytes()).map_err(links)?;
        let (owner, now) = (self.owner(), self.how.now);
        self.view.make_dirs(&root, 0o755, owner, now).map_err(in_the_way)?;
        let mut entries: Vec<(&Path, &Entry)> = archive.tree.iter().filter(|(path, _)| !path.is_empty()).collect();
        entries.sort_by(|(a, _), (b, _)| tree::order(a, b));
        for (path, entry) in entries {
            // What the archive does not mention is made where it is missing, and root's.
            if archive.implied.contains(path) {
                continue;
            }
            let full = tree::join(&root, path);
            let parent = self.view.resolve(tree::parent(&full)).map_err(links)?;
            self.view.make_dirs(&parent, 0o755, (0, 0), now).map_err(in_the_way)?;
            let place = tree::join(&parent, tree::name(&full));
            let mut entry = entry.clone();
            if let Some((uid, gid)) = self.how.owner {
                (entry.uid, entry.gid) = (uid, gid);
            }
            let (origin, link) = match &entry.kind {
                Kind::File(file) => (
                    Some(Origin { source: number, inode: file.inode.clone() }),
                    Some((self.operation, Inode { layer: None, path: [b"archive ", &file.inode.path[..]].concat() })),
                ),
                _ => (None, None),
            };
            self.view.put(place, entry, origin, link);
        }
        Ok(())
    }
}

/// Folders that are made only if something in them is copied.
struct Walk {
    pending: Vec<(Path, Entry)>,
}

fn not_found(path: &[u8]) -> String {
    format!("\"/{}\": not found", show(path))
}
