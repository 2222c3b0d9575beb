//! An image as a cache that is only read: its configuration says which steps its layers are of (`--cache-to type=inline`).

use std::collections::BTreeMap;
use std::io;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci::{Descriptor, DiffId, Index, Manifest, Reference, digest_of, media_type};
use plan::key::Key;
use registry::{Access, Bytes, Client, Later};
use serde::{Deserialize, Serialize};
use store::Record;
use tokio::sync::OnceCell;

use crate::backend::{Backend, Blob, Document, Error, Named, Place, name};
use crate::entry::Head;

/// The field of an image's configuration that says of which steps its layers are.
pub const INLINE: &str = "dev.plywood.cache";
/// A configuration may not be larger.
const LARGEST: u64 = 8 << 20;
/// An index may name as many images that are looked at.
const IMAGES: usize = 16;

/// What an image's configuration says of one of its layers, in the field [`INLINE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineEntry {
    /// Under which the step is found.
    pub keys: Vec<Key>,
    /// What it gave, without components.
    pub record: Record,
}

/// An image that says of what its layers are.
#[derive(Debug)]
pub(crate) struct ImageCache {
    client: Client,
    reference: Reference,
    name: String,
    known: OnceCell<BTreeMap<String, (Record, Blob)>>,
}

/// What of a configuration is about caches.
#[derive(Deserialize)]
struct Config {
    rootfs: oci::config::RootFs,
    #[serde(rename = "dev.plywood.cache", default)]
    entries: Vec<InlineEntry>,
}

impl ImageCache {
    pub(crate) fn new(client: &Client, reference: &Reference) -> Self {
        let name = name(&Place::Image(reference.clone()));
        Self { client: client.clone(), reference: reference.clone(), name, known: OnceCell::new() }
    }

    fn failed(&self, source: registry::Error) -> Error {
        Error::Registry { place: self.name.clone(), source }
    }

    async fn known(&self) -> Result<&BTreeMap<String, (Record, Blob)>, Error> {
        self.known.get_or_try_init(|| self.learn()).await
    }

    /// Reads the image's configuration, or those of all images of an index. An image that is not there knows nothing.
    async fn learn(&self) -> Result<BTreeMap<String, (Record, Blob)>, Error> {
        let root = match self.client.manifest(&self.reference).await {
            Ok(root) => root,
            Err(registry::Error::NotFound(_) | registry::Error::Malformed(..)) => return Ok(BTreeMap::new()),
            Err(error) => return Err(self.failed(error)),
        };
        if !media_type::is_index(root.descriptor.media_type().as_ref()) {
            return Ok(self.of_manifest(&root.bytes).await?.unwrap_or_default());
        }
        let index: Index = serde_json::from_slice(&root.bytes).unwrap_or_default();
        let mut known = BTreeMap::new();
        for image in index.manifests().iter().take(IMAGES) {
            let Ok(digest) = digest_of(image) else { continue };
            let manifest = self.client.manifest(&self.reference.at(digest)).await;
            if let Ok(manifest) = manifest {
                known.extend(self.of_manifest(&manifest.bytes).await?.unwrap_or_default());
            }
        }
        Ok(known)
    }

    /// None where there is nothing to be read from it.
    async fn of_manifest(&self, bytes: &[u8]) -> Result<Option<BTreeMap<String, (Record, Blob)>>, Error> {
        let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return Ok(None) };
        if manifest.config().size() > LARGEST {
            return Ok(None);
        }
        let blob = self.client.blob(&self.reference, manifest.config()).await.map_err(|error| self.failed(error))?;
        let mut pieces = blob.into_stream();
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece =
                piece.map_err(|error| Error::Invalid { place: self.name.clone(), reason: error.to_string() })?;
            text.extend_from_slice(&piece);
        }
        let Ok(config) = serde_json::from_slice::<Config>(&text) else { return Ok(None) };
        let blob = |descriptor: &Descriptor| {
            let compression = media_type::compression(descriptor.media_type().as_ref())?;
            Some(Blob { digest: digest_of(descriptor).ok()?, size: descriptor.size(), compression })
        };
        let layers: BTreeMap<DiffId, Option<Blob>> =
            config.rootfs.diff_ids.iter().copied().zip(manifest.layers().iter().map(blob)).collect();
        let named = |entry: InlineEntry| {
            let blob = layers.get(&entry.record.layer).copied().flatten();
            entry.keys.into_iter().filter_map(move |key| Some((key.to_string(), (entry.record.clone(), blob?))))
        };
        Ok(Some(config.entries.into_iter().flat_map(named).collect()))
    }
}

impl Backend for ImageCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read<'f>(&'f self, name: &'f str) -> Later<'f, Result<Named, Error>> {
        Box::pin(async move {
            let Some((record, blob)) = self.known().await?.get(name) else { return Ok(Named::Nothing) };
            let head = Head { record: record.clone(), blob: blob.digest, under: name.to_owned() };
            let head = serde_json::to_value(head).unwrap_or_default();
            Ok(Named::Document(Document { head, blobs: vec![*blob] }))
        })
    }

    fn has<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<bool, Error>> {
        Box::pin(async {
            let there = self.client.has_blob(&self.reference, &blob.descriptor(), Access::Pull).await;
            there.map_err(|error| self.failed(error))
        })
    }

    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, io::Result<Bytes>>, Error>> {
        Box::pin(async move {
            let opened = self.client.blob(&self.reference, &blob.descriptor()).await;
            Ok(opened.map_err(|error| self.failed(error))?.into_stream())
        })
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }
}
