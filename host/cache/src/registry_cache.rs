//! Entries in a repository: an image of its own for each, under a tag that is its key.
//!
//! Such an image is one that any registry takes: an OCI manifest, a configuration, and one or two layers, of which the
//! first is the step's and the second a tar with the layer's index. What a look-up wants to know is in an annotation of
//! the manifest, so that it takes one request, and a second one that asks for the layer.
//!
//! A tag is never written twice, so that registries whose tags cannot be changed will do: an entry that is too old, or
//! whose layer is gone, stays where it is, and the next is called `<key>-1`, `<key>-2`...

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use oci::media_type::Format;
use oci::{Descriptor, Digest, Manifest, Reference, describe, digest_of};
use plan::key::Key;
use registry::{Access, BlobSource, Bytes, Client, Later};
use serde::{Deserialize, Serialize};
use store::Record;

use crate::backend::{Backend, Blob, Entry, Error, Kept, NewEntry, Wanted, made};

/// The annotation that holds a record.
const RECORD: &str = "dev.plywood.cache.record";
/// So many entries of one key may be of no use before nobody looks further.
const MOST: u32 = 16;

/// A repository that keeps entries.
#[derive(Clone, Debug)]
pub(crate) struct RegistryCache {
    client: Client,
    repository: Reference,
    prefix: String,
    name: String,
}

/// What a tag leads to.
enum Tagged {
    Nothing,
    /// Too old, malformed, or without its layer.
    Useless,
    Entry(Box<Entry>),
}

/// What an annotation can hold: all of a record but its components, which may be many.
#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    record: Record,
    /// The layer's, which must be the manifest's first: what belongs together stays together.
    blob: Blob,
}

impl RegistryCache {
    pub(crate) fn new(client: &Client, reference: &Reference) -> Self {
        let prefix = reference.own_tag().map(|tag| format!("{tag}-")).unwrap_or_default();
        let name = format!(
            "registry {}{}",
            reference.name(),
            prefix.strip_suffix('-').map_or(String::new(), |t| format!(":{t}"))
        );
        Self { client: client.clone(), prefix, name, repository: reference.clone() }
    }

    fn tag(&self, key: Key, number: u32) -> Result<Reference, Error> {
        let tag = match number {
            0 => format!("{}{key}", self.prefix),
            number => format!("{}{key}-{number}", self.prefix),
        };
        self.repository.with_tag(&tag).map_err(|error| self.failed(registry::Error::Malformed(tag, error.to_string())))
    }

    fn failed(&self, source: registry::Error) -> Error {
        Error::Registry { place: self.name.clone(), source }
    }

    async fn look(&self, reference: &Reference, wanted: Wanted) -> Result<Tagged, Error> {
        let resolved = match self.client.manifest(reference).await {
            Ok(resolved) => resolved,
            Err(registry::Error::NotFound(_)) => return Ok(Tagged::Nothing),
            Err(registry::Error::Malformed(..) | registry::Error::Mismatch { .. }) => return Ok(Tagged::Useless),
            Err(error) => return Err(self.failed(error)),
        };
        let Some(entry) = read(&resolved.bytes).filter(|entry| wanted.is(&entry.record)) else {
            return Ok(Tagged::Useless);
        };
        // A registry may have dropped the layer and kept what names it.
        let there = self.client.has_blob(&self.repository, &entry.layer.descriptor(), Access::Pull).await;
        let there = there.map_err(|error| self.failed(error))?;
        Ok(if there { Tagged::Entry(Box::new(entry)) } else { Tagged::Useless })
    }

    async fn send(&self, to: &Reference, entry: &NewEntry) -> Result<registry::Pushed, registry::Error> {
        let (layer, source) = &entry.layer;
        let same = entry.layer_at.as_ref().filter(|at| at.registry() == self.repository.registry());
        let mount = same.map(Reference::repository);
        let pushed = self.client.push_blob(to, &layer.descriptor(), source.clone(), mount).await?;
        let mut layers = vec![layer.descriptor()];
        let mut diff_ids = vec![entry.record.layer];
        if let Some((index, diff_id, source)) = &entry.index {
            self.client.push_blob(to, &index.descriptor(), source.clone(), None).await?;
            layers.push(index.descriptor());
            diff_ids.push(*diff_id);
        }
        let record = &entry.record;
        let config = serde_json::json!({
            "architecture": oci::Platform::host().architecture,
            "os": "linux",
            "created": record.created,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| serde_json::json!({
                "created": record.created, "created_by": record.name, "comment": "plywood cache",
            })).collect::<Vec<_>>(),
            "dev.plywood.cache.components": record.components,
        });
        let config = Document::new(config.to_string().into_bytes());
        let config_descriptor = describe(Format::Oci.config(), config.digest, config.bytes.len() as u64);
        self.client.push_blob(to, &config_descriptor, Arc::new(config), None).await?;
        let head = Head { record: Record { components: Vec::new(), ..record.clone() }, blob: *layer };
        let head = serde_json::to_string(&head).unwrap_or_default();
        let mut manifest = oci::manifest(Format::Oci.manifest(), config_descriptor, layers);
        manifest.set_annotations(Some([(RECORD.to_owned(), head)].into()));
        let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
        self.client.push_manifest(to, Format::Oci.manifest(), &bytes).await?;
        Ok(pushed)
    }
}

/// The entry that a manifest describes; none where it is no entry.
fn read(bytes: &[u8]) -> Option<Entry> {
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let head: Head = serde_json::from_str(manifest.annotations().as_ref()?.get(RECORD)?).ok()?;
    let blob = |descriptor: &Descriptor| {
        let compression = oci::media_type::compression(descriptor.media_type().as_ref())?;
        Some(Blob { digest: digest_of(descriptor).ok()?, size: descriptor.size(), compression })
    };
    let mut layers = manifest.layers().iter();
    let layer = blob(layers.next()?).filter(|layer| *layer == head.blob)?;
    Some(Entry { record: head.record, layer, index: layers.next().and_then(blob) })
}

impl Backend for RegistryCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn find<'f>(&'f self, key: Key, wanted: Wanted) -> Later<'f, Result<Option<Entry>, Error>> {
        Box::pin(async move {
            for number in 0..MOST {
                match self.look(&self.tag(key, number)?, wanted).await? {
                    Tagged::Nothing => return Ok(None),
                    Tagged::Useless => {}
                    Tagged::Entry(entry) => return Ok(Some(*entry)),
                }
            }
            Ok(None)
        })
    }

    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async move {
            let opened = self.client.blob(&self.repository, &blob.descriptor()).await;
            Ok(opened.map_err(|error| self.failed(error))?.into_stream())
        })
    }

    fn put<'f>(
        &'f self,
        key: Key,
        wanted: Wanted,
        entry: Later<'f, Result<NewEntry, String>>,
    ) -> Later<'f, Result<Kept, Error>> {
        Box::pin(async move {
            for number in 0..MOST {
                let tag = self.tag(key, number)?;
                match self.look(&tag, wanted).await? {
                    Tagged::Entry(_) => return Ok(Kept::Exists),
                    Tagged::Useless => continue,
                    Tagged::Nothing => {}
                }
                let entry = made(&self.name, entry).await?;
                return match self.send(&tag, &entry).await {
                    Ok(layer) => Ok(Kept::Written { layer, size: entry.layer.0.size }),
                    Err(error) => {
                        // Another build may have been faster, where a tag cannot be written twice.
                        if let Ok(Tagged::Entry(_)) = self.look(&tag, wanted).await {
                            return Ok(Kept::Exists);
                        }
                        Err(self.failed(error))
                    }
                };
            }
            Err(Error::Full { place: self.name.clone(), key, many: MOST })
        })
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.repository)
    }
}

/// A blob that is here.
struct Document {
    digest: Digest,
    bytes: Vec<u8>,
}

impl Document {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: Digest::of(&bytes), bytes }
    }
}

impl BlobSource for Document {
    fn open(&self) -> Later<'_, std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>> {
        let bytes = Bytes::from(self.bytes.clone());
        Box::pin(async move { Ok(stream::iter([Ok(bytes)]).boxed()) })
    }
}
