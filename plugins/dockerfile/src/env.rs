//! ENV, LABEL and ARG: names with values.

use plywood_sdk::instruction::{ConfigChange, Instruction, KeyValue, Lowered, Op, Stage};

use crate::args::{expand, text};
use crate::lowering::{Result, config, invalid};

/// `ENV NAME=value...`, or `ENV NAME value`.
pub(crate) fn env(stage: &Stage, instruction: &Instruction) -> Result<Lowered> {
    let pairs = pairs(stage, instruction)?;
    let set = |pair: &KeyValue| Op::Config(ConfigChange::SetEnv(pair.clone()));
    Ok(config(pairs.iter().map(set).collect(), format!("ENV {}", print(&pairs))))
}

/// `LABEL name=value...`
pub(crate) fn label(stage: &Stage, instruction: &Instruction) -> Result<Lowered> {
    let pairs = pairs(stage, instruction)?;
    let set = |pair: &KeyValue| Op::Config(ConfigChange::SetLabel(pair.clone()));
    Ok(config(pairs.iter().map(set).collect(), format!("LABEL {}", print(&pairs))))
}

/// `ARG name[=default]...`
pub(crate) fn arg(stage: &Stage, instruction: &Instruction) -> Result<Lowered> {
    let words = stage.split(text(instruction)?);
    if words.is_empty() {
        return Err(invalid("MissingArgument", "ARG requires at least one argument", &instruction.span));
    }
    let (mut ops, mut printed) = (Vec::new(), Vec::new());
    for word in words {
        let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
        // A name is taken as it is written; only defaults are expanded.
        let name = name.to_owned();
        if name.is_empty() {
            return Err(invalid("BlankName", "ARG names can not be blank", &instruction.span));
        }
        let default = default.map(|text| expand(stage, instruction, text)).transpose()?;
        printed.push(match stage.argument(&name, default.as_deref()) {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        });
        ops.push(Op::DeclareArg((name, default)));
    }
    Ok(config(ops, format!("ARG {}", printed.join(" "))))
}

fn print(pairs: &[KeyValue]) -> String {
    let printed: Vec<String> = pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    printed.join(" ")
}

/// Names and values, expanded.
fn pairs(stage: &Stage, instruction: &Instruction) -> Result<Vec<KeyValue>> {
    let keyword = &instruction.keyword;
    let error = |code, message: String| invalid(code, message, &instruction.span);
    let text = text(instruction)?;
    let words = stage.split(text);
    let Some(first) = words.first() else {
        return Err(error("MissingArgument", format!("{keyword} requires at least one argument")));
    };
    let mut pairs = Vec::new();
    if !first.contains('=') {
        // The old form: a name, and everything behind it is the value.
        let Some((name, value)) = text.split_once(char::is_whitespace) else {
            return Err(error("MissingArgument", format!("{keyword} must have two arguments")));
        };
        pairs.push((name.to_owned(), value.trim_start().to_owned()));
    } else {
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                let message = format!("Syntax error - can't find = in \"{word}\". Must be of the form: name=value");
                return Err(error("MissingEquals", message));
            };
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    let expand_pair = |(name, value): (String, String)| {
        let key = expand(stage, instruction, &name)?;
        if key.is_empty() {
            return Err(error("BlankName", format!("{keyword} names can not be blank")));
        }
        Ok(KeyValue { key, value: expand(stage, instruction, &value)? })
    };
    pairs.into_iter().map(expand_pair).collect()
}
