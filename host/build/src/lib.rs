//! The story on one page: a request is planned, its steps are solved, an image is made of the layers and goes where it
//! is wanted.

pub mod commands;
mod context_files;
mod epoch;
mod error;
mod event;
mod export;
mod key;
mod op;
mod planner;
pub mod remote;
mod request;
mod resolve;
mod room;
mod solve;
pub mod ssh;
mod time;
pub mod worker;

pub use context::Context;
pub use error::Error;
pub use event::{Event, Events};
pub use planner::outline::{Outline, Target};
pub use request::{
    Bucket, BuildOutput, BuildRequest, CacheExport, CacheImport, CacheMode, CachePlace, ContextSource, Files,
    MountStore, NamedContext, Output, Tools,
};
pub use room::collect;
pub use solve::{Change, FileChange, FileState, StepState};
pub use time::rfc3339;

use std::sync::Arc;

use planner::Extent;

/// Builds an image and brings it where it is wanted.
///
/// # Errors
/// When the input is wrong, a step fails, or an output cannot be written.
pub async fn build(request: &BuildRequest, tools: &Tools) -> Result<BuildOutput, Error> {
    let (mut request, epoch) = epoch::settle(request, tools).await?;
    loop {
        let (made, bad) = attempt(&request, tools, epoch).await;
        // What a command says of itself has nothing to do with caches.
        let is_for_it = made.as_ref().is_err_and(|error| !matches!(error, Error::Command { .. } | Error::Invalid(_)));
        let Some((name, reason)) = bad.filter(|_| is_for_it) else { return made };
        let text = format!("warning: the cache {name}: {reason}; the build is done again without it");
        (tools.events)(Event::Note(text));
        let before = request.cache_from.len();
        request.cache_from.retain(|import| cache::name(&import.place) != name);
        if request.cache_from.len() == before {
            return made;
        }
    }
}

/// Builds; names a cache that has not given what it had, and how that failed.
async fn attempt(
    request: &BuildRequest,
    tools: &Tools,
    epoch: Option<u64>,
) -> (Result<BuildOutput, Error>, Option<(String, String)>) {
    let several = request.platforms.len() > 1 || request.several_platforms;
    let (mut images, mut solvers) = (Vec::new(), Vec::new());
    let made = async {
        // One after the other: what they share is found in the cache the second time.
        for platforms in each(&request.platforms) {
            let request = BuildRequest { platforms, several_platforms: several, ..request.clone() };
            let (solver, planned) = prepare(&request, tools, epoch).await?;
            solvers.push(solver.clone());
            solver.look_ahead().await;
            let target = match planned.target {
                Some(target) => Some(solver.solve(target).await?),
                None => None,
            };
            images.push(export::make(&request, tools, solver, &planned, target).await?);
        }
        export::export(request, tools, images, several).await
    };
    let made = made.await;
    let bad = solvers.iter().find_map(|solver| solver.bad_cache());
    let outcomes: Vec<StepState> = solvers.iter().flat_map(|solver| solver.outcomes()).collect();
    remember(request, tools, &outcomes);
    // What was done before a step failed need not be done again either.
    for solver in solvers {
        solver.save_mounts().await;
        if let (Ok(_), Err(error)) = (&made, solver.finish_writes().await) {
            return (Err(error), None);
        }
    }
    (made, bad)
}

/// Keeps what became of the steps, for `explain`.
fn remember(request: &BuildRequest, tools: &Tools, outcomes: &[StepState]) {
    let kept = serde_json::to_vec(outcomes).map_err(|error| error.to_string());
    let kept = kept.and_then(|bytes| tools.store.write_build(&request.project, &bytes).map_err(|e| e.to_string()));
    if let Err(reason) = kept {
        (tools.events)(Event::Note(format!("warning: `plywood explain` will not know of this build: {reason}")));
    }
}

/// What became of the steps of a project's latest build; none where none is known.
#[must_use]
pub fn explain(store: &store::Store, project: &str) -> Option<Vec<StepState>> {
    serde_json::from_slice(&store.read_build(project)?).ok()
}

/// Each platform alone; none is one, too.
fn each(platforms: &[oci::Platform]) -> Vec<Vec<oci::Platform>> {
    match platforms {
        [] => vec![Vec::new()],
        platforms => platforms.iter().map(|platform| vec![platform.clone()]).collect(),
    }
}

/// Says what a build would do.
///
/// # Errors
/// When the input is wrong or something it names cannot be found.
pub async fn plan(request: &BuildRequest, tools: &Tools) -> Result<Vec<StepState>, Error> {
    let (request, epoch) = epoch::settle(request, tools).await?;
    let (solver, _) = prepare(&request, tools, epoch).await?;
    solver.look_ahead().await;
    Ok(solver.states().await)
}

/// Looks at every stage, or at what the target named by the user leads to. What is found is told as diagnostics.
///
/// # Errors
/// When the input is wrong, names what cannot be found, or counts findings as errors.
pub async fn check(request: &BuildRequest, tools: &Tools) -> Result<(), Error> {
    planned(request, tools, Extent::Everything).await.map(|_| ())
}

/// What the target takes: arguments, secrets, ssh agents.
///
/// # Errors
/// When the input is wrong or names what cannot be found.
pub async fn outline(request: &BuildRequest, tools: &Tools) -> Result<Outline, Error> {
    Ok(planned(request, tools, Extent::Target).await?.0.outline())
}

/// Which targets there are.
///
/// # Errors
/// When the file cannot be parsed.
pub fn targets(request: &BuildRequest, tools: &Tools) -> Result<Vec<Target>, Error> {
    let keywords = planner::keywords(&tools.instructions);
    Ok(planner::outline::targets(&dockerfile::parse(&request.file_name, &request.file, &keywords)?))
}

/// The images that a file's stages stand on.
///
/// # Errors
/// When the file cannot be parsed.
pub fn base_images(
    file_name: &str,
    text: &str,
    build_args: &[(String, String)],
    instructions: &[plugin::Instructions],
) -> Result<Vec<String>, Error> {
    let keywords = planner::keywords(instructions);
    planner::from::base_images(&dockerfile::parse(file_name, text, &keywords)?, build_args)
}

/// Where an image is, opened for reading.
///
/// # Errors
/// When it is not there.
pub fn open_image(
    location: &image::Location,
    store: &store::Store,
    client: &registry::Client,
) -> Result<Arc<dyn image::Source>, image::Error> {
    resolve::open(location, store, client)
}

async fn planned(
    request: &BuildRequest,
    tools: &Tools,
    extent: Extent,
) -> Result<(Arc<planner::Planner>, Arc<resolve::Lookups>), Error> {
    let lookups = Arc::new(resolve::Lookups::new(request, tools));
    let mut instructions = tools.instructions.clone();
    for plugin in instructions.iter_mut().filter(|plugin| plugin.grants().context) {
        let context = lookups.context(None).await?;
        *plugin = plugin.with_context(Arc::new(context_files::Files(context)));
    }
    let planner =
        planner::plan(request, &instructions, &tools.syntaxes, lookups.clone(), &tools.events, extent).await?;
    Ok((planner, lookups))
}

async fn prepare(
    request: &BuildRequest,
    tools: &Tools,
    epoch: Option<u64>,
) -> Result<(Arc<solve::Solver>, planner::Planned), Error> {
    let (planner, lookups) = planned(request, tools, Extent::Target).await?;
    let mut planned = planner.graph();
    let vertices = planned.graph.vertices.iter().enumerate();
    let names = vertices.map(|(at, vertex)| (plan::VertexId(at), vertex.name.clone())).collect();
    (tools.events)(Event::Planned(names));
    let graph = std::mem::take(&mut planned.graph);
    let solver = solve::Solver::new(request, tools, lookups, graph, planned.target, epoch).await?;
    Ok((solver, planned))
}

/// Reads a tar, compressed or not, as a build context.
///
/// # Errors
/// When it cannot be read or holds what no context may.
pub fn read_archive(source: impl std::io::Read + Send) -> Result<Context, Error> {
    Ok(context::archive::read(source, false)?)
}

/// Whether these are the first bytes of an archive, compressed or not.
#[must_use]
pub fn is_archive(head: &[u8]) -> bool {
    context::archive::is_archive(head)
}

/// A context that holds nothing.
///
/// # Errors
/// When its folder cannot be made.
pub fn empty_context() -> Result<Context, Error> {
    Ok(context::archive::empty()?)
}

/// Text that people have written; in its comments anything goes.
///
/// # Errors
/// With the number of a line that is not UTF-8, from 1.
pub fn text(bytes: Vec<u8>) -> Result<String, usize> {
    context::file::text(bytes)
}

/// Reads a file that whoever wrote the project has chosen: a regular one of at most `limit` bytes, in the folder
/// `within` if there is one; none where nothing is.
///
/// # Errors
/// When it is none such, or cannot be read.
pub fn read_file(
    path: &std::path::Path,
    within: Option<&std::path::Path>,
    limit: u64,
) -> Result<Option<Vec<u8>>, Error> {
    Ok(context::file::read(path, within, limit)?)
}

/// Opens a file of a context.
///
/// # Errors
/// When it is not there.
pub fn open_in_context(context: &Context, path: &str) -> std::io::Result<std::fs::File> {
    use std::os::unix::ffi::OsStrExt;
    let not_found = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let path = context.tree.resolve(path.as_bytes()).map_err(std::io::Error::other)?;
    match context.tree.get(&path).map(|entry| &entry.kind) {
        Some(oci::tree::Kind::File(file)) => {
            let inside = std::path::Path::new(std::ffi::OsStr::from_bytes(&file.inode.path));
            sys::Root::open(&context.folder)?.read(inside)
        }
        _ => Err(not_found()),
    }
}
