//! What servers have said of files on the web, so that what has not changed need not be fetched.

use crate::error::Error;
use crate::layout::Store;

impl Store {
    /// The note on an address; none where there is none.
    #[must_use]
    pub fn read_web(&self, address: &str) -> Option<Vec<u8>> {
        std::fs::read(self.web(address)).ok()
    }

    /// Keeps a note on an address.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_web(&self, address: &str, note: &[u8]) -> Result<(), Error> {
        self.write_in_folder(&self.web(address), note)
    }
}
