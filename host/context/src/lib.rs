//! Build contexts: what is in them, as a tree whose files can be read where they are.
//!
//! A context is walked once. What the ignore rules leave out is not in the tree, so nothing can copy it.

pub mod archive;
mod error;
pub mod file;
pub mod git;
pub mod ignore;
mod local;
pub mod pattern;
pub mod web;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use oci::tree::{self, Tree};

pub use error::Error;
pub use local::local;

/// A build context.
#[derive(Debug, Default)]
pub struct Context {
    /// What is in it. Owners are root's; a file's inode is its path beneath `folder`.
    pub tree: Arc<Tree>,
    /// Where the bytes of files are.
    pub folder: PathBuf,
    /// When it was made, in seconds since 1970: a commit's time, what a server says, the newest file of an archive.
    pub made: Option<i64>,
    /// Folders that an archive holds something in and does not mention.
    pub implied: BTreeSet<tree::Path>,
    /// Deletes `folder` when the context came as an archive.
    unpacked: Option<tempfile::TempDir>,
}

impl Context {
    /// Whether its folder is there before and after: one of the user's.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.unpacked.is_none()
    }
}
