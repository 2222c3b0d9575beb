//! Digests of a folder's files that have not been touched since they were read.
//!
//! A file is known by its inode, size and times, the time of its last change among them, which nobody can set (inode(7)).
//! File systems count time in steps: a file that was changed the moment before it was read could be changed again
//! without a trace, so what is that young is read again the next time.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::{Digest, tree};
use serde::{Deserialize, Serialize};
use store::Store;

/// The longest step in which a file system that is in use counts time (FAT's).
const STEP: Duration = Duration::from_secs(2);

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The files of a folder.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    known: HashMap<tree::Path, (Stamp, Digest)>,
    is_changed: bool,
}

/// What was read of a file.
pub(super) struct Read {
    pub(super) digest: Digest,
    /// None: it is too young to be known by it.
    stamp: Option<Stamp>,
}

impl Read {
    /// Of a file that was as `before` says when it was opened, at the time `now`.
    pub(super) fn new(digest: Digest, before: &Metadata, now: SystemTime) -> Self {
        let stamp = Stamp::of(before);
        let youngest = stamp.modified.max(stamp.changed);
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(STEP).as_secs();
        let is_settled = i64::try_from(seconds).is_ok_and(|seconds| youngest.0 < seconds);
        Self { digest, stamp: is_settled.then_some(stamp) }
    }
}

impl Stamps {
    /// What the store knows of a folder.
    pub(super) fn load(store: &Store, folder: &Path) -> Self {
        let known = store.read_stamps(folder).and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Self { known: known.unwrap_or_default(), is_changed: false }
    }

    /// The digest of a file, if it is as it was.
    pub(super) fn digest(&self, path: &[u8], meta: &Metadata) -> Option<Digest> {
        let (stamp, digest) = self.known.get(path)?;
        (meta.is_file() && *stamp == Stamp::of(meta)).then_some(*digest)
    }

    /// Notes what was read; gives its digest.
    pub(super) fn add(&mut self, path: tree::Path, read: &Read) -> Digest {
        let before = match read.stamp {
            Some(stamp) => self.known.insert(path, (stamp, read.digest)),
            None => self.known.remove(&path),
        };
        self.is_changed |= before != read.stamp.map(|stamp| (stamp, read.digest));
        read.digest
    }

    /// Keeps what has been learnt, and forgets files once most are none of those that are `used`. It is no harm if that
    /// fails: the files are read again.
    pub(super) fn save(&mut self, store: &Store, folder: &Path, used: &HashMap<tree::Path, Digest>) {
        if self.is_changed && self.known.len() > 2 * used.len() {
            self.known.retain(|path, _| used.contains_key(path));
        }
        if self.is_changed
            && let Ok(bytes) = postcard::to_stdvec(&self.known)
        {
            let _ = store.write_stamps(folder, &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn settled(folder: &Path, text: &str) -> Metadata {
        let path = folder.join("file");
        fs::write(&path, text).expect("a file");
        fs::metadata(path).expect("it")
    }

    #[test]
    fn a_file_is_known_until_it_is_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        let meta = settled(folder.path(), "one");
        let later = SystemTime::now() + Duration::from_secs(10);
        let mut stamps = Stamps::default();
        // Whoever reads it at once cannot know whether it will be changed in the same moment.
        stamps.add(b"file".to_vec(), &Read::new(Digest::of(b"one"), &meta, SystemTime::now()));
        assert_eq!(stamps.digest(b"file", &meta), None);
        stamps.add(b"file".to_vec(), &Read::new(Digest::of(b"one"), &meta, later));
        stamps.save(&store, folder.path(), &HashMap::from([(b"file".to_vec(), Digest::of(b"one"))]));
        let stamps = Stamps::load(&store, folder.path());
        assert_eq!(stamps.digest(b"file", &meta), Some(Digest::of(b"one")));
        assert_eq!(stamps.digest(b"other", &meta), None);
        // The same size and time of modification: the time of the change is another.
        std::thread::sleep(Duration::from_millis(20));
        let path = folder.path().join("file");
        fs::write(&path, "two").expect("a file");
        let times = fs::FileTimes::new().set_modified(meta.modified().expect("a time"));
        fs::File::options().write(true).open(&path).expect("it").set_times(times).expect("its time");
        let now = fs::metadata(&path).expect("it");
        assert_eq!((now.len(), now.modified().expect("a time")), (meta.len(), meta.modified().expect("a time")));
        assert_eq!(stamps.digest(b"file", &now), None);
    }
}
