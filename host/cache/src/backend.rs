//! Where results are kept beside the local store: documents under names, blobs under digests, behind one trait.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use oci::media_type::Compression;
use oci::{Descriptor, DiffId, Digest, Reference};
use registry::{BlobSource, Bytes, Client, Later, Pushed};
use serde::{Deserialize, Serialize};

use crate::bucket::Bucket;

/// A blob of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

impl Blob {
    /// As the documents of an image name it.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        oci::describe(oci::media_type::Format::Oci.layer(self.compression), self.digest, self.size)
    }
}

/// What is kept under a name: a few words, and the blobs that they are about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What whoever has kept it says of it.
    pub head: serde_json::Value,
    /// In the order in which they were kept.
    pub blobs: Vec<Blob>,
}

/// What is under a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
    /// Nothing.
    Nothing,
    /// Something that is no document.
    Illegible,
    /// This.
    Document(Document),
}

/// A document that is to be kept, and where its bytes are.
#[derive(Default)]
pub struct NewDocument {
    /// As in [`Document`]; small.
    pub head: serde_json::Value,
    /// What is kept for people and read by nobody; may be large.
    pub details: serde_json::Value,
    /// What it is, for people.
    pub title: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Its blobs.
    pub blobs: Vec<NewBlob>,
}

/// A blob of a document that is to be kept.
pub struct NewBlob {
    /// The blob.
    pub blob: Blob,
    /// Of its bytes unpacked.
    pub diff_id: DiffId,
    /// Where it can be read.
    pub source: Arc<dyn BlobSource>,
    /// The repository of a registry that has it.
    pub at: Option<Reference>,
    /// Whether it is small and hardly anywhere yet, so that nobody need ask before it is sent.
    pub is_new: bool,
}

impl fmt::Debug for NewDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewDocument").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Why a backend did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry.
    #[error("the cache {place}: {source}")]
    Registry {
        /// Which backend.
        place: String,
        /// What it said.
        source: registry::Error,
    },
    /// The folder or bucket.
    #[error("the cache {place}: {source}")]
    Objects {
        /// Which backend.
        place: String,
        /// Why.
        source: object_store::Error,
    },
    /// What was to be kept, or where.
    #[error("the cache {place}: {reason}")]
    Invalid {
        /// Which backend.
        place: String,
        /// Why there is nothing to keep, or no way to.
        reason: String,
    },
    /// There is something else by now.
    #[error("the cache {place}: {name} is there already, and nothing is overwritten")]
    Taken {
        /// Which backend.
        place: String,
        /// The document's name.
        name: String,
    },
}

fn only_read<T: Send + 'static>(place: &str) -> Later<'static, Result<T, Error>> {
    let error = Error::Invalid { place: place.to_owned(), reason: "it is only read as a cache".into() };
    Box::pin(async { Err(error) })
}

/// A place that keeps documents. Nothing in it is ever replaced.
pub trait Backend: Send + Sync + fmt::Debug {
    /// As the user calls it.
    fn name(&self) -> &str;
    /// What is under a name.
    fn read<'f>(&'f self, name: &'f str) -> Later<'f, Result<Named, Error>>;
    /// Whether a blob is there, as far as it can be told without reading it.
    fn has<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<bool, Error>>;
    /// A blob's bytes, checked by whoever takes them.
    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>>;
    /// Keeps a document under a name that has none, its blobs first; says what was done for each of them.
    /// By itself, as the three below: a place is only read.
    fn write<'f>(&'f self, _name: &'f str, _document: NewDocument) -> Later<'f, Result<Vec<Pushed>, Error>> {
        only_read(self.name())
    }
    /// The names of all documents.
    fn names(&self) -> Later<'_, Result<Vec<String>, Error>> {
        only_read(self.name())
    }
    /// Takes documents away.
    fn remove<'f>(&'f self, _names: &'f [String]) -> Later<'f, Result<(), Error>> {
        only_read(self.name())
    }
    /// Takes away old blobs that are not among these; gives their bytes, or none where that is not ours to do.
    fn sweep<'f>(&'f self, _needed: &'f BTreeSet<Digest>) -> Later<'f, Result<Option<u64>, Error>> {
        only_read(self.name())
    }
    /// The repository that its blobs are in, where it is one: they can be mounted from there.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}

/// Where a backend is, as the command line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A repository; a tag begins the tags of all documents.
    Registry(Reference),
    /// An image whose configuration says which steps its layers are of.
    Image(Reference),
    /// A folder.
    Folder(PathBuf),
    /// A bucket of an object store.
    Bucket(Bucket),
    /// The store of another builder, perhaps read-only.
    Store(PathBuf),
}

/// Opens a backend.
///
/// # Errors
/// When there is none at that place.
pub fn open(place: &Place, client: &Client) -> Result<Arc<dyn Backend>, Error> {
    Ok(match place {
        Place::Registry(reference) => Arc::new(crate::registry_cache::RegistryCache::new(client, reference)),
        Place::Image(reference) => Arc::new(crate::image_cache::ImageCache::new(client, reference)),
        Place::Folder(folder) => Arc::new(crate::object_cache::ObjectCache::folder(folder)?),
        Place::Bucket(bucket) => Arc::new(crate::object_cache::ObjectCache::bucket(bucket, client)?),
        Place::Store(folder) => Arc::new(crate::store_cache::StoreCache::open(folder)?),
    })
}

/// What the backend at a place is called.
#[must_use]
pub fn name(place: &Place) -> String {
    match place {
        Place::Registry(reference) => {
            let prefix = reference.own_tag().map_or(String::new(), |tag| format!(":{tag}"));
            format!("registry {}{prefix}", reference.name())
        }
        Place::Image(reference) => format!("image {reference}"),
        Place::Folder(folder) => format!("local {}", folder.display()),
        Place::Bucket(bucket) => format!("s3 {}", bucket.url()),
        Place::Store(folder) => format!("store {}", folder.display()),
    }
}

/// A blob that is here.
pub(crate) struct Here(pub(crate) Bytes);

impl BlobSource for Here {
    fn open(&self) -> Later<'_, std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>> {
        use futures_util::StreamExt as _;
        let bytes = self.0.clone();
        Box::pin(async move { Ok(futures_util::stream::iter([Ok(bytes)]).boxed()) })
    }
}
