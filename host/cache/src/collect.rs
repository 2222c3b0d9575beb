//! What a backend holds, and making room in it.
//!
//! Documents of a name that has been given anew (`<key>`, `<key>-1`, ...; generations of a mount) are one thing, of which
//! the newest counts. What is no document of ours, in a repository that others use as well, is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::Digest;
use registry::{BlobSource, Bytes, Later};

use crate::backend::{Backend, Blob, Document, Error, Named, NewBlob, NewDocument};
use crate::{entry, layer_index, mount};

/// Documents that are read at the same time.
const READS: usize = 32;

/// Something that a backend holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it is, for people.
    pub title: String,
    /// When it was made, seconds since 1970.
    pub created_at: u64,
    /// Its blobs, shared ones as well.
    pub blobs: Vec<Blob>,
    /// The document that counts; none: none is of use.
    current: Option<(String, Document)>,
    /// The names of all its documents.
    names: Vec<String>,
    /// The name that it should have.
    name: String,
}

impl Held {
    /// The key, or whatever else it is kept under.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.name
    }

    /// Whether there are documents beside the one that counts, or that has not the name by which it is found first.
    fn has_others(&self) -> bool {
        let is_first = |name: &str| entry::parse(name).is_none_or(|(_, number)| number == 0);
        self.names.len() > 1 || self.current.as_ref().is_some_and(|(name, _)| !is_first(name))
    }

    /// Whether any of its documents has its blobs.
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        self.current.is_some()
    }

    /// In bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// What a backend holds, the newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    /// What is ours.
    pub items: Vec<Held>,
    /// Documents, tags that are not.
    pub foreign: usize,
}

impl Holding {
    /// In bytes, each blob once.
    #[must_use]
    pub fn size(&self) -> u64 {
        let blobs: BTreeMap<Digest, u64> =
            self.items.iter().flat_map(|item| &item.blobs).map(|blob| (blob.digest, blob.size)).collect();
        blobs.values().sum()
    }
}

/// What of a document is known by its name and words alone.
struct Known {
    /// Of all documents that are one thing.
    name: String,
    /// The greater the newer.
    number: u64,
    created_at: u64,
    title: String,
}

fn known(name: &str, document: &Document) -> Option<Known> {
    if let Some((key, number)) = entry::parse(name) {
        let record = entry::entry(document)?.record;
        return Some(Known { name: key, number, created_at: record.created_at, title: record.name });
    }
    if let Some((key, generation)) = mount::parse(name) {
        let head: mount::Head = serde_json::from_value(document.head.clone()).ok()?;
        let title = format!("the cache mount {}", head.id);
        return Some(Known { name: key, number: generation, created_at: head.created_at, title });
    }
    let (layer, created_at) = layer_index::known(document)?;
    let title = format!("the index of the base image's layer {layer}");
    Some(Known { name: name.to_owned(), number: 0, created_at, title })
}

fn is_ours(name: &str) -> bool {
    entry::parse(name).is_some() || mount::parse(name).is_some() || layer_index::parse(name).is_some()
}

/// What a backend holds.
///
/// # Errors
/// When it does not say.
pub async fn holding(backend: &dyn Backend) -> Result<Holding, Error> {
    let names = backend.names().await?;
    let all = names.len();
    let read = |name: String| async move {
        let document = match backend.read(&name).await? {
            Named::Document(document) => document,
            Named::Nothing | Named::Illegible => return Ok(None),
        };
        let Some(known) = known(&name, &document) else { return Ok(None) };
        let useful = match document.blobs.first() {
            Some(blob) => backend.has(blob).await?,
            None => false,
        };
        Ok(Some((name, known, document, useful)))
    };
    let ours = names.into_iter().filter(|name| is_ours(name));
    let documents: Vec<_> = stream::iter(ours)
        .map(read)
        .buffer_unordered(READS)
        .try_filter_map(|read| async { Ok(read) })
        .try_collect()
        .await?;
    let foreign = all - documents.len();
    let mut groups: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for document in documents {
        groups.entry(document.1.name.clone()).or_default().push(document);
    }
    let item = |(name, mut group): (String, Vec<(String, Known, Document, bool)>)| {
        group.sort_by_key(|(_, known, ..)| (known.created_at, known.number));
        let names = group.iter().map(|(name, ..)| name.clone()).collect();
        let last = group.last().map(|(_, known, ..)| (known.title.clone(), known.created_at));
        let current = group.into_iter().rev().find(|(.., useful)| *useful);
        let blobs = current.as_ref().map(|(_, _, document, _)| document.blobs.clone()).unwrap_or_default();
        let (title, created_at) =
            current.as_ref().map(|(_, known, ..)| (known.title.clone(), known.created_at)).or(last).unwrap_or_default();
        let current = current.map(|(name, _, document, _)| (name, document));
        Held { title, created_at, blobs, current, names, name }
    };
    let mut items: Vec<Held> = groups.into_iter().map(item).collect();
    items.sort_by(|one, other| (other.created_at, &other.name).cmp(&(one.created_at, &one.name)));
    Ok(Holding { items, foreign })
}

/// What stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// What was made at this time or later, in seconds since 1970, stays; none: age does not matter.
    pub since: Option<u64>,
    /// So many bytes of what was made last stay; none: size does not matter.
    pub bytes: Option<u64>,
}

/// What has gone, or would.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Freed {
    /// Things that are no more.
    pub items: Vec<Held>,
    /// Documents that were of use no more.
    pub superseded: usize,
    /// What is left.
    pub left: Holding,
    /// Blobs that were taken away, in bytes; none: those are the registry's to take away, or nothing was.
    pub bytes: Option<u64>,
}

/// Makes room: what is of no use goes, and what `keep` does not keep. With both limits, what either keeps stays.
///
/// # Errors
/// When the backend does not say what it holds or does not let it go.
pub async fn collect(backend: &dyn Backend, keep: Keep, dry_run: bool) -> Result<Freed, Error> {
    let Holding { items, foreign } = holding(backend).await?;
    let mut seen = BTreeMap::new();
    let (mut stays, mut goes) = (Vec::new(), Vec::new());
    for item in items {
        seen.extend(item.blobs.iter().map(|blob| (blob.digest, blob.size)));
        let is_young = keep.since.is_some_and(|since| item.created_at >= since);
        let is_little = keep.bytes.is_some_and(|bytes| bytes > 0 && seen.values().sum::<u64>() <= bytes);
        let no_limit = keep == Keep::default();
        let kept = item.current.is_some() && (no_limit || is_young || is_little);
        if kept { stays.push(item) } else { goes.push(item) }
    }
    let superseded = stays.iter().map(|item| item.names.len().saturating_sub(1)).sum();
    let left = Holding { items: stays, foreign };
    if dry_run {
        return Ok(Freed { items: goes, superseded, left, bytes: None });
    }
    for item in left.items.iter().filter(|item| item.has_others()) {
        only_current(backend, item).await?;
    }
    let names: Vec<String> = goes.iter().flat_map(|item| item.names.clone()).collect();
    backend.remove(&names).await?;
    let needed: BTreeSet<Digest> = left.items.iter().flat_map(|item| &item.blobs).map(|blob| blob.digest).collect();
    // What is not understood may need blobs that nobody else does.
    let bytes = if foreign > 0 && backend.repository().is_none() { None } else { backend.sweep(&needed).await? };
    Ok(Freed { items: goes, superseded, left, bytes })
}

/// Takes the documents of a thing away that count no more. Entries are looked for by number, without a gap: the one that
/// counts is written again as the first.
async fn only_current(backend: &dyn Backend, item: &Held) -> Result<(), Error> {
    let Some((current, document)) = &item.current else { return Ok(()) };
    if entry::parse(current).is_none_or(|(_, number)| number == 0) {
        let others: Vec<String> = item.names.iter().filter(|name| *name != current).cloned().collect();
        return backend.remove(&others).await;
    }
    let mut there = Vec::new();
    for blob in &document.blobs {
        if backend.has(blob).await? {
            there.push(*blob);
        }
    }
    backend.remove(std::slice::from_ref(&item.name)).await?;
    let mut head = document.head.clone();
    head["under"] = item.name.clone().into();
    let record = entry::entry(document).map(|entry| entry.record);
    let diff_id = record.as_ref().map_or(oci::DiffId(Digest::of(b"")), |record| record.layer);
    let created = record.map(|record| record.created).unwrap_or_default();
    let blobs =
        there.into_iter().map(|blob| NewBlob { blob, diff_id, source: Arc::new(Gone), at: None, is_new: false });
    let details = serde_json::Value::Null;
    let renamed = NewDocument { head, details, title: item.title.clone(), created, blobs: blobs.collect() };
    backend.write(&item.name, renamed).await?;
    let others: Vec<String> = item.names.iter().filter(|name| **name != item.name).cloned().collect();
    backend.remove(&others).await
}

/// A blob that is in the backend; should it have vanished this moment, there is nothing to send.
struct Gone;

impl BlobSource for Gone {
    fn open(&self) -> Later<'_, std::io::Result<stream::BoxStream<'static, std::io::Result<Bytes>>>> {
        Box::pin(async { Err(std::io::Error::from(std::io::ErrorKind::NotFound)) })
    }
}
