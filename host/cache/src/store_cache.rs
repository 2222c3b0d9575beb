//! The store of another builder as a cache that is only read: shared by many, on a disk that may be read-only.

use std::io;
use std::path::Path;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use registry::{Bytes, Later};
use store::{Record, Store};

use crate::backend::{Backend, Blob, Document, Error, Named, Place, name};
use crate::entry::Head;

/// A store that is only read.
#[derive(Debug)]
pub(crate) struct StoreCache {
    store: Store,
    files: LocalFileSystem,
    name: String,
}

impl StoreCache {
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let name = name(&Place::Store(folder.to_owned()));
        let failed = |reason: String| Error::Invalid { place: name.clone(), reason };
        let store = Store::open_to_read(folder).map_err(|error| failed(error.to_string()))?;
        let files = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(error.to_string()))?;
        Ok(Self { store, files, name })
    }
}

impl Backend for StoreCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read<'f>(&'f self, name: &'f str) -> Later<'f, Result<Named, Error>> {
        Box::pin(async move {
            let Some(record) = self.store.read_record(name) else { return Ok(Named::Nothing) };
            let Some(variant) = self.store.variants(record.layer).into_iter().next() else {
                return Ok(Named::Illegible);
            };
            let blob = Blob { digest: variant.digest, size: variant.size, compression: variant.compression };
            let head =
                Head { record: Record { components: Vec::new(), ..record }, blob: blob.digest, under: name.into() };
            let head = serde_json::to_value(head).unwrap_or_default();
            Ok(Named::Document(Document { head, blobs: vec![blob] }))
        })
    }

    fn has<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<bool, Error>> {
        Box::pin(async {
            let meta = std::fs::metadata(self.store.blob(blob.digest));
            Ok(meta.is_ok_and(|meta| meta.len() == blob.size))
        })
    }

    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, io::Result<Bytes>>, Error>> {
        Box::pin(async {
            let failed = |source| Error::Objects { place: self.name.clone(), source };
            let path = self.store.blob(blob.digest);
            let path = path.strip_prefix(self.store.root()).unwrap_or(&path).to_string_lossy().into_owned();
            let got = self.files.get(&path.into()).await.map_err(failed)?;
            Ok(got.into_stream().map(|piece| piece.map_err(io::Error::other)).boxed())
        })
    }
}
