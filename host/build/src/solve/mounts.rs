//! Cache mounts that outlive a machine: restored where this one has none, saved when the build is done.
//!
//! It is a help and no more: whatever goes wrong is told, and the build goes on with what there is.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache::{Backend, Blob, MountHead, MountKey, NewBlob, SavedMount};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use image::FileBlob;
use oci::Digest;
use oci::media_type::Compression;
use plan::graph::Vertex;
use snapshot::pieces::Packed;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::OnceCell;

use super::Solver;
use super::caches::lock;
use crate::event::Event;
use crate::request::{MountStore, Tools};
use crate::worker::Seed;

/// So much of a key file counts; lock files are smaller.
const LARGEST_KEY_FILE: u64 = 256 << 20;
/// Pieces that are fetched at the same time.
const FETCHES: usize = 8;
/// So long is waited for what is to be saved.
const PATIENCE: Duration = Duration::from_secs(600);

/// The mounts of a build that are kept elsewhere.
#[derive(Default)]
pub(crate) struct Mounts {
    store: Option<(Arc<dyn Backend>, MountStore)>,
    /// What the store has; none: it cannot be asked.
    names: OnceCell<Option<Vec<String>>>,
    key_files: OnceCell<Vec<(String, Digest)>>,
    used: Mutex<BTreeMap<PathBuf, Used>>,
}

/// A mount that a step has had.
#[derive(Clone)]
struct Used {
    id: String,
    key: MountKey,
    /// The lock that is held while a step has it, where there is one.
    lock: Option<String>,
}

impl Mounts {
    pub(super) fn new(store: Option<&MountStore>, tools: &Tools) -> Self {
        let open = |store: &MountStore| match cache::open(&store.place, &tools.registry) {
            Ok(backend) => Some((backend, store.clone())),
            Err(error) => {
                (tools.events)(Event::Note(format!("warning: cache mounts are neither restored nor saved: {error}")));
                None
            }
        };
        Self { store: store.and_then(open), ..Self::default() }
    }
}

impl Solver {
    pub(super) fn mount_note(&self, id: &str, text: &str) {
        (self.tools.events)(Event::Note(format!("cache mount {id}: {text}")));
    }

    /// What a mount last held somewhere else, fetched.
    pub(super) async fn restored(&self, id: &str, key: &MountKey) -> Option<Restored> {
        let (backend, store) = self.mounts.store.as_ref()?;
        let names = self.mount_names().await.as_ref()?;
        let saved = match cache::latest_mount(&**backend, names, key).await {
            Ok(saved) => saved?,
            Err(error) => {
                self.mount_note(id, &format!("warning: not restored: {error}"));
                return None;
            }
        };
        let (size, limit) = (saved.head.size, store.limit);
        if size > limit {
            self.mount_note(id, &format!("warning: not restored: {size} bytes are more than max-size, {limit}"));
            return None;
        }
        match self.fetch_pieces(&**backend, &saved).await {
            Ok(scratch) => Some(Restored { scratch, saved, limit }),
            Err(reason) => {
                self.mount_note(id, &format!("warning: not restored: {reason}"));
                None
            }
        }
    }

    async fn mount_names(&self) -> &Option<Vec<String>> {
        let list = || async {
            let (backend, _) = self.mounts.store.as_ref()?;
            match backend.names().await {
                Ok(names) => Some(names),
                Err(error) => {
                    let text = format!("warning: cache mounts are neither restored nor saved: {error}");
                    (self.tools.events)(Event::Note(text));
                    None
                }
            }
        };
        self.mounts.names.get_or_init(list).await
    }

    async fn fetch_pieces(&self, backend: &dyn Backend, saved: &SavedMount) -> Result<store::Scratch, String> {
        let scratch = self.tools.store.scratch_folder().map_err(|error| error.to_string())?;
        let fetch = |blob: Blob| {
            let path = scratch.path().join(blob.digest.hex());
            async move {
                let failed = |error: std::io::Error| error.to_string();
                let mut pieces = backend.open(&blob).await.map_err(|error| error.to_string())?;
                let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
                let (mut hasher, mut size) = (oci::Hasher::default(), 0);
                while let Some(piece) = pieces.next().await {
                    let piece = piece.map_err(failed)?;
                    size += piece.len() as u64;
                    if size > blob.size {
                        return Err(format!("{} is longer than it should be", blob.digest));
                    }
                    hasher.update(&piece);
                    file.write_all(&piece).await.map_err(failed)?;
                }
                file.flush().await.map_err(failed)?;
                match hasher.finish() {
                    digest if digest == blob.digest => Ok(()),
                    digest => Err(format!("{} is {digest}", blob.digest)),
                }
            }
        };
        // A piece may come twice.
        let distinct: BTreeMap<Digest, Blob> = saved.blobs.iter().map(|blob| (blob.digest, *blob)).collect();
        stream::iter(distinct.into_values()).map(fetch).buffer_unordered(FETCHES).try_collect::<()>().await?;
        Ok(scratch)
    }

    /// The key of a mount; none where mounts are not kept elsewhere.
    pub(super) async fn mount_key(&self, vertex: &Vertex, name: &str) -> Option<MountKey> {
        let (_, store) = self.mounts.store.as_ref()?;
        let files = self.mounts.key_files.get_or_init(|| self.key_files(&store.key_files)).await;
        Some(MountKey::new(name, &vertex.platform.to_string(), &store.scope, files))
    }

    /// The content of the files that mounts depend on. One that is not there is a file like any other: it may come.
    async fn key_files(&self, paths: &[String]) -> Vec<(String, Digest)> {
        let mut files = Vec::new();
        for path in paths {
            let digest = async {
                let context = self.lookups.context(None).await.ok()?;
                let mut bytes = Vec::new();
                let file = crate::open_in_context(&context, path).ok()?;
                file.take(LARGEST_KEY_FILE).read_to_end(&mut bytes).ok()?;
                Some(Digest::of(&bytes))
            };
            let digest = digest.await;
            if digest.is_none() {
                let text = format!("warning: the key file {path} of cache mounts is not in the build context");
                (self.tools.events)(Event::Note(text));
            }
            files.push((path.clone(), digest.unwrap_or_else(|| Digest::of(b""))));
        }
        files
    }

    /// Notes that a step has a mount which is to be saved; `locked` is the lock of one that steps do not share.
    pub(super) fn mount_is_used(&self, path: &Path, id: &str, key: MountKey, locked: Option<String>) {
        lock(&self.mounts.used).insert(path.to_owned(), Used { id: id.to_owned(), key, lock: locked });
    }

    /// Saves what the mounts of this build hold now.
    pub(crate) async fn save_mounts(&self) {
        let used = std::mem::take(&mut *lock(&self.mounts.used));
        let all = async {
            for (path, used) in used {
                match self.save_mount(&path, &used).await {
                    Ok(Some(told)) => self.mount_note(&used.id, &told),
                    Ok(None) => {}
                    Err(reason) => self.mount_note(&used.id, &format!("warning: not saved: {reason}")),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let seconds = PATIENCE.as_secs();
            (self.tools.events)(Event::Note(format!("warning: cache mounts were not saved within {seconds} s")));
        }
    }

    async fn save_mount(&self, path: &Path, used: &Used) -> Result<Option<String>, String> {
        let Some((backend, store)) = &self.mounts.store else { return Ok(None) };
        let (Some((worker, _)), Some(names)) = (self.worker.get(), self.mount_names().await) else { return Ok(None) };
        let text = |error: cache::BackendError| error.to_string();
        let before = cache::latest_mount(&**backend, names, &used.key).await.map_err(text)?;
        let pairs = before.iter().flat_map(|saved| saved.head.pieces.iter().copied().zip(saved.blobs.iter().copied()));
        let pairs: Vec<(Digest, Blob)> = pairs.collect();
        // A place may have dropped a piece and kept what names it.
        let is_there = |(content, blob): (Digest, Blob)| async move {
            Ok::<_, cache::BackendError>(backend.has(&blob).await?.then_some((content, (blob.digest, blob.size))))
        };
        let known = stream::iter(pairs.clone()).map(is_there).buffer_unordered(FETCHES).try_collect::<Vec<_>>().await;
        let known: BTreeMap<Digest, (Digest, u64)> = known.map_err(text)?.into_iter().flatten().collect();
        let is_whole = pairs.iter().all(|(content, _)| known.contains_key(content));
        let scratch = self.tools.store.scratch_folder().map_err(|error| error.to_string())?;
        let packed = {
            let _held = match used.lock.clone() {
                Some(name) => {
                    let store = self.tools.store.clone();
                    let held = tokio::task::spawn_blocking(move || store.lock(&name)).await;
                    Some(held.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?)
                }
                None => None,
            };
            worker.pack(path.to_owned(), scratch.path().to_owned(), known, store.limit).await?
        };
        let Packed { layer, size, pieces } = packed;
        if before.as_ref().is_some_and(|saved| is_whole && saved.is_exact && saved.head.layer == layer) {
            return Ok(None);
        }
        let now = crate::time::now();
        let contents = pieces.iter().map(|piece| piece.content).collect();
        let head = MountHead { id: used.id.clone(), created_at: now, layer, size, pieces: contents };
        let blobs = pieces.iter().map(|piece| {
            let file = scratch.path().join(piece.blob.hex());
            let blob = Blob { digest: piece.blob, size: piece.size, compression: Compression::Zstd };
            let source = Arc::new(FileBlob::whole(file));
            NewBlob { blob, diff_id: oci::DiffId(piece.content), source, at: None, is_new: false }
        });
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let generation = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        let created = crate::time::rfc3339(now);
        let put = cache::put_mount(&**backend, &used.key, generation, created, &head, blobs.collect());
        let sent = put.await.map_err(text)?;
        Ok(Some(format!("saved in {}, {sent} of {size} bytes sent", backend.name())))
    }
}

/// What a mount last held, fetched.
pub(super) struct Restored {
    scratch: store::Scratch,
    saved: SavedMount,
    limit: u64,
}

impl Restored {
    /// As a new mount is filled with it.
    pub(super) fn seed(&self) -> Seed {
        let files = self.saved.blobs.iter().map(|blob| self.scratch.path().join(blob.digest.hex())).collect();
        Seed::Pieces { layer: self.saved.head.layer, files, limit: self.limit }
    }

    /// In words.
    pub(super) fn told(&self) -> String {
        let files = if self.saved.is_exact { "" } else { ", of other key files" };
        format!("restored, {} bytes{files}", self.saved.head.size)
    }
}
