//! A bucket of an S3-compatible object store.

use std::fmt;

/// Where a bucket is, and with what it is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What the names of all objects begin with; empty: nothing.
    pub prefix: String,
    /// As [`http::bucket::Settings`].
    pub settings: Vec<(String, String)>,
}

/// Without what is secret.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.url()).finish()
    }
}

impl Bucket {
    /// `s3://bucket/prefix`.
    #[must_use]
    pub fn url(&self) -> String {
        match self.prefix.trim_matches('/') {
            "" => format!("s3://{}", self.name),
            prefix => format!("s3://{}/{prefix}", self.name),
        }
    }
}
