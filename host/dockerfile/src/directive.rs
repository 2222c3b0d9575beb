//! Parser directives: `# name=value` comments before everything else in the file.

use plan::{Diagnostic, Span};

use crate::line::Source;

/// What the directives of a file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// `# escape=`: a backslash or a backtick.
    pub escape: char,
    /// `# syntax=`: who gives the file its meaning.
    pub syntax: Option<(String, Span)>,
    /// `# check=`: which findings count.
    pub check: Option<(String, Span)>,
}

/// Reads the directives at the head of the file, and gives where they end. A comment that is no known directive ends
/// them.
pub(crate) fn read(source: &Source<'_>) -> Result<(Directives, usize), Diagnostic> {
    let mut directives = Directives { escape: '\\', syntax: None, check: None };
    let mut seen: Vec<String> = Vec::new();
    let mut offset = 0;
    // A shebang line may come first.
    if source.text.starts_with("#!") {
        offset = source.physical(0).1;
    }
    while offset < source.text.len() {
        let (line, next) = source.physical(offset);
        let Some((name, value)) = parse(line) else { break };
        let span = source.span(offset, offset + line.trim_end().len());
        let name = name.to_ascii_lowercase();
        if !matches!(name.as_str(), "escape" | "syntax" | "check") {
            break;
        }
        if seen.contains(&name) {
            let message = format!("only one {name} parser directive can be used");
            return Err(Diagnostic::error("DirectiveRepeated", message, Some(span)));
        }
        match name.as_str() {
            "escape" => {
                directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        let message = format!("invalid escape token '{value}' does not match ` or \\");
                        return Err(Diagnostic::error("InvalidEscape", message, Some(span)));
                    }
                }
            }
            "syntax" => directives.syntax = Some((value.to_owned(), span)),
            _ => directives.check = Some((value.to_owned(), span)),
        }
        seen.push(name);
        offset = next;
    }
    if directives.syntax.is_none() {
        directives.syntax = foreign_syntax(source);
    }
    Ok((directives, offset))
}

/// `name=value` behind the mark of a comment.
pub(crate) fn parse(line: &str) -> Option<(&str, &str)> {
    parse_marked(line.trim_start_matches([' ', '\t']), "#")
}

fn parse_marked<'l>(line: &'l str, mark: &str) -> Option<(&'l str, &'l str)> {
    let (name, value) = line.strip_prefix(mark)?.split_once('=')?;
    let name = name.trim();
    let legal = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (legal && !value.trim().is_empty()).then(|| (name, value.trim()))
}

/// Files in other languages say what they are in a comment of theirs: `// syntax=`, or `{"syntax": ...}`.
fn foreign_syntax(source: &Source<'_>) -> Option<(String, Span)> {
    let (line, _) = source.physical(0);
    if let Some((name, value)) = parse_marked(line, "//") {
        return name.eq_ignore_ascii_case("syntax").then(|| (value.to_owned(), source.span(0, line.trim_end().len())));
    }
    let document: serde_json::Value = serde_json::from_str(source.text).ok()?;
    Some((document.get("syntax")?.as_str()?.to_owned(), source.span(0, line.trim_end().len().max(1))))
}
