//! Blobs, by the digest of their bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use oci::{Digest, Hasher};

use crate::error::{At, Error};
use crate::layout::Store;
use crate::scratch::Scratch;

/// A blob being written. It is in the store once it is committed, and never was if it is not.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    scratch: Scratch,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Store {
    /// Whether a blob is there.
    #[must_use]
    pub fn has_blob(&self, digest: Digest) -> bool {
        self.blob(digest).exists()
    }

    /// A small blob's bytes.
    ///
    /// # Errors
    /// When it is not there, or not what its name says.
    pub fn read_blob(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).at(&path)?;
        match Digest::of(&bytes) {
            got if got == digest => {
                self.touch(&path);
                Ok(bytes)
            }
            got => Err(Error::Mismatch { expected: digest, got }),
        }
    }

    /// Writes a small blob.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if !self.has_blob(digest) {
            self.replace(&self.blob(digest), bytes)?;
        }
        Ok(digest)
    }

    /// Starts to write a blob of unknown digest.
    ///
    /// # Errors
    /// When there is no room.
    pub fn blob_writer(&self) -> Result<BlobWriter, Error> {
        let scratch = self.scratch_folder()?;
        let path = scratch.path().join("blob");
        let file = File::create_new(&path).at(&path)?;
        Ok(BlobWriter { store: self.clone(), scratch, file, hasher: Hasher::default(), size: 0 })
    }
}

impl BlobWriter {
    /// Forgets what was written: the source has started anew.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn restart(&mut self) -> Result<(), Error> {
        use std::io::Seek;
        let path = self.path();
        self.file.set_len(0).and_then(|()| self.file.rewind()).at(&path)?;
        (self.hasher, self.size) = (Hasher::default(), 0);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("blob")
    }

    /// Puts the blob in its place; gives its digest and size.
    ///
    /// # Errors
    /// When it is not `expected`, or cannot be written out.
    pub fn commit(mut self, expected: Option<Digest>) -> Result<(Digest, u64), Error> {
        let path = self.path();
        self.file.flush().at(&path)?;
        let got = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = expected
            && expected != got
        {
            return Err(Error::Mismatch { expected, got });
        }
        let place = self.store.blob(got);
        if !place.exists() {
            // A name without its bytes after a power loss would be a corrupt blob.
            self.file.sync_data().at(&path)?;
            fs::rename(&path, &place).at(&place)?;
        }
        Ok((got, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
