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
                Some(argv) if argv.is_empty() => {
                    return Err(error("MissingArgument", "Missing command after HEALTHCHECK CMD".into()));
                }
                None if is_other_json(rest) => {
                    let message = "when using JSON array syntax, arrays must be comprised of strings only";
                    return Err(error("InvalidExecForm", message.into()));
                }
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
                Some(text) => Some(text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
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
        None if go::is_duration(text) => Err(error(format!("--{name} is too long: \"{text}\""))),
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

/// Whether text is a JSON list that has something else than strings in it: numbers and names beside them.
fn is_other_json(text: &str) -> bool {
    let Some(mut rest) = text.strip_prefix('[').map(str::trim_start) else { return false };
    loop {
        rest = match json_string(rest) {
            Some((_, after)) => after.trim_start(),
            None => {
                let length = rest.find([',', ']', '[', '{', '"']).unwrap_or(rest.len());
                let word = rest[..length].trim();
                if word.parse::<f64>().is_err() && !matches!(word, "true" | "false" | "null") {
                    return false;
                }
                &rest[length..]
            }
        };
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None => return rest.strip_prefix(']').is_some_and(|end| end.trim().is_empty()),
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
                    let first = unit(&mut chars)?;
                    let rest = chars.as_str();
                    // A character beyond the first 65,536 is two units; half of one is none.
                    match rest.strip_prefix("\\u").filter(|_| (0xd800..0xdc00).contains(&first)) {
                        Some(_) => {
                            let mut ahead = chars.clone();
                            ahead.nth(1);
                            match unit(&mut ahead) {
                                Some(second) if (0xdc00..0xe000).contains(&second) => {
                                    chars = ahead;
                                    let both = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                                    char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER)
                                }
                                _ => char::REPLACEMENT_CHARACTER,
                            }
                        }
                        None => char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER),
                    }
                }
                c @ ('"' | '\\' | '/') => c,
                _ => return None,
            }),
            c if c.is_control() && u32::from(c) < 0x20 => return None,
            c => out.push(c),
        }
    }
    None
}

/// Four hexadecimal digits.
fn unit(chars: &mut std::str::CharIndices<'_>) -> Option<u32> {
    let digits: String = chars.take(4).map(|(_, c)| c).collect();
    u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4)
}
