//! Steps in place: the root of a container that is thrown away is laid out as the image, and what was there before stays.
//!
//! Nothing is deleted or written where something is mounted, where the build reads and keeps, or where the container has
//! something of its own. An image with files where something must stay is refused. At its end a build leaves the root as it found it, unless the container ends with it; what one that was killed has
//! left, the next one takes away.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci::tree::{self, Tree};
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
    /// What was there before the first build.
    own: BTreeSet<tree::Path>,
    /// In a name that no step knows beforehand.
    random: u64,
    _lock: File,
}

impl Place {
    /// Waits until no other build is at work here. `kept` are absolute paths.
    ///
    /// # Errors
    /// When the root cannot be written or read.
    pub(super) fn open(kept: &[PathBuf]) -> io::Result<Self> {
        let state = Path::new(STATE);
        match fs::DirBuilder::new().mode(0o700).create(state) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
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
        let mut place = Self { kept: all, given, own: BTreeSet::new(), random: u64::from_ne_bytes(bytes), _lock: lock };
        match fs::read(&record) {
            Ok(text) => place.own = text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                place.note(&tree::Path::new())?;
                let text: Vec<&[u8]> = place.own.iter().map(Vec::as_slice).collect();
                let mut file = File::create(state.join("own.new"))?;
                file.write_all(&text.join(&0))?;
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
            if entry.file_type()?.is_dir() {
                self.note(&path)?;
            }
            self.own.insert(path);
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
        for (path, entry) in image.iter() {
            let is_dir = entry.is_dir();
            if !self.is_free(path, is_dir)? {
                continue;
            }
            if self.own.contains(path) && !(is_dir && fs::symlink_metadata(at(path)).is_ok_and(|there| there.is_dir()))
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
        let is_its =
            |path: &[u8], is_dir: bool| self.is_free(path, is_dir) == Ok(true) && (is_dir || !self.own.contains(path));
        for (path, entry) in image.iter().filter(|(path, entry)| is_its(path, entry.is_dir())) {
            laid_out.insert(path.clone(), entry.clone());
        }
        laid_out
    }

    /// Whether something is not an image's to take away.
    pub(super) fn stays(&self, path: &[u8]) -> bool {
        self.own.contains(path) || holds(&self.kept, path)
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
        let set = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let lock = File::open("/dev/null").expect("it is there");
        Place { kept: set(&[kept, given].concat()), given: set(given), own: set(own), random: 0, _lock: lock }
    }

    #[test]
    fn what_must_stay_is_in_nobodys_way_but_its_own() {
        let place = place(&["proc", "tmp", "etc/hosts"], &["work/context"], &[]);
        assert_eq!(place.is_free(b"usr/bin/x", false), Ok(true));
        assert_eq!(place.is_free(b"proc", true), Ok(false));
        assert_eq!(place.is_free(b"proc/x", false), Ok(false));
        assert_eq!(place.is_free(b"etc/hosts", false), Ok(false));
        assert_eq!(place.is_free(b"work", true), Ok(true));
        assert_eq!(place.is_free(b"tmp", true), Ok(false));
        assert!(place.is_free(b"tmp/x", true).is_err_and(|told| told.contains("/tmp:")));
        assert!(place.is_free(b"work/context", true).is_err_and(|told| told.contains("/work/context:")));
        assert!(place.is_free(b"work", false).is_err_and(|told| told.contains("/work:")));
        assert!(place.is_free(b"work/context/app", false).is_err_and(|told| told.contains("/work/context:")));
        assert_eq!(place.is_free(b"work/contexts", false), Ok(true));
    }

    #[test]
    fn what_was_there_or_holds_what_must_stay_is_not_taken_away() {
        let place = place(&[], &["work/context"], &["busybox", "busybox/sh"]);
        for (path, stays) in [("usr", false), ("work", true), ("busybox", true), ("work/other", false)] {
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
