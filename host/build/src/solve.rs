//! Running the steps that are not in the cache, each when what it needs is there, several side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cache::Found;
use futures_util::future::try_join_all;
use oci::media_type::Compression;
use oci::tree::{Inode, Tree};
use oci::{ChainId, DiffId, tree};
use plan::graph::{CopyStep, Graph, Vertex, VertexId, VertexOp};
use plan::op::MkdirOp;
use snapshot::assemble::{self, Body, Part};
use snapshot::compress::Level;
use store::{Scratch, Variant};
use tokio::sync::{OnceCell, Semaphore};

use crate::commands::Commands;
use crate::error::Error;
use crate::event::Event;
use crate::key::{self, StepKeys};
use crate::op::{self, Planned};
use crate::request::{BuildRequest, Tools};
use crate::resolve::Lookups;
use crate::worker::{Isolation, Worker};

mod files;
mod run;

/// What a step gave.
#[derive(Clone, Debug)]
pub(crate) struct Solved {
    /// All layers up to this one, bottom first.
    pub(crate) layers: Arc<Vec<DiffId>>,
    /// When its own layer was made; none for a base image.
    pub(crate) created: Option<String>,
    /// Whether it was found.
    pub(crate) cached: bool,
}

/// What `plywood plan` says of a step.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepState {
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// The key under which it would be kept; none: it is kept under none.
    pub key: Option<String>,
    /// Whether it would be found.
    pub cached: bool,
    /// Why not, or the policy's words.
    pub reason: Option<String>,
}

/// What this build has done about a layer of a base image.
#[derive(Default)]
struct BaseLayer {
    fetched: OnceCell<Variant>,
    checked: OnceCell<()>,
}

/// As many as an overlay may have (Linux, fs/overlayfs/params.h, OVL_MAX_STACK).
const MOST_LAYERS: usize = 500;
/// More keep neither network nor processors busier, and an image may have thousands of layers.
const TRANSFERS: usize = 8;

pub(crate) struct Solver {
    tools: Tools,
    lookups: Arc<Lookups>,
    graph: Graph,
    keys: Vec<StepKeys>,
    cells: Vec<OnceCell<Solved>>,
    jobs: Semaphore,
    /// Steps whose layers are part of the image: those are written as they will be sent.
    exported: BTreeSet<usize>,
    compression: Compression,
    no_cache: bool,
    secrets: BTreeMap<String, Vec<u8>>,
    ca_bundle: Option<Vec<u8>>,
    commands: Commands,
    epoch: Option<u64>,
    isolation: OnceCell<Isolation>,
    worker: OnceCell<Worker>,
    trees: Mutex<BTreeMap<Vec<DiffId>, Arc<OnceCell<Arc<Tree>>>>>,
    layers: Mutex<BTreeMap<DiffId, Arc<BaseLayer>>>,
    /// Layers that are fetched, looked at or unpacked at the same time.
    transfers: Semaphore,
    locked_mounts: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Solver {
    pub(crate) async fn new(
        request: &BuildRequest,
        tools: &Tools,
        lookups: Arc<Lookups>,
        graph: Graph,
        target: Option<VertexId>,
        epoch: Option<u64>,
    ) -> Result<Arc<Self>, Error> {
        let mut exported = BTreeSet::new();
        let mut at = target;
        while let Some(id) = at {
            exported.insert(id.0);
            at = graph[id].parent;
        }
        let keys = key::all(&graph, &exported, &lookups, &tools.policy, epoch, &tools.events).await?;
        Ok(Arc::new(Self {
            cells: graph.vertices.iter().map(|_| OnceCell::new()).collect(),
            tools: tools.clone(),
            lookups,
            graph,
            keys,
            jobs: Semaphore::new(request.jobs.max(1)),
            exported,
            compression: request.compression,
            no_cache: request.no_cache,
            secrets: request.secrets.clone(),
            ca_bundle: request.ca_bundle.clone(),
            commands: request.commands.clone(),
            epoch,
            isolation: OnceCell::new(),
            worker: OnceCell::new(),
            trees: Mutex::default(),
            layers: Mutex::default(),
            transfers: Semaphore::new(TRANSFERS),
            locked_mounts: Mutex::default(),
        }))
    }

    /// What would be found, without doing anything.
    pub(crate) fn states(&self) -> Vec<StepState> {
        // What each step would stand on, as far as everything below it is found.
        let mut stacks: Vec<Option<Vec<DiffId>>> = Vec::new();
        let state = |(vertex, keys): (&Vertex, &StepKeys)| {
            let below = vertex.parent.map_or(Some(Vec::new()), |parent| stacks[parent.0].clone());
            let (cached, why, stack) = match (&vertex.op, below) {
                (VertexOp::Image(image), _) => (true, None, Some(image.layers.clone())),
                (_, None) => (false, Some("a step below it runs".to_owned()), None),
                (_, Some(mut below)) => match self.find(keys, &below) {
                    Found::Hit(record) => {
                        below.push(record.layer);
                        (true, None, Some(below))
                    }
                    Found::Miss(why) => (false, Some(why.to_owned()), None),
                },
            };
            stacks.push(stack);
            let key = keys.keys.as_ref().and_then(|keys| keys.write).map(|key| key.to_string());
            StepState { name: vertex.name.clone(), key, cached, reason: keys.reason.clone().or(why) }
        };
        self.graph.vertices.iter().zip(&self.keys).map(state).collect()
    }

    fn find(&self, keys: &StepKeys, below: &[DiffId]) -> Found {
        match &keys.keys {
            None => Found::Miss("the cache policy says that it runs each time"),
            Some(_) if self.no_cache => Found::Miss("--no-cache"),
            Some(keys) => cache::look_up(&self.tools.store, keys, ChainId::of(below), crate::time::now()),
        }
    }

    /// What a step gives: found, or made.
    pub(crate) fn solve(self: &Arc<Self>, id: VertexId) -> crate::planner::Later<'_, Result<Solved, Error>> {
        Box::pin(async move {
            let solver = self.clone();
            self.cells[id.0].get_or_try_init(|| solver.make(id)).await.cloned()
        })
    }

    async fn make(self: Arc<Self>, id: VertexId) -> Result<Solved, Error> {
        let vertex = &self.graph[id];
        let events = &self.tools.events;
        if let VertexOp::Image(image) = &vertex.op {
            events(Event::Started(id, None));
            events(Event::Finished { step: id, cached: true });
            return Ok(Solved { layers: Arc::new(image.layers.clone()), created: None, cached: true });
        }
        let below = match vertex.parent {
            Some(parent) => self.solve(parent).await?.layers,
            None => Arc::default(),
        };
        let keys = &self.keys[id.0];
        let stack = |layer: DiffId| Arc::new(below.iter().copied().chain([layer]).collect::<Vec<_>>());
        let why = match self.find(keys, &below) {
            Found::Hit(record) => {
                events(Event::Started(id, None));
                events(Event::Finished { step: id, cached: true });
                return Ok(Solved { layers: stack(record.layer), created: Some(record.created), cached: true });
            }
            Found::Miss(why) => keys.reason.clone().unwrap_or_else(|| why.to_owned()),
        };
        // Only a step that really runs needs what it copies or mounts from.
        let inputs: Vec<VertexId> = self.graph.inputs(id).filter(|input| Some(*input) != vertex.parent).collect();
        try_join_all(inputs.into_iter().map(|input| self.solve(input))).await?;
        let _running = self.jobs.acquire().await.map_err(|error| Error::Request(error.to_string()))?;
        events(Event::Started(id, Some(why)));
        let made = match &vertex.op {
            VertexOp::Copy(step) => self.copy(id, vertex, step, &below).await,
            VertexOp::Mkdir(op) => self.mkdir(id, vertex, op, &below).await,
            VertexOp::Run(step) => self.run(id, vertex, step, &below).await,
            VertexOp::Image(_) => unreachable!("images have been dealt with"),
        };
        let layer = made.inspect_err(|_| events(Event::Failed(id)))?;
        let now = self.epoch.unwrap_or_else(crate::time::now);
        let mut created = crate::time::rfc3339(now);
        if let Some(keys) = &keys.keys
            && let Some(write) = keys.write
        {
            let stamp = (crate::time::now(), created);
            let stands_on = keys.components.iter().any(|component| component.kind == plan::key::Kind::Parent);
            let on = ChainId::of(&below).filter(|_| stands_on);
            created = cache::record(&self.tools.store, write, keys, &vertex.name, layer, on, stamp)?.created;
        }
        events(Event::Finished { step: id, cached: false });
        Ok(Solved { layers: stack(layer), created: Some(created), cached: false })
    }

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    pub(crate) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Steps that were found in the cache, and all that were needed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let steps = self.graph.vertices.iter().zip(&self.cells);
        let steps = steps.filter(|(vertex, _)| !matches!(vertex.op, VertexOp::Image(_)));
        let solved: Vec<&Solved> = steps.filter_map(|(_, cell)| cell.get()).collect();
        (solved.iter().filter(|solved| solved.cached).count(), solved.len())
    }

    fn failed(vertex: &Vertex, reason: impl Into<String>) -> Error {
        Error::Step { step: vertex.name.clone(), reason: reason.into(), span: vertex.span().cloned() }
    }

    /// How a step's layer is compressed, and whether it only stays here.
    fn compression(&self, id: VertexId) -> (Compression, bool) {
        if self.exported.contains(&id.0) { (self.compression, false) } else { (Compression::Zstd, true) }
    }

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
        Ok(())
    }

    /// The tree that a stack of layers makes, by their indexes.
    pub(crate) async fn tree(&self, layers: &[DiffId]) -> Result<Arc<Tree>, Error> {
        let cell = {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            trees.entry(layers.to_vec()).or_default().clone()
        };
        let load = || async {
            let missing = layers.iter().filter(|layer| self.tools.store.read_index(**layer).is_none());
            try_join_all(missing.map(|layer| self.index(*layer))).await?;
            let (store, layers) = (self.tools.store.clone(), layers.to_vec());
            let made = tokio::task::spawn_blocking(move || snapshot::index::tree(&store, &layers)).await;
            Ok::<_, Error>(Arc::new(made.map_err(|error| Error::Request(error.to_string()))??))
        };
        cell.get_or_try_init(load).await.cloned()
    }

    async fn isolation(&self, vertex: &Vertex) -> Result<&Isolation, Error> {
        let probe = || async {
            let probed = tokio::task::spawn_blocking(crate::worker::probe).await;
            let probed = probed.map_err(|error| Error::Request(error.to_string()))?;
            probed.map_err(|refused| Error::Isolation { refused, span: vertex.span().cloned() })
        };
        self.isolation.get_or_try_init(probe).await
    }

    async fn worker(&self, vertex: &Vertex) -> Result<&Worker, Error> {
        let isolation = self.isolation(vertex).await?;
        let start = || async {
            let (root, isolation) = (self.tools.store.root().to_owned(), isolation.clone());
            let started = tokio::task::spawn_blocking(move || Worker::start(&root, &isolation)).await;
            let started = started.map_err(|error| Error::Request(error.to_string()))?;
            let worker = started.map_err(|reason| Self::failed(vertex, reason))?;
            let debris = self.tools.store.debris();
            if !debris.is_empty() {
                let paths = debris.iter().map(|scratch| scratch.path().to_owned()).collect();
                worker.delete(paths).await.map_err(|reason| Self::failed(vertex, reason))?;
            }
            Ok::<_, Error>(worker)
        };
        self.worker.get_or_try_init(start).await
    }

    /// The trees of a stack of layers on disk, topmost first, unpacked where they are not.
    async fn unpacked(&self, vertex: &Vertex, layers: &[DiffId]) -> Result<Vec<PathBuf>, Error> {
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

    async fn mkdir(
        self: &Arc<Self>,
        id: VertexId,
        vertex: &Vertex,
        op: &MkdirOp,
        below: &[DiffId],
    ) -> Result<DiffId, Error> {
        let base = self.tree(below).await?;
        let owner = match &op.owner {
            Some(spec) => self.owner(vertex, spec, &base).await?,
            None => (0, 0),
        };
        let planned = op::mkdir::plan(op, owner, &base, self.directory_time());
        let planned = planned.map_err(|reason| Self::failed(vertex, reason))?;
        self.write(id, vertex, planned, &BTreeMap::new(), None).await
    }

    /// The time of directories that are made on the way.
    fn directory_time(&self) -> tree::Time {
        let seconds = i64::try_from(self.epoch.unwrap_or_else(crate::time::now)).unwrap_or(0);
        tree::Time { seconds, nanoseconds: 0 }
    }

    async fn copy(
        self: &Arc<Self>,
        id: VertexId,
        vertex: &Vertex,
        step: &CopyStep,
        below: &[DiffId],
    ) -> Result<DiffId, Error> {
        let prepared = files::prepare(self, vertex, step, below).await?;
        let planned = op::copy::plan(&prepared.sources, &prepared.how, &prepared.base);
        let planned = planned.map_err(|reason| Self::failed(vertex, reason))?;
        self.write(id, vertex, planned, &prepared.bodies, Some(&prepared.scratch)).await
    }

    /// Numbers for `user[:group]`, by the files of the tree where names need them.
    async fn owner(&self, vertex: &Vertex, spec: &str, base: &Arc<Tree>) -> Result<op::owner::Owner, Error> {
        let (mut passwd, mut group) = (String::new(), String::new());
        if op::owner::needs_files(spec) {
            passwd = files::text(self, vertex, base, b"etc/passwd").await?;
            group = files::text(self, vertex, base, b"etc/group").await?;
        }
        let (owner, missing) = op::owner::resolve(spec, &passwd, &group);
        for what in missing {
            let diagnostic = plan::Diagnostic::warning("UnknownOwner", what, vertex.span().cloned());
            (self.tools.events)(Event::Diagnostic(diagnostic));
        }
        Ok(owner)
    }

    /// Writes a planned layer, its bytes from wherever they are.
    async fn write(
        self: &Arc<Self>,
        id: VertexId,
        vertex: &Vertex,
        planned: Vec<Planned>,
        bodies: &BTreeMap<usize, files::Bodies>,
        scratch: Option<&Scratch>,
    ) -> Result<DiffId, Error> {
        let (parts, in_trees) = files::parts(self, vertex, planned, bodies, scratch).await?;
        let (compression, fast) = self.compression(id);
        if in_trees {
            let worker = self.worker(vertex).await?;
            return worker.assemble(parts, compression, fast).await.map_err(|reason| Self::failed(vertex, reason));
        }
        let store = self.tools.store.clone();
        let level = if fast { Level::fast() } else { Level::default_of(compression) };
        let made = tokio::task::spawn_blocking(move || assemble::layer(&store, parts, compression, level)).await;
        Ok(made.map_err(|error| Self::failed(vertex, error.to_string()))??)
    }
}

/// A part of a layer whose bytes are here or nowhere.
pub(crate) fn part(planned: Planned, body: Option<Body>) -> Part {
    Part { path: planned.path, entry: planned.entry, body }
}

/// The inode's place in a layer's blob or tree.
pub(crate) fn place(inode: &Inode) -> Option<(DiffId, tree::Path)> {
    inode.layer.map(|layer| (layer, inode.path.clone()))
}
