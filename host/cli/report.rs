//! Errors as people read them: what is wrong, where, and what to do; and the exit code.

use std::fmt::Write as _;
use std::process::ExitCode;

use build::Error;
use build::worker::Exit;
use plan::{Diagnostic, Severity, Span};

/// Writes to standard error; when that is gone nobody is left to tell.
fn tell(text: &str) {
    use std::io::Write;
    let _ = write!(std::io::stderr().lock(), "{text}");
}

/// Tells of a failure; `file` is the build file's name and text.
pub(crate) fn failure(error: &anyhow::Error, file: Option<(&str, &str)>) -> ExitCode {
    tell(&describe(error, file));
    let code = match error.downcast_ref::<Error>() {
        Some(Error::Command { exit: Exit::Code(code @ 1..=100), .. }) => u8::try_from(*code).unwrap_or(1),
        _ => 1,
    };
    ExitCode::from(code)
}

/// Tells of something beside the matter.
pub(crate) fn note(text: &str) {
    tell(&format!("plywood: {text}\n"));
}

/// Tells that a signal has ended everything.
pub(crate) fn interrupted(signal: u8) -> ExitCode {
    tell(if signal == 2 { "plywood: interrupted\n" } else { "plywood: terminated\n" });
    ExitCode::from(128 + signal)
}

/// A diagnostic in full.
pub(crate) fn diagnostic(diagnostic: &Diagnostic, file: Option<(&str, &str)>) -> String {
    let word = match diagnostic.severity {
        Severity::Error => "",
        Severity::Warning => "warning: ",
        Severity::Info => "note: ",
    };
    message(&format!("{word}{}", diagnostic.message), diagnostic.span.as_ref(), diagnostic.help.as_deref(), file)
}

/// Characters of what was not written to be read.
const LONGEST: usize = 2000;

/// Text for people: what is longer is cut in its middle, since what is wrong often stands at the end.
pub(crate) fn cut(text: &str) -> String {
    let (Some((head, _)), Some((tail, _))) =
        (text.char_indices().nth(LONGEST / 2), text.char_indices().nth_back(LONGEST / 2))
    else {
        return text.to_owned();
    };
    if tail <= head { text.to_owned() } else { format!("{}...{}", &text[..head], &text[tail..]) }
}

/// `plywood: Dockerfile:12: ...`, the source line with a caret, and advice.
fn message(text: &str, span: Option<&Span>, help: Option<&str>, file: Option<(&str, &str)>) -> String {
    let mut out = String::from("plywood: ");
    if let Some(span) = span {
        let _ = write!(out, "{span}: ");
    }
    let _ = writeln!(out, "{}", cut(text));
    if let Some(span) = span
        && let Some((name, source)) = file
        && *span.file == *name
    {
        quote(&mut out, span, source);
    }
    if let Some(help) = help {
        let _ = writeln!(out, "  help: {}", cut(help));
    }
    out
}

/// The source line, and marks below the part that is meant.
pub(crate) fn quote(out: &mut String, span: &Span, source: &str) {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let Some(line) = source.lines().nth(span.start.line as usize - 1).map(cut) else {
        return;
    };
    let number = span.start.line.to_string();
    let margin = " ".repeat(number.len());
    let start = (span.start.column as usize - 1).min(line.len());
    let end = if span.end.line == span.start.line { span.end.column as usize - 1 } else { line.len() };
    let width = |text: &[u8]| String::from_utf8_lossy(text).chars().count();
    let bytes = line.as_bytes();
    let (before, marked) = (&bytes[..start], &bytes[start..end.clamp(start, line.len())]);
    // Tabs stay tabs, so that the marks stand where they should.
    let indent: String = String::from_utf8_lossy(before).chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let _ = writeln!(out, "  {number} | {line}");
    let _ = writeln!(out, "  {margin} | {indent}{}", "^".repeat(width(marked).max(1)));
}

/// An error in full.
pub(crate) fn describe(error: &anyhow::Error, file: Option<(&str, &str)>) -> String {
    if let Some(refusal) = refusal(error) {
        return message(&error.to_string(), None, Some(&refusal), None);
    }
    let Some(failed) = error.downcast_ref::<Error>() else {
        return message(&format!("{error:#}"), None, None, None);
    };
    match failed {
        Error::Invalid(diagnostics) => diagnostics.iter().map(|d| diagnostic(d, file)).collect(),
        Error::Command { step, output, span, .. } => {
            let mut out = message(&failed.to_string(), span.as_ref(), None, file);
            let step = cut(step);
            if !output.is_empty() {
                let _ = writeln!(out, "  the last lines of {step}:");
                output.iter().for_each(|line| {
                    let _ = writeln!(out, "    {line}");
                });
            }
            out
        }
        Error::Step { span, .. } | Error::NotCached { span, .. } | Error::Base { span, .. } => {
            message(&failed.to_string(), span.as_ref(), None, file)
        }
        Error::Isolation { refused, span } => message(&failed.to_string(), span.as_ref(), Some(&refused.help), file),
        Error::Plugin { source, span } => {
            let help = match source {
                plugin::Error::Refused(refusal) => Some(refusal.help.clone()),
                _ => None,
            };
            let mut out = message(&failed.to_string(), span.as_ref(), help.as_deref(), file);
            if let plugin::Error::Failed(failure) = source {
                out += &plugin_failure(failure);
            }
            out
        }
        _ => message(&chain(error), None, None, None),
    }
}

/// What a plugin's failure leaves to look at.
fn plugin_failure(failure: &plugin::Failure) -> String {
    let mut out = String::new();
    if !failure.frames.is_empty() {
        let _ = writeln!(out, "  at: {}", failure.frames.join(" < "));
    }
    if !failure.output.is_empty() {
        let _ = writeln!(out, "  it printed:");
        failure.output.lines().take(20).for_each(|line| {
            let _ = writeln!(out, "    {line}");
        });
    }
    out
}

fn refusal(error: &anyhow::Error) -> Option<String> {
    error.downcast_ref::<plugin::Refusal>().map(|refusal| refusal.help.clone())
}

/// An error and its causes, each told once.
fn chain(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.push_str(&text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::diagnostic::Position;

    #[test]
    fn the_place_is_shown() {
        let at = |line, column| Position { line, column };
        let span = Span { file: "Dockerfile".into(), start: at(2, 1), end: at(2, 4) };
        let shown = diagnostic(
            &Diagnostic::error("X", "unknown instruction: RNU", Some(span)).with_help("did you mean RUN?"),
            Some(("Dockerfile", "FROM a\nRNU x\n")),
        );
        assert_eq!(
            shown,
            "plywood: Dockerfile:2: unknown instruction: RNU\n  2 | RNU x\n    | ^^^\n  help: did you mean RUN?\n"
        );
    }
}
