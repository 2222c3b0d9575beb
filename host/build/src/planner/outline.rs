//! What a target takes (`--call=outline`), and which targets there are (`--call=targets`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dockerfile::Line;
use dockerfile::expand::{self, Options};
use plan::Span;
use plan::op::MountKind;
use serde::Serialize;

use super::{Base, Planner, Ref, StagePlan, StepOp};

/// What a target takes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// Build arguments, in the order of the file.
    pub args: Vec<Argument>,
    /// Secrets of its commands.
    pub secrets: Vec<Need>,
    /// Ssh agents of its commands.
    pub ssh: Vec<Need>,
}

/// A build argument.
#[derive(Clone, Debug, Serialize)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What the comment above it says.
    pub description: Option<String>,
    /// What it would have.
    pub value: Option<String>,
    /// Where it is declared.
    #[serde(skip)]
    pub span: Span,
}

/// A secret or an agent.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// Its id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// Where it is first used.
    #[serde(skip)]
    pub span: Span,
}

/// A stage that can be built.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether it is what is built when nothing is named.
    pub default: bool,
    /// What the comment above it says.
    pub description: Option<String>,
    /// Its FROM, as written.
    pub base: String,
    /// The platform in its FROM, as written.
    pub platform: Option<String>,
    /// Where it starts.
    #[serde(skip)]
    pub span: Span,
}

/// The stages of a file.
pub(crate) fn targets(file: &dockerfile::File) -> Vec<Target> {
    let last = file.stages.len().saturating_sub(1);
    let target = |(at, stage): (usize, &dockerfile::Stage)| Target {
        name: stage.name.clone(),
        default: at == last,
        description: stage.name.as_deref().and_then(|name| stage.line.doc(name)).map(str::to_owned),
        base: stage.base.clone(),
        platform: stage.platform.clone(),
        span: stage.line.instruction.span.clone(),
    };
    file.stages.iter().enumerate().map(target).collect()
}

impl Planner {
    /// What the target takes; it has been planned.
    pub(crate) fn outline(&self) -> Outline {
        let mut stages = BTreeMap::new();
        self.reach(self.target, &mut stages);
        let target = &self.file.stages[self.target];
        let mut args: BTreeMap<String, Argument> = BTreeMap::new();
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for (index, plan) in &stages {
            wanted.extend(self.froms[*index].used.iter().cloned());
            for declared in &plan.declared {
                match (&declared.default, self.global(&declared.name)) {
                    (None, Some(_)) => {
                        wanted.insert(declared.name.clone());
                    }
                    _ => {
                        args.insert(declared.name.clone(), declared.argument.clone());
                    }
                }
            }
        }
        // Defaults name further arguments.
        while let Some(name) = wanted.pop_first() {
            let Some((argument, default)) = self.global(&name) else { continue };
            if args.insert(name, argument).is_none() {
                wanted.extend(default.map(|default| self.names_in(default)).unwrap_or_default());
            }
        }
        let mut args: Vec<Argument> = args.into_values().collect();
        args.sort_by_key(|argument| argument.span.start);
        let (mut secrets, mut ssh) = (Vec::new(), Vec::new());
        for step in stages.values().flat_map(|plan| &plan.steps) {
            let StepOp::Run(run, _) = &step.op else { continue };
            for mount in &run.op.mounts {
                let (needs, name, required) = match &mount.kind {
                    MountKind::Secret(secret) => (&mut secrets, &secret.id, secret.required),
                    MountKind::Ssh { id, required, .. } => (&mut ssh, id, *required),
                    _ => continue,
                };
                note(needs, name, required, &step.instruction.span);
            }
        }
        Outline {
            name: target.name.clone(),
            description: target.name.as_deref().and_then(|name| target.line.doc(name)).map(str::to_owned),
            args,
            secrets,
            ssh,
        }
    }

    /// A stage and all that it leads to.
    fn reach(&self, index: usize, stages: &mut BTreeMap<usize, Arc<StagePlan>>) {
        let Some(plan) = self.stages[index].get() else { return };
        if stages.insert(index, plan.clone()).is_some() {
            return;
        }
        if let Base::Stage(below) = &plan.base {
            self.reach(*below, stages);
        }
        for step in &plan.steps {
            let refs: &[Option<Ref>] = match &step.op {
                StepOp::Run(_, refs) | StepOp::Copy(_, refs) => refs,
                StepOp::Mkdir(_) => &[],
            };
            for from in refs.iter().flatten() {
                if let Ref::Stage(stage) = from {
                    self.reach(*stage, stages);
                }
            }
        }
    }

    /// A global argument: the last declaration of that name, and its default.
    fn global(&self, name: &str) -> Option<(Argument, Option<&str>)> {
        let at = self.file.global_args.iter().rposition(|arg| arg.name == name)?;
        let arg = &self.file.global_args[at];
        let line = self.file.global_lines.iter().find(|line| line.instruction.span == arg.span);
        let argument = Argument {
            name: name.to_owned(),
            description: line.and_then(|line| line.doc(name)).map(str::to_owned),
            value: self.shared.globals.get(name).map(str::to_owned),
            span: arg.span.clone(),
        };
        Some((argument, arg.default.as_deref()))
    }

    fn names_in(&self, text: &str) -> BTreeSet<String> {
        let names = RefCell::new(BTreeSet::new());
        let lookup = |name: &str| {
            names.borrow_mut().insert(name.to_owned());
            self.shared.globals.get(name).map(str::to_owned)
        };
        let options = Options { escape: self.file.directives.escape, ..Options::default() };
        // A default that is malformed has stopped the build before.
        let _ = expand::word(text, &lookup, options);
        names.into_inner()
    }
}

fn note(needs: &mut Vec<Need>, name: &str, required: bool, span: &Span) {
    match needs.iter_mut().find(|need| need.name == name) {
        Some(known) => known.required |= required,
        None => needs.push(Need { name: name.to_owned(), required, span: span.clone() }),
    }
}

/// An ARG of a stage.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) default: Option<String>,
    argument: Argument,
}

impl Declared {
    pub(super) fn new(line: &Line, name: &str, default: Option<&str>, value: Option<&str>) -> Self {
        let argument = Argument {
            name: name.to_owned(),
            description: line.doc(name).map(str::to_owned),
            value: value.map(str::to_owned),
            span: line.instruction.span.clone(),
        };
        Self { name: name.to_owned(), default: default.map(str::to_owned), argument }
    }
}
