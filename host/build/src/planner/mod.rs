//! From a parsed file to the graph of what the target needs.
//!
//! Demand-driven: a stage is lowered once its base's configuration is known, and only if the target leads to it. What
//! must be looked up (images, contexts) is asked of a [`Resolver`]; nothing here touches network or disk.

mod graph;
mod lower;
mod origin;
pub(crate) mod scope;
mod view;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use dockerfile::File;
use oci::config::History;
use oci::{ImageConfig, Platform};
use plan::graph::{CopyStep, Graph, ImageSource, RunStep, VertexId};
use plan::op::{Expansion, HistoryLine, Keyword, MkdirOp};
use plan::{Diagnostic, Span};
use plugin::Instructions;
use tokio::sync::OnceCell;

use crate::commands::Commands;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::request::BuildRequest;
use graph::GraphBuilder;
use scope::Variables;
use view::Shared;

pub(crate) type Later<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// What a name outside of the file means.
#[derive(Clone, Debug)]
pub(crate) enum Named {
    /// A folder.
    Context(String),
    /// An image.
    Image(Arc<BaseImage>),
}

/// An image that exists.
#[derive(Debug)]
pub(crate) struct BaseImage {
    pub(crate) source: ImageSource,
    pub(crate) config: ImageConfig,
}

/// Looks up what the file names.
pub(crate) trait Resolver: Send + Sync {
    /// A named context of this name, if the user has given one.
    fn named<'f>(&'f self, name: &'f str, platform: &'f Platform) -> Later<'f, Result<Option<Named>, image::Error>>;
    /// An image by its reference.
    fn image<'f>(
        &'f self,
        name: &'f str,
        platform: &'f Platform,
        exact: bool,
    ) -> Later<'f, Result<Arc<BaseImage>, image::Error>>;
}

/// Where files come from, before stages have become vertices.
#[derive(Clone, Debug)]
enum Ref {
    Stage(usize),
    Image(Arc<BaseImage>),
    Context(Option<String>),
}

/// A stage, lowered.
#[derive(Debug)]
struct StagePlan {
    base: Base,
    base_reference: Option<(String, Option<oci::Digest>)>,
    steps: Vec<Step>,
    config: ImageConfig,
    variables: Variables,
    arguments: Vec<(String, Option<String>)>,
    history: Vec<HistoryItem>,
    platform: Platform,
}

#[derive(Clone, Debug)]
enum Base {
    Scratch,
    Stage(usize),
    Image(Arc<BaseImage>),
}

#[derive(Debug)]
struct Step {
    op: StepOp,
    text: String,
    span: Span,
}

#[derive(Debug)]
enum StepOp {
    Run(RunStep, Vec<Option<Ref>>),
    Copy(CopyStep, Vec<Option<Ref>>),
    Mkdir(MkdirOp),
}

/// A line of the history that a stage adds, and which of its steps made its layer.
#[derive(Clone, Debug)]
struct HistoryItem {
    line: HistoryLine,
    step: Option<usize>,
}

/// What is to be done, and what the image will say of itself.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) graph: Graph,
    /// None: nothing at all.
    pub(crate) target: Option<VertexId>,
    /// Without layers and history.
    pub(crate) config: ImageConfig,
    /// What the base image says of itself.
    pub(crate) base_history: Vec<History>,
    /// What is added, and which vertex made its layer.
    pub(crate) history: Vec<(HistoryLine, Option<VertexId>)>,
    /// When the base image was made.
    pub(crate) base_created: Option<String>,
}

pub(crate) struct Planner {
    file: File,
    instructions: Vec<Instructions>,
    keywords: Vec<Keyword>,
    shared: Arc<Shared>,
    target_platform: Platform,
    explicit_platform: bool,
    proxies: Vec<(String, String)>,
    commands: Commands,
    resolver: Arc<dyn Resolver>,
    events: Events,
    stages: Vec<OnceCell<Arc<StagePlan>>>,
    images: Mutex<BTreeMap<(String, String), Arc<OnceCell<Arc<BaseImage>>>>>,
}

/// Everything that the plugins handle; the first that handles a keyword wins.
pub(crate) fn keywords(instructions: &[Instructions]) -> Vec<Keyword> {
    let mut all: Vec<Keyword> = Vec::new();
    for keyword in instructions.iter().flat_map(Instructions::keywords) {
        if !all.iter().any(|known| known.keyword == keyword.keyword) {
            all.push(keyword.clone());
        }
    }
    all
}

/// Plans the target of a request.
pub(crate) async fn plan(
    request: &BuildRequest,
    instructions: &[Instructions],
    resolver: Arc<dyn Resolver>,
    events: &Events,
) -> Result<Planned, Error> {
    let keywords = keywords(instructions);
    let file = dockerfile::parse(&request.file_name, &request.file, &keywords)?;
    check_syntax(&file)?;
    for warning in &file.warnings {
        events(Event::Diagnostic(warning.clone()));
    }
    let stage_names: Vec<Option<String>> = file.stages.iter().map(|stage| stage.name.clone()).collect();
    let target = target(&file, request.target.as_deref())?;
    let build_platform = Platform::host();
    let target_platform = request.platform.clone().unwrap_or_else(|| build_platform.clone());
    let target_name = stage_names[target].clone().unwrap_or_else(|| "default".into());
    let globals = globals(&file, request, &build_platform, &target_platform, &target_name)?;
    let proxies = request.build_args.iter().filter(|(name, _)| scope::PROXIES.contains(&name.as_str())).cloned();
    let shared = Shared { build_platform, globals, build_args: request.build_args.clone(), stage_names };
    let planner = Arc::new(Planner {
        stages: file.stages.iter().map(|_| OnceCell::new()).collect(),
        instructions: instructions.to_vec(),
        keywords,
        shared: Arc::new(shared),
        target_platform,
        explicit_platform: request.platform.is_some(),
        proxies: proxies.collect(),
        commands: request.commands.clone(),
        resolver,
        events: events.clone(),
        images: Mutex::default(),
        file,
    });
    planner.warn_of_unused_arguments(request);
    planner.stage(target).await?;
    Ok(planner.graph(target))
}

/// `# syntax=docker/dockerfile...` is what is built in; anything else would have to be a pinned plugin.
fn check_syntax(file: &File) -> Result<(), Error> {
    let Some((value, span)) = &file.directives.syntax else {
        return Ok(());
    };
    let image = value.split_whitespace().next().unwrap_or_default();
    let name = image.split(['@', ':']).next().unwrap_or_default();
    let builtin = ["docker/dockerfile", "docker.io/docker/dockerfile", "dockerfile.v0"];
    let upstream = ["docker/dockerfile-upstream", "docker.io/docker/dockerfile-upstream"];
    if builtin.contains(&name) || upstream.contains(&name) {
        return Ok(());
    }
    let message = format!("the syntax `{value}` is not supported yet");
    let help = "docker/dockerfile:1 is what is built in; for another meaning of instructions give --plugin";
    Err(Diagnostic::error("UnknownSyntax", message, Some(span.clone())).with_help(help).into())
}

fn target(file: &File, wanted: Option<&str>) -> Result<usize, Error> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(file.stages.len() - 1);
    };
    let lower = wanted.to_lowercase();
    let by_name = file.stages.iter().position(|stage| stage.name.as_deref() == Some(&lower));
    let found = by_name.or_else(|| wanted.parse().ok().filter(|number| *number < file.stages.len()));
    found.ok_or_else(|| {
        let names: Vec<&str> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let near = plan::diagnostic::nearest(&lower, names.iter().copied());
        let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        Error::Request(format!("target stage \"{wanted}\" could not be found{hint}"))
    })
}

fn globals(
    file: &File,
    request: &BuildRequest,
    build: &Platform,
    target: &Platform,
    stage: &str,
) -> Result<Variables, Error> {
    let mut globals = scope::automatic(build, target, stage, &request.build_args);
    let escape = file.directives.escape;
    for arg in &file.global_args {
        let expand = |text: &str| {
            let expanded = globals.expand(text, escape, Expansion::Word);
            let message = |error: plan::op::ExpandError| format!("failed to process \"{text}\": {}", error.message);
            expanded
                .map(|expanded| expanded.words.concat())
                .map_err(|error| Error::at("InvalidSubstitution", message(error), &arg.span))
        };
        let name = arg.name.clone();
        let default = arg.default.as_deref().map(expand).transpose()?;
        let given = request.build_args.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        if let Some(value) = given.or(default) {
            globals.set(&name, &value);
        }
    }
    Ok(globals)
}

impl Planner {
    fn warn_of_unused_arguments(&self, request: &BuildRequest) {
        // An argument may be declared anywhere, also by a trigger of a base image: only a text search is sure.
        let unused = request.build_args.iter().filter(|(name, _)| {
            !request.file.contains(name.as_str())
                && !scope::PROXIES.contains(&name.as_str())
                && name != "SOURCE_DATE_EPOCH"
                && !name.starts_with("BUILDKIT_")
        });
        let names: Vec<&str> = unused.map(|(name, _)| name.as_str()).collect();
        if !names.is_empty() {
            let message = format!("One or more build-args [{}] were not consumed", names.join(" "));
            (self.events)(Event::Diagnostic(Diagnostic::warning("UnusedBuildArg", message, None)));
        }
    }

    /// Lowers a stage, once.
    fn stage(self: &Arc<Self>, index: usize) -> Later<'_, Result<Arc<StagePlan>, Error>> {
        Box::pin(async move {
            self.stages[index].get_or_try_init(|| async { self.lower_stage(index).await.map(Arc::new) }).await.cloned()
        })
    }

    /// An image, asked for once for each platform.
    async fn image(&self, name: &str, platform: &Platform, exact: bool) -> Result<Arc<BaseImage>, image::Error> {
        let cell = {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.entry((name.to_owned(), platform.to_string())).or_default().clone()
        };
        cell.get_or_try_init(|| self.resolver.image(name, platform, exact)).await.cloned()
    }

    /// Makes vertices of the stages that the target leads to.
    fn graph(&self, target: usize) -> Planned {
        let mut builder = GraphBuilder::new(self);
        let (top, steps) = builder.stage(target);
        let Some(plan) = self.stages[target].get() else { unreachable!("the target has been planned") };
        let mut config = plan.config.clone();
        // Stages below on which this one stands have added lines as well.
        let (mut history, mut base_history, mut base_created) = (Vec::new(), Vec::new(), None);
        let mut chain = vec![(target, steps)];
        let mut at = plan.clone();
        loop {
            match &at.base {
                Base::Stage(below) => {
                    let (_, steps) = builder.stage(*below);
                    chain.push((*below, steps));
                    let Some(plan) = self.stages[*below].get() else { unreachable!("a base has been planned") };
                    at = plan.clone();
                }
                Base::Image(image) => {
                    base_history.clone_from(&image.config.history);
                    base_created.clone_from(&image.config.created);
                    break;
                }
                Base::Scratch => break,
            }
        }
        for (stage, steps) in chain.into_iter().rev() {
            let Some(plan) = self.stages[stage].get() else { continue };
            let vertex = |item: &HistoryItem| item.step.and_then(|step| steps.get(step).copied());
            history.extend(plan.history.iter().map(|item| (item.line.clone(), vertex(item))));
        }
        config.history.clear();
        config.rootfs.diff_ids.clear();
        Planned { graph: builder.graph, target: top, config, base_history, history, base_created }
    }
}
