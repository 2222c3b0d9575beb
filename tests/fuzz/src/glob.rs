//! Patterns by their definitions, for comparison: short to read, slow, and made for small inputs.

/// A shell's: `*`, `?`, all else as it is.
#[must_use]
pub fn shell(pattern: &str, text: &str) -> bool {
    let mut chars = text.chars();
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => shell(&pattern[1..], text) || chars.next().is_some() && shell(pattern, chars.as_str()),
        Some(c) => chars.next().is_some_and(|t| c == '?' || c == t) && shell(&pattern[c.len_utf8()..], chars.as_str()),
    }
}

/// Paths': Go's `filepath.Match`, and where `crossing`, `**` as moby's `patternmatcher` has it. None where Go takes the
/// pattern for malformed, as far as it looks.
#[must_use]
pub fn path(pattern: &[u8], text: &[u8], crossing: bool) -> Option<bool> {
    let rest = |from: usize| &pattern[from..];
    Some(match pattern {
        [] => text.is_empty(),
        [b'*', b'*', behind @ ..] if crossing => {
            let behind = behind.strip_prefix(b"/").unwrap_or(behind);
            if behind.is_empty() {
                return Some(true);
            }
            let mut found = path(behind, text, crossing)?;
            for at in (0..text.len()).filter(|at| text[*at] == b'/') {
                found |= path(behind, &text[at + 1..], crossing)?;
            }
            found
        }
        [b'*', ..] => {
            // By characters; Go goes by bytes here, and lets a class take half of one.
            let mut found = path(rest(1), text, crossing)?;
            if let (Some(c), length) = character(text)
                && c != u32::from(b'/')
            {
                found |= path(pattern, &text[length..], crossing)?;
            }
            found
        }
        [b'?', ..] => match character(text) {
            (Some(c), _) if c == u32::from(b'/') => false,
            (None, _) => false,
            (_, length) => path(rest(1), &text[length..], crossing)?,
        },
        [b'[', ..] => {
            let (c, length) = character(text);
            let (hit, end) = class(pattern, c.unwrap_or(u32::MAX))?;
            let takes = hit && c.is_some_and(|c| c != u32::from(b'/'));
            takes && path(rest(end), &text[length..], crossing)?
        }
        [b'\\'] => return None,
        [b'\\', byte, ..] => text.first() == Some(byte) && path(rest(2), &text[1..], crossing)?,
        [byte, ..] => text.first() == Some(byte) && path(rest(1), &text[1..], crossing)?,
    })
}

/// The first character and its length; a byte that is no UTF-8 is one by itself.
fn character(text: &[u8]) -> (Option<u32>, usize) {
    let Some(first) = text.first() else { return (None, 0) };
    let valid = (1..=text.len().min(4)).find_map(|length| std::str::from_utf8(&text[..length]).ok());
    match valid.and_then(|text| text.chars().next()) {
        Some(c) => (Some(c.into()), c.len_utf8()),
        None => (Some(0x11_0000 + u32::from(*first)), 1),
    }
}

/// Whether what `[` opens holds a character, and where it ends.
fn class(pattern: &[u8], c: u32) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let one = |at: &mut usize| {
        if matches!(pattern.get(*at)?, b'-' | b']') {
            return None;
        }
        *at += usize::from(pattern[*at] == b'\\');
        let (c, length) = character(&pattern[*at..]);
        *at += length;
        c
    };
    let (mut hit, mut any) = (false, false);
    loop {
        if any && pattern.get(at) == Some(&b']') {
            return Some((hit != negated, at + 1));
        }
        let low = one(&mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            at += 1;
            high = one(&mut at)?;
        }
        hit |= (low..=high).contains(&c);
        any = true;
    }
}
