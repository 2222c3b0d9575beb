//! Locks between processes; they end with the process that holds them (flock(2)).

use std::fs::File;

use sys::rustix::fs::{FlockOperation, flock};
use sys::rustix::io::Errno;

use crate::error::{At, Error};
use crate::layout::Store;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Store {
    /// Waits until no one else holds the lock of this name. It blocks its thread.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        self.flock(name, FlockOperation::LockExclusive).map(Held::expect_held)
    }

    /// Takes the lock of this name if no one holds it.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>, Error> {
        self.flock(name, FlockOperation::NonBlockingLockExclusive)
    }

    pub(crate) fn flock(&self, name: &str, operation: FlockOperation) -> Result<Option<Lock>, Error> {
        let path = self.lock_file(name);
        let file = File::options().write(true).create(true).truncate(false).open(&path).at(&path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error)).at(&path),
            }
        }
    }
}

pub(crate) trait Held {
    fn expect_held(self) -> Lock;
}

impl Held for Option<Lock> {
    /// A blocking request never comes back without the lock.
    fn expect_held(self) -> Lock {
        self.unwrap_or_else(|| unreachable!("flock(2) without LOCK_NB waits"))
    }
}
