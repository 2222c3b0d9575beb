//! Half-made things: a folder for each process's work, held by a lock that ends with the process.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sys::rustix::fs::{FlockOperation, flock};

use crate::error::{At, Error};
use crate::layout::Store;

/// A folder for work; it and everything in it goes when this is dropped. The lock is on the folder itself.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: fs::File,
}

/// A name that was never used before and never will be: a sweeper may still be busy with one that was.
fn fresh_name() -> String {
    let mut bytes = [0u8; 12];
    match sys::rustix::rand::getrandom(&mut bytes, sys::rustix::rand::GetRandomFlags::empty()) {
        Ok(12) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        // Short of randomness: the process and a count are unique while the process lives.
        _ => format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a step has written as another user is its worker's to delete; what stays is swept later.
        let _ = sys::remove::folder(&self.path);
    }
}

/// Whether what is open is still what the path names.
fn is_at(file: &fs::File, path: &Path) -> bool {
    let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => inode(open) == inode(there),
        _ => false,
    }
}

impl Store {
    /// Makes a folder for work in progress.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch_folder(&self) -> Result<Scratch, Error> {
        loop {
            let path = self.scratch().join(fresh_name());
            fs::DirBuilder::new().mode(0o700).create(&path).at(&path)?;
            let Ok(lock) = fs::File::open(&path) else { continue };
            flock(&lock, FlockOperation::LockExclusive).map_err(std::io::Error::from).at(&path)?;
            // A sweeper that came between making and locking has taken it for debris: another one, then.
            if is_at(&lock, &path) {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    /// Removes what processes have left that were killed. Mounts are in private namespaces and ended with them.
    pub(crate) fn sweep(&self) {
        drop(self.debris());
    }

    /// Takes over the scratch folders whose owners are gone: they go when dropped. This process may not be able to delete
    /// all that is in them: a worker, with more rights, is.
    ///
    /// Each stays locked until it is gone. One that was let go of in between may be new, and its maker about to lock it.
    #[must_use]
    pub fn debris(&self) -> Vec<Scratch> {
        let Ok(entries) = fs::read_dir(self.scratch()) else { return Vec::new() };
        let abandoned = |entry: fs::DirEntry| {
            let path = entry.path();
            let lock = fs::File::open(&path).ok()?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(Scratch { path, _lock: lock })
        };
        entries.flatten().filter_map(abandoned).collect()
    }

    /// Puts `bytes` at `path` in one step.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        // One folder for all of a process's small files, so that what a kill leaves is swept like everything else.
        let folder = match self.aside.get() {
            Some(folder) => folder,
            None => {
                let made = self.scratch_folder()?;
                self.aside.get_or_init(|| made)
            }
        };
        let temporary = folder.path().join(fresh_name());
        let mut file = fs::File::create(&temporary).at(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.at(path)
    }
}
