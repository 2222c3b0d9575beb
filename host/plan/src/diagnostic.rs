//! What a build has to say about its input, and where in the file.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A half-open range in a build file. Lines and columns start at 1; columns count bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The file's name as the user gave it.
    pub file: Arc<str>,
    /// Where it starts.
    pub start: Position,
    /// The position behind its last byte.
    pub end: Position,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// In bytes, from 1.
    pub column: u32,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.start.line)
    }
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The build stops.
    Error,
    /// The build goes on.
    Warning,
    /// Good to know.
    Info,
}

/// One message to the user about the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// A stable name of the kind of finding, for switching it off and looking it up.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Option<Span>,
    /// What to do about it.
    pub help: Option<String>,
    /// What the rule behind it says in general.
    pub description: Option<String>,
    /// Where to read more.
    pub url: Option<String>,
    /// Edits after which there is nothing to say.
    pub fixes: Vec<TextEdit>,
}

/// A change of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextEdit {
    /// What goes.
    pub span: Span,
    /// What comes in its place.
    pub replacement: String,
}

impl Diagnostic {
    /// An error at `span`.
    #[must_use]
    pub fn error(code: &str, message: impl Into<String>, span: Option<Span>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        let (help, description, url, fixes) = (None, None, None, Vec::new());
        Self { severity: Severity::Error, code, message, span, help, description, url, fixes }
    }

    /// A warning at `span`.
    #[must_use]
    pub fn warning(code: &str, message: impl Into<String>, span: Option<Span>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message, span) }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// The candidate nearest to what was typed, where one is near enough to be meant.
#[must_use]
pub fn nearest<'c>(typed: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let typed = typed.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, &candidate.to_lowercase()), candidate))
        // Short words are near to many.
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4 && *distance < typed.len().max(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of single-byte edits between two words; two neighbours that have changed places are one (Damerau and
/// Levenshtein, in its restricted form).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let words = ["RUN", "COPY", "ENTRYPOINT"];
        assert_eq!(nearest("COYP", words), Some("COPY"));
        assert_eq!(nearest("entrypont", words), Some("ENTRYPOINT"));
        assert_eq!(nearest("RNU", words), Some("RUN"));
        assert_eq!(nearest("BANANA", words), None);
    }
}
