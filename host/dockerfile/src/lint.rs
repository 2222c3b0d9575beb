//! What can be said of a file's form alone: BuildKit's rules on casing, names, comments and continuation lines.
//!
//! What single instructions mean is their plugin's to judge, and what FROM names is the planner's.

mod config;
mod rules;

use plan::Diagnostic;
use plan::diagnostic::TextEdit;
use plan::op::Arguments;

pub use config::Config;
pub use rules::{
    COPY_IGNORED, FROM_PLATFORM_CONSTANT, INVALID_BASE_PLATFORM, INVALID_DEFAULT_ARG, REDUNDANT_PLATFORM, Rule,
    UNDEFINED_FROM_ARG,
};

use crate::instruction::Line;
use crate::parse::{File, Stage};

/// Something found, and the comments that may switch it off.
pub struct Finding<'f> {
    /// What.
    pub diagnostic: Diagnostic,
    /// The comments above its instruction, for rules that look at one instruction.
    pub comments: &'f [String],
}

/// What is to be said of a file, in the order of its lines.
#[must_use]
pub fn syntax(file: &File) -> Vec<Finding<'_>> {
    let mut findings = Vec::new();
    let mut find = |diagnostic: Diagnostic, comments| findings.push(Finding { diagnostic, comments });
    for line in lines(file) {
        if let Some(span) = &line.blank_continuation {
            find(rules::EMPTY_CONTINUATION.finding("Empty continuation line", span), &[]);
        }
    }
    for line in &file.global_lines {
        description(line, &argument_names(line)).into_iter().for_each(|found| find(found, &line.comments));
    }
    for stage in &file.stages {
        let line = &stage.line;
        from(stage).into_iter().for_each(|found| find(found, &line.comments));
        for line in stage.lines.iter().filter(|line| line.instruction.keyword == "ARG") {
            description(line, &argument_names(line)).into_iter().for_each(|found| find(found, &line.comments));
        }
    }
    names(file).into_iter().for_each(|found| find(found, &[]));
    casing(file).into_iter().for_each(|found| find(found, &[]));
    findings
}

fn lines(file: &File) -> impl Iterator<Item = &Line> {
    let stages = file.stages.iter().flat_map(|stage| std::iter::once(&stage.line).chain(&stage.lines));
    file.global_lines.iter().chain(stages)
}

/// The words of a FROM with where each starts.
fn words(line: &Line) -> Vec<(usize, &str)> {
    let Arguments::Text(text) = &line.instruction.arguments else { return Vec::new() };
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_whitespace().map(|word| (start(word), word)).collect()
}

/// Casing of AS and of the stage's name, and the comment above.
fn from(stage: &Stage) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let line = &stage.line;
    if let [_, (as_at, as_word), (name_at, name)] = words(line)[..] {
        let lower = name.to_lowercase();
        if name != lower {
            let span = line.locate(name_at, name_at + name.len());
            found.push(rules::STAGE_CASING.mended(format!("Stage name '{name}' should be lowercase"), &span, lower));
        }
        let (from_word, _) = line.word();
        let wanted = match from_word {
            word if word == word.to_lowercase() => as_word.to_lowercase(),
            word if word == word.to_uppercase() => as_word.to_uppercase(),
            _ => as_word.to_owned(),
        };
        if as_word != wanted {
            let span = line.locate(as_at, as_at + as_word.len());
            let message = format!("'{as_word}' and '{from_word}' keywords' casing do not match");
            found.push(rules::AS_CASING.mended(message, &span, wanted));
        }
    }
    if let Some(name) = &stage.name {
        found.extend(description(line, std::slice::from_ref(name)));
    }
    found
}

fn argument_names(line: &Line) -> Vec<String> {
    let Arguments::Text(text) = &line.instruction.arguments else { return Vec::new() };
    let words = crate::words::split(text, line.instruction.escape);
    words.into_iter().map(|word| word.split('=').next().unwrap_or_default().to_owned()).collect()
}

/// A comment above that describes something else than the instruction declares.
fn description(line: &Line, names: &[String]) -> Option<Diagnostic> {
    let first = line.comments.last()?.split(' ').next().unwrap_or_default();
    if names.iter().any(|name| name == first) {
        return None;
    }
    let keyword = &line.instruction.keyword;
    let shown = if let [only] = names { only.as_str() } else { "<arg_key>" };
    let message = format!("Comment for {keyword} should follow the format: `# {shown} <description>`");
    Some(rules::DESCRIPTION.finding(message, &line.instruction.span))
}

/// Names that are taken, or mean something else.
fn names(file: &File) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (at, stage) in file.stages.iter().enumerate() {
        let Some(name) = &stage.name else { continue };
        let span = &stage.line.instruction.span;
        if matches!(name.as_str(), "context" | "scratch") {
            let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
            found.push(rules::RESERVED_NAME.finding(message, span));
        }
        if file.stages[..at].iter().any(|other| other.name.as_ref() == Some(name)) {
            let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
            found.push(rules::DUPLICATE_NAME.finding(message, span));
        }
    }
    found
}

/// Keywords that are not written as most are; a tie means upper case.
fn casing(file: &File) -> Vec<Diagnostic> {
    let all: Vec<_> = file.stages.iter().flat_map(|stage| std::iter::once(&stage.line).chain(&stage.lines)).collect();
    let count = |change: fn(&str) -> String| all.iter().filter(|line| line.word().0 == change(line.word().0)).count();
    let lower = count(str::to_lowercase) > count(str::to_uppercase);
    let (name, change): (_, fn(&str) -> String) =
        if lower { ("lowercase", str::to_lowercase) } else { ("uppercase", str::to_uppercase) };
    let other = |line: &&Line| {
        let (word, span) = line.word();
        let message = format!("Command '{word}' should match the case of the command majority ({name})");
        (word != change(word)).then(|| rules::CASING.mended(message, &span, change(word)))
    };
    all.iter().filter_map(other).collect()
}

impl Rule {
    /// Something that the rule has found.
    #[must_use]
    pub fn finding(&self, message: impl Into<String>, span: &plan::Span) -> Diagnostic {
        Diagnostic {
            description: Some(self.description.to_owned()),
            url: self.slug.map(|slug| format!("https://docs.docker.com/go/dockerfile/rule/{slug}/")),
            ..Diagnostic::warning(self.name, message, Some(span.clone()))
        }
    }

    /// The same with an edit that mends it.
    fn mended(&self, message: String, span: &plan::Span, replacement: String) -> Diagnostic {
        Diagnostic { fixes: vec![TextEdit { span: span.clone(), replacement }], ..self.finding(message, span) }
    }
}
