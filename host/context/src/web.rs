//! Files on the web as contexts and as sources of ADD: fetched once, kept by what the server says of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::sync::Arc;

use futures_util::StreamExt as _;
use http::{Client, Method, Request, StatusCode, Url, header};
use oci::Digest;
use oci::tree::{Entry, File, Inode, Kind, Time, Tree};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::{Context, archive};

/// A file that is larger is no source of a build.
const LARGEST: u64 = 64 << 30;

/// What a server has said of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of its bytes.
    pub digest: Digest,
    /// Seconds since 1970, by `Last-Modified`.
    pub modified: Option<i64>,
    /// As the server says it.
    pub etag: Option<String>,
}

/// A file that has been fetched.
#[derive(Debug)]
pub struct Fetched {
    /// What it is.
    pub version: Version,
    folder: tempfile::TempDir,
    size: u64,
}

/// The name under which a fetched file lies in its folder.
const BODY: &str = "body";

/// Whether text is an address on the web.
#[must_use]
pub fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The name that an address gives its file; BuildKit's where it gives none.
#[must_use]
pub fn file_name(address: &str) -> String {
    let path = Url::parse(address).map(|url| url.path().to_owned()).unwrap_or_default();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | "..") { "__unnamed__".to_owned() } else { name.to_owned() }
}

/// Fetches a file; none when the server says that it is still `known`.
///
/// # Errors
/// When there is no such file, or it is not the one that it must be.
pub async fn fetch(
    client: &Client,
    address: &str,
    secrets: &BTreeMap<String, Vec<u8>>,
    known: Option<&Version>,
    checksum: Option<Digest>,
) -> Result<Option<Fetched>, Error> {
    let failed = |reason: String| Error::Web { address: shown(address), reason };
    let url = Url::parse(address).map_err(|error| failed(error.to_string()))?;
    let request = || {
        let mut request = Request::new(Method::GET, url.clone());
        if let Some(value) = authorization(&url, secrets) {
            request = request.header(header::AUTHORIZATION, &value);
        }
        if let Some(etag) = known.and_then(|known| known.etag.as_deref()) {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        request
    };
    let mut attempt = 1;
    let mut response = loop {
        let answer = client.send(request()).await;
        let pause = match &answer {
            Err(error) if error.is_transient() => http::retry::pause(attempt, None),
            Ok(answer) if http::retry::is_transient(answer.status()) => http::retry::pause(attempt, Some(answer)),
            _ => None,
        };
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => break answer?,
        }
        attempt += 1;
    };
    let text = |name: header::HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let (etag, modified) = (text(header::ETAG), text(header::LAST_MODIFIED));
    let same = |known: &Version| {
        let plain = |etag: &Option<String>| etag.as_deref().map(|etag| etag.trim_start_matches("W/").to_owned());
        response.status() == StatusCode::NOT_MODIFIED || known.etag.is_some() && plain(&known.etag) == plain(&etag)
    };
    if known.is_some_and(same) {
        return Ok(None);
    }
    if !response.status().is_success() {
        return Err(failed(format!("invalid response status {}", response.status().as_u16())));
    }
    let mut incoming = Incoming::new().map_err(|error| failed(error.to_string()))?;
    while let Some(bytes) = http::chunk(&mut response).await? {
        incoming.add(&bytes).map_err(|error| failed(error.to_string()))?;
    }
    let fetched = incoming.finish(modified.as_deref().and_then(seconds), etag);
    let digest = fetched.version.digest;
    if let Some(expected) = checksum.filter(|expected| *expected != digest) {
        return Err(failed(format!("digest mismatch {digest}: {expected}")));
    }
    Ok(Some(fetched))
}

/// Fetches what is in a bucket.
///
/// # Errors
/// When there is nothing, or it cannot be read.
pub async fn fetch_from_bucket(
    client: &Client,
    address: &str,
    settings: &http::bucket::Settings,
) -> Result<Fetched, Error> {
    let failed = |reason: String| Error::Web { address: shown(address), reason };
    let got = http::bucket::get(address, settings, client).await;
    let (_, modified, mut pieces) = got.map_err(|error| failed(error.to_string()))?;
    let mut incoming = Incoming::new().map_err(|error| failed(error.to_string()))?;
    while let Some(piece) = pieces.next().await {
        let added = piece.and_then(|bytes| incoming.add(&bytes));
        added.map_err(|error| failed(error.to_string()))?;
    }
    Ok(incoming.finish(Some(modified), None))
}

/// A file on its way.
struct Incoming {
    folder: tempfile::TempDir,
    file: fs::File,
    hasher: oci::Hasher,
    size: u64,
}

impl Incoming {
    fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("plywood-web-").tempdir()?;
        let file = fs::File::create(folder.path().join(BODY))?;
        Ok(Self { folder, file, hasher: oci::Hasher::default(), size: 0 })
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.size > LARGEST {
            return Err(io::Error::other(format!("it is larger than {} GiB", LARGEST >> 30)));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(self, modified: Option<i64>, etag: Option<String>) -> Fetched {
        let version = Version { digest: self.hasher.finish(), modified, etag };
        Fetched { version, folder: self.folder, size: self.size }
    }
}

/// An address without what may be secret.
fn shown(address: &str) -> String {
    Url::parse(address).map_or_else(|_| address.to_owned(), |url| http::redact(&url))
}

/// What secrets say of the user at a host, its port left out.
fn authorization(url: &Url, secrets: &BTreeMap<String, Vec<u8>>) -> Option<String> {
    let host = url.host_str()?;
    let text = |name: String| secrets.get(&name).map(|value| String::from_utf8_lossy(value).trim().to_owned());
    let token = text(format!("HTTP_AUTH_TOKEN_{host}")).map(|token| format!("Bearer {token}"));
    token.or_else(|| text(format!("HTTP_AUTH_HEADER_{host}")))
}

/// A date of RFC 9110, section 5.6.7.
fn seconds(date: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(date).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

impl Fetched {
    /// The file alone, as a context in which it has this name. Only its owner may read it, as in BuildKit.
    #[must_use]
    pub fn into_file(self, name: &str) -> Context {
        let kind = Kind::File(File {
            size: self.size,
            digest: None,
            inode: Inode { layer: None, path: BODY.as_bytes().to_vec() },
        });
        let time = Time { seconds: self.version.modified.unwrap_or(0), nanoseconds: 0 };
        let mut tree = Tree::default();
        tree.insert(name.as_bytes().to_vec(), Entry { kind, ..Entry::dir(0o600, time) });
        let folder = self.folder.path().to_owned();
        Context {
            tree: tree.into(),
            folder,
            made: self.version.modified,
            unpacked: Some(self.folder),
            ..Context::default()
        }
    }

    /// What the file holds, where it is an archive; else the file itself, which is a build file then.
    ///
    /// # Errors
    /// When it is an archive, and no sound one.
    pub fn into_context(self) -> Result<Source, Error> {
        let path = self.folder.path().join(BODY);
        let open = || fs::File::open(&path).map_err(|source| Error::Io { path: path.clone(), source });
        if !archive::is_tar(open()?) {
            let text = fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
            return Ok(Source::BuildFile(text, Arc::new(self.into_file("context"))));
        }
        let mut context = archive::read(open()?, false)?;
        context.made = self.version.modified.or(context.made);
        Ok(Source::Archive(context))
    }
}

/// What a context on the web turns out to be.
#[derive(Debug)]
pub enum Source {
    /// Files, a build file among them.
    Archive(Context),
    /// A build file, in a context that holds nothing else.
    BuildFile(String, Arc<Context>),
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_give_names() {
        assert_eq!(super::file_name("https://h/a/b.tar.gz?x=1#y"), "b.tar.gz");
        assert_eq!(super::file_name("https://h/a/"), "a");
        assert_eq!(super::file_name("https://h"), "__unnamed__");
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(super::seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    }
}
