//! From a parsed file to the graph of what the target needs.
//!
//! Demand-driven: a stage is lowered once its base's configuration is known, and only if the target leads to it. What
//! must be looked up (images, contexts) is asked of a [`Resolver`]; nothing here touches network or disk.

mod form;
pub(crate) mod from;
mod graph;
mod lint;
mod lower;
mod origin;
pub(crate) mod outline;
pub(crate) mod scope;
mod steps;
mod syntax;
mod view;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use context::pattern::Matcher;
use dockerfile::File;
use oci::config::History;
use oci::{ImageConfig, Platform};
use plan::graph::{CopyStep, Graph, ImageSource, RunStep, VertexId};
use plan::key::Provenance;
use plan::op::{CopySource, HistoryLine, Keyword, MkdirOp};
use plan::{Diagnostic, Span};
use plugin::Instructions;
use tokio::sync::OnceCell;

use crate::commands::Commands;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::request::BuildRequest;
use futures_util::future::try_join_all;
use graph::GraphBuilder;
use lint::{From, FromScope, Linter};
use outline::Declared;
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
    /// What the ignore rules of the build context leave out; none where there are no such rules.
    fn ignored(&self) -> Later<'_, Option<Arc<Matcher>>>;
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
    Scratch,
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
    /// The last WORKDIR, here or in a stage below.
    working_dir_at: Option<Span>,
    declared: Vec<Declared>,
}

#[derive(Clone, Debug)]
enum Base {
    Scratch,
    Stage(usize),
    Image(Arc<BaseImage>),
    /// The files of a named context, as one layer.
    Context(String),
}

#[derive(Debug)]
struct Step {
    op: StepOp,
    text: String,
    instruction: Provenance,
    hints: Vec<(String, String)>,
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
    target: usize,
    file: File,
    instructions: Vec<Instructions>,
    keywords: Vec<Keyword>,
    shared: Arc<Shared>,
    target_platform: Platform,
    explicit_platform: bool,
    several_platforms: bool,
    proxies: Vec<(String, String)>,
    commands: Commands,
    resolver: Arc<dyn Resolver>,
    linter: Linter,
    froms: Vec<From>,
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

/// What is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The target, and what it leads to.
    Target,
    /// Every stage, unless the user names a target.
    Everything,
}

/// Plans the target of a request. What the linter finds is told whether that succeeds or not.
pub(crate) async fn plan(
    request: &BuildRequest,
    instructions: &[Instructions],
    syntaxes: &[String],
    resolver: Arc<dyn Resolver>,
    events: &Events,
    extent: Extent,
) -> Result<Arc<Planner>, Error> {
    let keywords = keywords(instructions);
    // Before anything else in the file is judged: it may be in another language.
    syntax::check(&dockerfile::directives(&request.file_name, &request.file)?, request, syntaxes)?;
    let file = dockerfile::parse(&request.file_name, &request.file, &keywords)?;
    let linter = Linter::new(&file, &request.build_args)?;
    let planner = prepare(request, instructions, keywords, file, resolver, linter, events)?;
    if extent == Extent::Target {
        warn_of_unused_arguments(request, events);
    }
    let wanted: Vec<usize> = match (extent, &request.target) {
        (Extent::Everything, None) => (0..planner.stages.len()).collect(),
        _ => vec![planner.target],
    };
    let mut planned = try_join_all(wanted.into_iter().map(|stage| planner.stage(stage))).await;
    if planned.is_ok()
        && let Err(error) = planner.check_unused().await
    {
        planned = Err(error);
    }
    let findings = planner.linter.take();
    let verdict = planner.linter.verdict(&findings);
    findings.into_iter().for_each(|finding| events(Event::Diagnostic(finding)));
    planned?;
    verdict?;
    Ok(planner)
}

fn prepare(
    request: &BuildRequest,
    instructions: &[Instructions],
    keywords: Vec<Keyword>,
    file: File,
    resolver: Arc<dyn Resolver>,
    linter: Linter,
    events: &Events,
) -> Result<Arc<Planner>, Error> {
    let stage_names: Vec<Option<String>> = file.stages.iter().map(|stage| stage.name.clone()).collect();
    let target = target(&file, request.target.as_deref())?;
    let build_platform = Platform::host();
    let target_platform = request.platforms.first().unwrap_or(&build_platform).clone();
    let target_name = stage_names[target].clone().unwrap_or_else(|| "default".into());
    let automatic = scope::automatic(&build_platform, &target_platform, &target_name, &request.build_args);
    let globals = from::globals(&file, automatic.clone(), &request.build_args)?;
    let defaults = from::globals(&file, automatic, &[]).ok();
    let froms = FromScope { file: &file, globals: &globals, defaults }.read(&linter);
    let froms = froms.inspect_err(|_| {
        linter.take().into_iter().for_each(|finding| events(Event::Diagnostic(finding)));
    })?;
    let proxies = request.build_args.iter().filter(|(name, _)| scope::PROXIES.contains(&name.as_str())).cloned();
    let shared = Shared { build_platform, globals, build_args: request.build_args.clone(), stage_names };
    Ok(Arc::new(Planner {
        target,
        stages: file.stages.iter().map(|_| OnceCell::new()).collect(),
        instructions: instructions.to_vec(),
        keywords,
        shared: Arc::new(shared),
        target_platform,
        explicit_platform: !request.platforms.is_empty(),
        several_platforms: request.several_platforms,
        proxies: proxies.collect(),
        commands: request.commands.clone(),
        resolver,
        linter,
        froms,
        images: Mutex::default(),
        file,
    }))
}

fn target(file: &File, wanted: Option<&str>) -> Result<usize, Error> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(file.stages.len() - 1);
    };
    let lower = wanted.to_lowercase();
    // The last of its name, as it is for COPY.
    let by_name = file.stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower));
    by_name.ok_or_else(|| {
        let names: Vec<&str> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let near = plan::diagnostic::nearest(&lower, names.iter().copied());
        let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        Error::Request(format!("target stage \"{wanted}\" could not be found{hint}"))
    })
}

fn warn_of_unused_arguments(request: &BuildRequest, events: &Events) {
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
        events(Event::Diagnostic(Diagnostic::warning("UnusedBuildArg", message, None)));
    }
}

impl Planner {
    /// The sources of the copy that the instruction at a place of a planned stage makes.
    pub(crate) fn sources_at(&self, stage: usize, span: &Span) -> Option<Vec<CopySource>> {
        let plan = self.stages[stage].get()?;
        plan.steps.iter().find(|step| step.instruction.span == *span).and_then(|step| match &step.op {
            StepOp::Copy(copy, _) => Some(copy.op.sources.clone()),
            StepOp::Run(..) | StepOp::Mkdir(_) => None,
        })
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
    pub(crate) fn graph(&self) -> Planned {
        let target = self.target;
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
                Base::Scratch | Base::Context(_) => break,
            }
        }
        if let Base::Context(context) = &at.base {
            // As BuildKit's exporter says of a layer that no instruction has made.
            let comment = Some("buildkit.exporter.image.v0".to_owned());
            let line = HistoryLine { created_by: format!("FROM {context}"), empty_layer: false, comment };
            let first = chain.last().and_then(|(stage, _)| builder.bottom(*stage));
            history.push((line, first));
        }
        for (stage, steps) in chain.into_iter().rev() {
            let Some(plan) = self.stages[stage].get() else { continue };
            let vertex = |item: &HistoryItem| item.step.and_then(|step| steps.get(step).copied());
            history.extend(plan.history.iter().map(|item| (item.line.clone(), vertex(item))));
        }
        // The image is for what the user asked for, whatever its stages were made on.
        if self.explicit_platform {
            config.set_platform(&self.target_platform);
        }
        config.history.clear();
        config.rootfs.diff_ids.clear();
        Planned { graph: builder.graph, target: top, config, base_history, history, base_created }
    }
}
