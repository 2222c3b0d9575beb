//! What every instruction's lowering is made of: its result, its errors, its history line.

use plywood_sdk::instruction::{Diagnostic, History, Instruction, Lowered, Lowering, Op, PluginError, Span};

pub(crate) type Result<T> = std::result::Result<T, PluginError>;

/// What BuildKit signs its history with.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// What an instruction comes to, and its line in the history.
pub(crate) fn lowered(ops: Vec<Op>, created_by: String) -> Lowered {
    let history = History { created_by, comment: Some(COMMENT.into()) };
    Lowered { ops, history: Some(history), diagnostics: Vec::new(), hints: Vec::new() }
}

/// What an instruction comes to of which only the form is looked at.
pub(crate) fn nothing() -> Lowering {
    Lowering::Ops(Lowered { ops: Vec::new(), history: None, diagnostics: Vec::new(), hints: Vec::new() })
}

/// Codes of errors that BuildKit finds when it builds a stage, not when it parses the file.
const OF_VALUES: [&str; 6] =
    ["InvalidPort", "InvalidSignal", "InvalidMode", "InvalidSource", "InvalidSubstitution", "InvalidMountTarget"];

/// Whether an error is about what a value means, and not about the form of the instruction.
pub(crate) fn is_about_values(error: &PluginError) -> bool {
    let PluginError::Invalid(diagnostics) = error else { return false };
    diagnostics.iter().all(|diagnostic| OF_VALUES.contains(&diagnostic.code.as_str()))
}

/// An error in the user's input.
pub(crate) fn invalid(code: &str, message: impl Into<String>, span: &Span) -> PluginError {
    PluginError::Invalid(vec![diagnostic(code, message.into(), span, None)])
}

/// The same with advice.
pub(crate) fn invalid_with_help(code: &str, message: impl Into<String>, span: &Span, help: &str) -> PluginError {
    PluginError::Invalid(vec![diagnostic(code, message.into(), span, Some(help.into()))])
}

fn diagnostic(code: &str, message: String, span: &Span, help: Option<String>) -> Diagnostic {
    Diagnostic { help, ..Diagnostic::error(code, message, span) }
}

/// The value of a flag that takes one.
pub(crate) fn flag<'i>(instruction: &'i Instruction, name: &str) -> Option<&'i str> {
    instruction.flags.iter().find(|flag| flag.name == name).and_then(|flag| flag.value.as_deref())
}

/// Whether a flag without a value is on; the host has checked that what it says is a truth value.
pub(crate) fn switch(instruction: &Instruction, name: &str) -> Option<bool> {
    let flag = instruction.flags.iter().find(|flag| flag.name == name)?;
    Some(!flag.value.as_deref().is_some_and(|value| value.eq_ignore_ascii_case("false")))
}
