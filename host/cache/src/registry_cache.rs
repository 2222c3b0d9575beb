//! Documents in a repository of a registry: each a manifest under a tag of its own, its blobs the manifest's layers.
//!
//! The manifest is an image that any registry takes, config and all; the document's words stand in an annotation, so that
//! one request reads it. A tag is never written again: registries whose tags are immutable are as good as any, and of two
//! builds that race both are right.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use oci::media_type::Format;
use oci::{Descriptor, Digest, Manifest, Reference, describe, digest_of};
use registry::{Access, Bytes, Client, Later, Pushed};

use crate::backend::{Backend, Blob, Document, Error, Here, Named, NewDocument, Place, name};

/// The annotation that holds a document's words.
const HEAD: &str = "dev.plywood.cache.head";
/// Requests at the same time.
const REQUESTS: usize = 16;

/// A repository that keeps documents.
#[derive(Clone, Debug)]
pub(crate) struct RegistryCache {
    client: Client,
    repository: Reference,
    prefix: String,
    name: String,
}

impl RegistryCache {
    pub(crate) fn new(client: &Client, reference: &Reference) -> Self {
        let prefix = reference.own_tag().map(|tag| format!("{tag}-")).unwrap_or_default();
        let name = name(&Place::Registry(reference.clone()));
        Self { client: client.clone(), prefix, name, repository: reference.clone() }
    }

    fn tag(&self, name: &str) -> Result<Reference, Error> {
        let tag = format!("{}{name}", self.prefix);
        self.repository.with_tag(&tag).map_err(|error| self.failed(registry::Error::Malformed(tag, error.to_string())))
    }

    fn failed(&self, source: registry::Error) -> Error {
        Error::Registry { place: self.name.clone(), source }
    }

    async fn send(&self, to: &Reference, document: NewDocument) -> Result<Vec<Pushed>, Error> {
        let failed = |error| self.failed(error);
        let mut pushed = Vec::new();
        for new in &document.blobs {
            let descriptor = new.blob.descriptor();
            let same = new.at.as_ref().filter(|at| at.registry() == self.repository.registry());
            let mount = same.map(Reference::repository);
            pushed.push(match new.is_new {
                true => self.client.push_new_blob(to, &descriptor, new.source.clone()).await.map_err(failed)?,
                false => self.client.push_blob(to, &descriptor, new.source.clone(), mount).await.map_err(failed)?,
            });
        }
        let (created, title) = (&document.created, &document.title);
        let config = serde_json::json!({
            "architecture": oci::Platform::host().architecture,
            "os": "linux",
            "created": created,
            "rootfs": { "type": "layers", "diff_ids": document.blobs.iter().map(|new| new.diff_id).collect::<Vec<_>>() },
            "history": document.blobs.iter().map(|_| serde_json::json!({
                "created": created, "created_by": title, "comment": "plywood cache",
            })).collect::<Vec<_>>(),
            "dev.plywood.cache.details": document.details,
        });
        let config = Bytes::from(config.to_string());
        let descriptor = describe(Format::Oci.config(), Digest::of(&config), config.len() as u64);
        self.client.push_new_blob(to, &descriptor, Arc::new(Here(config))).await.map_err(failed)?;
        let layers = document.blobs.iter().map(|new| new.blob.descriptor()).collect();
        let mut manifest = oci::manifest(Format::Oci.manifest(), descriptor, layers);
        manifest.set_annotations(Some([(HEAD.to_owned(), document.head.to_string())].into()));
        let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
        self.client.push_manifest(to, Format::Oci.manifest(), &bytes).await.map_err(failed)?;
        Ok(pushed)
    }
}

/// The document that a manifest is; none where it is none.
fn document(bytes: &[u8]) -> Option<Document> {
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let head = serde_json::from_str(manifest.annotations().as_ref()?.get(HEAD)?).ok()?;
    let blob = |descriptor: &Descriptor| {
        let compression = oci::media_type::compression(descriptor.media_type().as_ref())?;
        Some(Blob { digest: digest_of(descriptor).ok()?, size: descriptor.size(), compression })
    };
    Some(Document { head, blobs: manifest.layers().iter().map(blob).collect::<Option<_>>()? })
}

impl Backend for RegistryCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read<'f>(&'f self, name: &'f str) -> Later<'f, Result<Named, Error>> {
        Box::pin(async move {
            match self.client.manifest(&self.tag(name)?).await {
                Ok(resolved) => Ok(document(&resolved.bytes).map_or(Named::Illegible, Named::Document)),
                Err(registry::Error::NotFound(_)) => Ok(Named::Nothing),
                Err(registry::Error::Malformed(..) | registry::Error::Mismatch { .. }) => Ok(Named::Illegible),
                Err(error) => Err(self.failed(error)),
            }
        })
    }

    fn has<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<bool, Error>> {
        Box::pin(async {
            let there = self.client.has_blob(&self.repository, &blob.descriptor(), Access::Pull).await;
            there.map_err(|error| self.failed(error))
        })
    }

    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async move {
            let opened = self.client.blob(&self.repository, &blob.descriptor()).await;
            Ok(opened.map_err(|error| self.failed(error))?.into_stream())
        })
    }

    fn write<'f>(&'f self, name: &'f str, document: NewDocument) -> Later<'f, Result<Vec<Pushed>, Error>> {
        Box::pin(async move { self.send(&self.tag(name)?, document).await })
    }

    fn names(&self) -> Later<'_, Result<Vec<String>, Error>> {
        Box::pin(async {
            let tags = self.client.tags(&self.repository).await;
            let tags = match tags {
                Err(registry::Error::NotFound(_)) => Vec::new(),
                result => result.map_err(|error| self.failed(error))?,
            };
            Ok(tags.iter().filter_map(|tag| tag.strip_prefix(&self.prefix).map(str::to_owned)).collect())
        })
    }

    fn remove<'f>(&'f self, names: &'f [String]) -> Later<'f, Result<(), Error>> {
        Box::pin(async move {
            let remove = |name: String| async move {
                let tag = self.tag(&name)?;
                match self.client.delete_manifest(&tag).await {
                    Ok(()) | Err(registry::Error::NotFound(_)) => Ok(()),
                    Err(error) => Err(self.failed(error)),
                }
            };
            stream::iter(names.to_vec()).map(remove).buffer_unordered(REQUESTS).try_collect::<()>().await
        })
    }

    fn sweep<'f>(&'f self, _: &'f BTreeSet<Digest>) -> Later<'f, Result<Option<u64>, Error>> {
        Box::pin(async { Ok(None) })
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.repository)
    }
}
