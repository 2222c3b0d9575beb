//! What can go wrong on disk.

use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A blob is not what its name says.
    #[error("what was written is {got}, and should be {expected}")]
    Mismatch {
        /// What it should be.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// A document that cannot be read.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Says at which path an operation failed.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.to_owned(), source })
    }
}
