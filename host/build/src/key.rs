//! What each step's result depends on, as named components; the policy's word on them; the keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cache::Keys;
use context::Context;
use context::pattern::Matcher;
use oci::Digest;
use oci::tree::Time;
use plan::graph::{CopyStep, Graph, Origin, RunStep, Vertex, VertexId, VertexOp};
use plan::key::{Component, Components, Decision, Frame, Key, KeyEdit, Kind, Step, Verdict};
use plan::op::{CopySource, MountKind, Op};
use plugin::grant::Request as Grant;
use plugin::{CachePolicy, Grants};

use crate::error::Error;
use crate::event::{Event, Events};
use crate::op::copy::{How, Source};
use crate::op::mode::Mode;
use crate::resolve::Lookups;

mod by_content;
mod content;
mod stamps;

use content::Digests;
pub(crate) use content::{Listing, Listings};

/// What the policy made of a step.
#[derive(Clone, Debug)]
pub(crate) struct StepKeys {
    /// None: it runs each time.
    pub(crate) keys: Option<Keys>,
    /// What stands for the step where another depends on it.
    pub(crate) definition: Key,
    /// The policy's words.
    pub(crate) reason: Option<String>,
    /// All components, before the policy has edited them; none for what has no keys.
    full: Option<Vec<Component>>,
    /// What the policy made of them, and who that is.
    edit: Option<(KeyEdit, Digest)>,
}

impl StepKeys {
    /// Keys of what is not looked up.
    fn none(definition: Key, reason: Option<String>) -> Self {
        Self { keys: None, definition, reason, full: None, edit: None }
    }
}

/// Keys of every step, in order, and what their components of contexts stand for; `in_image` are those whose layers are
/// part of the image.
pub(crate) async fn all(
    graph: &Graph,
    in_image: &BTreeSet<usize>,
    lookups: &Lookups,
    store: &store::Store,
    policy: &CachePolicy,
    epoch: Option<u64>,
    events: &Events,
) -> Result<(Vec<StepKeys>, Listings), Error> {
    let mut all: Vec<StepKeys> = Vec::with_capacity(graph.vertices.len());
    let mut digests = Digests::new(store);
    let mut missing = Vec::new();
    for (at, vertex) in graph.vertices.iter().enumerate() {
        let mut components = Components::default();
        components.push(Component::text(Kind::Platform, vertex.platform.to_string()));
        let op = match &vertex.op {
            VertexOp::Image(image) => {
                let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
                let frame = Frame::new("image").field(image.platform.to_string().as_bytes());
                let definition = Key(frame.list(layers.iter().map(String::as_bytes)).finish());
                all.push(StepKeys::none(definition, None));
                continue;
            }
            VertexOp::Run(step) => {
                run_components(&mut components, step, vertex, &all, lookups, &mut digests).await?;
                Op::Run(step.op.clone())
            }
            VertexOp::Copy(step) => {
                match copy_components(&mut components, step, vertex, &all, lookups, &mut digests).await {
                    Ok(()) => Op::Copy(step.op.clone()),
                    // Everything that is not there is told at once.
                    Err(Error::Step { reason, span, .. }) => {
                        missing.push(plan::Diagnostic::error("SourceNotFound", reason, span));
                        let definition = Key(Frame::new("missing").finish());
                        all.push(StepKeys::none(definition, None));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            VertexOp::Mkdir(op) => {
                let owner = op.owner.clone().unwrap_or_default();
                components.push(Component::text(Kind::Op, format!("{}\0{owner}\0{:o}", op.path, op.mode)));
                components.push(parent(vertex, &all));
                Op::Mkdir(op.clone())
            }
        };
        // Folders that a step makes bear the time of the build, where it has one.
        if let Some(epoch) = epoch.filter(|_| !matches!(vertex.op, VertexOp::Run(_))) {
            components.push(Component::text(Kind::Epoch, epoch.to_string()));
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let step = Step {
            stage_name: vertex.stage_name.clone(),
            stage_index: number(vertex.stage_index),
            index: number(vertex.index),
            instruction: vertex.instruction.clone(),
            in_image: in_image.contains(&at),
            op,
            platform: vertex.platform.clone(),
            components: components.into_inner(),
            hints: vertex.hints.clone(),
            base: vertex.base.clone(),
            source_date_epoch: epoch,
        };
        let looks_below = step.components.iter().any(|component| component.kind == Kind::Parent);
        let mut keys = decide(policy, step, vertex, VertexId(at), events).await?;
        if !looks_below {
            // Its own layer is the same on anything; what others take from it is on top of what is below.
            let below = parent(vertex, &all).digest;
            let frame = Frame::new("on").field(keys.definition.0.as_bytes()).field(below.as_bytes());
            keys.definition = Key(frame.finish());
        }
        all.push(keys);
    }
    if missing.is_empty() { Ok((all, digests.into_listings())) } else { Err(Error::Invalid(missing)) }
}

async fn decide(
    policy: &CachePolicy,
    step: Step,
    vertex: &Vertex,
    id: VertexId,
    events: &Events,
) -> Result<StepKeys, Error> {
    let span = vertex.span().cloned();
    let plugin = |source| Error::Plugin { source, span: span.clone() };
    let verdict = match policy.decide(&step).await {
        Err(plugin::Error::Unsupported(_)) => {
            Verdict { decision: Decision::Standard, reason: None, diagnostics: Vec::new() }
        }
        other => other.map_err(plugin)?,
    };
    for diagnostic in &verdict.diagnostics {
        events(Event::Diagnostic(diagnostic.clone()));
    }
    if verdict.diagnostics.iter().any(|d| d.severity == plan::Severity::Error) {
        return Err(Error::Invalid(verdict.diagnostics));
    }
    match verdict.decision {
        Decision::Never => {
            // It gives something else each time, and so does what depends on it: a key that never comes again.
            let unique = format!("{}\0{}\0{:?}", std::process::id(), id.0, std::time::SystemTime::now());
            let definition = Key(Frame::new("never").field(unique.as_bytes()).finish());
            Ok(StepKeys::none(definition, verdict.reason))
        }
        Decision::Standard => {
            let keys = Keys::standard(&step.components);
            let (definition, reason, full) = (keys.definition, verdict.reason, Some(step.components));
            Ok(StepKeys { definition, keys: Some(keys), reason, full, edit: None })
        }
        Decision::Keyed(edit) => {
            if !edit.drop.is_empty() {
                let grants: &Grants = policy.grants();
                grants.require(&policy.identity().name, Grant::DropInputs).map_err(|refusal| plugin(refusal.into()))?;
            }
            let keys = Keys::new(&step.components, &edit, policy.identity().digest).map_err(|error| Error::Step {
                step: vertex.name.clone(),
                reason: error.to_string(),
                span,
            })?;
            let (definition, reason, full) = (keys.definition, verdict.reason, Some(step.components));
            let edit = Some((edit, policy.identity().digest));
            Ok(StepKeys { definition, keys: Some(keys), reason, full, edit })
        }
    }
}

fn parent(vertex: &Vertex, all: &[StepKeys]) -> Component {
    match vertex.parent {
        Some(id) => Component::digest(Kind::Parent, all[id.0].definition.0),
        None => Component::text(Kind::Parent, "scratch"),
    }
}

/// What an origin is, for the key of what is taken from it.
fn origin(from: Option<&Origin>, all: &[StepKeys]) -> Option<Digest> {
    match from? {
        Origin::Vertex(id) => Some(all[id.0].definition.0),
        Origin::Scratch => Some(Frame::new("scratch").finish()),
        Origin::Context(_) => None,
    }
}

async fn run_components(
    components: &mut Components,
    step: &RunStep,
    vertex: &Vertex,
    all: &[StepKeys],
    lookups: &Lookups,
    digests: &mut Digests,
) -> Result<(), Error> {
    let op = &step.op;
    let mut frame = Frame::new("run").list(op.argv.iter().map(String::as_bytes));
    frame = frame.field(op.stdin.as_deref().unwrap_or_default());
    frame = frame.field(format!("{:?} {:?}", op.network, op.security).as_bytes());
    let hosts: Vec<String> = step.hosts.iter().map(|(name, address)| format!("{address} {name}")).collect();
    frame = frame.list(hosts.iter().map(String::as_bytes)).list(step.surroundings.iter().map(String::as_bytes));
    components.push(parent(vertex, all));
    components.push(Component::text(Kind::User, step.user.clone()));
    components.push(Component::text(Kind::WorkingDir, step.working_dir.clone()));
    for (name, value) in &step.env {
        let kind = if step.arguments.contains(name) { Kind::Arg } else { Kind::Env };
        components.push(Component::text(kind, value.clone()).of(name.clone()));
    }
    for (mount, from) in op.mounts.iter().zip(&step.mount_origins) {
        let target = mount.target.clone().unwrap_or_default();
        // What is mounted where, and what a cache begins with; what it or a secret holds is no part of the key.
        let description = match &mount.kind {
            MountKind::Bind { source, writable, .. } => format!("bind\0{source}\0{writable}"),
            MountKind::Cache(cache) => {
                let start = match from {
                    Some(Origin::Context(context)) => {
                        let context = lookups.context(context.as_deref()).await?;
                        let sources = [bind_source(&context, &cache.source)];
                        let how = how("/", None, Matcher::default(), false);
                        digests.content(&context, &sources, &how, vertex).await?.to_string()
                    }
                    _ => origin(from.as_ref(), all).map(|digest| digest.to_string()).unwrap_or_default(),
                };
                let own = format!("{}:{} {:o} {}", cache.uid, cache.gid, cache.mode, cache.read_only);
                format!("cache\0{}\0{own}\0{}\0{start}", cache.id, cache.source)
            }
            MountKind::Tmpfs(size) => format!("tmpfs\0{size:?}"),
            MountKind::Secret(secret) => {
                let as_file = mount.target.is_some();
                let own = format!("{}:{} {:o}", secret.uid, secret.gid, secret.mode);
                format!("secret\0{}\0{as_file}\0{own}\0{:?}", secret.id, secret.as_env)
            }
            MountKind::Ssh { id, .. } => format!("ssh\0{id}"),
            MountKind::File { content, mode } => format!("file\0{}\0{mode}", Digest::of(content)),
        };
        frame = frame.field(target.as_bytes()).field(description.as_bytes());
        if let MountKind::Bind { source, .. } = &mount.kind {
            let digest = match (origin(from.as_ref(), all), from) {
                (Some(digest), _) => digest,
                (None, Some(Origin::Context(context))) => {
                    let context = lookups.context(context.as_deref()).await?;
                    let sources = [bind_source(&context, source)];
                    digests.content(&context, &sources, &how("/", None, Matcher::default(), false), vertex).await?
                }
                (None, _) => continue,
            };
            components.push(Component::digest(Kind::Mount, digest).of(target));
        }
    }
    components.push(Component { value: Some(op.argv.join(" ")), ..Component::digest(Kind::Op, frame.finish()) });
    Ok(())
}

/// A path of a context as something to copy to the root of a tree of its own.
pub(crate) fn bind_source(context: &Context, path: &str) -> Source {
    let patterns = vec![crate::op::copy::literally(path)];
    Source { tree: context.tree.clone(), patterns, archives: BTreeMap::new(), number: 0 }
}

/// A copy whose destination is known and whose owner does not matter.
pub(crate) fn how(destination: &str, mode: Option<Mode>, exclude: Matcher, parents: bool) -> How {
    How { destination: destination.to_owned(), owner: None, mode, exclude, parents, now: Time::default() }
}

async fn copy_components(
    components: &mut Components,
    step: &CopyStep,
    vertex: &Vertex,
    all: &[StepKeys],
    lookups: &Lookups,
    digests: &mut Digests,
) -> Result<(), Error> {
    let op = &step.op;
    let mut frame = Frame::new("copy")
        .field(step.destination.as_bytes())
        .field(op.chown.as_deref().unwrap_or("\0").as_bytes())
        .field(op.chmod.as_deref().unwrap_or("\0").as_bytes())
        .list(op.exclude.iter().map(String::as_bytes))
        .field(&[u8::from(op.link), u8::from(op.parents)]);
    for (source, from) in op.sources.iter().zip(&step.origins) {
        match source {
            CopySource::Context { patterns, unpack } => {
                frame = frame.field(b"context").list(patterns.iter().map(String::as_bytes)).field(&[u8::from(*unpack)]);
                let context = lookups.context(None).await?;
                add_content(components, &context, patterns, "", op, digests, vertex).await?;
            }
            CopySource::Stage { origin: name, patterns } => {
                frame = frame.field(b"stage").list(patterns.iter().map(String::as_bytes));
                match (origin(from.as_ref(), all), from) {
                    (Some(digest), _) => {
                        let subject = format!("{name}:{}", patterns.join(" "));
                        components.push(Component::digest(Kind::Stage, digest).of(subject));
                    }
                    (None, Some(Origin::Context(name))) => {
                        let context = lookups.context(name.as_deref()).await?;
                        let prefix = format!("{}:", name.as_deref().unwrap_or_default());
                        add_content(components, &context, patterns, &prefix, op, digests, vertex).await?;
                    }
                    (None, _) => {}
                }
            }
            CopySource::Inline(files) => {
                frame = frame.field(b"inline").list(files.iter().map(|file| file.name.as_bytes()));
                for file in files {
                    let digest = Digest::of(&file.content);
                    components.push(Component::digest(Kind::Inline, digest).of(file.name.clone()));
                }
            }
            CopySource::Http { url, checksum, unpack } => {
                let failed = |error: Error| step_error(vertex, &error);
                let version = lookups.remote.version(url, *checksum).await.map_err(failed)?;
                let name = context::web::file_name(url);
                // The name and the time end up in the image; where the bytes came from does not, nor is it in the key.
                let of = Frame::new("http")
                    .field(version.digest.as_bytes())
                    .field(name.as_bytes())
                    .field(format!("{:?} {unpack}", version.modified).as_bytes());
                frame = frame.field(b"http");
                components.push(Component::digest(Kind::Http, of.finish()).of(name));
            }
            CopySource::Git(git) => {
                let failed = |error: Error| step_error(vertex, &error);
                let reference = crate::remote::reference(git).map_err(Error::Request).map_err(failed)?;
                let commit = lookups.remote.commit(&reference).await.map_err(failed)?;
                let keeps = reference.keep_git_dir == Some(true) && reference.folder.is_none();
                let options = format!("{keeps} {:?} {}", reference.folder, reference.without_submodules);
                let of = Frame::new("git").field(commit.id.as_bytes()).field(options.as_bytes());
                // A repository that is kept knows its branch.
                let of = of.field(commit.name.as_deref().filter(|_| keeps).unwrap_or_default().as_bytes());
                let name = reference.remote.trim_end_matches(".git").rsplit(['/', ':']).next().unwrap_or_default();
                let component = Component::digest(Kind::Git, of.finish()).of(name);
                frame = frame.field(b"git");
                components.push(Component { value: Some(commit.id), ..component });
            }
        }
    }
    components.push(Component::digest(Kind::Op, frame.finish()));
    // A linked copy looks at nothing below, unless for the number of a name.
    let looks_below = !op.link || op.chown.as_deref().is_some_and(crate::op::owner::needs_files);
    if looks_below {
        components.push(parent(vertex, all));
    }
    Ok(())
}

/// Something that went wrong for one step, told in its place.
fn step_error(vertex: &Vertex, error: &Error) -> Error {
    Error::Step { step: vertex.name.clone(), reason: error.to_string(), span: vertex.span().cloned() }
}

/// One component for each pattern, by what it selects now.
async fn add_content(
    components: &mut Components,
    context: &Arc<Context>,
    patterns: &[String],
    prefix: &str,
    op: &plan::op::CopyOp,
    digests: &mut Digests,
    vertex: &Vertex,
) -> Result<(), Error> {
    let exclude = Matcher::new(op.exclude.iter().map(String::as_str)).map_err(|error| Error::Step {
        step: vertex.name.clone(),
        reason: error.to_string(),
        span: vertex.span().cloned(),
    })?;
    let tree = context.tree.clone();
    for pattern in patterns {
        let source =
            Source { tree: tree.clone(), patterns: vec![pattern.clone()], archives: BTreeMap::new(), number: 0 };
        let how = how("/", None, exclude.clone(), op.parents);
        let digest = digests.content(context, &[source], &how, vertex).await?;
        components.push(Component::digest(Kind::Context, digest).of(format!("{prefix}{pattern}")));
    }
    Ok(())
}
