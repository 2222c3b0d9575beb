//! What FROM can use, and which images it names.

use dockerfile::File;
use oci::Platform;
use plan::op::Expansion;

use super::scope::{self, Variables};
use crate::error::Error;

/// What FROM can use: arguments before the first of them, on top of what every file has.
pub(super) fn globals(file: &File, mut globals: Variables, given: &[(String, String)]) -> Result<Variables, Error> {
    let escape = file.directives.escape;
    for arg in &file.global_args {
        let expand = |text: &str| {
            let expanded = globals.expand(text, escape, Expansion::Word);
            let message = |error: plan::op::ExpandError| format!("failed to process \"{text}\": {}", error.message);
            expanded
                .map(|expanded| expanded.words.concat())
                .map_err(|error| Error::at("InvalidSubstitution", message(error), &arg.span))
        };
        let name = arg.name.clone();
        let given = given.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        // A default that the user overrides is nobody's business.
        let value = match given {
            Some(value) => Some(value),
            None => arg.default.as_deref().map(expand).transpose()?,
        };
        if let Some(value) = value {
            globals.set(&name, &value);
        }
    }
    Ok(globals)
}

/// The images that stages stand on, by their names as they are looked up; what only a platform decides is as on this machine.
///
/// # Errors
/// When the file cannot be parsed or a name not be expanded.
pub(crate) fn base_images(file: &File, given: &[(String, String)]) -> Result<Vec<String>, Error> {
    let host = Platform::host();
    let globals = globals(file, scope::automatic(&host, &host, "default", given), given)?;
    let mut images = Vec::new();
    for (at, stage) in file.stages.iter().enumerate() {
        let expanded = globals.expand(&stage.base, file.directives.escape, Expansion::Word);
        let message = |error: plan::op::ExpandError| format!("failed to process \"{}\": {}", stage.base, error.message);
        let span = &stage.line.instruction.span;
        let name = expanded.map_err(|error| Error::at("InvalidSubstitution", message(error), span))?.words.concat();
        let is_stage = file.stages[..at].iter().any(|stage| stage.name.as_deref() == Some(&name.to_lowercase()));
        if !is_stage && name != "scratch" && !name.is_empty() {
            images.push(name);
        }
    }
    Ok(images)
}
