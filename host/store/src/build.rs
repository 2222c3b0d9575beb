//! What the latest build of each project did, and what its steps took from contexts: for telling why a later one is not
//! found in the cache.

use std::fs;
use std::path::Path;

use oci::Digest;

use crate::error::{At, Error};
use crate::layout::Store;

impl Store {
    /// What the latest build of a project did, as `build` has written it.
    #[must_use]
    pub fn read_build(&self, project: &str) -> Option<Vec<u8>> {
        fs::read(self.build(project)).ok()
    }

    /// Keeps what a build did, in the place of the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_build(&self, project: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write_in_folder(&self.build(project), bytes)
    }

    /// Names and digests of what a key component stands for, as `build` has written them.
    #[must_use]
    pub fn read_listing(&self, component: Digest) -> Option<Vec<u8>> {
        fs::read(self.listing(component)).ok()
    }

    /// Whether a listing is there.
    #[must_use]
    pub fn has_listing(&self, component: Digest) -> bool {
        self.listing(component).exists()
    }

    /// Keeps a listing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_listing(&self, component: Digest, bytes: &[u8]) -> Result<(), Error> {
        self.write_in_folder(&self.listing(component), bytes)
    }

    /// Writes a file of a folder that stores of earlier versions do not have.
    pub(crate) fn write_in_folder(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at(folder)?;
        }
        self.replace(path, bytes)
    }
}
