//! Reading an instruction's arguments: as one text, as words, as a JSON list; and expanding them.

use plywood_sdk::instruction::{Arguments, ExpandError, Instruction, Stage};

use crate::lowering::{Result, invalid};

/// The arguments as text; there is no JSON form.
pub(crate) fn text(instruction: &Instruction) -> Result<&str> {
    match &instruction.arguments {
        Arguments::Text(text) => Ok(text),
        Arguments::Exec(_) => {
            let message = format!("{} does not take its arguments in JSON form", instruction.keyword);
            Err(invalid("InvalidArguments", message, &instruction.span))
        }
    }
}

/// The arguments as one text that must not be empty.
pub(crate) fn single(instruction: &Instruction) -> Result<&str> {
    match text(instruction)? {
        "" => {
            let message = format!("{} requires exactly one argument", instruction.keyword);
            Err(invalid("MissingArgument", message, &instruction.span))
        }
        text => Ok(text),
    }
}

/// The words of the JSON form, or those that blanks part.
pub(crate) fn list(instruction: &Instruction) -> Vec<String> {
    match &instruction.arguments {
        Arguments::Exec(words) => words.clone(),
        Arguments::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
    }
}

/// Expands one word.
pub(crate) fn expand(stage: &Stage, instruction: &Instruction, word: &str) -> Result<String> {
    stage.expand(word).map(|expanded| expanded.text).map_err(|error| cannot_expand(stage, instruction, word, &error))
}

/// Expands one word to as many as its value holds.
pub(crate) fn expand_words(stage: &Stage, instruction: &Instruction, word: &str) -> Result<Vec<String>> {
    let expanded = stage.expand_words(word);
    expanded.map(|expanded| expanded.words).map_err(|error| cannot_expand(stage, instruction, word, &error))
}

pub(crate) fn cannot_expand(
    stage: &Stage,
    instruction: &Instruction,
    word: &str,
    error: &ExpandError,
) -> plywood_sdk::instruction::PluginError {
    // The word's own place, where it stands as it is in the arguments.
    let span = match &instruction.arguments {
        Arguments::Text(text) => text.find(word).map_or_else(
            || instruction.span.clone(),
            |at| {
                let at = u32::try_from(at).unwrap_or(0);
                stage.locate(at + error.start, at + error.end)
            },
        ),
        Arguments::Exec(_) => instruction.span.clone(),
    };
    invalid("InvalidSubstitution", format!("failed to process \"{word}\": {}", error.message), &span)
}

/// A path in normal form: `.`, `..` and doubled slashes resolved.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
