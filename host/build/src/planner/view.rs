//! What an instruction plugin sees of the stage above its instruction.

use std::collections::BTreeMap;
use std::sync::Arc;

use dockerfile::Line;
use oci::{ImageConfig, Platform};
use plan::Span;
use plan::op::{ConfigField, ExpandError, Expanded, Expansion, Stage};

use super::scope::Variables;

/// The state of a stage at an instruction.
#[derive(Clone)]
pub(super) struct StageView {
    pub(super) config: ImageConfig,
    pub(super) variables: Variables,
    /// Declared arguments in order, with what they had then.
    pub(super) arguments: Vec<(String, Option<String>)>,
    /// Where instructions have set what.
    pub(super) set: BTreeMap<ConfigField, Span>,
    pub(super) line: Line,
    pub(super) shared: Arc<Shared>,
    /// Which stage it is.
    pub(super) stage: usize,
    /// What the stage is built for.
    pub(super) platform: Platform,
    /// Whether nothing is made of it.
    pub(super) unused: bool,
}

/// What all stages share.
pub(super) struct Shared {
    pub(super) build_platform: Platform,
    pub(super) globals: Variables,
    pub(super) build_args: Vec<(String, String)>,
    pub(super) stage_names: Vec<Option<String>>,
}

impl Shared {
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.build_args.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The stage that a name or number means, the last of its name; `Err` where it is not above `below`.
    pub(super) fn find(&self, name: &str, below: usize) -> Option<Result<usize, usize>> {
        let lower = name.to_lowercase();
        let by_name = self.stage_names.iter().rposition(|known| known.as_deref() == Some(&lower));
        let by_number = || name.parse().ok().filter(|number| *number < self.stage_names.len());
        by_name.or_else(by_number).map(|stage| if stage < below { Ok(stage) } else { Err(stage) })
    }

    /// The stage above `below` that a name or number means.
    pub(super) fn stage(&self, name: &str, below: usize) -> Option<usize> {
        self.find(name, below)?.ok()
    }
}

impl Stage for StageView {
    fn config(&self) -> &ImageConfig {
        &self.config
    }

    fn target_platform(&self) -> &Platform {
        &self.platform
    }

    fn build_platform(&self) -> &Platform {
        &self.shared.build_platform
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(str::to_owned)
    }

    fn argument(&self, name: &str, default: Option<&str>) -> Option<String> {
        let given = self.shared.given(name).or(default).or_else(|| self.shared.globals.get(name));
        given.map(str::to_owned)
    }

    fn set_at(&self, field: ConfigField) -> Option<Span> {
        self.set.get(&field).cloned()
    }

    fn expand(&self, text: &str, how: Expansion) -> Result<Expanded, ExpandError> {
        if self.unused {
            return Ok(Expanded { words: vec![text.to_owned()], unset: Vec::new() });
        }
        self.variables.expand(text, self.line.instruction.escape, how)
    }

    fn expand_with(&self, text: &str, variables: &[(String, String)]) -> Result<Expanded, ExpandError> {
        let mut view = self.clone();
        variables.iter().for_each(|(name, value)| view.variables.set(name, value));
        view.expand(text, Expansion::Word)
    }

    fn split(&self, text: &str) -> Vec<String> {
        dockerfile::split_words(text, self.line.instruction.escape)
    }

    fn build_args(&self) -> Vec<(String, String)> {
        let value = |(name, value): &(String, Option<String>)| {
            let now = self.variables.get(name).map(str::to_owned).or_else(|| value.clone());
            (name.clone(), now.unwrap_or_default())
        };
        self.arguments.iter().map(value).collect()
    }

    fn locate(&self, start: u32, end: u32) -> Span {
        self.line.locate(start as usize, end as usize)
    }

    fn resolve_stage(&self, name: &str) -> Option<String> {
        self.shared.stage(name, self.stage).map(|stage| stage.to_string())
    }

    fn is_unused(&self) -> bool {
        self.unused
    }
}
