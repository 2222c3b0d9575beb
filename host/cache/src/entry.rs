//! What steps gave, as documents of a backend: under `<key>`, and where an entry is there that is of no use, under
//! `<key>-1`, `<key>-2`... The head is the record; the first blob is the layer, the second its index.

use std::fmt;
use std::sync::Arc;

use oci::{DiffId, Digest, Reference};
use plan::key::Key;
use registry::{BlobSource, Later, Pushed};
use serde::{Deserialize, Serialize};
use store::Record;

use crate::backend::{Backend, Blob, Document, Error, Named, NewBlob, NewDocument};

/// So many entries of one key may be of no use before nobody looks further.
const MOST: u32 = 16;
/// An index of this size is sent without asking whether it is there.
const SMALL: u64 = 64 << 10;

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

/// An entry that is to be kept, and where its bytes are.
pub struct NewEntry {
    /// What the step gave.
    pub record: Record,
    /// Its layer.
    pub layer: (Blob, Arc<dyn BlobSource>),
    /// The repository of a registry that has the layer.
    pub layer_at: Option<Reference>,
    /// The layer's index and its diff ID, where it is known.
    pub index: Option<(Blob, DiffId, Arc<dyn BlobSource>)>,
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

    /// The stricter of this and an age in seconds, at the time `now`.
    #[must_use]
    pub fn and_younger(self, age: Option<u64>, now: u64) -> Self {
        Self { not_before: self.not_before.max(age.map(|age| now.saturating_sub(age))) }
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

/// The words of an entry's document.
#[derive(Serialize, Deserialize)]
pub(crate) struct Head {
    /// All of it but its components, which may be many.
    #[serde(flatten)]
    pub(crate) record: Record,
    /// Of the first blob: what belongs together stays together.
    pub(crate) blob: Digest,
    /// The name that it is kept under, so that no two documents are the same.
    pub(crate) under: String,
}

/// A name under which entries of a key are kept.
pub(crate) fn name(key: Key, number: u32) -> String {
    if number == 0 { key.to_string() } else { format!("{key}-{number}") }
}

/// The key that a name stands for, and which of its entries.
pub(crate) fn parse(name: &str) -> Option<(String, u64)> {
    let (key, number) = match name.split_once('-') {
        Some((key, number)) => (key, number.parse().ok()?),
        None => (name, 0),
    };
    (key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit())).then(|| (key.to_owned(), number))
}

/// The entry that a document is; none where it is none.
pub(crate) fn entry(document: &Document) -> Option<Entry> {
    let head: Head = serde_json::from_value(document.head.clone()).ok()?;
    let mut blobs = document.blobs.iter().copied();
    let layer = blobs.next().filter(|layer| layer.digest == head.blob)?;
    Some(Entry { record: head.record, layer, index: blobs.next() })
}

/// What a name leads to.
enum Look {
    Nothing,
    /// Too old, illegible, or without its layer.
    Useless,
    Entry(Box<Entry>),
}

async fn look(backend: &dyn Backend, name: &str, wanted: Wanted) -> Result<Look, Error> {
    let document = match backend.read(name).await? {
        Named::Nothing => return Ok(Look::Nothing),
        Named::Illegible => return Ok(Look::Useless),
        Named::Document(document) => document,
    };
    let Some(entry) = entry(&document).filter(|entry| wanted.is(&entry.record)) else {
        return Ok(Look::Useless);
    };
    // A place may have dropped the layer and kept what names it.
    Ok(if backend.has(&entry.layer).await? { Look::Entry(Box::new(entry)) } else { Look::Useless })
}

/// The entry under a key, if there is one that counts and its layer is there.
///
/// # Errors
/// When the backend does not say.
pub async fn find(backend: &dyn Backend, key: Key, wanted: Wanted) -> Result<Option<Entry>, Error> {
    for number in 0..MOST {
        match look(backend, &name(key, number), wanted).await? {
            Look::Nothing => return Ok(None),
            Look::Useless => {}
            Look::Entry(entry) => return Ok(Some(*entry)),
        }
    }
    Ok(None)
}

/// Keeps an entry, unless one is there that counts: then it is not made.
///
/// # Errors
/// When it cannot be made or written.
pub async fn put(
    backend: &dyn Backend,
    key: Key,
    wanted: Wanted,
    entry: Later<'_, Result<NewEntry, String>>,
) -> Result<Kept, Error> {
    let place = backend.name().to_owned();
    for number in 0..MOST {
        let name = name(key, number);
        match look(backend, &name, wanted).await {
            Ok(Look::Entry(_)) => return Ok(Kept::Exists),
            Ok(Look::Useless) => continue,
            // Some registries let nobody read what is not there yet.
            Ok(Look::Nothing) | Err(Error::Registry { source: registry::Error::Denied { .. }, .. }) => {}
            Err(error) => return Err(error),
        }
        let entry = entry.await.map_err(|reason| Error::Invalid { place: place.clone(), reason })?;
        let size = entry.layer.0.size;
        return match backend.write(&name, document(&name, entry)).await {
            Ok(pushed) => Ok(Kept::Written { layer: pushed.first().copied().unwrap_or(Pushed::Exists), size }),
            // Another build may have been faster, where a name cannot be given twice.
            Err(error) => match look(backend, &name, wanted).await {
                Ok(Look::Entry(_)) => Ok(Kept::Exists),
                _ => Err(error),
            },
        };
    }
    let reason = format!("it holds {MOST} useless entries for {key}: `plywood cache gc` takes them away");
    Err(Error::Invalid { place, reason })
}

fn document(name: &str, entry: NewEntry) -> NewDocument {
    let NewEntry { record, layer: (layer, source), layer_at: at, index } = entry;
    let (details, title, created, diff_id) =
        (&record.components, record.name.clone(), record.created.clone(), record.layer);
    let details = serde_json::json!({ "components": details });
    let record = Record { components: Vec::new(), ..record };
    let head = Head { record, blob: layer.digest, under: name.to_owned() };
    let mut blobs = vec![NewBlob { blob: layer, diff_id, source, at, is_new: false }];
    if let Some((blob, diff_id, source)) = index {
        blobs.push(NewBlob { blob, diff_id, source, at: None, is_new: blob.size <= SMALL });
    }
    NewDocument { head: serde_json::to_value(head).unwrap_or_default(), details, title, created, blobs }
}
