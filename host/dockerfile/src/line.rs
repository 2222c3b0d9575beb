//! Logical lines: continuations joined, comments left out, and each byte traceable to where it stood in the file.

use std::sync::Arc;

use plan::Span;
use plan::diagnostic::Position;

/// A build file's text with the starts of its lines.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    pub(crate) name: Arc<str>,
    pub(crate) text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(name: &str, text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, starts }
    }

    pub(crate) fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset);
        let column = offset - self.starts[line - 1] + 1;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position { line: number(line), column: number(column) }
    }

    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.name.clone(), start: self.position(start), end: self.position(end) }
    }

    /// The physical line at `offset`, with its newline, and where the next one starts.
    pub(crate) fn physical(&self, offset: usize) -> (&'t str, usize) {
        let rest = &self.text[offset..];
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        (&rest[..length], offset + length)
    }
}

/// A logical line: an instruction's text before its here-documents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logical {
    /// Continuations joined, leading blanks gone.
    pub(crate) text: String,
    /// Which byte of the file each piece of `text` starts at: (offset in text, offset in file).
    pub(crate) pieces: Vec<(usize, usize)>,
    /// Where the next physical line starts.
    pub(crate) next: usize,
    /// A blank line stood between continuation lines, which is deprecated.
    pub(crate) has_blank_continuation: bool,
    /// What a comment says, where this is one.
    pub(crate) comment: Option<String>,
}

impl Logical {
    /// Where in the file a byte of `text` stands.
    pub(crate) fn origin(&self, offset: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        self.pieces.get(piece).map_or(0, |(start, origin)| origin + offset.saturating_sub(*start))
    }

    fn push(&mut self, text: &str, origin: usize) {
        self.pieces.push((self.text.len(), origin));
        self.text.push_str(text);
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without a continuation mark at its end, and whether there was one. Two escape characters are none.
fn strip_continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// The logical line that starts at `offset`; none for a comment or a blank line, which only moves on.
pub(crate) fn read(source: &Source<'_>, offset: usize, escape: char) -> Logical {
    let (raw, next) = source.physical(offset);
    let mut logical = Logical { next, ..Logical::default() };
    let line = raw.trim_end_matches(['\n', '\r']);
    let blanks = line.len() - line.trim_start().len();
    if is_comment(line) {
        // As BuildKit has it: blanks in front of the mark make the mark part of the text.
        logical.comment = Some(line.get(1..).unwrap_or_default().trim().to_owned());
        return logical;
    }
    let (text, mut continues) = strip_continuation(&line[blanks..], escape);
    logical.push(text, offset + blanks);
    while continues && logical.next < source.text.len() {
        let start = logical.next;
        let (raw, next) = source.physical(start);
        logical.next = next;
        let line = raw.trim_end_matches(['\n', '\r']);
        if is_comment(line) {
            continue;
        }
        if line.trim().is_empty() {
            logical.has_blank_continuation = true;
            continue;
        }
        let (text, more) = strip_continuation(line, escape);
        logical.push(text, start);
        continues = more;
    }
    logical
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> (String, bool) {
        let logical = read(&Source::new("Dockerfile", text), 0, '\\');
        (logical.text, logical.has_blank_continuation)
    }

    #[test]
    fn continuations_are_joined() {
        assert_eq!(joined("  RUN a \\\n  b\n"), ("RUN a   b".into(), false));
        assert_eq!(joined("RUN a \\ \t\n# no\n b"), ("RUN a  b".into(), false));
        assert_eq!(joined("RUN a \\\n\n b"), ("RUN a  b".into(), true));
        assert_eq!(joined("RUN a \\\\\nb"), ("RUN a \\\\".into(), false));
        assert_eq!(joined("RUN a \\\r\n b\r\n"), ("RUN a  b".into(), false));
        assert_eq!(joined("RUN a \\"), ("RUN a ".into(), false));
    }

    #[test]
    fn bytes_are_traced_to_their_line() {
        let source = Source::new("Dockerfile", "RUN a \\\n  bcd\n");
        let logical = read(&source, 0, '\\');
        let at = logical.text.find("bcd").expect("it is there");
        assert_eq!(source.position(logical.origin(at)), Position { line: 2, column: 3 });
    }
}
