//! An image in the store.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci::{Descriptor, Reference, digest_of};
use registry::{BlobSource, Bytes, Pushed};
use store::Store;

use crate::error::Error;
use crate::stream::FileBlob;
use crate::{Document, Later, Sink, Source};

/// Reads an image of the store.
#[derive(Clone, Debug)]
pub struct StoreSource {
    store: Store,
    root: Descriptor,
}

impl StoreSource {
    /// The image of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(store: &Store, reference: &Reference) -> Result<Self, Error> {
        let tagged = store.image(reference)?.ok_or_else(|| Error::NotFound(format!("store:{reference}")))?;
        Ok(Self { store: store.clone(), root: tagged.descriptor })
    }

    /// The image with this manifest or index.
    #[must_use]
    pub fn at(store: &Store, root: Descriptor) -> Self {
        Self { store: store.clone(), root }
    }
}

fn digest(descriptor: &Descriptor) -> Result<oci::Digest, Error> {
    digest_of(descriptor).map_err(|error| Error::Malformed { what: "a descriptor".into(), reason: error.to_string() })
}

impl Source for StoreSource {
    fn root(&self) -> Later<'_, Result<Document, Error>> {
        Box::pin(async {
            let bytes = self.store.read_blob(digest(&self.root)?)?;
            let mut descriptor = self.root.clone();
            // The name is the list's, not the image's.
            descriptor.set_annotations(None);
            Ok(Document { descriptor, bytes })
        })
    }

    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> Later<'f, Result<Vec<u8>, Error>> {
        Box::pin(async { Ok(self.store.read_blob(digest(descriptor)?)?) })
    }

    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async {
            let path = self.store.blob(digest(descriptor)?);
            FileBlob::whole(path.clone()).stream().await.map_err(|source| Error::Io { path, source })
        })
    }

    fn blob_in_store(&self, descriptor: &Descriptor) -> bool {
        digest_of(descriptor).is_ok_and(|digest| self.store.has_blob(digest))
    }
}

/// Puts an image into the store.
#[derive(Clone, Debug)]
pub struct StoreSink {
    store: Store,
    names: Vec<Reference>,
}

impl StoreSink {
    /// Under these names.
    #[must_use]
    pub fn new(store: &Store, names: Vec<Reference>) -> Self {
        Self { store: store.clone(), names }
    }
}

impl Sink for StoreSink {
    fn blob<'f>(
        &'f self,
        descriptor: &'f Descriptor,
        source: Arc<dyn BlobSource>,
        _: Option<&'f Reference>,
    ) -> Later<'f, Result<Pushed, Error>> {
        Box::pin(async move {
            use std::io::Write;
            let digest = digest(descriptor)?;
            if self.store.has_blob(digest) {
                return Ok(Pushed::Exists);
            }
            let failed = |source| Error::Io { path: digest.to_string().into(), source };
            let mut writer = self.store.blob_writer()?;
            let mut pieces = source.open().await.map_err(failed)?;
            while let Some(piece) = pieces.next().await {
                writer.write_all(&piece.map_err(failed)?).map_err(failed)?;
            }
            writer.commit(Some(digest))?;
            Ok(Pushed::Sent)
        })
    }

    fn document<'f>(&'f self, document: &'f Document, is_root: bool) -> Later<'f, Result<(), Error>> {
        Box::pin(async move {
            self.store.write_blob(&document.bytes)?;
            if is_root {
                for name in &self.names {
                    self.store.tag(name, &document.descriptor)?;
                }
            }
            Ok(())
        })
    }
}
