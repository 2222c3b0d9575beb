//! Word expansion in all its modes; and patterns of `${x#p}` and its kin against their definition.

#![no_main]

use dockerfile::expand::{self, Options};
use libfuzzer_sys::fuzz_target;
use plan::op::{ExpandError, Expanded};
use plywood_fuzz::{glob, memory};

fuzz_target!(|data: &[u8]| {
    let Some((modes, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let bit = |at: u8| modes >> at & 1 == 1;
    let options = Options {
        escape: if bit(0) { '`' } else { '\\' },
        raw_quotes: bit(1),
        raw_escapes: bit(2),
        ignore_quotes: bit(3),
        keep_unset: bit(4),
    };
    memory::within((32 << 20) + 200 * text.len(), || {
        let word = expand::word(&text, &value, options);
        let words = expand::words(&text, &value, options);
        hold(&text, &word);
        hold(&text, &words);
        assert_eq!(word.is_ok(), words.is_ok(), "what is a word is words");
        if let Ok(word) = &word {
            assert_eq!(word.words.len(), 1);
        }
        let raw = Options { raw_quotes: true, raw_escapes: true, keep_unset: true, ..options };
        if let Ok(kept) = expand::word(&text, &|_| None, raw)
            && !text.contains("${")
        {
            assert_eq!(kept.words[0], text, "raw text without variables changed");
        }
        if let Some((pattern, rest)) = text.split_once('\n')
            && let Some((replacement, value)) = rest.split_once('\n')
        {
            operators(pattern, replacement, value, options.escape);
        }
    });
});

fn value(name: &str) -> Option<String> {
    let value = match name {
        "x" => "value",
        "empty" => "",
        "path" => "/usr/local/bin:/usr/bin",
        "two" => "one  two",
        "odd" => "*?[$x'\"\\`}é\u{1f600}",
        "1" => "first",
        "@" => "all",
        "long" => return Some("ab".repeat(500)),
        _ => return None,
    };
    Some(value.into())
}

fn hold(text: &str, expanded: &Result<Expanded, ExpandError>) {
    match expanded {
        Ok(expanded) => assert!(expanded.unset.windows(2).all(|pair| pair[0] < pair[1])),
        Err(error) => {
            assert!(error.start <= error.end && error.end <= text.len(), "an error outside of the text: {error:?}");
            assert!(text.is_char_boundary(error.start), "an error within a character: {error:?}");
        }
    }
}

/// Patterns as they are defined: by trying each part of the value.
fn operators(pattern: &str, replacement: &str, value: &str, escape: char) {
    // What is special outside of patterns is left out, and a first `#` or `%`, which would be the operator's.
    let plain = |text: &str, but: &str| -> String {
        text.chars().filter(|c| !"$'\"`}".contains(*c) && !but.contains(*c)).collect()
    };
    let pattern = plain(pattern, "/").trim_start_matches(['#', '%']).to_owned();
    let replacement = plain(replacement, "\\");
    if pattern.is_empty() || [&*pattern, value].iter().any(|text| text.len() > 40) || replacement.len() > 200 {
        return;
    }
    // Within patterns it is a backslash that escapes, whatever does in the file.
    let word = pattern.replace('\\', "\\\\");
    let run = |text: String| {
        let options = Options { escape, ..Options::default() };
        expand::word(&text, &|name| (name == "v").then(|| value.to_owned()), options).map(|e| e.words.concat())
    };
    let ends: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    let matches = |from: usize, to: usize| glob::shell(&pattern, &value[from..to]);
    let prefix = |at: &usize| matches(0, *at);
    let suffix = |at: &usize| matches(*at, value.len());
    let (short, long) = (ends.iter().find(|at| prefix(at)), ends.iter().rev().find(|at| prefix(at)));
    let behind = |at: Option<&usize>| Ok(at.map_or(value, |at| &value[*at..]).to_owned());
    assert_eq!(run(format!("${{v#{word}}}")), behind(short));
    assert_eq!(run(format!("${{v##{word}}}")), behind(long));
    let (short, long) = (ends.iter().rev().find(|at| suffix(at)), ends.iter().find(|at| suffix(at)));
    let before = |at: Option<&usize>| Ok(at.map_or(value, |at| &value[..*at]).to_owned());
    assert_eq!(run(format!("${{v%{word}}}")), before(short));
    assert_eq!(run(format!("${{v%%{word}}}")), before(long));
    for all in [false, true] {
        let (mut out, mut at) = (String::new(), 0);
        while at < value.len() {
            let longest = ends.iter().rev().find(|end| **end > at && matches(at, **end));
            let next = ends.iter().find(|end| **end > at).copied().unwrap_or(value.len());
            let Some(end) = longest else {
                out.push_str(&value[at..next]);
                at = next;
                continue;
            };
            out.push_str(&replacement);
            at = *end;
            if !all {
                break;
            }
        }
        out.push_str(&value[at..]);
        let operator = if all { "//" } else { "/" };
        let text = format!("${{v{operator}{word}/{replacement}}}");
        assert_eq!(run(text), Ok(out), "{operator}{pattern}/{replacement} of {value:?}");
    }
}
