//! An image in a registry.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use oci::{Descriptor, Reference, digest_of};
use registry::{BlobSource, Bytes, Client, Pushed};

use crate::error::Error;
use crate::stream::{LARGEST_DOCUMENT, too_large};
use crate::{Document, Later, Sink, Source};

/// Reads an image of a registry.
#[derive(Clone, Debug)]
pub struct RegistrySource {
    client: Client,
    reference: Reference,
}

impl RegistrySource {
    /// The image that `reference` names.
    #[must_use]
    pub fn new(client: &Client, reference: Reference) -> Self {
        Self { client: client.clone(), reference }
    }
}

impl Source for RegistrySource {
    fn root(&self) -> Later<'_, Result<Document, Error>> {
        Box::pin(async {
            let resolved = self.client.manifest(&self.reference).await?;
            Ok(Document { descriptor: resolved.descriptor, bytes: resolved.bytes })
        })
    }

    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> Later<'f, Result<Vec<u8>, Error>> {
        Box::pin(async {
            let media_type = descriptor.media_type().to_string();
            if oci::media_type::is_manifest(&media_type) || oci::media_type::is_index(&media_type) {
                let digest = digest_of(descriptor).map_err(|error| Error::Malformed {
                    what: self.reference.to_string(),
                    reason: error.to_string(),
                })?;
                return Ok(self.client.manifest(&self.reference.at(digest)).await?.bytes);
            }
            let mut stream = self.client.blob(&self.reference, descriptor).await?;
            let mut bytes = Vec::new();
            while let Some((at, piece)) = stream.next().await? {
                bytes.truncate(usize::try_from(at).unwrap_or(0));
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > LARGEST_DOCUMENT {
                    return Err(too_large(format!("{} of {}", descriptor.digest(), self.reference)));
                }
            }
            Ok(bytes)
        })
    }

    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async { Ok(self.client.blob(&self.reference, descriptor).await?.into_stream()) })
    }

    fn reference(&self) -> Option<&Reference> {
        Some(&self.reference)
    }
}

/// Puts an image into a repository.
#[derive(Clone, Debug)]
pub struct RegistrySink {
    client: Client,
    reference: Reference,
}

impl RegistrySink {
    /// As `reference`.
    #[must_use]
    pub fn new(client: &Client, reference: Reference) -> Self {
        Self { client: client.clone(), reference }
    }
}

impl Sink for RegistrySink {
    fn blob<'f>(
        &'f self,
        descriptor: &'f Descriptor,
        source: Arc<dyn BlobSource>,
        from: Option<&'f Reference>,
    ) -> Later<'f, Result<Pushed, Error>> {
        Box::pin(async move {
            let mount = from.filter(|from| from.registry() == self.reference.registry()).map(Reference::repository);
            Ok(self.client.push_blob(&self.reference, descriptor, source, mount).await?)
        })
    }

    fn document<'f>(&'f self, document: &'f Document, is_root: bool) -> Later<'f, Result<(), Error>> {
        Box::pin(async move {
            let media_type = document.descriptor.media_type().to_string();
            let reference = if is_root {
                self.reference.clone()
            } else {
                let digest = oci::Digest::of(&document.bytes);
                self.reference.at(digest)
            };
            self.client.push_manifest(&reference, &media_type, &document.bytes).await?;
            Ok(())
        })
    }
}
