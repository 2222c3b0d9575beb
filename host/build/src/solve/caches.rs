//! Results of steps that are kept elsewhere: looked for all at once, written while later steps run.
//!
//! A cache helps or it does not; a build never fails because one cannot be read, and because one cannot be written only
//! where the user has asked for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::{Backend, Blob, Entry, Export, Kept, Keys, Mode, NewEntry, Wanted};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use image::{FileBlob, Source};
use oci::tree::Layer;
use oci::{ChainId, Descriptor, DiffId, Digest, Reference};
use plan::graph::VertexId;
use plan::key::Key;
use registry::{BlobSource, Bytes, Pushed};
use store::Record;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use super::Solver;
use super::cached_layer::{Bad, CachedLayer};
use crate::error::Error;
use crate::event::Event;
use crate::request::{BuildRequest, Tools};
use crate::resolve::LayerSource;

/// Look-ups under way at the same time.
const LOOKUPS: usize = 64;
/// Entries that are written at the same time.
const WRITES: usize = 8;
/// So long is waited for entries that are still to be written when everything else is done.
const PATIENCE: Duration = Duration::from_secs(600);

/// An entry, and who has it.
#[derive(Clone)]
pub(super) struct Borrowed {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) entry: Entry,
}

/// The caches of a build.
pub(crate) struct Caches {
    from: Vec<Arc<dyn Backend>>,
    to: Vec<(Arc<dyn Backend>, Export)>,
    /// By key.
    found: Mutex<BTreeMap<Key, Arc<OnceCell<Option<Borrowed>>>>>,
    /// Layers of entries that have been used, with their indexes once these are known.
    layers: Mutex<BTreeMap<DiffId, (Borrowed, Index)>>,
    writes: Mutex<JoinSet<Result<(), (String, bool)>>>,
    slots: Semaphore,
    /// Backends that have failed are not asked again, and told of once.
    broken: Mutex<std::collections::BTreeSet<String>>,
    written: Mutex<BTreeMap<String, Written>>,
    /// Backends that had an entry whose layer they did not give, and how they failed.
    bad: Bad,
}

/// A layer's index, once it has been fetched.
type Index = Arc<OnceCell<Option<Arc<Layer>>>>;

/// What has been written to a backend.
#[derive(Clone, Copy, Default)]
struct Written {
    entries: u64,
    layers: u64,
    bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caches {
    pub(super) fn new(request: &BuildRequest, tools: &Tools) -> Self {
        let open = |place| cache::open(place, &tools.registry);
        Self {
            from: request.cache_from.iter().map(open).collect(),
            to: request.cache_to.iter().map(|export| (open(&export.place), export.clone())).collect(),
            found: Mutex::default(),
            layers: Mutex::default(),
            writes: Mutex::default(),
            slots: Semaphore::new(WRITES),
            broken: Mutex::default(),
            written: Mutex::default(),
            bad: Bad::default(),
        }
    }

    fn is_broken(&self, backend: &dyn Backend) -> bool {
        lock(&self.broken).contains(backend.name())
    }

    /// The first entry under a key, asked for once.
    async fn find(&self, key: Key, wanted: Wanted, tools: &Tools) -> Option<Borrowed> {
        let cell = lock(&self.found).entry(key).or_default().clone();
        let look = || async {
            for backend in &self.from {
                if self.is_broken(&**backend) {
                    continue;
                }
                match backend.find(key, wanted).await {
                    Ok(Some(entry)) => return Some(Borrowed { backend: backend.clone(), entry }),
                    Ok(None) => {}
                    Err(error) => {
                        if lock(&self.broken).insert(backend.name().to_owned()) {
                            (tools.events)(Event::Note(format!("warning: {error}; it is left out of this build")));
                        }
                    }
                }
            }
            None
        };
        cell.get_or_init(look).await.clone()
    }
}

impl Solver {
    /// Asks for every step that is not in the store at once, so that what is found is there when it is needed.
    pub(crate) async fn look_ahead(&self) {
        if self.caches.from.is_empty() || self.no_cache {
            return;
        }
        let missing = self
            .keys
            .iter()
            .filter_map(|step| step.keys.as_ref())
            .filter(|keys| keys.read.iter().all(|key| self.tools.store.read_record(&key.to_string()).is_none()));
        let asked = missing.flat_map(|keys| keys.read.iter().map(|key| (*key, wanted(keys))));
        stream::iter(asked.collect::<Vec<_>>())
            .for_each_concurrent(LOOKUPS, |(key, wanted)| async move {
                self.caches.find(key, wanted, &self.tools).await;
            })
            .await;
    }

    /// The entry of a step that stands on `below`, in any of the caches.
    pub(super) async fn borrow(&self, keys: &Keys, below: Option<ChainId>) -> Option<Borrowed> {
        if self.no_cache {
            return None;
        }
        for key in &keys.read {
            let found = self.caches.find(*key, wanted(keys), &self.tools).await;
            if let Some(found) = found.filter(|found| found.entry.record.below.is_none_or(|b| Some(b) == below)) {
                return Some(found);
            }
        }
        None
    }

    /// Makes the layer of an entry one that can be fetched.
    pub(super) fn take(&self, borrowed: &Borrowed) {
        let layer = borrowed.entry.record.layer;
        let (backend, blob) = (borrowed.backend.clone(), borrowed.entry.layer);
        self.lookups.add_layer(
            layer,
            LayerSource {
                source: Arc::new(CachedLayer { backend, blob, bad: self.caches.bad.clone() }),
                descriptor: blob.descriptor(),
                is_base: false,
            },
        );
        lock(&self.caches.layers).entry(layer).or_insert_with(|| (borrowed.clone(), Arc::default()));
    }

    /// A backend that has not given the layer of an entry, and how it failed: a build that went wrong for it goes well
    /// without it.
    pub(crate) fn bad_cache(&self) -> Option<(String, String)> {
        lock(&self.caches.bad).clone()
    }

    /// The index that came with an entry's layer. It counts in this build alone: the store's are made from layers.
    pub(super) async fn borrowed_index(&self, layer: DiffId) -> Option<Arc<Layer>> {
        let (borrowed, cell) = lock(&self.caches.layers).get(&layer).cloned()?;
        let fetch = || async {
            let blob = borrowed.entry.index?;
            let mut pieces = borrowed.backend.open(&blob).await.ok()?;
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece.ok()?);
                if bytes.len() as u64 > blob.size {
                    return None;
                }
            }
            (Digest::of(&bytes) == blob.digest).then_some(())?;
            let unpacked = tokio::task::spawn_blocking(move || snapshot::index::unpack(&bytes)).await;
            unpacked.ok()?.map(Arc::new)
        };
        cell.get_or_init(fetch).await.clone()
    }

    /// Writes what a step gave to every cache that wants it, beside whatever else is done.
    pub(super) fn export(self: &Arc<Self>, id: VertexId, keys: &[Key], wanted: Wanted, record: &Record) {
        for (at, (backend, export)) in self.caches.to.iter().enumerate() {
            if export.mode == Mode::Min && !self.exported.contains(&id.0) || self.caches.is_broken(&**backend) {
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
        let (backend, _) = &self.caches.to[target];
        let _slot = self.caches.slots.acquire().await.map_err(|error| error.to_string())?;
        if self.caches.is_broken(&**backend) {
            return Ok(());
        }
        match backend.put(key, wanted, Box::pin(self.new_entry(record))).await {
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
            Err(error @ cache::BackendError::Entry { .. }) => Err(error.to_string()),
            // One failure is enough to know that the others would fail as well.
            Err(error) => match lock(&self.caches.broken).insert(backend.name().to_owned()) {
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
            Some(encoded) => {
                let packed = tokio::task::spawn_blocking(move || snapshot::index::pack(&encoded)).await;
                let (bytes, diff_id) = packed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                let digest = Digest::of(&bytes);
                let compression = oci::media_type::Compression::Gzip;
                let blob = Blob { digest, size: bytes.len() as u64, compression };
                let source: Arc<dyn BlobSource> = Arc::new(Here(Bytes::from(bytes)));
                Some((blob, diff_id, source))
            }
            None => None,
        };
        Ok(NewEntry { record: record.clone(), layer: (blob, source), layer_at, index })
    }

    /// Waits until everything is written, for a while; tells what was, and what was not.
    ///
    /// # Errors
    /// When writing failed where it must not.
    pub(crate) async fn finish_writes(&self) -> Result<(), Error> {
        let mut writes = std::mem::take(&mut *lock(&self.caches.writes));
        let events = &self.tools.events;
        let mut failed = None;
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
            events(Event::Note(format!(
                "warning: entries that were not written to a cache within {seconds} s are left out"
            )));
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

fn wanted(keys: &Keys) -> Wanted {
    Wanted { not_before: keys.max_age.map(|age| crate::time::now().saturating_sub(age)) }
}

/// What counts of entries that are to be written.
pub(super) fn wanted_of(keys: &Keys) -> Wanted {
    wanted(keys)
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
