//! Reading an instruction's arguments: as one text, as words, as a JSON list.

use plywood_sdk::instruction::{Arguments, Instruction};

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
        Arguments::Text(text) => {
            let blank = |c: char| matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r' | '\n');
            text.split(blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
    }
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
