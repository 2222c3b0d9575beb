//! One instruction: keyword, flags, arguments, here-documents.

use plan::op::{Arguments, Flag, Heredoc, Instruction, Keyword};
use plan::{Diagnostic, Span};

use crate::line::{Logical, Source};
use crate::{flags, heredoc};

/// A parsed instruction that can say where in the file its arguments stand.
#[derive(Clone, Debug)]
pub struct Line {
    /// The instruction.
    pub instruction: Instruction,
    /// The comments above it, their marks taken away; an empty one parts them from what is above.
    pub comments: Vec<String>,
    /// The last line of its continuation, when a blank line stands in it.
    pub blank_continuation: Option<Span>,
    /// The spans of the pieces of the arguments' text, by their offset in it.
    pieces: Vec<(usize, Span)>,
}

impl Line {
    /// The keyword as it is written, and where.
    #[must_use]
    pub fn word(&self) -> (&str, Span) {
        let word = self.instruction.source.split_whitespace().next().unwrap_or_default();
        let mut span = self.instruction.span.clone();
        span.end = span.start;
        span.end.column += u32::try_from(word.len()).unwrap_or(1);
        (word, span)
    }

    /// The same instruction as if it stood elsewhere as a whole.
    #[must_use]
    pub fn moved(mut self, span: Span) -> Self {
        self.instruction.span = span;
        self.pieces.clear();
        self
    }

    /// What the comment above says of a thing of this name: `# name text`.
    #[must_use]
    pub fn doc(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '))
    }

    /// Where bytes `start..end` of the arguments' text stand in the file.
    #[must_use]
    pub fn locate(&self, start: usize, end: usize) -> Span {
        let piece = |offset: usize| {
            let at = self.pieces.partition_point(|(from, _)| *from <= offset).saturating_sub(1);
            self.pieces.get(at)
        };
        let column = |from: usize, span: &Span, offset: usize| {
            let mut position = span.start;
            position.column += u32::try_from(offset.saturating_sub(from)).unwrap_or(0);
            position
        };
        match (piece(start), piece(end.max(start + 1) - 1)) {
            (Some((a, first)), Some((b, last))) => Span {
                file: first.file.clone(),
                start: column(*a, first, start),
                end: column(*b, last, end.max(start + 1)),
            },
            _ => self.instruction.span.clone(),
        }
    }
}

/// Which instructions there are.
pub(crate) type Keywords<'k> = &'k dyn Fn(&str) -> Option<&'k Keyword>;

/// FROM, ARG and ONBUILD are the host's own in part; this is what it needs of their form.
const ONBUILD: &str = "ONBUILD";

/// Parses the logical line that starts at `offset`; gives it and where the next one starts.
pub(crate) fn read(
    source: &Source<'_>,
    offset: usize,
    logical: &Logical,
    escape: char,
    keywords: Keywords<'_>,
) -> Result<(Line, usize), Diagnostic> {
    let text = logical.text.trim_end();
    let length = text.find(is_blank).unwrap_or(text.len());
    let keyword = text[..length].to_uppercase();
    let line_span = source.span(logical.origin(0), logical.next.max(offset + 1)).trimmed(source, logical);
    let (raw_flags, arguments_at) = flags::take(&text[length..]);
    let arguments_at = length + arguments_at;
    let rest = text[arguments_at..].trim_start();
    let arguments_at = text.len() - rest.len();

    let span_of = |start: usize, end: usize| {
        source.span(logical.origin(length + start), logical.origin(length + end.max(1) - 1) + 1)
    };
    let flags: Vec<Flag> = raw_flags
        .into_iter()
        .map(|raw| {
            let flag = &raw.text[2..];
            let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v.to_owned())));
            Flag { name: name.to_owned(), value, span: span_of(raw.start, raw.end) }
        })
        .collect();

    // What ONBUILD defers has the form of the instruction that it defers.
    let inner = if keyword == ONBUILD { rest.split_whitespace().next().unwrap_or_default() } else { &keyword };
    let spec = keywords(&inner.to_uppercase());
    let arguments = match keywords(&keyword).is_some_and(|spec| spec.allows_exec_form) {
        true => exec_form(rest, &source.span(logical.origin(arguments_at), logical.origin(text.len().max(1) - 1) + 1))?,
        false => None,
    };
    let mut next = logical.next;
    let mut heredocs: Vec<Heredoc> = Vec::new();
    if arguments.is_none() && spec.is_some_and(|spec| spec.allows_heredoc) {
        for announced in heredoc::announced(text) {
            let Some((heredoc, length)) = heredoc::body(&announced, source, next) else {
                if announced.maybe {
                    continue;
                }
                let message = format!("unterminated heredoc: `{}` stands on no line of its own below", announced.name);
                return Err(Diagnostic::error("UnterminatedHeredoc", message, Some(line_span)));
            };
            next += length;
            heredocs.push(heredoc);
        }
    }
    let pieces = logical
        .pieces
        .iter()
        .map(|(start, _)| (*start).max(arguments_at))
        .filter(|start| *start < text.len().max(1))
        .map(|start| (start - arguments_at, source.span(logical.origin(start), logical.origin(start) + 1)))
        .collect();
    let instruction = Instruction {
        keyword,
        flags,
        arguments: arguments.map_or_else(|| Arguments::Text(rest.to_owned()), Arguments::Exec),
        heredocs,
        escape,
        source: source.text[logical.origin(0)..next].trim_end().to_owned(),
        span: line_span,
    };
    let blank_continuation = logical.has_blank_continuation.then(|| {
        let last = source.text[..logical.next].trim_end().rfind('\n').map_or(0, |at| at + 1);
        source.span(last, source.text[..logical.next].trim_end().len().max(last + 1))
    });
    Ok((Line { instruction, comments: Vec::new(), blank_continuation, pieces }, next))
}

/// What parts the words of an instruction.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r' | '\n')
}

trait Trimmed {
    fn trimmed(self, source: &Source<'_>, logical: &Logical) -> Self;
}

impl Trimmed for Span {
    /// Ends behind the last character of the instruction and not in the next line.
    fn trimmed(self, source: &Source<'_>, logical: &Logical) -> Self {
        let start = logical.origin(0);
        let length = source.text[start..logical.next].trim_end().len();
        source.span(start, start + length.max(1))
    }
}

/// `["a", "b"]`; none where the text is not JSON, which makes it the shell form.
fn exec_form(text: &str, span: &Span) -> Result<Option<Vec<String>>, Diagnostic> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(serde_json::Value::Array(values)) = serde_json::from_str(text) else {
        return Ok(None);
    };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    });
    strings.collect::<Option<_>>().map(Some).ok_or_else(|| {
        let message = "when using JSON array syntax, arrays must be comprised of strings only";
        Diagnostic::error("InvalidExecForm", message, Some(span.clone()))
    })
}

/// Checks the flags of an instruction against what its plugin declares.
pub(crate) fn check_flags(instruction: &Instruction, spec: &Keyword) -> Result<(), Diagnostic> {
    let mut seen: Vec<&str> = Vec::new();
    for flag in &instruction.flags {
        let error = |code, message: String| Diagnostic::error(code, message, Some(flag.span.clone()));
        let Some(known) = spec.flags.iter().find(|known| known.name == flag.name) else {
            let diagnostic = error("UnknownFlag", format!("unknown flag: --{}", flag.name));
            let names = spec.flags.iter().map(|known| known.name.as_str());
            return Err(match plan::diagnostic::nearest(&flag.name, names) {
                Some(near) => diagnostic.with_help(format!("did you mean --{near}?")),
                None if spec.flags.is_empty() => diagnostic.with_help(format!("{} takes no flags", spec.keyword)),
                None => {
                    let all: Vec<String> = spec.flags.iter().map(|known| format!("--{}", known.name)).collect();
                    diagnostic.with_help(format!("{} takes {}", spec.keyword, all.join(", ")))
                }
            });
        };
        if !known.repeatable && seen.contains(&flag.name.as_str()) {
            return Err(error("DuplicateFlag", format!("duplicate flag specified: {}", flag.name)));
        }
        seen.push(&flag.name);
        match (&flag.value, known.takes_value) {
            (None, true) => {
                let diagnostic = error("MissingFlagValue", format!("missing a value on flag: --{}", flag.name));
                return Err(diagnostic.with_help(format!("write --{}=VALUE, without a blank", flag.name)));
            }
            (Some(value), false) if !matches!(value.to_ascii_lowercase().as_str(), "true" | "false") => {
                let message = format!("expecting boolean value for flag --{}, not: {value}", flag.name);
                return Err(error("InvalidFlagValue", message));
            }
            _ => {}
        }
    }
    Ok(())
}
