//! The files of a copy: where they come from, and where their bytes are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use context::Context;
use context::pattern::Matcher;
use oci::DiffId;
use oci::tree::{self, Entry, File, Inode, Kind, Time, Tree};
use plan::graph::{CopyStep, Origin, Vertex};
use plan::op::CopySource;
use snapshot::assemble::{self, Body, Part};
use store::Scratch;

use super::{Solver, part, place};
use crate::error::Error;
use crate::op::Planned;
use crate::op::copy::{self, How, Source};
use crate::op::mode::Mode;
use crate::worker::Isolation;

/// Where the bytes of a source's files are.
pub(crate) enum Bodies {
    /// In a context.
    Context(Arc<Context>),
    /// In layers of the store.
    Layers,
    /// Here.
    Inline(BTreeMap<tree::Path, Vec<u8>>),
}

/// A copy, ready to be planned.
pub(super) struct Prepared {
    pub(super) sources: Vec<Source>,
    pub(super) how: How,
    pub(super) base: Arc<Tree>,
    pub(super) bodies: BTreeMap<usize, Bodies>,
    pub(super) scratch: Scratch,
}

/// What an inline file looks like (BuildKit: 0644, made now; here without a time, so that it is the same each time).
fn inline_entry(path: &[u8], size: usize) -> Entry {
    let inode = Inode { layer: None, path: path.to_vec() };
    let kind = Kind::File(File { size: size as u64, digest: None, inode });
    Entry { kind, ..Entry::dir(0o644, Time::default()) }
}

pub(super) async fn prepare(
    solver: &Arc<Solver>,
    vertex: &Vertex,
    step: &CopyStep,
    below: &[DiffId],
) -> Result<Prepared, Error> {
    let op = &step.op;
    let failed = |reason: String| Solver::failed(vertex, reason);
    let real_base = solver.tree(below).await?;
    let owner = match &op.chown {
        Some(spec) => Some(solver.owner(vertex, spec, &real_base).await?),
        None => None,
    };
    let mode = match &op.chmod {
        Some(text) => Some(Mode::parse(text).ok_or_else(|| failed(format!("invalid chmod parameter: '{text}'")))?),
        None => None,
    };
    let how = How {
        destination: step.destination.clone(),
        owner,
        mode,
        exclude: Matcher::new(op.exclude.iter().map(String::as_str))?,
        parents: op.parents,
        now: solver.directory_time(),
    };
    let (mut sources, mut bodies) = (Vec::new(), BTreeMap::new());
    for (source, origin) in op.sources.iter().zip(&step.origins) {
        let number = bodies.len();
        match source {
            CopySource::Context { patterns, unpack } => {
                let context = solver.lookups.context(None).await?;
                sources.push(of_context(&context, patterns, *unpack, number, &mut bodies, &how).map_err(failed)?);
            }
            CopySource::Stage { patterns, .. } => match origin {
                Some(Origin::Context(name)) => {
                    let context = solver.lookups.context(name.as_deref()).await?;
                    sources.push(of_context(&context, patterns, false, number, &mut bodies, &how).map_err(failed)?);
                }
                Some(Origin::Vertex(id)) => {
                    let layers = solver.solve(*id).await?.layers;
                    let tree = solver.tree(&layers).await?;
                    bodies.insert(number, Bodies::Layers);
                    sources.push(Source { tree, patterns: patterns.clone(), archives: BTreeMap::new(), number });
                }
                Some(Origin::Scratch) | None => {
                    bodies.insert(number, Bodies::Layers);
                    let tree = Arc::default();
                    sources.push(Source { tree, patterns: patterns.clone(), archives: BTreeMap::new(), number });
                }
            },
            CopySource::Inline(files) => {
                let mut contents = BTreeMap::new();
                let mut tree = Tree::default();
                for file in files {
                    let path = file.name.as_bytes().to_vec();
                    tree.insert(path.clone(), inline_entry(&path, file.content.len()));
                    contents.insert(path, file.content.clone());
                }
                bodies.insert(number, Bodies::Inline(contents));
                let patterns = files.iter().map(|file| escape(&file.name)).collect();
                sources.push(Source { tree: Arc::new(tree), patterns, archives: BTreeMap::new(), number });
            }
            CopySource::Http { url, checksum, unpack } => {
                let file = solver.lookups.remote.file(url, *checksum).await;
                let file = file.map_err(|error| failed(error.to_string()))?;
                let patterns = [escape(&context::web::file_name(url))];
                sources.push(of_context(&file, &patterns, *unpack, number, &mut bodies, &how).map_err(failed)?);
            }
            CopySource::Git(git) => {
                let reference = crate::remote::reference(git).map_err(failed)?;
                let files = solver.lookups.remote.checkout(&reference).await;
                let files = files.map_err(|error| failed(error.to_string()))?;
                sources.push(of_context(&files, &["/".into()], false, number, &mut bodies, &how).map_err(failed)?);
            }
        }
    }
    // A linked copy sees nothing below.
    let base = if op.link { Arc::default() } else { real_base };
    Ok(Prepared { sources, how, base, bodies, scratch: solver.tools.store.scratch_folder()? })
}

/// A name as a pattern that means nothing else.
fn escape(name: &str) -> String {
    name.chars().flat_map(|c| ['\\', c]).collect()
}

fn of_context(
    context: &Arc<Context>,
    patterns: &[String],
    unpack: bool,
    number: usize,
    bodies: &mut BTreeMap<usize, Bodies>,
    how: &How,
) -> Result<Source, String> {
    bodies.insert(number, Bodies::Context(context.clone()));
    let mut archives = BTreeMap::new();
    if unpack && !how.parents {
        for path in patterns.iter().map(|pattern| copy::matches(&context.tree, pattern)) {
            for path in path? {
                let path = context.tree.resolve(&path).map_err(|error| error.to_string())?;
                let Some(Entry { kind: Kind::File(file), .. }) = context.tree.get(&path) else {
                    continue;
                };
                let open = || open(context, &file.inode.path);
                if !context::archive::is_tar(open()?) {
                    continue;
                }
                let archive = context::archive::read(open()?, true).map_err(|error| error.to_string())?;
                let (number, archive) = (bodies.len(), Arc::new(archive));
                archives.insert(path, (number, archive.clone()));
                bodies.insert(number, Bodies::Context(archive));
            }
        }
    }
    let tree = context.tree.clone();
    Ok(Source { tree, patterns: patterns.to_vec(), archives, number })
}

fn open(context: &Context, path: &[u8]) -> Result<std::fs::File, String> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
    let opened = sys::Root::open(&context.folder).and_then(|root| root.read(path));
    opened.map_err(|error| format!("{}: {error}", context.folder.join(path).display()))
}

/// Gives each planned file the place of its bytes; tells whether some of them are in trees that only the worker reads.
pub(super) async fn parts(
    solver: &Arc<Solver>,
    vertex: &Vertex,
    planned: Vec<Planned>,
    bodies: &BTreeMap<usize, Bodies>,
    scratch: Option<&Scratch>,
) -> Result<(Vec<Part>, bool), Error> {
    let store = &solver.tools.store;
    // Trees that are there are read; other layers' files are taken out of their blobs, each blob read once.
    let isolation = solver.worker.get().map(|(_, isolation)| isolation);
    let flavour = isolation.map(Isolation::flavour);
    let mut wanted: BTreeMap<DiffId, BTreeSet<tree::Path>> = BTreeMap::new();
    let mut in_trees = false;
    for item in &planned {
        let Some(origin) = &item.origin else { continue };
        let Some((layer, path)) = place(&origin.inode) else {
            continue;
        };
        if flavour.as_ref().is_some_and(|flavour| store.tree(flavour, layer).is_some()) {
            in_trees |= isolation.is_some_and(Isolation::is_user_namespace);
        } else {
            wanted.entry(layer).or_default().insert(path);
        }
    }
    let mut extracted: BTreeMap<DiffId, PathBuf> = BTreeMap::new();
    for (layer, paths) in wanted {
        let Some(scratch) = scratch else { continue };
        let folder = scratch.path().join(layer.0.hex());
        extract(solver, vertex, layer, paths, &folder).await?;
        extracted.insert(layer, folder);
    }
    let mut parts = Vec::with_capacity(planned.len());
    for item in planned {
        let Some(origin) = item.origin.clone() else {
            parts.push(part(item, None));
            continue;
        };
        let body = match bodies.get(&origin.source) {
            Some(Bodies::Context(context)) => Body::Beneath(context.folder.clone(), origin.inode.path.clone()),
            Some(Bodies::Inline(files)) => Body::Bytes(files.get(&origin.inode.path).cloned().unwrap_or_default()),
            Some(Bodies::Layers) | None => match place(&origin.inode) {
                Some((layer, path)) => match (extracted.get(&layer), &flavour) {
                    (Some(folder), _) => Body::Beneath(folder.clone(), assemble::extracted(&path).into_bytes()),
                    (None, Some(flavour)) => Body::Beneath(store.layer(flavour, layer).join("fs"), path),
                    (None, None) => return Err(Solver::failed(vertex, format!("the layer {layer} is gone"))),
                },
                None => return Err(Solver::failed(vertex, "a file is in no layer")),
            },
        };
        parts.push(part(item, Some(body)));
    }
    Ok((parts, in_trees))
}

async fn extract(
    solver: &Arc<Solver>,
    vertex: &Vertex,
    layer: DiffId,
    paths: BTreeSet<tree::Path>,
    folder: &std::path::Path,
) -> Result<(), Error> {
    let failed = |reason: String| Solver::failed(vertex, reason);
    solver.fetch(layer).await?;
    let store = &solver.tools.store;
    let variant = store.variants(layer).into_iter().next();
    let blob = variant.map(|variant| store.blob(variant.digest)).ok_or_else(|| failed(format!("{layer} is gone")))?;
    let folder = folder.to_owned();
    let work = move || -> Result<(), String> {
        let at = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(at)?;
        assemble::extract(std::fs::File::open(blob).map_err(at)?, &paths, &folder).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.to_string()))?.map_err(failed)
}

/// The text of a small file of a tree; empty where there is none.
pub(super) async fn text(solver: &Solver, vertex: &Vertex, base: &Arc<Tree>, path: &[u8]) -> Result<String, Error> {
    /// Nobody needs a longer file of users.
    const LONGEST: u64 = 16 << 20;
    let failed = |reason: String| Solver::failed(vertex, reason);
    let path = base.resolve(path).map_err(|error| failed(error.to_string()))?;
    let Some(Entry { kind: Kind::File(file), .. }) = base.get(&path) else {
        return Ok(String::new());
    };
    let Some((layer, path)) = place(&file.inode).filter(|_| file.size <= LONGEST) else {
        return Ok(String::new());
    };
    solver.fetch(layer).await?;
    let store = &solver.tools.store;
    let variant = store.variants(layer).into_iter().next();
    let blob = variant.map(|variant| store.blob(variant.digest)).ok_or_else(|| failed(format!("{layer} is gone")))?;
    let scratch = store.scratch_folder()?;
    let folder = scratch.path().to_owned();
    let read = move || -> Result<String, String> {
        let wanted = BTreeSet::from([path.clone()]);
        let at = |error: std::io::Error| format!("{}: {error}", blob.display());
        assemble::extract(std::fs::File::open(&blob).map_err(at)?, &wanted, &folder)
            .map_err(|error| error.to_string())?;
        let bytes = std::fs::read(folder.join(assemble::extracted(&path))).unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| failed(error.to_string()))?.map_err(failed)
}
