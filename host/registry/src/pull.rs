//! Fetching manifests and blobs.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{Method, Response, StatusCode, header};
use oci::{Descriptor, Digest, Hasher, Reference, describe, digest_of, media_type};

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::push::Bytes;
use crate::transport::{Call, scope};

/// A manifest may not be larger (distribution-spec: registries should accept 4 MiB).
const LARGEST_MANIFEST: usize = 4 << 20;

const MANIFESTS: [&str; 4] =
    [media_type::OCI_MANIFEST, media_type::OCI_INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_LIST];

/// A manifest or index with its bytes.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// As the registry sent them.
    pub bytes: Vec<u8>,
}

/// A blob on its way, checked when it ends; a connection that breaks is taken up again where it broke.
pub struct BlobStream {
    client: Client,
    reference: Reference,
    digest: Digest,
    size: u64,
    response: Option<Response>,
    hasher: Hasher,
    done: u64,
    breaks: u32,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobStream({}, {} of {})", self.digest, self.done, self.size)
    }
}

impl Client {
    /// Fetches the manifest or index that a reference names.
    ///
    /// # Errors
    /// When it is not there, not allowed, or not what its digest says.
    pub async fn manifest(&self, reference: &Reference) -> Result<Resolved, Error> {
        first(self.settings.places(reference), |place| async move { self.manifest_at(&place).await }).await
    }

    async fn manifest_at(&self, reference: &Reference) -> Result<Resolved, Error> {
        let (declared, bytes) = self.manifest_document(reference).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest()
            && expected != digest
        {
            let (registry, got) = (reference.registry().to_owned(), digest.to_string());
            return Err(Error::Mismatch { registry, expected, got });
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            media_type: Option<String>,
            manifests: Option<serde_json::Value>,
        }
        let malformed = |error: serde_json::Error| Error::Malformed(reference.to_string(), error.to_string());
        let head: Head = serde_json::from_slice(&bytes).map_err(malformed)?;
        // The document's own word counts more than the header's; a document without one tells by its shape.
        let by_shape = if head.manifests.is_some() { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
        let known = |text: &String| media_type::is_index(text) || media_type::is_manifest(text);
        let kind = head.media_type.filter(known).or(declared.filter(known)).unwrap_or_else(|| by_shape.to_owned());
        Ok(Resolved { descriptor: describe(&kind, digest, bytes.len() as u64), bytes })
    }

    /// What the registry says a manifest is, and its bytes; asked for again where the connection breaks under way.
    async fn manifest_document(&self, reference: &Reference) -> Result<(Option<String>, Vec<u8>), Error> {
        let call = self.manifest_call(reference, Method::GET);
        let mut breaks = 0;
        loop {
            let response = self.call(&call).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(Error::NotFound(reference.to_string())),
                _ => return Err(self.failure(&call, response, None).await),
            }
            let declared = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let declared = declared.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
            breaks += 1;
            match http::read(response, LARGEST_MANIFEST).await {
                Ok(bytes) => return Ok((declared, bytes)),
                Err(error) => match http::retry::pause(breaks, None).filter(|_| error.is_transient()) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error.into()),
                },
            }
        }
    }

    /// The digest that a reference names now, without its bytes.
    ///
    /// # Errors
    /// When it is not there or not allowed.
    pub async fn digest(&self, reference: &Reference) -> Result<Digest, Error> {
        first(self.settings.places(reference), |place| async move { self.digest_at(&place).await }).await
    }

    pub(crate) async fn digest_at(&self, reference: &Reference) -> Result<Digest, Error> {
        let call = self.manifest_call(reference, Method::HEAD);
        let response = self.call(&call).await?;
        let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
        match (response.status(), told) {
            (StatusCode::OK, Some(digest)) => Ok(digest),
            (StatusCode::NOT_FOUND, _) => Err(Error::NotFound(reference.to_string())),
            _ => self.manifest(reference).await.and_then(|resolved| {
                digest_of(&resolved.descriptor).map_err(|e| Error::Malformed(reference.to_string(), e.to_string()))
            }),
        }
    }

    fn manifest_call<'c>(&self, reference: &'c Reference, method: Method) -> Call<'c> {
        Call {
            registry: reference.registry(),
            method,
            path: format!("{}/manifests/{}", reference.repository(), reference.locator()),
            accept: &MANIFESTS,
            headers: Vec::new(),
            scopes: scope(reference.repository(), Access::Pull),
            what: format!("pull {}", reference.repository()),
        }
    }

    /// Opens a blob of a repository.
    ///
    /// # Errors
    /// When it is not there or not allowed.
    pub async fn blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        first(self.settings.places(reference), |place| async move { self.blob_at(&place, descriptor).await }).await
    }

    async fn blob_at(&self, reference: &Reference, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        let digest = digest_of(descriptor).map_err(|e| Error::Malformed(reference.name(), e.to_string()))?;
        let mut stream = BlobStream {
            client: self.clone(),
            reference: reference.clone(),
            digest,
            size: descriptor.size(),
            response: None,
            hasher: Hasher::default(),
            done: 0,
            breaks: 0,
        };
        stream.open().await?;
        Ok(stream)
    }

    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// When the registry does not say.
    pub async fn has_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        access: Access,
    ) -> Result<bool, Error> {
        let digest = digest_of(descriptor).map_err(|e| Error::Malformed(reference.name(), e.to_string()))?;
        let call = Call {
            registry: reference.registry(),
            method: Method::HEAD,
            path: format!("{}/blobs/{digest}", reference.repository()),
            accept: &[],
            headers: Vec::new(),
            scopes: scope(reference.repository(), access),
            what: format!("{} {}", if access == Access::Push { "push" } else { "pull" }, reference.repository()),
        };
        let response = self.call(&call).await?;
        match response.status() {
            StatusCode::OK => {
                // Not every registry says how long it is.
                let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
                let length = length.and_then(|length| length.parse::<u64>().ok()).filter(|length| *length > 0);
                Ok(length.is_none_or(|length| length == descriptor.size()))
            }
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.failure(&call, response, None).await),
        }
    }
}

/// What the first of several places gives; if none does, why the last does not.
async fn first<T, F, A>(places: Vec<Reference>, ask: F) -> Result<T, Error>
where
    F: Fn(Reference) -> A,
    A: Future<Output = Result<T, Error>>,
{
    let mut places = places.into_iter().peekable();
    while let Some(place) = places.next() {
        match ask(place).await {
            Err(_) if places.peek().is_some() => {}
            result => return result,
        }
    }
    unreachable!("there is always a place")
}

impl BlobStream {
    /// Asks for what is still missing.
    async fn open(&mut self) -> Result<(), Error> {
        let mut headers = Vec::new();
        if self.done > 0 {
            headers.push((header::RANGE, format!("bytes={}-", self.done)));
        }
        let call = Call {
            registry: self.reference.registry(),
            method: Method::GET,
            path: format!("{}/blobs/{}", self.reference.repository(), self.digest),
            accept: &[],
            headers,
            scopes: scope(self.reference.repository(), Access::Pull),
            what: format!("pull {}", self.reference.repository()),
        };
        let response = self.client.call(&call).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.done > 0 => {}
            StatusCode::OK => {
                // From the start again, whatever was asked for.
                self.done = 0;
                self.hasher = Hasher::default();
            }
            StatusCode::NOT_FOUND => {
                return Err(Error::NotFound(format!("{} in {}", self.digest, self.reference.name())));
            }
            _ => return Err(self.client.failure(&call, response, None).await),
        }
        self.response = Some(response);
        Ok(())
    }

    /// Bytes that have passed, from the start of the blob.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.done
    }

    /// The next piece, and the position in the blob at which it belongs; none at the end, once the digest has been
    /// checked. The position falls back to zero where a registry can only start anew.
    ///
    /// # Errors
    /// When the blob is not what its digest says, or the connection breaks for good.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, Error> {
        loop {
            let Some(response) = &mut self.response else {
                self.open().await?;
                continue;
            };
            let error = match http::chunk(response).await {
                Ok(Some(bytes)) => {
                    let at = self.done;
                    self.done += bytes.len() as u64;
                    if self.done > self.size {
                        return Err(self.mismatch(format!("more than {} bytes", self.size)));
                    }
                    self.hasher.update(&bytes);
                    return Ok(Some((at, bytes)));
                }
                Ok(None) if self.done == self.size => {
                    let got = self.hasher.clone().finish();
                    return if got == self.digest { Ok(None) } else { Err(self.mismatch(got.to_string())) };
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            self.breaks += 1;
            self.response = None;
            match http::retry::pause(self.breaks, None) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    return Err(error
                        .map_or_else(|| self.mismatch(format!("{} of {} bytes", self.done, self.size)), Error::Http));
                }
            }
        }
    }

    /// Its bytes in order, each once, and an error at the end where they are not what they should be.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, std::io::Result<Bytes>> {
        let next = |(mut blob, mut passed): (Self, u64)| async move {
            loop {
                match blob.next().await {
                    // A registry that starts anew after a break sends again what has passed.
                    Ok(Some((at, piece))) if at < passed => {
                        let skip = usize::try_from(passed - at).unwrap_or(usize::MAX);
                        if skip >= piece.len() {
                            continue;
                        }
                        let piece = piece.slice(skip..);
                        passed += piece.len() as u64;
                        return Some((Ok(piece), (blob, passed)));
                    }
                    Ok(Some((_, piece))) => {
                        passed += piece.len() as u64;
                        return Some((Ok(piece), (blob, passed)));
                    }
                    Ok(None) => return None,
                    Err(error) => return Some((Err(std::io::Error::other(error)), (blob, passed))),
                }
            }
        };
        stream::unfold((self, 0), next).boxed()
    }

    fn mismatch(&self, got: String) -> Error {
        Error::Mismatch { registry: self.reference.registry().to_owned(), expected: self.digest, got }
    }
}
