//! Sending blobs and manifests: blobs first, manifest last, nothing that is there already.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use http::{Method, StatusCode, header};
use oci::{Descriptor, Digest, Reference, digest_of};

use crate::auth::{Access, Later, Scope};
use crate::client::Client;
use crate::error::Error;
use crate::transport::{Call, Payload, scope};

/// A manifest that is refused is sent once more after this time.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// A piece of a blob.
pub type Bytes = http::Bytes;

/// Where a blob that is to be sent can be read, more than once if need be.
pub trait BlobSource: Send + Sync {
    /// Reads it from its start.
    fn open(&self) -> Later<'_, std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>>;
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Exists,
    /// The registry had it in another repository.
    Mounted,
    /// Its bytes were sent.
    Sent,
}

impl Client {
    /// Brings a blob into the repository of `reference`: it may be there, or in the repository `mount` of the same
    /// registry; else its bytes are sent.
    ///
    /// # Errors
    /// When the registry refuses it or the source fails.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: Arc<dyn BlobSource>,
        mount: Option<&str>,
    ) -> Result<Pushed, Error> {
        self.bring(reference, descriptor, source, mount, true).await
    }

    /// As [`Client::push_blob`], for a small blob that is hardly anywhere yet: asking before would take longer.
    ///
    /// # Errors
    /// When the registry refuses it or the source fails.
    pub async fn push_new_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: Arc<dyn BlobSource>,
    ) -> Result<Pushed, Error> {
        self.bring(reference, descriptor, source, None, false).await
    }

    async fn bring(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: Arc<dyn BlobSource>,
        mount: Option<&str>,
        ask: bool,
    ) -> Result<Pushed, Error> {
        let digest = digest_of(descriptor).map_err(|e| Error::Malformed(reference.name(), e.to_string()))?;
        // The same bytes may be on their way to a repository of this registry, and are not sent twice.
        let slot = self.upload_slot(reference.registry(), digest);
        let mut repository = slot.lock().await;
        if repository.as_deref() == Some(reference.repository()) {
            return Ok(Pushed::Exists);
        }
        if ask && self.has_blob(reference, descriptor, Access::Push).await? {
            *repository = Some(reference.repository().to_owned());
            return Ok(Pushed::Exists);
        }
        let mount = repository.as_deref().or(mount);
        let pushed = match self.start_upload(reference, digest, mount).await? {
            None => Pushed::Mounted,
            Some(upload) => {
                self.send(reference, digest, descriptor.size(), source, upload).await?;
                Pushed::Sent
            }
        };
        *repository = Some(reference.repository().to_owned());
        Ok(pushed)
    }

    /// Whether images may be pushed to a repository: asks for a place to send a blob to, and gives it back.
    ///
    /// # Errors
    /// As the registry refuses it.
    pub async fn may_push(&self, reference: &Reference) -> Result<(), Error> {
        let Some(upload) = self.start_upload(reference, Digest::of(b""), None).await? else { return Ok(()) };
        let call = Call {
            registry: reference.registry(),
            method: Method::DELETE,
            path: upload,
            accept: &[],
            headers: Vec::new(),
            scopes: scope(reference.repository(), Access::Push),
            what: format!("push {}", reference.repository()),
        };
        // A registry that does not take it back forgets it after a while.
        let _ = self.call(&call).await;
        Ok(())
    }

    /// Asks for a place to send a blob to; none when the registry has mounted it instead.
    async fn start_upload(
        &self,
        reference: &Reference,
        digest: Digest,
        mount: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let mut scopes = scope(reference.repository(), Access::Push);
        let mut path = format!("{}/blobs/uploads/", reference.repository());
        if let Some(from) = mount.filter(|from| *from != reference.repository()) {
            path.push_str(&format!("?mount={digest}&from={from}"));
            scopes.push(Scope { repository: from.to_owned(), access: Access::Pull });
        }
        let mut call = Call {
            registry: reference.registry(),
            method: Method::POST,
            path,
            accept: &[],
            headers: vec![(header::CONTENT_LENGTH, "0".into())],
            scopes,
            what: format!("push {}", reference.repository()),
        };
        let mut result = self.call(&call).await;
        if mount.is_some() && !matches!(&result, Ok(response) if response.status().is_success()) {
            // Without the right to read the other repository the blob is sent like any other.
            call.path = format!("{}/blobs/uploads/", reference.repository());
            call.scopes.truncate(1);
            result = self.call(&call).await;
        }
        let response = result?;
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => location(reference, &response).map(Some),
            _ => Err(self.failure(&call, response, None).await),
        }
    }

    /// Sends a blob in one request. It is read anew when the request must be made again.
    async fn send(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
        source: Arc<dyn BlobSource>,
        upload: String,
    ) -> Result<(), Error> {
        let separator = if upload.contains('?') { '&' } else { '?' };
        let call = Call {
            registry: reference.registry(),
            method: Method::PUT,
            path: format!("{upload}{separator}digest={digest}"),
            accept: &[],
            headers: vec![
                (header::CONTENT_TYPE, "application/octet-stream".into()),
                (header::CONTENT_LENGTH, size.to_string()),
            ],
            scopes: scope(reference.repository(), Access::Push),
            what: format!("push {}", reference.repository()),
        };
        let response = self.call_with(&call, Payload::Blob(&*source)).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => Ok(()),
            // The place was given up between two tries, or only takes pieces: a new one, in pieces.
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PAYLOAD_TOO_LARGE => {
                self.send_in_pieces(reference, digest, source).await
            }
            _ => Err(self.failure(&call, response, None).await),
        }
    }

    /// Sends a blob piece by piece, for places that refuse large requests.
    async fn send_in_pieces(
        &self,
        reference: &Reference,
        digest: Digest,
        source: Arc<dyn BlobSource>,
    ) -> Result<(), Error> {
        use futures_util::StreamExt as _;
        /// Small enough for any proxy that has been met, large enough for S3's parts.
        const PIECE: usize = 8 << 20;
        let Some(mut upload) = self.start_upload(reference, digest, None).await? else {
            return Ok(());
        };
        let mut pieces = source.open().await.map_err(Error::Source)?;
        let mut at = 0u64;
        let mut ended = false;
        while !ended {
            let mut piece = Vec::with_capacity(PIECE);
            while piece.len() < PIECE {
                match pieces.next().await {
                    Some(bytes) => piece.extend_from_slice(&bytes.map_err(Error::Source)?),
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            if piece.is_empty() {
                break;
            }
            let end = at + piece.len() as u64;
            let call = Call {
                registry: reference.registry(),
                method: Method::PATCH,
                path: upload.clone(),
                accept: &[],
                headers: vec![
                    (header::CONTENT_TYPE, "application/octet-stream".into()),
                    (header::CONTENT_RANGE, format!("{at}-{}", end - 1)),
                ],
                scopes: scope(reference.repository(), Access::Push),
                what: format!("push {}", reference.repository()),
            };
            let piece = Bytes::from(piece);
            let response = self.call_with(&call, Payload::Bytes(&piece)).await?;
            if !response.status().is_success() {
                return Err(self.failure(&call, response, None).await);
            }
            upload = location(reference, &response)?;
            at = end;
        }
        let separator = if upload.contains('?') { '&' } else { '?' };
        let call = Call {
            registry: reference.registry(),
            method: Method::PUT,
            path: format!("{upload}{separator}digest={digest}"),
            accept: &[],
            headers: vec![(header::CONTENT_LENGTH, "0".into())],
            scopes: scope(reference.repository(), Access::Push),
            what: format!("push {}", reference.repository()),
        };
        let response = self.call(&call).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.failure(&call, response, None).await) }
    }

    /// Sends a manifest or index, under the reference's tag or digest. Everything it names must be there.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let locator = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let call = Call {
            registry: reference.registry(),
            method: Method::PUT,
            path: format!("{}/manifests/{locator}", reference.repository()),
            accept: &[],
            headers: vec![(header::CONTENT_TYPE, media_type.to_owned())],
            scopes: scope(reference.repository(), Access::Push),
            what: format!("push {}", reference.repository()),
        };
        let body = Bytes::copy_from_slice(bytes);
        let mut response = self.call_with(&call, Payload::Bytes(&body)).await?;
        if response.status() == StatusCode::BAD_REQUEST {
            // Registries have been seen not to find, for a moment, the blobs that they have just been sent.
            tokio::time::sleep(AGAIN).await;
            response = self.call_with(&call, Payload::Bytes(&body)).await?;
        }
        if !response.status().is_success() {
            return Err(self.failure(&call, response, None).await);
        }
        let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match told.map(str::parse::<Digest>) {
            Some(Ok(got)) if got != digest => {
                let (registry, got) = (reference.registry().to_owned(), got.to_string());
                Err(Error::Mismatch { registry, expected: digest, got })
            }
            _ => Ok(digest),
        }
    }
}

/// Where the registry wants what comes next: a whole URL, or a path of its own.
fn location(reference: &Reference, response: &http::Response) -> Result<String, Error> {
    let value = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    value
        .map(str::to_owned)
        .ok_or_else(|| Error::Malformed(reference.registry().to_owned(), "it gave no place to send the blob to".into()))
}
