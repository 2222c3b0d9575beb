//! Where entries are kept beside the local store, behind one trait.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use oci::media_type::Compression;
use oci::{Descriptor, Digest, Reference};
use plan::key::Key;
use registry::{BlobSource, Bytes, Later, Pushed};
use serde::{Deserialize, Serialize};
use store::Record;

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the step gave.
    pub record: Record,
    /// The blob of its layer.
    pub layer: Blob,
    /// A blob with the layer's index, as `snapshot` packs it: whoever only wants to know what is in the layer need not
    /// fetch it.
    pub index: Option<Blob>,
}

/// A blob of an entry.
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

/// An entry that is to be kept, and where its bytes are.
pub struct NewEntry {
    /// What the step gave.
    pub record: Record,
    /// Its layer.
    pub layer: (Blob, Arc<dyn BlobSource>),
    /// The repository of a registry that has the layer.
    pub layer_at: Option<Reference>,
    /// The layer's index and its diff ID, where it is known.
    pub index: Option<(Blob, oci::DiffId, Arc<dyn BlobSource>)>,
}

impl fmt::Debug for NewEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEntry").field("record", &self.record).finish_non_exhaustive()
    }
}

/// What a record must be, that it counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Made at this time or later, in seconds since 1970; none: at any time.
    pub not_before: Option<u64>,
}

impl Wanted {
    /// Whether a record counts. Its time goes into images as it is.
    #[must_use]
    pub fn is(&self, record: &Record) -> bool {
        let is_time = |text: &str| {
            (20..=35).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b"-:TZ.+".contains(&b))
        };
        is_time(&record.created) && self.not_before.is_none_or(|time| record.created_at >= time)
    }
}

/// What became of an entry that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// One was there.
    Exists,
    /// It is there now.
    Written {
        /// What was done for its layer.
        layer: Pushed,
        /// Of the layer's blob, in bytes.
        size: u64,
    },
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
    /// The folder.
    #[error("the cache {place}: {source}")]
    Io {
        /// Which backend.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was to be kept.
    #[error("the cache {place}: {reason}")]
    Entry {
        /// Which backend.
        place: String,
        /// Why there is nothing to keep.
        reason: String,
    },
    /// Every name that an entry could have is taken by one that is of no use.
    #[error("the cache {place} holds {many} useless entries for {key}: delete them")]
    Full {
        /// Which backend.
        place: String,
        /// Of the step.
        key: Key,
        /// So many.
        many: u32,
    },
}

/// An entry that is to be kept after all.
pub(crate) async fn made(place: &str, entry: Later<'_, Result<NewEntry, String>>) -> Result<NewEntry, Error> {
    entry.await.map_err(|reason| Error::Entry { place: place.to_owned(), reason })
}

/// A place that keeps entries. Nothing in it is ever replaced: what is of no use is passed over.
pub trait Backend: Send + Sync + fmt::Debug {
    /// As the user calls it.
    fn name(&self) -> &str;
    /// The entry under a key, if there is one that counts and its layer is there.
    fn find<'f>(&'f self, key: Key, wanted: Wanted) -> Later<'f, Result<Option<Entry>, Error>>;
    /// A blob's bytes, checked by whoever takes them.
    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>>;
    /// Keeps an entry, unless one is there that counts: then it is not made.
    fn put<'f>(
        &'f self,
        key: Key,
        wanted: Wanted,
        entry: Later<'f, Result<NewEntry, String>>,
    ) -> Later<'f, Result<Kept, Error>>;
    /// The repository that its blobs are in, where it is one: they can be mounted from there.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}

/// Where a backend is, as the command line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A repository; a tag begins the tags of all entries.
    Registry(Reference),
    /// A folder.
    Folder(PathBuf),
}

/// Which steps' results are written to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those whose layers are part of the image.
    Min,
    /// All.
    Max,
}

/// A backend to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Where it is.
    pub place: Place,
    /// What is written.
    pub mode: Mode,
    /// Whether the build goes on when writing fails.
    pub ignore_error: bool,
}

/// Opens a backend.
#[must_use]
pub fn open(place: &Place, client: &registry::Client) -> Arc<dyn Backend> {
    match place {
        Place::Registry(reference) => Arc::new(crate::registry_cache::RegistryCache::new(client, reference)),
        Place::Folder(folder) => Arc::new(crate::folder_cache::FolderCache::new(folder)),
    }
}
