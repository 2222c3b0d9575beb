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

/// Reads the directives at the head of the file. A comment that is no known directive ends them.
pub(crate) fn read(source: &Source<'_>) -> Result<Directives, Diagnostic> {
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
    Ok(directives)
}

fn parse(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let name = name.trim();
    let legal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (legal && !value.trim().is_empty()).then(|| (name, value.trim()))
}
