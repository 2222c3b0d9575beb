//! An instruction and the stage above it: what every lowering works on, and where its findings gather.

use std::cell::RefCell;

use plywood_sdk::instruction::{
    Arguments, Diagnostic, ExpandError, Expanded, Instruction, KeyValue, PluginError, Span, Stage,
};

use crate::lint;
use crate::lowering::{Result, invalid};

/// An instruction in its place.
pub(crate) struct Scope<'s> {
    pub(crate) stage: &'s Stage,
    pub(crate) instruction: &'s Instruction,
    findings: RefCell<Vec<Diagnostic>>,
}

impl<'s> Scope<'s> {
    pub(crate) fn new(stage: &'s Stage, instruction: &'s Instruction) -> Self {
        Self { stage, instruction, findings: RefCell::default() }
    }

    /// What is to be said of it, in order.
    pub(crate) fn findings(self) -> Vec<Diagnostic> {
        self.findings.into_inner()
    }

    pub(crate) fn find(&self, finding: Diagnostic) {
        self.findings.borrow_mut().push(finding);
    }

    /// The keyword as it is written.
    pub(crate) fn word(&self) -> &str {
        self.instruction.source.split_whitespace().next().unwrap_or(&self.instruction.keyword)
    }

    /// Expands one word.
    pub(crate) fn expand(&self, word: &str) -> Result<String> {
        let expanded = self.expanded(word)?;
        lint::undefined(self, word, &expanded.unset);
        Ok(expanded.text)
    }

    /// Expands one word, where these variables have these values.
    pub(crate) fn expand_with(&self, word: &str, variables: &[KeyValue]) -> Result<String> {
        let expanded = self.stage.expand_with(word, variables);
        let expanded = expanded.map_err(|error| self.cannot_expand(word, &error))?;
        lint::undefined(self, word, &expanded.unset);
        Ok(expanded.text)
    }

    /// Expands one word whose variables need no value.
    pub(crate) fn expand_quietly(&self, word: &str) -> Result<String> {
        self.expanded(word).map(|expanded| expanded.text)
    }

    fn expanded(&self, word: &str) -> Result<Expanded> {
        self.stage.expand(word).map_err(|error| self.cannot_expand(word, &error))
    }

    /// Expands one word to as many as its value holds; variables without a value are nobody's business here.
    pub(crate) fn expand_words(&self, word: &str) -> Result<Vec<String>> {
        let expanded = self.stage.expand_words(word);
        expanded.map(|expanded| expanded.words).map_err(|error| self.cannot_expand(word, &error))
    }

    /// Expands the body of a here-document.
    pub(crate) fn expand_body(&self, body: &str) -> Result<String> {
        let expanded = self.stage.expand_raw(body);
        let expanded =
            expanded.map_err(|error| invalid("InvalidSubstitution", error.message, &self.instruction.span))?;
        lint::undefined(self, body, &expanded.unset);
        Ok(expanded.text)
    }

    pub(crate) fn cannot_expand(&self, word: &str, error: &ExpandError) -> PluginError {
        let span = self.locate(word, error.start, error.end);
        invalid("InvalidSubstitution", format!("failed to process \"{word}\": {}", error.message), &span)
    }

    /// Where bytes of a word of the arguments stand; the instruction, where the word is not found as it is.
    pub(crate) fn locate(&self, word: &str, start: u32, end: u32) -> Span {
        match &self.instruction.arguments {
            Arguments::Text(text) => text.find(word).map_or_else(
                || self.instruction.span.clone(),
                |at| {
                    let at = u32::try_from(at).unwrap_or(0);
                    self.stage.locate(at + start, at + end)
                },
            ),
            Arguments::Exec(_) => self.instruction.span.clone(),
        }
    }
}
