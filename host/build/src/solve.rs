//! Running the steps that are not in the cache, each when what it needs is there, several side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::future::try_join_all;
use oci::media_type::Compression;
use oci::tree::{Inode, Tree};
use oci::{ChainId, DiffId, tree};
use plan::graph::{CopyStep, Graph, Vertex, VertexId, VertexOp};
use plan::op::MkdirOp;
use snapshot::assemble::{self, Body, Part};
use snapshot::compress::Level;
use store::{Record, Scratch};
use tokio::sync::{OnceCell, Semaphore};

use crate::commands::Commands;
use crate::error::Error;
use crate::event::Event;
use crate::key::{self, Listings, StepKeys};
use crate::op::{self, Planned};
use crate::request::{BuildRequest, CachePlace, ContextSource, NamedContext, Output, Tools};
use crate::resolve::Lookups;
use crate::worker::{Isolation, Worker};

mod cache_mount;
mod cached_layer;
mod caches;
mod causes;
mod exports;
mod files;
mod layers;
mod lookup;
mod mounts;
mod run;

use caches::Caches;
pub use causes::{Change, FileChange, FileState};
use layers::{BaseLayer, TRANSFERS};
use lookup::Hit;
pub use lookup::StepState;

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

pub(crate) struct Solver {
    tools: Tools,
    lookups: Arc<Lookups>,
    graph: Graph,
    keys: Vec<StepKeys>,
    /// What components of contexts stand for.
    listings: Listings,
    /// What became of the steps.
    outcomes: Mutex<BTreeMap<usize, StepState>>,
    /// Entries of the store as they were before this build, once they are needed.
    records: OnceLock<Vec<Record>>,
    cells: Vec<OnceCell<Solved>>,
    jobs: Semaphore,
    /// Steps whose layers are part of the image: those are written as they will be sent.
    exported: BTreeSet<usize>,
    compression: Compression,
    no_cache: bool,
    require_cached: bool,
    caches: Caches,
    mounts: mounts::Mounts,
    secrets: BTreeMap<String, Vec<u8>>,
    ca_bundle: Option<Vec<u8>>,
    commands: Commands,
    epoch: Option<u64>,
    isolation: crate::worker::Wish,
    worker: OnceCell<(Worker, Isolation)>,
    trees: Mutex<BTreeMap<Vec<DiffId>, Arc<OnceCell<Arc<Tree>>>>>,
    layers: Mutex<BTreeMap<DiffId, Arc<BaseLayer>>>,
    /// Layers that are fetched, looked at or unpacked at the same time.
    transfers: Semaphore,
    locked_mounts: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What the worker is started for, with the folders that are read and written while steps run.
fn wish(request: &BuildRequest) -> crate::worker::Wish {
    let named = request.named_contexts.values().filter_map(|context| match context {
        NamedContext::Folder(folder) => Some(folder),
        NamedContext::Image(_) | NamedContext::Git(_) | NamedContext::Web(_) => None,
    });
    let main = match &request.context {
        ContextSource::Folder(folder, _) => Some(folder),
        ContextSource::Loaded(_) => None,
    };
    let places = request.cache_from.iter().map(|cache| &cache.place);
    let places = places.chain(request.cache_to.iter().map(|cache| &cache.place));
    let caches =
        places.chain(request.cache_mount_store.iter().map(|store| &store.place)).filter_map(|place| match place {
            CachePlace::Folder(folder) => Some(folder.as_path()),
            _ => None,
        });
    let outputs = request.outputs.iter().filter_map(Output::path);
    let absolute = |path: &Path| std::path::absolute(path).ok();
    let read: Vec<PathBuf> = main.into_iter().chain(named).filter_map(|folder| absolute(folder)).collect();
    let kept = caches.chain(outputs).filter_map(absolute).chain(read.iter().cloned()).collect();
    crate::worker::Wish { mode: request.isolation, kept, read }
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
        let (keys, listings) =
            key::all(&graph, &exported, &lookups, &tools.store, &tools.policy, epoch, &tools.events).await?;
        Ok(Arc::new(Self {
            cells: graph.vertices.iter().map(|_| OnceCell::new()).collect(),
            tools: tools.clone(),
            lookups,
            graph,
            keys,
            listings,
            outcomes: Mutex::default(),
            records: OnceLock::new(),
            jobs: Semaphore::new(request.jobs.max(1)),
            exported,
            compression: request.compression,
            no_cache: request.no_cache,
            require_cached: request.require_cached,
            caches: Caches::new(request, tools),
            mounts: mounts::Mounts::new(request.cache_mount_store.as_ref(), tools),
            secrets: request.secrets.clone(),
            ca_bundle: request.ca_bundle.clone(),
            commands: request.commands.clone(),
            epoch,
            isolation: wish(request),
            worker: OnceCell::new(),
            trees: Mutex::default(),
            layers: Mutex::default(),
            transfers: Semaphore::new(TRANSFERS),
            locked_mounts: Mutex::default(),
        }))
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
            image.layers.iter().for_each(|layer| self.tools.store.touch_layer(*layer));
            return Ok(Solved { layers: Arc::new(image.layers.clone()), created: None, cached: true });
        }
        let below = match vertex.parent {
            Some(parent) => self.solve(parent).await?.layers,
            None => Arc::default(),
        };
        let on = ChainId::of(&below);
        let keys = &self.keys[id.0];
        let stack = |layer: DiffId| Arc::new(below.iter().copied().chain([layer]).collect::<Vec<_>>());
        let hit = |Hit { record, from }: Hit, reason: Option<String>| {
            self.note(id, |state| StepState { cached: true, from, reason, ..state });
            events(Event::Started(id, None));
            events(Event::Finished { step: id, cached: true });
            Ok(Solved { layers: stack(record.layer), created: Some(record.created), cached: true })
        };
        let why = match self.found(id, keys.keys.as_ref(), on).await {
            Ok(found) => {
                self.note_inline(id, keys.keys.as_ref().and_then(|keys| keys.write), &found.record);
                return hit(found, None);
            }
            Err(why) => why,
        };
        // Only a step that is not found by what it is made from needs that to be made.
        let inputs: Vec<VertexId> = self.graph.inputs(id).filter(|input| Some(*input) != vertex.parent).collect();
        try_join_all(inputs.into_iter().map(|input| self.solve(input))).await?;
        let by_content = self.keys_by_content(id, &below).await?;
        if let Ok(found) = self.found(id, by_content.as_ref(), on).await {
            let record = &found.record;
            if let Some((keys, write)) = keys.keys.as_ref().and_then(|keys| Some((keys, keys.write?))) {
                let known = Record {
                    below: record.below.and(on),
                    components: cache::named(&keys.components),
                    ..record.clone()
                };
                self.tools.store.write_record(&write.to_string(), &known)?;
                self.note_inline(id, Some(write), &known);
            }
            return hit(found, Some("it is made from the same content as before".into()));
        }
        let (why, changes) = self.told(id, why).await;
        self.note(id, |state| StepState { reason: why.clone(), changes, ..state });
        let why = [why, keys.reason.clone().map(|words| format!("the policy: {words}"))];
        let why = why.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if self.require_cached {
            return Err(Error::NotCached { step: vertex.name.clone(), reason: why, span: vertex.span().cloned() });
        }
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
        let definition = keys.keys.as_ref().and_then(|keys| keys.write);
        for keys in keys.keys.iter().chain(&by_content) {
            let Some(write) = keys.write else { continue };
            let stamp = (crate::time::now(), created);
            let stands_on = keys.components.iter().any(|component| component.kind == plan::key::Kind::Parent);
            let on = on.filter(|_| stands_on);
            let record = cache::record(&self.tools.store, write, keys, &vertex.name, layer, on, stamp)?;
            self.export(id, &[write], caches::wanted_of(keys), &record);
            self.note_inline(id, definition.filter(|key| *key == write), &record);
            created = record.created;
        }
        if let Some(keys) = &keys.keys {
            self.keep_listings(keys).await?;
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

    async fn isolation(&self, vertex: &Vertex) -> Result<&Isolation, Error> {
        Ok(&self.started(vertex).await?.1)
    }

    async fn worker(&self, vertex: &Vertex) -> Result<&Worker, Error> {
        Ok(&self.started(vertex).await?.0)
    }

    /// The worker, and how its steps are isolated.
    async fn started(&self, vertex: &Vertex) -> Result<&(Worker, Isolation), Error> {
        let start = || async {
            let started = crate::worker::start(self.tools.store.root(), &self.isolation).await;
            let refused = |refused| Error::Isolation { refused, span: vertex.span().cloned() };
            let (worker, isolation) = started.map_err(refused)?;
            worker.sweep(&self.tools.store).await.map_err(|reason| Self::failed(vertex, reason))?;
            let mode = isolation.mode();
            (self.tools.events)(Event::Note(format!("commands run in {mode}: {}", mode.guarantee())));
            Ok::<_, Error>((worker, isolation))
        };
        self.worker.get_or_try_init(start).await
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
