//! ENV, LABEL and ARG: names with values.

use plywood_sdk::instruction::{Argument, ConfigChange, Diagnostic, KeyValue, Lowered, Op};

use crate::args::text;
use crate::lint;
use crate::lowering::{Result, invalid, lowered};
use crate::scope::Scope;

/// `ENV NAME=value...`, or `ENV NAME value`.
pub(crate) fn env(scope: &Scope<'_>) -> Result<Lowered> {
    let pairs = pairs(scope)?;
    pairs.iter().for_each(|pair| lint::secret(scope, &pair.key));
    let set = |pair: &KeyValue| Op::Config(ConfigChange::SetEnv(pair.clone()));
    Ok(lowered(pairs.iter().map(set).collect(), format!("ENV {}", print(&pairs))))
}

/// `LABEL name=value...`
pub(crate) fn label(scope: &Scope<'_>) -> Result<Lowered> {
    let pairs = pairs(scope)?;
    let set = |pair: &KeyValue| Op::Config(ConfigChange::SetLabel(pair.clone()));
    Ok(lowered(pairs.iter().map(set).collect(), format!("LABEL {}", print(&pairs))))
}

/// A value that no argument can have.
const NOBODYS: &str = "\0";

/// `ARG name[=default]...`
pub(crate) fn arg(scope: &Scope<'_>) -> Result<Lowered> {
    let words = scope.stage.split(text(scope.instruction)?);
    if words.is_empty() {
        return Err(invalid("MissingArgument", "ARG requires at least one argument", &scope.instruction.span));
    }
    let (mut ops, mut printed) = (Vec::new(), Vec::new());
    // What stands before in the same instruction counts for what follows.
    let mut above: Vec<KeyValue> = Vec::new();
    for word in words {
        let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
        // A name is taken as it is written; only defaults are expanded.
        let name = name.to_owned();
        if name.is_empty() {
            return Err(invalid("BlankName", "ARG names can not be blank", &scope.instruction.span));
        }
        lint::secret(scope, &name);
        // A default that the user overrides is nobody's business.
        let is_given = scope.stage.argument(&name, Some(NOBODYS)).as_deref() != Some(NOBODYS);
        let default = match default {
            Some(text) if !is_given => Some(scope.expand_with(text, &above)?),
            other => other.map(str::to_owned),
        };
        let value = scope.stage.argument(&name, default.as_deref());
        printed.push(match &value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        });
        above.extend(value.map(|value| KeyValue { key: name.clone(), value }));
        ops.push(Op::DeclareArg(Argument { name, default }));
    }
    Ok(lowered(ops, format!("ARG {}", printed.join(" "))))
}

fn print(pairs: &[KeyValue]) -> String {
    let printed: Vec<String> = pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    printed.join(" ")
}

/// What the linter says of the old form. It can be mended where quoting means nothing else.
fn legacy(scope: &Scope<'_>, text: &str, name: &str, value: &str) -> Diagnostic {
    let word = scope.word();
    let message = format!("\"{word} key=value\" should be used instead of legacy \"{word} key value\" format");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/@+ $".contains(c);
    let span = scope.locate(text, 0, u32::try_from(text.len()).unwrap_or(0));
    match value.chars().all(is_plain) {
        true if value.contains(' ') => lint::LEGACY.mended(message, &span, format!("{name}=\"{value}\"")),
        true => lint::LEGACY.mended(message, &span, format!("{name}={value}")),
        false => lint::LEGACY.finding(message, &span),
    }
}

/// Names and values, expanded.
fn pairs(scope: &Scope<'_>) -> Result<Vec<KeyValue>> {
    let keyword = &scope.instruction.keyword;
    let error = |code, message: String| invalid(code, message, &scope.instruction.span);
    let text = text(scope.instruction)?;
    let words = scope.stage.split(text);
    let Some(first) = words.first() else {
        return Err(error("MissingArgument", format!("{keyword} requires at least one argument")));
    };
    let mut pairs = Vec::new();
    if !first.contains('=') {
        // The old form: a name, and everything behind it is the value.
        let Some((name, value)) = text.split_once(char::is_whitespace) else {
            return Err(error("MissingArgument", format!("{keyword} must have two arguments")));
        };
        let (name, value) = (name.to_owned(), value.trim_start().to_owned());
        scope.find(legacy(scope, text, &name, &value));
        pairs.push((name, value));
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
        let key = scope.expand(&name)?;
        if key.is_empty() {
            return Err(error("BlankName", format!("{keyword} names can not be blank")));
        }
        Ok(KeyValue { key, value: scope.expand(&value)? })
    };
    pairs.into_iter().map(expand_pair).collect()
}
