//! HEALTHCHECK.

use plywood_sdk::instruction::{Arguments, ConfigChange, Healthcheck, Lowered, Op};

use crate::go;
use crate::lint;
use crate::lowering::{Result, flag, invalid, lowered};
use crate::scope::Scope;

/// Docker refuses shorter times.
const SHORTEST_NS: u64 = 1_000_000;

/// `HEALTHCHECK [flags] CMD command`, `HEALTHCHECK NONE`
pub(crate) fn lower(scope: &Scope<'_>) -> Result<Lowered> {
    let error = |code, message: String| invalid(code, message, &scope.instruction.span);
    let Arguments::Text(text) = &scope.instruction.arguments else {
        return Err(error("InvalidArguments", "HEALTHCHECK requires CMD or NONE".into()));
    };
    lint::several(scope, "healthcheck");
    let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let mut check = Healthcheck {
        test: Vec::new(),
        interval_ns: None,
        timeout_ns: None,
        start_period_ns: None,
        start_interval_ns: None,
        retries: None,
    };
    match kind.to_uppercase().as_str() {
        "NONE" if !rest.is_empty() => {
            return Err(error("InvalidArguments", "HEALTHCHECK NONE takes no arguments".into()));
        }
        "NONE" => check.test = vec!["NONE".into()],
        "CMD" if rest.is_empty() => {
            return Err(error("MissingArgument", "Missing command after HEALTHCHECK CMD".into()));
        }
        "CMD" => {
            check.test = match exec_form(rest) {
                Some(mut argv) => {
                    argv.insert(0, "CMD".into());
                    argv
                }
                None => vec!["CMD-SHELL".into(), rest.into()],
            };
            check.interval_ns = duration(scope, "interval")?;
            check.timeout_ns = duration(scope, "timeout")?;
            check.start_period_ns = duration(scope, "start-period")?;
            check.start_interval_ns = duration(scope, "start-interval")?;
            check.retries = match flag(scope.instruction, "retries") {
                None | Some("") => None,
                Some(text) => Some(text.parse().map_err(|_| {
                    error("InvalidFlagValue", format!("--retries must be a number that is not negative, not {text}"))
                })?),
            };
        }
        "" => {
            return Err(error("MissingArgument", "HEALTHCHECK requires at least one argument".into()));
        }
        kind => {
            let message = format!("Unknown type \"{kind}\" in HEALTHCHECK (try CMD)");
            return Err(error("InvalidArguments", message));
        }
    }
    let time = |value: Option<u64>| go::quote(&go::duration(value.unwrap_or(0)));
    let history = format!(
        "HEALTHCHECK &{{{} {} {} {} {} {}}}",
        go::quote_list(&check.test),
        time(check.interval_ns),
        time(check.timeout_ns),
        time(check.start_period_ns),
        time(check.start_interval_ns),
        go::quote_rune(check.retries.unwrap_or(0)),
    );
    Ok(lowered(vec![Op::Config(ConfigChange::SetHealthcheck(Some(check)))], history))
}

fn duration(scope: &Scope<'_>, name: &str) -> Result<Option<u64>> {
    let Some(text) = flag(scope.instruction, name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let error = |message: String| invalid("InvalidFlagValue", message, &scope.instruction.span);
    match go::parse_duration(text) {
        Some(0) => Ok(None),
        Some(time) if time < SHORTEST_NS => Err(error(format!("Interval \"{name}\" cannot be less than 1ms"))),
        Some(time) => Ok(Some(time)),
        None => Err(error(format!("--{name} is not a duration such as 30s or 1m30s: \"{text}\""))),
    }
}

/// `["a", "b"]`: JSON strings, read here because the host reads the JSON form only of whole arguments.
fn exec_form(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.trim_start();
    let mut words = Vec::new();
    if rest.strip_prefix(']').is_some_and(|end| end.trim().is_empty()) {
        return Some(words);
    }
    loop {
        let (word, after) = json_string(rest)?;
        words.push(word);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None => {
                return rest.strip_prefix(']').filter(|end| end.trim().is_empty()).map(|_| words);
            }
        }
    }
}

fn json_string(text: &str) -> Option<(String, &str)> {
    let body = text.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &body[at + 1..])),
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => {
                    let digits: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                }
                c @ ('"' | '\\' | '/') => c,
                _ => return None,
            }),
            c => out.push(c),
        }
    }
    None
}
