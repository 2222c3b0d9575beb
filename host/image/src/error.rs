//! What can be wrong with an image, or with the place it is in.

use std::io;
use std::path::PathBuf;

/// Why an image could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The file system, at a path.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such image.
    #[error("{0} is not there")]
    NotFound(String),
    /// A document that makes no sense.
    #[error("{what} cannot be read: {reason}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A blob is not what its descriptor says.
    #[error("{what} is {got}, and should be {expected}")]
    Mismatch {
        /// Which.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Nothing in an index fits.
    #[error("{image} has nothing for {wanted}; it has {available}")]
    NoPlatform {
        /// Which.
        image: String,
        /// What was wanted.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A text that names no place.
    #[error("`{text}` is no place for an image: {reason}")]
    Location {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
}

/// Says at which path an operation failed.
pub(crate) trait At<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.into(), source })
    }
}
