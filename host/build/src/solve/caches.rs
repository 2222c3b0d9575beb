//! Results of steps that are kept elsewhere, looked for all at once.
//!
//! A cache helps or it does not; a build never fails because one cannot be read, and because one cannot be written only
//! where the user has asked for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cache::{Backend, Blob, Entry, InlineEntry, Keys, Wanted};
use futures_util::StreamExt as _;
use futures_util::stream;
use oci::tree::Layer;
use oci::{ChainId, DiffId, Digest};
use plan::key::Key;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use super::Solver;
use super::cached_layer::{Bad, CachedLayer};
use super::exports::Written;
use crate::event::Event;
use crate::request::{BuildRequest, CacheExport, Tools};
use crate::resolve::LayerSource;

/// Look-ups under way at the same time.
const LOOKUPS: usize = 64;
/// Entries that are written at the same time.
const WRITES: usize = 8;

/// An entry, and who has it.
#[derive(Clone)]
pub(super) struct Borrowed {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) entry: Entry,
}

/// The caches of a build.
pub(crate) struct Caches {
    /// With the age, in seconds, from which entries count no more.
    from: Vec<(Arc<dyn Backend>, Option<u64>)>,
    pub(super) to: Vec<(Arc<dyn Backend>, CacheExport)>,
    /// Those that could not even be opened: a cache, why, and whether that does not matter.
    pub(super) unopened: Vec<(String, bool)>,
    /// By key.
    found: Mutex<BTreeMap<Key, Arc<OnceCell<Option<Borrowed>>>>>,
    /// Layers of entries that have been used.
    layers: Mutex<BTreeMap<DiffId, Borrowed>>,
    /// Their indexes and those of base images' layers, once they have been asked for.
    indexes: Mutex<BTreeMap<DiffId, Index>>,
    pub(super) writes: Mutex<JoinSet<Result<(), (String, bool)>>>,
    pub(super) slots: Semaphore,
    /// Backends that have failed are not asked again, and told of once. One that cannot be read may be written: some
    /// registries let nobody read what is not there yet.
    unreadable: Mutex<BTreeSet<String>>,
    pub(super) unwritable: Mutex<BTreeSet<String>>,
    pub(super) written: Mutex<BTreeMap<String, Written>>,
    /// What the image says of its layers, by step.
    pub(super) inline: Mutex<BTreeMap<usize, InlineEntry>>,
    /// Backends that had an entry whose layer they did not give, and how they failed.
    bad: Bad,
}

/// A layer's index, once it has been fetched.
type Index = Arc<OnceCell<Option<Arc<Layer>>>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caches {
    pub(super) fn new(request: &BuildRequest, tools: &Tools) -> Self {
        let (mut from, mut to, mut unopened) = (Vec::new(), Vec::new(), Vec::new());
        for import in &request.cache_from {
            match cache::open(&import.place, &tools.registry) {
                Ok(backend) => from.push((backend, import.max_age)),
                Err(error) => unopened.push((error.to_string(), true)),
            }
        }
        for export in &request.cache_to {
            match cache::open(&export.place, &tools.registry) {
                Ok(backend) => to.push((backend, export.clone())),
                Err(error) => unopened.push((error.to_string(), export.ignore_error)),
            }
        }
        Self {
            from,
            to,
            unopened,
            found: Mutex::default(),
            layers: Mutex::default(),
            indexes: Mutex::default(),
            inline: Mutex::default(),
            writes: Mutex::default(),
            slots: Semaphore::new(WRITES),
            unreadable: Mutex::default(),
            unwritable: Mutex::default(),
            written: Mutex::default(),
            bad: Bad::default(),
        }
    }

    fn is_unreadable(&self, backend: &dyn Backend) -> bool {
        lock(&self.unreadable).contains(backend.name())
    }

    pub(super) fn is_unwritable(&self, backend: &dyn Backend) -> bool {
        lock(&self.unwritable).contains(backend.name())
    }

    /// The first entry under a key, asked for once.
    async fn find(&self, key: Key, wanted: Wanted, tools: &Tools) -> Option<Borrowed> {
        let cell = lock(&self.found).entry(key).or_default().clone();
        let look = || async {
            for (backend, max_age) in &self.from {
                if self.is_unreadable(&**backend) {
                    continue;
                }
                let wanted = wanted.and_younger(*max_age, crate::time::now());
                match cache::find(&**backend, key, wanted).await {
                    Ok(Some(entry)) => return Some(Borrowed { backend: backend.clone(), entry }),
                    Ok(None) => {}
                    Err(error) => {
                        if lock(&self.unreadable).insert(backend.name().to_owned()) {
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
        for (reason, _) in self.caches.unopened.iter().filter(|(_, ignore)| *ignore) {
            (self.tools.events)(Event::Note(format!("warning: {reason}; it is left out of this build")));
        }
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
        lock(&self.caches.layers).entry(layer).or_insert_with(|| borrowed.clone());
    }

    /// A backend that has not given the layer of an entry, and how it failed: a build that went wrong for it goes well
    /// without it.
    pub(crate) fn bad_cache(&self) -> Option<(String, String)> {
        lock(&self.caches.bad).clone()
    }

    /// The index of a layer that is in a cache: it came with an entry, or somebody has kept that of a base image. It counts
    /// in this build alone: the store's are made from layers.
    pub(super) async fn borrowed_index(&self, layer: DiffId) -> Option<Arc<Layer>> {
        let cell = lock(&self.caches.indexes).entry(layer).or_default().clone();
        let fetch = || async {
            let borrowed = lock(&self.caches.layers).get(&layer).cloned();
            if let Some(Borrowed { backend, entry }) = borrowed {
                return fetch_index(&*backend, &entry.index?).await;
            }
            let from = self.caches.from.iter().filter(|_| !self.no_cache).map(|(backend, _)| backend);
            for backend in from.filter(|backend| !self.caches.is_unreadable(&***backend)) {
                if let Ok(Some(blob)) = cache::find_index(&**backend, layer).await
                    && let Some(index) = fetch_index(&**backend, &blob).await
                {
                    return Some(index);
                }
            }
            None
        };
        cell.get_or_init(fetch).await.clone()
    }
}

/// An index; none where it cannot be had: then the layer is fetched.
async fn fetch_index(backend: &dyn Backend, blob: &Blob) -> Option<Arc<Layer>> {
    let mut pieces = backend.open(blob).await.ok()?;
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
}

fn wanted(keys: &Keys) -> Wanted {
    Wanted { not_before: keys.max_age.map(|age| crate::time::now().saturating_sub(age)) }
}

/// What counts of entries that are to be written.
pub(super) fn wanted_of(keys: &Keys) -> Wanted {
    wanted(keys)
}
