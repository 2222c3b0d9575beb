//! Cache mounts: folders of the store, each made when it is first needed, for one step at a time where that is asked for.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use executor::MountKind as Kind;
use plan::graph::{Origin, Vertex};
use plan::op::{CacheMount, Sharing};

use super::run::Held;
use super::{Solver, files};
use crate::error::Error;
use crate::key;
use crate::op;
use crate::worker::Seed;

impl Solver {
    pub(super) async fn cache_mount(
        self: &Arc<Self>,
        vertex: &Vertex,
        cache: &CacheMount,
        origin: Option<&Origin>,
        held: &mut Held,
    ) -> Result<Kind, Error> {
        let flavour = self.isolation(vertex).await?.flavour();
        let store = &self.tools.store;
        // As in BuildKit, a mount that starts otherwise (another owner, mode or seed) is another mount.
        let start = match origin {
            Some(Origin::Vertex(id)) => self.keys[id.0].definition.to_string(),
            Some(Origin::Context(name)) => format!("context {}", name.as_deref().unwrap_or_default()),
            Some(Origin::Scratch) | None => String::new(),
        };
        // Builds that are given a space of their own share no mount with others.
        let space = self.commands.cache_mount_space.as_deref().unwrap_or_default();
        let name =
            format!("{space}\0{}\0{}:{}\0{:o}\0{start}\0{}", cache.id, cache.uid, cache.gid, cache.mode, cache.source);
        let base = store.mount(&flavour, &name);
        let path = match cache.sharing {
            Sharing::Shared => base,
            Sharing::Locked => {
                let name = format!("mount {}", base.display());
                // A step that has it twice holds it once.
                if held.locked.insert(name.clone()) {
                    let mutex = {
                        let mut locks = self.locked_mounts.lock().unwrap_or_else(PoisonError::into_inner);
                        locks.entry(name.clone()).or_default().clone()
                    };
                    held.in_process.push(mutex.lock_owned().await);
                    let (store, lock) = (store.clone(), name);
                    let lock = tokio::task::spawn_blocking(move || store.lock(&lock)).await;
                    held.between.push(lock.map_err(|error| Self::failed(vertex, error.to_string()))??);
                }
                base
            }
            // The first that nobody uses.
            Sharing::Private => {
                let mut number = 0;
                loop {
                    let path = base.with_extension(format!("private-{number}"));
                    if let Some(lock) = store.try_lock(&format!("mount {}", path.display()))? {
                        held.between.push(lock);
                        break path;
                    }
                    number += 1;
                }
            }
        };
        store.touch(&path);
        let key = self.mount_key(vertex, &name).await;
        if !path.exists() {
            self.make_mount(vertex, cache, origin, &path, key.as_ref()).await?;
        }
        // What steps use side by side is saved as the first of them leaves it.
        if let Some(key) = key.filter(|_| !cache.read_only && path.extension().is_none()) {
            let lock = (cache.sharing == Sharing::Locked).then(|| format!("mount {}", path.display()));
            self.mount_is_used(&path, &cache.id, key, lock);
        }
        Ok(Kind::Folder { path, read_only: cache.read_only })
    }

    /// Makes a cache mount that is not there: as it last was somewhere else, or as it starts.
    async fn make_mount(
        self: &Arc<Self>,
        vertex: &Vertex,
        cache: &CacheMount,
        origin: Option<&Origin>,
        path: &Path,
        key: Option<&cache::MountKey>,
    ) -> Result<(), Error> {
        let worker = self.worker(vertex).await?;
        let make = |seed| worker.make_directory(path.to_owned(), (cache.uid, cache.gid), cache.mode, seed);
        let restored = match key {
            Some(key) => self.restored(&cache.id, key).await,
            None => None,
        };
        if let Some(restored) = restored {
            match make(Some(restored.seed())).await {
                Ok(()) => {
                    self.mount_note(&cache.id, &restored.told());
                    return Ok(());
                }
                Err(reason) => self.mount_note(&cache.id, &format!("warning: not restored: {reason}")),
            }
        }
        let seed = match origin {
            Some(origin) => Some(self.seed(vertex, origin, &cache.source).await?),
            None => None,
        };
        make(seed).await.map_err(|reason| Self::failed(vertex, reason))
    }

    /// What a new cache mount is filled with, as a layer.
    async fn seed(self: &Arc<Self>, vertex: &Vertex, origin: &Origin, source: &str) -> Result<Seed, Error> {
        let layer = match origin {
            Origin::Context(name) => self.context_layer(vertex, name.as_deref(), source).await?.0,
            Origin::Vertex(id) => {
                let layers = self.solve(*id).await?.layers;
                let tree = self.tree(&layers).await?;
                let escaped = op::copy::literally(source);
                let source = op::copy::Source {
                    tree,
                    patterns: vec![escaped],
                    archives: std::collections::BTreeMap::new(),
                    number: 0,
                };
                let how = key::how("/", None, context::pattern::Matcher::default(), false);
                let planned = op::copy::plan(&[source], &how, &oci::tree::Tree::default());
                let planned = planned.map_err(|reason| Self::failed(vertex, reason))?;
                let bodies = std::collections::BTreeMap::from([(0, files::Bodies::Layers)]);
                let scratch = self.tools.store.scratch_folder()?;
                self.write(*id, vertex, planned, &bodies, Some(&scratch)).await?
            }
            Origin::Scratch => self.nothing().await?,
        };
        let store = &self.tools.store;
        let variant = store.variants(layer).into_iter().next();
        let variant = variant.ok_or_else(|| Self::failed(vertex, format!("the layer {layer} is gone")))?;
        Ok(Seed::Layer(layer, store.blob(variant.digest)))
    }
}
