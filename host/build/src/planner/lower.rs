//! Lowering a stage: each instruction by its plugin, its operations put to the stage's state.

use std::collections::BTreeSet;
use std::sync::Arc;

use dockerfile::Line;
use dockerfile::lint::{Finding, INVALID_BASE_PLATFORM};
use futures_util::future::try_join_all;
use oci::{ImageConfig, Platform};
use plan::key::Provenance;
use plan::op::{ConfigChange, ConfigField, HistoryLine, Included, Lowered, Op};
use plan::{Diagnostic, Severity, Span};
use plugin::{Instructions, Lowering};

use super::lint::From;
use super::outline::Declared;
use super::view::StageView;
use super::{Base, HistoryItem, Planner, Ref, StagePlan, Step, StepOp};
use crate::error::Error;

/// Instructions that plugins put in others' place may do so again, so deep.
const DEEPEST_INCLUDE: u32 = 8;
/// And so many in a stage.
const MOST_INCLUDED: usize = 10_000;

/// A stage while its instructions are lowered.
pub(super) struct Lowerer<'l> {
    pub(super) planner: &'l Arc<Planner>,
    pub(super) view: StageView,
    /// Whether the base image's triggers are being lowered.
    in_trigger: bool,
    /// Instructions that plugins have put in others' place.
    included: usize,
    steps: Vec<Step>,
    declared: Vec<Declared>,
    history: Vec<HistoryItem>,
}

impl Planner {
    pub(super) async fn lower_stage(self: &Arc<Self>, index: usize) -> Result<StagePlan, Error> {
        let stage = &self.file.stages[index];
        let span = &stage.line.instruction.span;
        let From { base: name, platform: explicit, .. } = self.froms[index].clone();
        let is_explicit = explicit.is_some() || self.explicit_platform;
        let platform = explicit.unwrap_or_else(|| self.target_platform.clone());
        // A named context of the stage's own name takes its place, instructions and all.
        let replaced = match &stage.name {
            Some(own) => self.resolver.named(own, &platform).await,
            None => Ok(None),
        };
        let replaced = replaced.map_err(|source| Error::Base { source, span: Some(span.clone()) })?;
        let lines = if replaced.is_some() { &[][..] } else { &stage.lines };
        let base = match replaced {
            Some(named) => named.into(),
            None => self.base(index, &name, &platform, is_explicit, span).await?,
        };
        let platform = self.auto_detected(index, &name, &base, platform, is_explicit);
        let mut plan = self.start(&base, &name, &platform, is_explicit).await?;
        let triggers = std::mem::take(&mut plan.config.config.on_build);
        let triggers = if lines.is_empty() && !stage.lines.is_empty() { Vec::new() } else { triggers };

        let view = StageView {
            config: plan.config,
            variables: plan.variables,
            arguments: plan.arguments,
            set: plan.working_dir_at.iter().map(|span| (ConfigField::WorkingDir, span.clone())).collect(),
            line: stage.line.clone(),
            shared: self.shared.clone(),
            stage: index,
            platform: platform.clone(),
            unused: false,
        };
        let mut lowerer = Lowerer {
            planner: self,
            view,
            in_trigger: true,
            included: 0,
            steps: Vec::new(),
            declared: Vec::new(),
            history: Vec::new(),
        };
        for trigger in triggers {
            let source = format!("ONBUILD of {name}");
            let line = dockerfile::parse_trigger(&source, &trigger, &self.keywords).map_err(|diagnostic| {
                // What the base image says stands nowhere in this file.
                let message = format!("the trigger `{}` of {name}: {}", first_line(&trigger), diagnostic.message);
                Diagnostic { message, span: Some(span.clone()), fixes: Vec::new(), ..diagnostic }
            })?;
            lowerer.line(line.moved(span.clone()), 0).await?;
        }
        lowerer.in_trigger = false;
        for line in lines {
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
            declared: lowerer.declared,
            working_dir_at: lowerer.view.set.remove(&ConfigField::WorkingDir),
            ..plan
        })
    }

    /// The platform of a stage: its base's own, where nobody has asked for one and this machine can run it.
    fn auto_detected(&self, index: usize, name: &str, base: &Base, expected: Platform, explicit: bool) -> Platform {
        let Base::Image(image) = base else { return expected };
        let own = image.config.platform();
        let same = |platform: &Platform| platform.os == own.os && platform.architecture == own.architecture;
        if same(&expected) {
            return expected;
        }
        if !explicit && own.os == expected.os && executor::emulation::runs(&own.architecture) {
            return own;
        }
        let line = &self.file.stages[index].line;
        let message =
            format!("Base image {name} was pulled with platform \"{own}\", expected \"{expected}\" for current build");
        let diagnostic = INVALID_BASE_PLATFORM.finding(message, &line.instruction.span);
        self.linter.add(Finding { diagnostic, comments: &[] });
        expected
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
            working_dir_at: None,
            declared: Vec::new(),
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
                    working_dir_at: below.working_dir_at.clone(),
                    ..empty
                });
            }
            Base::Scratch | Base::Context(_) => {
                let mut config = ImageConfig::default();
                // Nothing is for all platforms, so it is for the one that is built.
                config.set_platform(&self.target_platform);
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

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
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
                Lowering::Source(Included { name, text, escape, diagnostics }) => {
                    if depth >= DEEPEST_INCLUDE {
                        let message = format!("instructions are included more than {DEEPEST_INCLUDE} deep");
                        return Err(Error::at("IncludedTooDeep", message, &span));
                    }
                    self.tell(diagnostics)?;
                    for line in dockerfile::parse_included(&name, &text, escape, &self.planner.keywords)? {
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

    /// What a plugin has to say: errors end the build, the rest is the linter's.
    fn tell(&self, diagnostics: Vec<Diagnostic>) -> Result<(), Error> {
        if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            return Err(Error::Invalid(diagnostics));
        }
        for mut diagnostic in diagnostics {
            if self.in_trigger {
                // What the base image says stands nowhere in this file.
                let from = &self.planner.file.stages[self.view.stage].line.instruction.span;
                diagnostic = Diagnostic { span: Some(from.clone()), fixes: Vec::new(), ..diagnostic };
            }
            self.planner.linter.add(Finding { diagnostic, comments: &self.view.line.comments });
        }
        Ok(())
    }

    async fn apply(&mut self, lowered: Lowered, span: &Span) -> Result<(), Error> {
        self.tell(lowered.diagnostics)?;
        let before = self.steps.len();
        for op in lowered.ops {
            self.op(op, span, &lowered.hints).await?;
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

    async fn op(&mut self, op: Op, span: &Span, hints: &[(String, String)]) -> Result<(), Error> {
        let step = match op {
            Op::Config(change) => {
                if let ConfigChange::AddOnBuild(trigger) = &change {
                    self.planner.check_trigger(trigger, self.view.stage, span).await?;
                }
                self.change(&change);
                return Ok(());
            }
            Op::DeclareArg(name, default) => {
                let value = plan::op::Stage::argument(&self.view, &name, default.as_deref());
                if let Some(value) = &value {
                    self.view.variables.set_argument(&name, value);
                }
                self.declared.push(Declared::new(&self.view.line, &name, default.as_deref(), value.as_deref()));
                self.view.arguments.push((name, value));
                return Ok(());
            }
            Op::Mkdir(mkdir) => StepOp::Mkdir(mkdir),
            Op::Copy(copy) => self.copy(copy, span).await?,
            Op::Run(run) => self.run(run, span).await?,
        };
        // One line, however many the instruction has.
        let instruction = &self.view.line.instruction;
        let text = instruction.source.split_whitespace().collect::<Vec<_>>().join(" ");
        let (keyword, source) = (instruction.keyword.clone(), instruction.source.clone());
        let instruction = Provenance { keyword, source, span: span.clone() };
        self.steps.push(Step { op: step, text, instruction, hints: hints.to_vec() });
        Ok(())
    }

    fn change(&mut self, change: &ConfigChange) {
        match change {
            ConfigChange::SetEnv(name, value) => self.view.variables.set(name, value),
            ConfigChange::UnsetEnv(name) => self.view.variables.unset(name),
            _ => {}
        }
        let field = match change {
            ConfigChange::SetCmd(Some(_)) => Some(ConfigField::Cmd),
            ConfigChange::SetEntrypoint(Some(_)) => Some(ConfigField::Entrypoint),
            ConfigChange::SetHealthcheck(Some(_)) => Some(ConfigField::Healthcheck),
            ConfigChange::SetWorkingDir(_) => Some(ConfigField::WorkingDir),
            _ => None,
        };
        if let Some(field) = field {
            self.view.set.insert(field, self.view.line.instruction.span.clone());
        }
        plan::config::apply(&mut self.view.config, change);
    }
}
