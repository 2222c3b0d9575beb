//! Results that are written to caches while later steps run, and what an image says of its own layers.

use std::sync::Arc;
use std::time::Duration;

use cache::{Blob, InlineEntry, Kept, NewBlob, NewEntry, Wanted};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use image::{FileBlob, Source};
use oci::{Descriptor, DiffId, Digest, Reference};
use plan::graph::VertexId;
use plan::key::Key;
use registry::{BlobSource, Bytes, Pushed};
use store::Record;

use super::Solver;
use super::caches::lock;
use crate::error::Error;
use crate::event::Event;
use crate::request::CacheMode;

/// So long is waited for entries that are still to be written when everything else is done.
const PATIENCE: Duration = Duration::from_secs(600);

/// What has been written to a backend.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    entries: u64,
    layers: u64,
    bytes: u64,
}

impl Solver {
    /// Writes what a step gave to every cache that wants it, beside whatever else is done.
    pub(super) fn export(self: &Arc<Self>, id: VertexId, keys: &[Key], wanted: Wanted, record: &Record) {
        for (at, (backend, export)) in self.caches.to.iter().enumerate() {
            if export.mode == CacheMode::Min && !self.exported.contains(&id.0) || self.caches.is_unwritable(&**backend)
            {
                continue;
            }
            let (solver, keys, record) = (self.clone(), keys.to_vec(), record.clone());
            let ignore = export.ignore_error;
            lock(&self.caches.writes).spawn(async move {
                for key in keys {
                    solver.write_entry(at, key, wanted, &record).await.map_err(|error| (error, ignore))?;
                }
                Ok(())
            });
        }
    }

    async fn write_entry(&self, target: usize, key: Key, wanted: Wanted, record: &Record) -> Result<(), String> {
        let (backend, export) = &self.caches.to[target];
        let _slot = self.caches.slots.acquire().await.map_err(|error| error.to_string())?;
        if self.caches.is_unwritable(&**backend) {
            return Ok(());
        }
        let wanted = wanted.and_younger(export.max_age, crate::time::now());
        // What would be of no use there is not kept: it would only stand in the way.
        if !wanted.is(record) {
            return Ok(());
        }
        match cache::put(&**backend, key, wanted, Box::pin(self.new_entry(record))).await {
            Ok(Kept::Exists) => Ok(()),
            Ok(Kept::Written { layer, size }) => {
                let mut written = lock(&self.caches.written);
                let written = written.entry(backend.name().to_owned()).or_default();
                written.entries += 1;
                if layer == Pushed::Sent {
                    written.layers += 1;
                    written.bytes += size;
                }
                Ok(())
            }
            Err(error @ cache::BackendError::Invalid { .. }) => Err(error.to_string()),
            // One failure is enough to know that the others would fail as well.
            Err(error) => match lock(&self.caches.unwritable).insert(backend.name().to_owned()) {
                true => Err(error.to_string()),
                false => Ok(()),
            },
        }
    }

    /// An entry with its bytes, from wherever the layer is.
    async fn new_entry(&self, record: &Record) -> Result<NewEntry, String> {
        let (store, layer) = (&self.tools.store, record.layer);
        let variants = store.variants(layer);
        let here = variants.iter().find(|variant| variant.compression == self.compression).or(variants.first());
        let (blob, source, layer_at): (Blob, Arc<dyn BlobSource>, Option<Reference>) =
            match (here, self.lookups.layer_source(layer)) {
                (Some(variant), origin) => {
                    let (digest, size, compression) = (variant.digest, variant.size, variant.compression);
                    // It may be the very blob that a registry has.
                    let same = origin.filter(|origin| oci::digest_of(&origin.descriptor).is_ok_and(|d| d == digest));
                    let at = same.and_then(|origin| origin.source.reference().cloned());
                    (Blob { digest, size, compression }, Arc::new(FileBlob::whole(store.blob(digest))), at)
                }
                (None, Some(origin)) => {
                    let kind = origin.descriptor.media_type().to_string();
                    let compression = oci::media_type::compression(&kind).ok_or("its layer is of an unknown kind")?;
                    let digest = oci::digest_of(&origin.descriptor).map_err(|error| error.to_string())?;
                    let blob = Blob { digest, size: origin.descriptor.size(), compression };
                    let at = origin.source.reference().cloned();
                    (blob, Arc::new(Elsewhere { source: origin.source, descriptor: origin.descriptor }), at)
                }
                (None, None) => return Err(format!("the layer {layer} is gone")),
            };
        let encoded = match store.read_index(layer) {
            Some(encoded) => Some(encoded),
            None => self.borrowed_index(layer).await.map(|index| snapshot::index::encode(&index)),
        };
        let index = match encoded {
            Some(encoded) => Some(pack_index(encoded).await?),
            None => None,
        };
        Ok(NewEntry { record: record.clone(), layer: (blob, source), layer_at, index })
    }

    /// Writes the index of a base image's layer, which this build has made, to every cache.
    pub(super) fn export_index(&self, layer: DiffId) {
        let is_base = self.lookups.layer_source(layer).is_some_and(|origin| origin.is_base);
        let Some(encoded) = self.tools.store.read_index(layer).filter(|_| is_base && !self.caches.to.is_empty()) else {
            return;
        };
        let backends: Vec<_> = self.caches.to.iter().map(|(backend, _)| backend.clone()).collect();
        lock(&self.caches.writes).spawn(async move {
            let helps = |error: String| (format!("the index of a base image's layer: {error}"), true);
            let (blob, diff_id, source) = pack_index(encoded).await.map_err(helps)?;
            for backend in backends {
                let new = NewBlob { blob, diff_id, source: source.clone(), at: None, is_new: false };
                let now = crate::time::now();
                let created = (now, crate::time::rfc3339(now));
                // A cache that cannot be written is told of by the entries.
                let _ = cache::put_index(&*backend, layer, created, new).await;
            }
            Ok(())
        });
    }

    /// Notes what the image says of the layer of a step, kept under `key`.
    pub(super) fn note_inline(&self, id: VertexId, key: Option<Key>, record: &Record) {
        if let Some(key) = key.filter(|_| self.exported.contains(&id.0)) {
            let record = Record { components: Vec::new(), ..record.clone() };
            lock(&self.caches.inline).insert(id.0, InlineEntry { keys: vec![key], record });
        }
    }

    /// What the image says of its layers, bottom first.
    pub(crate) fn inline_entries(&self) -> Vec<InlineEntry> {
        lock(&self.caches.inline).values().cloned().collect()
    }

    /// Waits until everything is written, for a while; tells what was, and what was not.
    ///
    /// # Errors
    /// When writing failed where it must not.
    pub(crate) async fn finish_writes(&self) -> Result<(), Error> {
        let mut writes = std::mem::take(&mut *lock(&self.caches.writes));
        let events = &self.tools.events;
        let unopened = self.caches.unopened.iter().find(|(_, ignore)| !ignore).map(|(reason, _)| reason.clone());
        let mut failed = unopened;
        let all = async {
            while let Some(result) = writes.join_next().await {
                let result = result.unwrap_or_else(|error| Err((error.to_string(), true)));
                match result {
                    Ok(()) => {}
                    Err((reason, true)) => events(Event::Note(format!("warning: nothing more is written: {reason}"))),
                    Err((reason, false)) => failed = failed.take().or(Some(reason)),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let seconds = PATIENCE.as_secs();
            let text = format!("entries that were not written to a cache within {seconds} s are left out");
            match self.caches.to.iter().any(|(_, export)| !export.ignore_error) {
                true => failed = failed.or(Some(text)),
                false => events(Event::Note(format!("warning: {text}"))),
            }
            writes.shutdown().await;
        }
        for (name, written) in lock(&self.caches.written).iter() {
            let Written { entries, layers, bytes } = written;
            events(Event::Note(format!("{name}: {entries} entries written, {layers} layers of {bytes} bytes sent")));
        }
        match failed {
            Some(reason) => Err(Error::Request(reason)),
            None => Ok(()),
        }
    }
}

/// An index as a blob.
async fn pack_index(encoded: Vec<u8>) -> Result<(Blob, DiffId, Arc<dyn BlobSource>), String> {
    let packed = tokio::task::spawn_blocking(move || snapshot::index::pack(&encoded)).await;
    let (bytes, diff_id) = packed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let compression = oci::media_type::Compression::Gzip;
    let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64, compression };
    Ok((blob, diff_id, Arc::new(Here(Bytes::from(bytes)))))
}

/// A blob of an image that is somewhere else.
struct Elsewhere {
    source: Arc<dyn Source>,
    descriptor: Descriptor,
}

impl BlobSource for Elsewhere {
    fn open(&self) -> registry::Later<'_, std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>> {
        Box::pin(async { self.source.open(&self.descriptor).await.map_err(std::io::Error::other) })
    }
}

/// A blob that is here.
struct Here(Bytes);

impl BlobSource for Here {
    fn open(&self) -> registry::Later<'_, std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>> {
        let bytes = self.0.clone();
        Box::pin(async move { Ok(stream::iter([Ok(bytes)]).boxed()) })
    }
}
