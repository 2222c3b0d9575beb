//! Half-made things: a folder for each process's work, held by a lock that ends with the process.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sys::rustix::fs::{FlockOperation, flock};

use crate::error::{At, Error};
use crate::layout::Store;

/// A folder for work; it and everything in it goes when this is dropped.
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
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(lock_of(&self.path));
    }
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

impl Store {
    /// Makes a folder for work in progress.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch_folder(&self) -> Result<Scratch, Error> {
        let path = self.scratch().join(fresh_name());
        // The lock comes first: a folder with no lock held is debris to others.
        let lock = fs::File::create(lock_of(&path)).at(&path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(std::io::Error::from).at(&path)?;
        fs::DirBuilder::new().mode(0o700).create(&path).at(&path)?;
        Ok(Scratch { path, _lock: lock })
    }

    /// Removes what processes have left that were killed. Mounts are in private namespaces and ended with them.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.scratch()) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some() {
                continue;
            }
            let lock = lock_of(&path);
            // The owner takes the lock before it makes the folder, so a folder whose lock is free has no owner.
            let Ok(file) = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&lock) else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && fs::remove_dir_all(&path).is_ok() {
                let _ = fs::remove_file(&lock);
            }
        }
    }

    /// Scratch folders whose owners are gone and that this process may not delete: a worker with more rights can.
    #[must_use]
    pub fn debris(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.scratch()) else {
            return Vec::new();
        };
        let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_none());
        let is_abandoned = |path: &PathBuf| {
            fs::File::open(lock_of(path))
                .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
        };
        folders.filter(is_abandoned).collect()
    }

    /// Puts `bytes` at `path` in one step.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let temporary = self.scratch().join(format!("{}.new", fresh_name()));
        let mut file = fs::File::create(&temporary).at(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.at(path)
    }
}
