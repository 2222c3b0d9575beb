//! What a step gave, under its cache key.

use std::fs;

use oci::{ChainId, DiffId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::layout::Store;

/// What a step gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer.
    pub layer: DiffId,
    /// The layers that it was made on; none where it depends on nothing below. On others it would be another layer: two
    /// executions of one step need not give the same.
    pub below: Option<ChainId>,
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

    /// The newest records, at most so many, the newest first.
    #[must_use]
    pub fn newest_records(&self, most: usize) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(self.records()) else { return Vec::new() };
        let time = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
        let mut files: Vec<_> = entries.flatten().filter_map(time).collect();
        files.sort_unstable_by(|one, other| other.cmp(one));
        let read = |(_, path): (_, std::path::PathBuf)| serde_json::from_slice(&fs::read(path).ok()?).ok();
        files.into_iter().take(most).filter_map(read).collect()
    }

    /// Keeps a record, in the place of an earlier one.
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
