//! What can be wrong with a layer, or with the place it goes to.

use std::io;
use std::path::PathBuf;

use oci::{DiffId, Digest};

/// Why a layer could not be read, unpacked or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system, at a path.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer's bytes cannot be read.
    #[error("the layer cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The layer holds something that no layer may.
    #[error("the layer holds `{path}`, {problem}")]
    Hostile {
        /// The entry.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The bytes are not the layer that they should be.
    #[error("the layer is {got}, and the image's configuration says {expected}")]
    Mismatch {
        /// What it should be.
        expected: DiffId,
        /// What it is.
        got: Digest,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Says at which path an operation failed.
pub(crate) trait At<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.into(), source: source.into() })
    }
}

/// Bytes as people read them: not for long, and without what a terminal would obey.
pub(crate) fn show(path: &[u8]) -> String {
    const LONGEST: usize = 256;
    let text = String::from_utf8_lossy(&path[..path.len().min(LONGEST)]);
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if path.len() > LONGEST {
        shown.push_str("...");
    }
    shown
}
