//! Path patterns and ignore files: compared with their definitions, and with themselves.

#![no_main]

use context::ignore;
use context::pattern::{self, Matched, Matcher, Pattern};
use libfuzzer_sys::fuzz_target;
use plywood_fuzz::{glob, memory};

fuzz_target!(|data: &[u8]| {
    memory::within((1 << 20) + 200 * data.len(), || {
        // A path, and behind a zero byte the ignore file.
        let (path, rules) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
        let rules = rules.strip_prefix(b"\0").unwrap_or(rules);
        let text = String::from_utf8_lossy(rules);
        if let Ok(matcher) = ignore::parse(&text) {
            let _ = matcher.matches_whole(path);
            hold(&matcher, path);
        }
        // Patterns are text; paths need not be.
        let first = text.split('\n').next().unwrap_or_default().as_bytes();
        compared(first, path);
        literal(path, first);
    });
});

/// Rules that do not bring back can only add.
fn hold(matcher: &Matcher, path: &[u8]) {
    let (matched, each) = matcher.matches(path, &Matched::default());
    if !matcher.brings_back() {
        assert!(!matched || matcher.matches_whole(path), "what is matched by itself is not matched as a whole");
        assert!(!matched || matcher.matches(b"other", &each).0, "what is in a matched folder is not matched");
    }
    assert!(!matcher.is_empty() || !matched, "no rule matches");
}

fn compared(text: &[u8], path: &[u8]) {
    let stars = text.iter().filter(|byte| **byte == b'*').count();
    for crossing in [false, true] {
        let parsed = if crossing { Pattern::crossing(text) } else { Pattern::within(text) };
        let Ok(parsed) = parsed else { continue };
        let matched = parsed.matches(path);
        let suffix = text.strip_prefix(b"**").filter(|rest| crossing && !matches!(rest, [] | [b'/', ..]));
        if let Some(suffix) = suffix.filter(|rest| !rest.iter().any(|byte| b"*?[]\\".contains(byte))) {
            assert_eq!(matched, path.ends_with(suffix), "what `**` stands before is the end of paths");
        } else if stars <= 5
            && text.len().max(path.len()) <= 48
            && let Some(expected) = glob::path(text, path, crossing)
        {
            assert_eq!(matched, expected, "crossing {crossing}");
        }
    }
}

/// A path whose characters are escaped matches itself alone, and one without wildcards matches itself.
fn literal(path: &[u8], other: &[u8]) {
    let escaped: Vec<u8> =
        path.iter().flat_map(|byte| byte.is_ascii().then_some(b'\\').into_iter().chain([*byte])).collect();
    assert!(!pattern::has_wildcard(&escaped));
    for parsed in [Pattern::crossing(&escaped), Pattern::within(&escaped)] {
        let parsed = parsed.expect("a literal");
        assert!(parsed.matches(path), "a literal that does not match itself");
        assert!(path == other || !parsed.matches(other), "a literal that matches something else");
    }
    if !pattern::has_wildcard(path) && !path.contains(&b'\\') {
        assert!(Pattern::within(path).is_ok_and(|parsed| parsed.matches(path)));
    }
}
