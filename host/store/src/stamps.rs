//! What is known of the files of folders outside, so that what has not changed need not be read.

use std::path::Path;

use crate::error::Error;
use crate::layout::Store;

impl Store {
    /// The note on a folder; none where there is none.
    #[must_use]
    pub fn read_stamps(&self, folder: &Path) -> Option<Vec<u8>> {
        std::fs::read(self.stamps(folder)).ok()
    }

    /// Keeps a note on a folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_stamps(&self, folder: &Path, note: &[u8]) -> Result<(), Error> {
        self.write_in_folder(&self.stamps(folder), note)
    }
}
