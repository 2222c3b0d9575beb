//! Buckets of object stores: S3 and what speaks like it (`s3://NAME/PATH`), Google's (`gs://NAME/PATH`), Azure's
//! (`https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{BoxStream, StreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, RetryConfig};
use url::Url;

use crate::Client;
use crate::object::Connector;

/// What Azure's hosts end with.
const AZURE: &str = ".blob.core.windows.net";
/// An object store that does not answer for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Settings by the names that the makers' tools give them in the environment (`AWS_REGION`, `GOOGLE_APPLICATION_CREDENTIALS`,
/// `AZURE_STORAGE_ACCESS_KEY`, ...), secrets among them; what is none of a store's is passed over.
pub type Settings = [(String, String)];

/// Whether text is the address of something in a bucket.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let is_azure = || Url::parse(text).is_ok_and(|url| url.host_str().is_some_and(|host| host.ends_with(AZURE)));
    text.starts_with("s3://") || text.starts_with("gs://") || text.starts_with("https://") && is_azure()
}

/// Opens the store that an address is in; gives it with the path in the bucket.
///
/// # Errors
/// When the address is none, or the settings are not enough.
pub fn open(address: &str, settings: &Settings, client: &Client) -> object_store::Result<(Arc<dyn ObjectStore>, Path)> {
    let invalid = |reason: String| object_store::Error::Generic { store: "bucket", source: reason.into() };
    let url = Url::parse(address).map_err(|error| invalid(format!("{address}: {error}")))?;
    let host = url.host_str().ok_or_else(|| invalid(format!("{address} names no bucket")))?;
    let retry = RetryConfig { max_retries: 4, retry_timeout: PATIENCE, ..RetryConfig::default() };
    let known = settings.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let path = |text: &str| Path::from_url_path(text).map_err(|error| invalid(error.to_string()));
    Ok(match url.scheme() {
        "s3" => {
            let mut builder = AmazonS3Builder::new().with_http_connector(Connector::new(client));
            for (name, value) in known {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            // Last, since a setting may name another.
            builder = builder.with_bucket_name(host).with_retry(retry);
            let endpoint = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
            let endpoint = endpoint.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
            // The user has named it, and knows how it wants to be talked to.
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            (Arc::new(builder.build()?), path(url.path())?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::new().with_http_connector(Connector::new(client));
            for (name, value) in known.filter(|(name, _)| name.starts_with("google_")) {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            builder = builder.with_bucket_name(host).with_retry(retry);
            (Arc::new(builder.build()?), path(url.path())?)
        }
        "https" => {
            let (container, rest) = url.path().trim_start_matches('/').split_once('/').unwrap_or((url.path(), ""));
            let account = host.strip_suffix(AZURE).ok_or_else(|| invalid(format!("{address} is in no bucket")))?;
            let mut builder = MicrosoftAzureBuilder::new().with_http_connector(Connector::new(client));
            for (name, value) in known.filter(|(name, _)| name.starts_with("azure_")) {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            builder = builder.with_account(account).with_container_name(container).with_retry(retry);
            (Arc::new(builder.build()?), path(rest)?)
        }
        other => return Err(invalid(format!("{other}:// is no bucket"))),
    })
}

/// Reads what is at an address; gives its size, the time of its last change in seconds since 1970, and its bytes.
///
/// # Errors
/// When there is nothing, or the store does not let it be read.
pub async fn get(
    address: &str,
    settings: &Settings,
    client: &Client,
) -> object_store::Result<(u64, i64, BoxStream<'static, io::Result<Bytes>>)> {
    let (store, path) = open(address, settings, client)?;
    let got = store.get(&path).await?;
    let (size, modified) = (got.meta.size, got.meta.last_modified.timestamp());
    Ok((size, modified, got.into_stream().map_err(io::Error::other).boxed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_open() {
        let client = Client::new(crate::Settings::default());
        let open = |address: &str, settings: &[(&str, &str)]| {
            let settings: Vec<_> = settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            open(address, &settings, &client).map(|(_, path)| path.to_string())
        };
        for (address, settings, path) in [
            ("s3://bucket/a/b.tar.gz", vec![("AWS_REGION", "eu-west-1")], "a/b.tar.gz"),
            ("gs://bucket/a b", vec![("GOOGLE_SKIP_SIGNATURE", "true"), ("HOME", "/root")], "a b"),
            ("https://account.blob.core.windows.net/box/c/d", vec![("AZURE_STORAGE_ACCESS_KEY", "a2V5")], "c/d"),
        ] {
            assert!(is_address(address));
            assert_eq!(open(address, &settings).unwrap_or_else(|error| panic!("{address}: {error}")), path);
        }
        for other in
            ["https://example.org/blob.core.windows.net/x", "/s3/x", "s3.tar", "http://a.blob.core.windows.net/x"]
        {
            assert!(!is_address(other), "{other}");
        }
    }
}
