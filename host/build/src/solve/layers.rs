//! The layers that steps stand on: fetched, looked at, indexed and unpacked once a build, each when it is first needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use futures_util::future::try_join_all;
use oci::DiffId;
use oci::media_type::Compression;
use oci::tree::{self, Tree};
use plan::graph::Vertex;
use store::Variant;
use tokio::sync::OnceCell;

use super::Solver;
use crate::error::Error;

/// What this build has done about a layer of a base image.
#[derive(Default)]
pub(super) struct BaseLayer {
    fetched: OnceCell<Variant>,
    checked: OnceCell<()>,
}

/// As many as an overlay may have (Linux, fs/overlayfs/params.h, OVL_MAX_STACK).
const MOST_LAYERS: usize = 500;
/// More keep neither network nor processors busier, and an image may have thousands of layers.
pub(super) const TRANSFERS: usize = 8;

impl Solver {
    /// A blob that holds a layer, and whether that is known: of a base image's layers it is first said by the image.
    async fn blob(&self, layer: DiffId) -> Result<(Variant, bool), Error> {
        let store = &self.tools.store;
        if let Some(variant) = store.variants(layer).into_iter().next() {
            return Ok((variant, true));
        }
        let Some(origin) = self.lookups.layer_source(layer) else {
            return Err(Error::Request(format!("the layer {layer} is in no blob of the store and of no base image")));
        };
        let fetch = || async {
            let _under_way = self.transfers.acquire().await.map_err(|error| Error::Request(error.to_string()))?;
            let digest = image::fetch_to_store(&*origin.source, &origin.descriptor, store).await?;
            let kind = origin.descriptor.media_type().to_string();
            let compression = oci::media_type::compression(&kind).unwrap_or(Compression::Gzip);
            Ok::<_, Error>(Variant { digest, size: origin.descriptor.size(), compression })
        };
        let variant = self.layer(layer).fetched.get_or_try_init(fetch).await.copied()?;
        Ok((variant, false))
    }

    fn layer(&self, layer: DiffId) -> Arc<BaseLayer> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).entry(layer).or_default().clone()
    }

    /// Brings a base image's layer into the store, and looks whether it is what the image says: once, for what the store
    /// knows of layers counts in every build.
    pub(crate) async fn fetch(&self, layer: DiffId) -> Result<(), Error> {
        let (variant, known) = self.blob(layer).await?;
        if known {
            return Ok(());
        }
        let check = || async {
            let _under_way = self.transfers.acquire().await.map_err(|error| Error::Request(error.to_string()))?;
            let store = self.tools.store.clone();
            let checked = tokio::task::spawn_blocking(move || snapshot::index::check(&store, layer, variant)).await;
            Ok::<_, Error>(checked.map_err(|error| Error::Request(error.to_string()))??)
        };
        self.layer(layer).checked.get_or_try_init(check).await.copied()
    }

    /// Makes the index of a base image's layer.
    async fn index(&self, layer: DiffId) -> Result<(), Error> {
        let (variant, _) = self.blob(layer).await?;
        let _under_way = self.transfers.acquire().await.map_err(|error| Error::Request(error.to_string()))?;
        let store = self.tools.store.clone();
        let made = tokio::task::spawn_blocking(move || snapshot::index::learn(&store, layer, variant)).await;
        made.map_err(|error| Error::Request(error.to_string()))??;
        self.export_index(layer);
        Ok(())
    }

    /// The tree that a stack of layers makes, by their indexes.
    pub(crate) async fn tree(&self, layers: &[DiffId]) -> Result<Arc<Tree>, Error> {
        let cell = {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            trees.entry(layers.to_vec()).or_default().clone()
        };
        let load = || async {
            let index = |layer: DiffId| async move {
                if self.tools.store.read_index(layer).is_some() {
                    return Ok(None);
                }
                match self.borrowed_index(layer).await {
                    Some(index) => Ok(Some((layer, index))),
                    None => self.index(layer).await.map(|()| None),
                }
            };
            let borrowed = try_join_all(layers.iter().map(|layer| index(*layer))).await?;
            let borrowed: BTreeMap<DiffId, Arc<tree::Layer>> = borrowed.into_iter().flatten().collect();
            let (store, layers) = (self.tools.store.clone(), layers.to_vec());
            let made = tokio::task::spawn_blocking(move || snapshot::index::tree(&store, &layers, &borrowed)).await;
            Ok::<_, Error>(Arc::new(made.map_err(|error| Error::Request(error.to_string()))??))
        };
        cell.get_or_try_init(load).await.cloned()
    }

    /// A stack of layers with blobs that hold them, bottom first.
    pub(super) async fn stack(&self, layers: &[DiffId]) -> Result<Vec<(DiffId, PathBuf)>, Error> {
        let blob = |layer: DiffId| async move {
            self.fetch(layer).await?;
            let (variant, _) = self.blob(layer).await?;
            Ok::<_, Error>((layer, self.tools.store.blob(variant.digest)))
        };
        try_join_all(layers.iter().map(|layer| blob(*layer))).await
    }

    /// The trees of a stack of layers on disk, topmost first, unpacked where they are not.
    pub(super) async fn unpacked(&self, vertex: &Vertex, layers: &[DiffId]) -> Result<Vec<PathBuf>, Error> {
        let flavour = self.isolation(vertex).await?.flavour();
        let worker = self.worker(vertex).await?;
        let store = &self.tools.store;
        let unpack = |layer: DiffId| {
            let flavour = flavour.clone();
            async move {
                if let Some(tree) = store.tree(&flavour, layer) {
                    return Ok(tree);
                }
                let (variant, known) = self.blob(layer).await?;
                let _under_way = self.transfers.acquire().await.map_err(|error| Error::Request(error.to_string()))?;
                let unpacked = worker.unpack(layer, store.blob(variant.digest)).await;
                unpacked.map_err(|reason| Self::failed(vertex, reason))?;
                if !known {
                    store.add_variant(layer, variant)?;
                    self.export_index(layer);
                }
                store.tree(&flavour, layer).ok_or_else(|| Self::failed(vertex, format!("the tree of {layer} is gone")))
            }
        };
        // A layer that comes twice counts where it is topmost; overlayfs refuses to take one directory twice.
        let mut seen = BTreeSet::new();
        let distinct: Vec<DiffId> = layers.iter().rev().copied().filter(|layer| seen.insert(*layer)).collect();
        if distinct.len() > MOST_LAYERS {
            let many = distinct.len();
            let reason = format!("a step cannot stand on {many} layers: overlayfs puts together at most {MOST_LAYERS}");
            return Err(Self::failed(vertex, reason));
        }
        try_join_all(distinct.into_iter().map(unpack)).await
    }
}
