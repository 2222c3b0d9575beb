//! Steps in place: the root of a container that is thrown away is laid out as the image, and what was there before stays.
//!
//! Nothing is deleted or written where something is mounted, where the build reads and keeps, or where the container has
//! something of its own. An image with files where something must stay is refused. At its end a build leaves the root as it found it, unless the container ends with it; what one that was killed has
//! left, the next one takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci::tree::{self, Tree};
use snapshot::walk::Snapshot;
use sys::rustix::fs::{FlockOperation, flock};
use sys::rustix::rand::{GetRandomFlags, getrandom};

/// The state that must go with the container: what it had of its own, and who is at work.
const STATE: &str = "/.plywood";
/// What the container had when the first step came; not there when nothing of an image is.
const RECORD: &str = "own";
/// Places that every engine fills, and that no image can.
const ENGINES: [&[u8]; 7] = [b"proc", b"sys", b"dev", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf", b".dockerenv"];

/// The root directory of this place, for one build.
#[derive(Debug)]
pub(super) struct Place {
    /// What must stay as it is, with all that is in it.
    kept: BTreeSet<tree::Path>,
    /// Of that, what the build reads and keeps.
    given: BTreeSet<tree::Path>,
    /// What was there before the first build; of folders, with mode, user and group.
    own: BTreeMap<tree::Path, Option<[u32; 3]>>,
    /// The folders of the build's contexts.
    read: Vec<PathBuf>,
    /// In a name that no step knows beforehand.
    random: u64,
    _lock: File,
}

impl Place {
    /// Waits until no other build is at work here. `kept` are absolute paths, and so are the folders that the build has `read`.
    ///
    /// # Errors
    /// When the root cannot be written or read.
    pub(super) fn open(kept: &[PathBuf], read: &[PathBuf]) -> io::Result<Self> {
        let state = Path::new(STATE);
        match fs::DirBuilder::new().mode(0o700).create(state) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let meta = fs::symlink_metadata(state)?;
        if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o077 != 0 {
            return Err(io::Error::other(format!("{STATE} is not this program's; take it away")));
        }
        let lock = File::options().create(true).append(true).open(state.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        // What builds have left that were ended.
        for entry in fs::read_dir(state)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                sys::remove::folder(&entry.path())?;
            }
        }
        let mut given: BTreeSet<tree::Path> = BTreeSet::new();
        for path in kept.iter().map(PathBuf::as_path).chain([state]) {
            // Where links lead as well: the image may have another link of that name.
            let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            given.extend([path, &real].map(|path| tree::clean(path.as_os_str().as_bytes())));
        }
        let mut all: BTreeSet<tree::Path> = mounts(&fs::read("/proc/self/mountinfo")?);
        all.extend(ENGINES.map(<[u8]>::to_vec));
        all.extend(given.iter().cloned());
        all.remove(&tree::Path::new());
        let record = state.join(RECORD);
        let mut bytes = [0; 8];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let mut place = Self {
            kept: all,
            given,
            own: BTreeMap::new(),
            read: read.to_vec(),
            random: u64::from_ne_bytes(bytes),
            _lock: lock,
        };
        match fs::read(&record) {
            Ok(text) => place.own = postcard::from_bytes(&text).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let root = fs::symlink_metadata("/")?;
                place.own.insert(tree::Path::new(), Some([root.mode() & 0o7777, root.uid(), root.gid()]));
                place.note(&tree::Path::new())?;
                let mut file = File::create(state.join("own.new"))?;
                file.write_all(&postcard::to_stdvec(&place.own).map_err(io::Error::other)?)?;
                fs::rename(state.join("own.new"), record)?;
            }
            Err(error) => return Err(error),
        }
        Ok(place)
    }

    /// Whether the root can be written and its entries given away, without changing it.
    ///
    /// # Errors
    /// As access(2).
    pub(super) fn probe() -> io::Result<()> {
        use sys::rustix::fs::{Access, access};
        Ok(access("/", Access::WRITE_OK)?)
    }

    /// A folder for what is to come back, on the root's file system.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn aside(&self) -> io::Result<PathBuf> {
        let aside = Path::new(STATE).join(format!("{:x}", self.random));
        match fs::DirBuilder::new().mode(0o700).create(&aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(aside),
        }
    }

    /// What a snapshot leaves out.
    pub(super) fn kept(&self) -> &BTreeSet<tree::Path> {
        &self.kept
    }

    /// Notes what is in a folder.
    fn note(&mut self, folder: &tree::Path) -> io::Result<()> {
        for entry in fs::read_dir(at(folder))? {
            let entry = entry?;
            let path = tree::join(folder, &entry.file_name().into_vec());
            if self.kept.contains(&path) {
                continue;
            }
            let meta = entry.metadata()?;
            if meta.is_dir() {
                self.note(&path)?;
            }
            self.own.insert(path, meta.is_dir().then(|| [meta.mode() & 0o7777, meta.uid(), meta.gid()]));
        }
        Ok(())
    }

    /// Takes away what an earlier image has left.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.clear_folder(&tree::Path::new(), fs::symlink_metadata("/")?.dev())
    }

    fn clear_folder(&self, folder: &tree::Path, device: u64) -> io::Result<()> {
        for entry in fs::read_dir(at(folder))? {
            let entry = entry?;
            let path = tree::join(folder, &entry.file_name().into_vec());
            if self.kept.contains(&path) {
                continue;
            }
            match (self.stays(&path), entry.file_type()?.is_dir()) {
                (true, true) => self.clear_folder(&path, device)?,
                (true, false) => {}
                (false, false) => fs::remove_file(entry.path())?,
                // Whatever the table of mounts did not tell.
                (false, true) if entry.metadata()?.dev() != device => {}
                (false, true) => sys::remove::folder(&entry.path())?,
            }
        }
        Ok(())
    }

    /// What of an image can be laid out here.
    ///
    /// # Errors
    /// In words, when it has something where something else must stay.
    pub(super) fn visible(&self, image: &Tree) -> Result<Tree, String> {
        let mut visible = Tree::default();
        // The root itself stays as it is: who may write to it may move what must stay.
        for (path, entry) in image.iter().filter(|(path, _)| !path.is_empty()) {
            let is_dir = entry.is_dir();
            if !self.is_free(path, is_dir)? {
                continue;
            }
            if self.own.contains_key(path)
                && !(is_dir && fs::symlink_metadata(at(path)).is_ok_and(|there| there.is_dir()))
            {
                return Err(in_the_way(path));
            }
            visible.insert(path.clone(), entry.clone());
        }
        Ok(visible)
    }

    /// What of an image that has been laid out here is its own.
    pub(super) fn laid_out(&self, image: &Tree) -> Tree {
        let mut laid_out = Tree::default();
        let is_its = |path: &[u8], is_dir: bool| {
            self.is_free(path, is_dir) == Ok(true) && (is_dir || !self.own.contains_key(path))
        };
        for (path, entry) in image.iter().filter(|(path, entry)| is_its(path, entry.is_dir())) {
            laid_out.insert(path.clone(), entry.clone());
        }
        laid_out
    }

    /// Gives the container's own folders their modes and owners back, but for those that the image has as well.
    ///
    /// # Errors
    /// As chmod(2) and chown(2).
    pub(super) fn give_back(&self, image: &Tree) -> io::Result<()> {
        self.own.keys().filter(|path| image.get(path).is_none()).try_for_each(|path| self.give_one_back(path))
    }

    /// The same for the root: who may write to it may move what must stay.
    ///
    /// # Errors
    /// As [`Self::give_back`].
    pub(super) fn take_root(&self) -> io::Result<()> {
        self.give_one_back(&[])
    }

    fn give_one_back(&self, path: &[u8]) -> io::Result<()> {
        let Some(Some(attributes @ [mode, uid, gid])) = self.own.get(path) else { return Ok(()) };
        let at = at(path);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() && [meta.mode() & 0o7777, meta.uid(), meta.gid()] != *attributes => {
                std::os::unix::fs::lchown(&at, Some(*uid), Some(*gid))?;
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode))
            }
            _ => Ok(()),
        }
    }

    /// How what the build reads is now, to be compared with how it is after a step.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn watch(&self) -> Result<Vec<(PathBuf, Snapshot)>, snapshot::Error> {
        let folders = self.read.iter().filter(|folder| folder.is_dir());
        let watch = |folder: &PathBuf| {
            // But for what the build itself writes there.
            let prefix = [&tree::clean(folder.as_os_str().as_bytes())[..], b"/"].concat();
            let left_out =
                self.kept.iter().filter_map(|path| path.strip_prefix(&prefix[..]).map(<[u8]>::to_vec)).collect();
            Ok((folder.clone(), Snapshot::take(folder, &left_out)?))
        };
        folders.map(watch).collect()
    }

    /// What a step has written to the folders that the build reads is in no image.
    ///
    /// # Errors
    /// In words, when it has.
    pub(super) fn is_as(&self, watched: &[(PathBuf, Snapshot)]) -> Result<(), String> {
        let now = self.watch().map_err(|error| error.to_string())?;
        match watched.iter().zip(&now).find(|(before, after)| before != after) {
            Some(((folder, _), _)) => Err(format!(
                "in place, the command has changed {}, which is the build context: nothing of that can be in the image; put \
                 the context elsewhere, or give --isolation=chroot",
                folder.display()
            )),
            None => Ok(()),
        }
    }

    /// Whether something can be put to a path for a step and taken away again.
    ///
    /// # Errors
    /// In words, when something must stay there, above it or below it.
    pub(super) fn can_cover(&self, target: &str) -> Result<(), String> {
        let root = sys::Root::open(Path::new("/")).map_err(|error| format!("/: {error}"))?;
        let place = root.resolve(Path::new(target)).map_err(|error| format!("{target}: {error}"))?;
        let path = tree::clean(place.as_os_str().as_bytes());
        match ancestors(&path).any(|path| self.kept.contains(path)) || holds(&self.kept, &path) || path.is_empty() {
            true => Err(in_the_way(&path)),
            false => Ok(()),
        }
    }

    /// Whether something is not an image's to take away.
    pub(super) fn stays(&self, path: &[u8]) -> bool {
        self.own.contains_key(path) || holds(&self.kept, path)
    }

    /// The root is as it was found: what is there from now on is the container's own.
    pub(super) fn forget(&self) {
        // Should it stay, what comes meanwhile is taken for an image's.
        let _ = fs::remove_file(Path::new(STATE).join(RECORD));
    }

    fn is_free(&self, path: &[u8], is_dir: bool) -> Result<bool, String> {
        let Some(kept) = ancestors(path).find(|path| self.kept.contains(*path)) else {
            return match !is_dir && holds(&self.kept, path) {
                true => Err(in_the_way(path)),
                false => Ok(true),
            };
        };
        // A folder to mount on is no loss, unless steps may work in it.
        let is_given = ancestors(path).any(|path| self.given.contains(path));
        match ENGINES.contains(&kept) || is_dir && kept == path && !is_given {
            true => Ok(false),
            false => Err(in_the_way(kept)),
        }
    }
}

fn in_the_way(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    format!(
        "in place, the image cannot have its own /{path}: this container has something there, or the build reads or keeps \
         something there; put it elsewhere, use Plywood's own image, or give --isolation=chroot"
    )
}

fn at(path: &[u8]) -> PathBuf {
    Path::new("/").join(Path::new(std::ffi::OsStr::from_bytes(path)))
}

/// Whether one of `paths` is below `path`.
fn holds(paths: &BTreeSet<tree::Path>, path: &[u8]) -> bool {
    if path.is_empty() {
        return true;
    }
    let below = [path, b"/"].concat();
    paths.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
}

/// A path and the folders it is in, but for the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| Some(tree::parent(path))).take_while(|path| !path.is_empty())
}

/// Where something is mounted, by /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn mounts(table: &[u8]) -> BTreeSet<tree::Path> {
    let place = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescaped).map(|path| tree::clean(&path));
    table.split(|byte| *byte == b'\n').filter_map(place).collect()
}

/// Spaces and the like are three octal digits there.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let octal =
            (*first == b'\\').then(|| after.get(..3)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[3..]).0,
            None => (bytes.push(*first), rest = after).0,
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kept: &[&str], given: &[&str], own: &[&str]) -> Place {
        let set = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect::<BTreeSet<_>>();
        let own = set(own).into_iter().map(|path| (path, None)).collect();
        let lock = File::open("/dev/null").expect("it is there");
        Place { kept: set(&[kept, given].concat()), given: set(given), own, read: Vec::new(), random: 0, _lock: lock }
    }

    #[test]
    fn what_must_stay_is_in_nobodys_way_but_its_own() {
        let place = place(&["proc", "tmp", "etc/hosts"], &["data/context"], &[]);
        assert_eq!(place.is_free(b"usr/bin/x", false), Ok(true));
        assert_eq!(place.is_free(b"proc", true), Ok(false));
        assert_eq!(place.is_free(b"proc/x", false), Ok(false));
        assert_eq!(place.is_free(b"etc/hosts", false), Ok(false));
        assert_eq!(place.is_free(b"data", true), Ok(true));
        assert_eq!(place.is_free(b"tmp", true), Ok(false));
        assert!(place.is_free(b"tmp/x", true).is_err_and(|told| told.contains("/tmp:")));
        assert!(place.is_free(b"data/context", true).is_err_and(|told| told.contains("/data/context:")));
        assert!(place.is_free(b"data", false).is_err_and(|told| told.contains("/data:")));
        assert!(place.is_free(b"data/context/app", false).is_err_and(|told| told.contains("/data/context:")));
        assert_eq!(place.is_free(b"data/contexts", false), Ok(true));
    }

    #[test]
    fn what_was_there_or_holds_what_must_stay_is_not_taken_away() {
        let place = place(&[], &["data/context"], &["busybox", "busybox/sh"]);
        for (path, stays) in [("usr", false), ("data", true), ("busybox", true), ("data/other", false)] {
            assert_eq!(place.stays(path.as_bytes()), stays, "{path}");
        }
    }

    #[test]
    fn the_table_of_mounts_is_read() {
        let table = b"22 1 0:21 / /a\\040b/c rw - tmpfs x rw\n23 1 0:22 / / rw - overlay x rw\n";
        let found: Vec<_> = mounts(table).into_iter().map(|path| String::from_utf8_lossy(&path).into_owned()).collect();
        assert_eq!(found, ["", "a b/c"]);
    }
}
