//! Stages that the target does not lead to: nothing of them is made or looked up, and yet what is written there is held to
//! the form of the language, as BuildKit does when it parses.

use std::sync::Arc;

use dockerfile::Line;
use oci::ImageConfig;
use plan::op::{CopySource, MountKind, Op};
use plan::{Diagnostic, Span};
use plugin::{Instructions, Lowering};

use super::view::StageView;
use super::{Planner, Variables};
use crate::error::Error;

impl Planner {
    /// Looks at the form of every stage that has not been planned.
    pub(super) async fn check_unused(&self) -> Result<(), Error> {
        for (index, stage) in self.file.stages.iter().enumerate() {
            if self.stages[index].get().is_some() {
                continue;
            }
            let span = &stage.line.instruction.span;
            let base = &self.froms[index].base;
            let is_stage = self.shared.stage_names[..index].iter().any(|known| known.as_deref() == Some(base));
            if !is_stage && let Err(error) = base.parse::<oci::Reference>() {
                let message = format!("failed to parse stage name \"{base}\": {error}");
                return Err(Error::at("InvalidBase", message, span));
            }
            for line in &stage.lines {
                self.check_form(index, line.clone()).await?;
            }
        }
        Ok(())
    }

    /// Looks at the form of what ONBUILD keeps for other files, while there is still somebody to mend it.
    pub(super) async fn check_trigger(&self, trigger: &str, stage: usize, span: &Span) -> Result<(), Error> {
        let line = dockerfile::parse_trigger("ONBUILD", trigger, &self.keywords);
        let line =
            line.map_err(|diagnostic| Diagnostic { span: Some(span.clone()), fixes: Vec::new(), ..diagnostic })?;
        // Which stages there will be is not known.
        let is_about_stages = |diagnostic: &Diagnostic| matches!(diagnostic.code.as_str(), "StageOrder" | "NoStage");
        match self.check_form(stage, line.moved(span.clone())).await {
            Err(Error::Invalid(diagnostics)) if diagnostics.iter().all(is_about_stages) => Ok(()),
            result => result,
        }
    }

    async fn check_form(&self, index: usize, line: Line) -> Result<(), Error> {
        let view = StageView {
            config: ImageConfig::default(),
            variables: Variables::default(),
            arguments: Vec::new(),
            set: std::collections::BTreeMap::new(),
            line,
            shared: self.shared.clone(),
            stage: index,
            platform: self.target_platform.clone(),
            unused: true,
        };
        let (instruction, at) = (view.line.instruction.clone(), view.stage);
        let view = Arc::new(view);
        let handles = |plugin: &&Instructions| plugin.keywords().iter().any(|k| k.keyword == instruction.keyword);
        for plugin in self.instructions.iter().filter(handles) {
            match plugin.lower(view.clone(), &instruction).await {
                Ok(Lowering::Ops(lowered)) => {
                    let names = lowered.ops.iter().flat_map(origins);
                    return names.into_iter().try_for_each(|name| self.check_origin(name, at, &instruction.span));
                }
                // What is included is part of no stage that is built.
                Ok(Lowering::Source(_)) => return Ok(()),
                Err(plugin::Error::Unsupported(_)) => {}
                Err(plugin::Error::Invalid(diagnostics)) => return Err(Error::Invalid(diagnostics)),
                Err(source) => return Err(Error::Plugin { source, span: Some(instruction.span.clone()) }),
            }
        }
        Ok(())
    }
}

/// What an operation takes files from.
fn origins(op: &Op) -> Vec<&str> {
    match op {
        Op::Copy(copy) => copy
            .sources
            .iter()
            .filter_map(|source| match source {
                CopySource::Stage { origin, .. } => Some(origin.as_str()),
                _ => None,
            })
            .collect(),
        Op::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } => from.as_deref(),
                MountKind::Cache(cache) => cache.from.as_deref(),
                _ => None,
            })
            .collect(),
        Op::Config(_) | Op::Mkdir(_) | Op::DeclareArg(..) => Vec::new(),
    }
}
