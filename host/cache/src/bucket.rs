//! A bucket of an S3-compatible object store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ObjectStore, RetryConfig};

/// An object store that does not answer for so long is left out.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a bucket is, and with what it is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What the names of all objects begin with; empty: nothing.
    pub prefix: String,
    /// Settings as AWS's tools name them in the environment (`AWS_REGION`, `AWS_ENDPOINT_URL`, ...), secrets among them.
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

    pub(crate) fn open(&self, http: &http::Client) -> object_store::Result<Arc<dyn ObjectStore>> {
        let retry = RetryConfig { max_retries: 4, retry_timeout: PATIENCE, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(http::object::Connector::new(http))
            .with_bucket_name(&self.name)
            .with_retry(retry);
        for (name, value) in &self.settings {
            // What is not about the store is somebody else's.
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
        let endpoint = endpoint.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
        // The user has named it, and knows how it wants to be talked to.
        if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
            builder = builder.with_allow_http(true);
        }
        Ok(Arc::new(builder.build()?))
    }
}
