//! Lowering a stage: each instruction by its plugin, its operations put to the stage's state.

use std::collections::BTreeSet;
use std::sync::Arc;

use dockerfile::Line;
use futures_util::future::try_join_all;
use oci::{ImageConfig, Platform};
use plan::graph::{CopyStep, RunStep};
use plan::op::{
    ConfigChange, CopyOp, CopySource, Expansion, HistoryLine, Lowered, MountKind, Network, Op, RunOp, Security,
};
use plan::{Diagnostic, Severity, Span};
use plugin::{Instructions, Lowering};

use super::view::StageView;
use super::{Base, HistoryItem, Planner, Ref, StagePlan, Step, StepOp};
use crate::commands::Entitlement;
use crate::error::Error;
use crate::event::Event;

/// Instructions that plugins put in others' place may do so again, so deep.
const DEEPEST_INCLUDE: u32 = 8;
/// And so many in a stage.
const MOST_INCLUDED: usize = 10_000;

/// A stage while its instructions are lowered.
pub(super) struct Lowerer<'l> {
    pub(super) planner: &'l Arc<Planner>,
    pub(super) view: StageView,
    /// Instructions that plugins have put in others' place.
    included: usize,
    steps: Vec<Step>,
    history: Vec<HistoryItem>,
}

impl Planner {
    pub(super) async fn lower_stage(self: &Arc<Self>, index: usize) -> Result<StagePlan, Error> {
        let stage = &self.file.stages[index];
        let span = &stage.line.instruction.span;
        let expand = |text: &str| {
            let expanded = self.shared.globals.expand(text, self.file.directives.escape, Expansion::Word);
            let failed = |error: plan::op::ExpandError| {
                Error::at("InvalidSubstitution", format!("failed to process \"{text}\": {}", error.message), span)
            };
            expanded.map(|expanded| expanded.words.concat()).map_err(failed)
        };
        let explicit = stage.platform.as_deref().map(expand).transpose()?.filter(|text| !text.is_empty());
        let platform = match &explicit {
            Some(text) => {
                text.parse::<Platform>().map_err(|error| Error::at("InvalidPlatform", error.to_string(), span))?
            }
            None => self.target_platform.clone(),
        };
        let name = expand(&stage.base)?;
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.base);
            return Err(Error::at("BlankBase", message, span));
        }
        let is_explicit = explicit.is_some() || self.explicit_platform;
        let base = self.base(index, &name, &platform, is_explicit, span).await?;
        let mut plan = self.start(&base, &name, &platform, is_explicit).await?;
        let triggers = std::mem::take(&mut plan.config.config.on_build);

        let view = StageView {
            config: plan.config,
            variables: plan.variables,
            arguments: plan.arguments,
            set: BTreeSet::new(),
            line: stage.line.clone(),
            shared: self.shared.clone(),
            stage: index,
            platform: platform.clone(),
        };
        let mut lowerer = Lowerer { planner: self, view, included: 0, steps: Vec::new(), history: Vec::new() };
        for trigger in triggers {
            let source = format!("ONBUILD of {name}");
            let line = dockerfile::parse_trigger(&source, &trigger, &self.keywords)?;
            lowerer.line(line, 0).await?;
        }
        for line in &stage.lines {
            lowerer.line(line.clone(), 0).await?;
        }
        // Stages that are copied from are lowered side by side.
        let needed: BTreeSet<usize> = lowerer.steps.iter().flat_map(Step::stages).collect();
        try_join_all(needed.into_iter().map(|stage| self.stage(stage))).await?;
        Ok(StagePlan {
            config: lowerer.view.config,
            variables: lowerer.view.variables,
            arguments: lowerer.view.arguments,
            steps: lowerer.steps,
            history: lowerer.history,
            ..plan
        })
    }

    /// A stage before its first instruction.
    async fn start(
        self: &Arc<Self>,
        base: &Base,
        name: &str,
        platform: &Platform,
        explicit: bool,
    ) -> Result<StagePlan, Error> {
        let empty = StagePlan {
            base: base.clone(),
            base_reference: None,
            steps: Vec::new(),
            config: ImageConfig::default(),
            variables: super::Variables::default(),
            arguments: Vec::new(),
            history: Vec::new(),
            platform: platform.clone(),
        };
        let mut plan = match base {
            Base::Stage(below) => {
                let below = self.stage(*below).await?;
                return Ok(StagePlan {
                    base_reference: below.base_reference.clone(),
                    config: below.config.clone(),
                    variables: below.variables.clone(),
                    arguments: below.arguments.clone(),
                    platform: below.platform.clone(),
                    ..empty
                });
            }
            Base::Scratch => {
                let mut config = ImageConfig::default();
                config.set_platform(platform);
                "/".clone_into(&mut config.config.working_dir);
                StagePlan { config, ..empty }
            }
            Base::Image(image) => {
                let mut config = image.config.clone();
                config.created = None;
                if explicit {
                    config.set_platform(platform);
                }
                let base_reference = Some((name.to_owned(), Some(image.source.digest)));
                StagePlan { config, base_reference, ..empty }
            }
        };
        if plan.config.config.env("PATH").is_none() {
            plan.config.config.set_env("PATH", plan::config::DEFAULT_PATH);
        }
        for line in &plan.config.config.env {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            plan.variables.set(name, value);
        }
        Ok(plan)
    }
}

impl Step {
    fn stages(&self) -> Vec<usize> {
        let refs: &[Option<Ref>] = match &self.op {
            StepOp::Run(_, refs) | StepOp::Copy(_, refs) => refs,
            StepOp::Mkdir(_) => &[],
        };
        refs.iter()
            .filter_map(|from| match from {
                Some(Ref::Stage(stage)) => Some(*stage),
                _ => None,
            })
            .collect()
    }
}

impl Lowerer<'_> {
    /// Lowers one instruction, or the instructions that a plugin wants read in its place.
    fn line(&mut self, line: Line, depth: u32) -> super::Later<'_, Result<(), Error>> {
        Box::pin(async move {
            let span = line.instruction.span.clone();
            self.view.line = line;
            match self.ask().await? {
                Lowering::Ops(lowered) => self.apply(lowered, &span).await,
                Lowering::Source(name, text) => {
                    if depth >= DEEPEST_INCLUDE {
                        let message = format!("instructions are included more than {DEEPEST_INCLUDE} deep");
                        return Err(Error::at("IncludedTooDeep", message, &span));
                    }
                    for line in dockerfile::parse_included(&name, &text, &self.planner.keywords)? {
                        self.included += 1;
                        if self.included > MOST_INCLUDED {
                            let message = format!("plugins include more than {MOST_INCLUDED} instructions");
                            return Err(Error::at("IncludedTooMuch", message, &span));
                        }
                        self.line(line, depth + 1).await?;
                    }
                    Ok(())
                }
            }
        })
    }

    /// Asks the plugins that handle the keyword, in order.
    async fn ask(&self) -> Result<Lowering, Error> {
        let instruction = &self.view.line.instruction;
        let span = Some(instruction.span.clone());
        let handles = |plugin: &&Instructions| plugin.keywords().iter().any(|k| k.keyword == instruction.keyword);
        for plugin in self.planner.instructions.iter().filter(handles) {
            match plugin.lower(Arc::new(self.view.clone()), instruction).await {
                Ok(lowering) => return Ok(lowering),
                Err(plugin::Error::Unsupported(_)) => {}
                Err(plugin::Error::Invalid(diagnostics)) => return Err(Error::Invalid(diagnostics)),
                Err(source) => return Err(Error::Plugin { source, span }),
            }
        }
        let message = format!("no plugin handles this {}", instruction.keyword);
        Err(Error::at("Unhandled", message, &instruction.span))
    }

    async fn apply(&mut self, lowered: Lowered, span: &Span) -> Result<(), Error> {
        let errors = lowered.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        if errors {
            return Err(Error::Invalid(lowered.diagnostics));
        }
        for diagnostic in lowered.diagnostics {
            (self.planner.events)(Event::Diagnostic(diagnostic));
        }
        let before = self.steps.len();
        for op in lowered.ops {
            self.op(op, span).await?;
        }
        // Each layer has a line of its own in the history, and a line that stands for a layer has one.
        let made: Vec<usize> = (before..self.steps.len()).collect();
        let line = lowered.history;
        let comment = line.as_ref().and_then(|line| line.comment.clone());
        let (last, others) = match made.split_last() {
            Some((last, others)) => (Some(*last), others),
            None => (None, &[][..]),
        };
        for step in others {
            let created_by = self.steps[*step].text.clone();
            let line = HistoryLine { created_by, empty_layer: false, comment: comment.clone() };
            self.history.push(HistoryItem { line, step: Some(*step) });
        }
        match (line, last) {
            (Some(line), last) => {
                let line = HistoryLine { empty_layer: last.is_none(), ..line };
                self.history.push(HistoryItem { line, step: last });
            }
            (None, Some(step)) => {
                let created_by = self.steps[step].text.clone();
                let line = HistoryLine { created_by, empty_layer: false, comment: None };
                self.history.push(HistoryItem { line, step: Some(step) });
            }
            (None, None) => {}
        }
        Ok(())
    }

    async fn op(&mut self, op: Op, span: &Span) -> Result<(), Error> {
        let step = match op {
            Op::Config(change) => {
                self.change(&change);
                return Ok(());
            }
            Op::DeclareArg(name, default) => {
                let value = plan::op::Stage::argument(&self.view, &name, default.as_deref());
                if let Some(value) = &value {
                    self.view.variables.set(&name, value);
                }
                self.view.arguments.push((name, value));
                return Ok(());
            }
            Op::Mkdir(mkdir) => StepOp::Mkdir(mkdir),
            Op::Copy(copy) => self.copy(copy, span).await?,
            Op::Run(run) => self.run(run, span).await?,
        };
        // One line, however many the instruction has.
        let source = &self.view.line.instruction.source;
        let text = source.split_whitespace().collect::<Vec<_>>().join(" ");
        self.steps.push(Step { op: step, text, span: span.clone() });
        Ok(())
    }

    fn change(&mut self, change: &ConfigChange) {
        match change {
            ConfigChange::SetEnv(name, value) => self.view.variables.set(name, value),
            ConfigChange::SetCmd(Some(_)) => {
                self.view.set.insert("cmd");
            }
            ConfigChange::SetEntrypoint(Some(_)) => {
                self.view.set.insert("entrypoint");
            }
            ConfigChange::SetHealthcheck(Some(_)) => {
                self.view.set.insert("healthcheck");
            }
            _ => {}
        }
        plan::config::apply(&mut self.view.config, change);
    }

    async fn copy(&mut self, op: CopyOp, span: &Span) -> Result<StepOp, Error> {
        let mut refs = Vec::new();
        for source in &op.sources {
            refs.push(match source {
                CopySource::Context { .. } => Some(Ref::Context(None)),
                CopySource::Stage { origin, .. } => Some(self.origin(origin, span).await?),
                CopySource::Inline(_) => None,
                CopySource::Http { .. } => return Err(not_yet("a source on the web", span)),
                CopySource::Git(_) => return Err(not_yet("a git repository as a source", span)),
            });
        }
        let full = if op.destination.starts_with('/') {
            op.destination.clone()
        } else {
            format!("{}/{}", self.view.config.config.working_dir, op.destination)
        };
        // Cleaned as text, before any link in the image is followed; what says "a directory" stays.
        let mut destination = format!("/{}", String::from_utf8_lossy(&oci::tree::clean(full.as_bytes())));
        let is_directory = full.ends_with('/') || full.ends_with("/.");
        if is_directory && destination != "/" {
            destination.push('/');
        }
        Ok(StepOp::Copy(CopyStep { op, destination, origins: Vec::new() }, refs))
    }

    async fn run(&mut self, mut op: RunOp, span: &Span) -> Result<StepOp, Error> {
        if op.network == Network::Host {
            self.require(Entitlement::NetworkHost, span)?;
        }
        if op.security == Security::Insecure {
            self.require(Entitlement::SecurityInsecure, span)?;
        }
        if let (Network::Default, Some(network)) = (op.network, self.planner.commands.network) {
            op.network = network;
        }
        let mut refs = Vec::new();
        for mount in &op.mounts {
            refs.push(match &mount.kind {
                MountKind::Bind { from: None, .. } => Some(Ref::Context(None)),
                MountKind::Bind { from: Some(from), .. } => Some(self.origin(from, span).await?),
                MountKind::Cache(cache) => match &cache.from {
                    Some(from) => Some(self.origin(from, span).await?),
                    None => None,
                },
                MountKind::Tmpfs(_) | MountKind::Secret(_) | MountKind::Ssh { .. } | MountKind::File { .. } => None,
            });
        }
        let config = &self.view.config.config;
        let mut env = self.view.variables.clone();
        for (name, value) in &op.extra_env {
            env.set(name, value);
        }
        let step = RunStep {
            env: env.as_pairs().to_vec(),
            proxies: self.planner.proxies.clone(),
            hosts: self.planner.commands.surroundings.hosts.clone(),
            user: op.user.clone().unwrap_or_else(|| config.user.clone()),
            working_dir: match op.working_dir.as_ref().unwrap_or(&config.working_dir) {
                path if path.is_empty() => "/".into(),
                path => path.clone(),
            },
            mount_origins: Vec::new(),
            platform: self.view.platform.clone(),
            op,
        };
        Ok(StepOp::Run(step, refs))
    }

    fn require(&self, entitlement: Entitlement, span: &Span) -> Result<(), Error> {
        if self.planner.commands.allow.contains(&entitlement) {
            return Ok(());
        }
        let name = entitlement.name();
        let diagnostic = Diagnostic::error("NotAllowed", format!("{name} is not allowed"), Some(span.clone()));
        Err(diagnostic.with_help(format!("allow it with --allow {name}")).into())
    }
}

fn not_yet(what: &str, span: &Span) -> Error {
    Error::at("NotSupportedYet", format!("{what} is not supported yet"), span)
}
