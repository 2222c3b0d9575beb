//! What a step gave, under its cache key.

use std::fs;

use oci::DiffId;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::layout::Store;

/// What a step gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer.
    pub layer: DiffId,
    /// When it was made, RFC 3339: part of the image, so a hit gives the same.
    pub created: String,
    /// When it was made, seconds since 1970, for a policy's age.
    pub created_at: u64,
    /// What the step was, for people.
    pub name: String,
    /// Names and digests of what the key was made of.
    pub components: Vec<(String, oci::Digest)>,
}

impl Store {
    /// The record under a key. One that cannot be read is none.
    #[must_use]
    pub fn read_record(&self, key: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record(key)).ok()?).ok()
    }

    /// Keeps a record. The first under a key stays: a second build of the same step must not change the image of a
    /// third.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_record(&self, key: &str, record: &Record) -> Result<(), Error> {
        let path = self.record(key);
        let bytes = serde_json::to_vec(record)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
        self.replace(&path, &bytes)
    }
}
