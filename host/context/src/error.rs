//! What can be wrong with a context.

use std::io;
use std::path::PathBuf;

/// Why a context cannot be used.
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
    /// Something that cannot be read as a file.
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
    /// A file that is longer than it may be.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// What it may have.
        limit: u64,
    },
    /// A file of the context that is none.
    #[error("{} leads out of the context", .0.display())]
    LeadsOut(PathBuf),
    /// The archive cannot be read.
    #[error("the context's archive cannot be read: {0}")]
    Archive(#[source] io::Error),
    /// An entry that would lie outside.
    #[error("the context's archive holds `{0}`, which leads outside of it")]
    Outside(String),
    /// A git repository.
    #[error("failed to fetch remote {remote}: {reason}")]
    Git {
        /// Without secrets.
        remote: String,
        /// What git said.
        reason: String,
    },
    /// A file on the web.
    #[error("{address}: {reason}")]
    Web {
        /// Without secrets.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// No answer from the web.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// An entry that no file system can hold.
    #[error("the context's archive holds `{0}`, which is no path or leads to none")]
    NoName(String),
    /// A pattern that makes no sense.
    #[error("`{pattern}` is no pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: &'static str,
    },
}
