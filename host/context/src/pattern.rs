//! Patterns for paths: those of ignore files and `--exclude`, where `**` crosses folders, and those of COPY, where
//! nothing does.
//!
//! The first follow moby's `patternmatcher`, the second Go's `path/filepath.Match`. Matching takes time in proportion to
//! pattern times path, whatever the pattern. A character is one of UTF-8, or a byte that is not.

use crate::error::Error;

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Just(Character),
    /// Anything but a slash.
    One,
    /// Any number of anything but slashes.
    Star,
    /// Any number of whole folders.
    Folders,
    /// Anything.
    Everything,
    /// A character of these ranges, or of none of them; never a slash.
    Class {
        negated: bool,
        ranges: Vec<(Character, Character)>,
    },
}

/// A character's number, or behind all of those a byte that belongs to none.
type Character = u32;

const SLASH: Character = '/' as Character;

fn characters(text: &[u8]) -> Vec<Character> {
    let mut characters = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        characters.extend(chunk.valid().chars().map(u32::from));
        characters.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + u32::from(*byte)));
    }
    characters
}

impl Pattern {
    /// Parses a pattern in which `**` crosses folders.
    ///
    /// # Errors
    /// When a bracket or an escape is not closed.
    pub fn crossing(text: &[u8]) -> Result<Self, Error> {
        Self::parse(text, true)
    }

    /// Parses a pattern of Go's `filepath.Match`.
    ///
    /// # Errors
    /// When a bracket or an escape is not closed.
    pub fn within(text: &[u8]) -> Result<Self, Error> {
        Self::parse(text, false)
    }

    fn parse(text: &[u8], crossing: bool) -> Result<Self, Error> {
        let shown = &text[..text.len().min(200)];
        let error = |reason| Error::Pattern { pattern: String::from_utf8_lossy(shown).into_owned(), reason };
        let text = characters(text);
        if crossing && let Some(rest) = suffix(&text) {
            let rest = rest.iter().map(|character| Token::Just(*character));
            return Ok(Self(std::iter::once(Token::Everything).chain(rest).collect()));
        }
        let is = |at: usize, wanted: char| text.get(at) == Some(&u32::from(wanted));
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(character) = text.get(at) {
            at += 1;
            tokens.push(match char::from_u32(*character) {
                Some('*') if crossing && is(at, '*') => {
                    at += 1;
                    if is(at, '/') {
                        at += 1;
                    }
                    if at == text.len() { Token::Everything } else { Token::Folders }
                }
                Some('*') => Token::Star,
                Some('?') => Token::One,
                Some('[') => class(&text, &mut at).ok_or_else(|| error("a bracket is not closed"))?,
                Some('\\') => {
                    let escaped = *text.get(at).ok_or_else(|| error("it ends in an escape character"))?;
                    at += 1;
                    Token::Just(escaped)
                }
                _ => Token::Just(*character),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether the pattern matches all of `path`.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = characters(path);
        // `now[i]`: the tokens so far can match the first i characters.
        let mut now = vec![false; path.len() + 1];
        let mut next = now.clone();
        now[0] = true;
        for token in &self.0 {
            next.fill(false);
            match token {
                Token::Star | Token::Everything => {
                    let mut reached = false;
                    for at in 0..=path.len() {
                        if at > 0 && *token == Token::Star && path[at - 1] == SLASH {
                            reached = false;
                        }
                        reached |= now[at];
                        next[at] = reached;
                    }
                }
                Token::Folders => {
                    // Nothing, or anything that ends in a slash.
                    let mut reached = false;
                    for at in 0..=path.len() {
                        next[at] = now[at] || reached && at > 0 && path[at - 1] == SLASH;
                        reached |= now[at];
                    }
                }
                single => {
                    for (at, character) in path.iter().enumerate() {
                        next[at + 1] = now[at] && one(single, *character);
                    }
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        now[path.len()]
    }
}

/// What `**` at the front stands before, where that is text alone: moby's `patternmatcher` takes such a pattern for the
/// end of paths, so that `**.pyc` means every such file. Before a slash it is as elsewhere.
fn suffix(text: &[Character]) -> Option<&[Character]> {
    let star = u32::from('*');
    let rest = text.strip_prefix(&[star, star])?;
    let special = |character: &Character| char::from_u32(*character).is_some_and(|c| "*?[]\\".contains(c));
    (rest.first().is_some_and(|first| *first != SLASH) && !rest.iter().any(special)).then_some(rest)
}

fn one(token: &Token, character: Character) -> bool {
    match token {
        Token::Just(wanted) => *wanted == character,
        Token::One => character != SLASH,
        Token::Class { negated, ranges } => {
            character != SLASH && ranges.iter().any(|(low, high)| (low..=high).contains(&&character)) != *negated
        }
        Token::Star | Token::Folders | Token::Everything => false,
    }
}

/// What follows `[`.
fn class(text: &[Character], at: &mut usize) -> Option<Token> {
    let is = |character: Character, wanted: char| character == u32::from(wanted);
    let mut take = || -> Option<Character> {
        let character = *text.get(*at)?;
        *at += 1;
        Some(character)
    };
    let mut character = take()?;
    let negated = is(character, '^');
    if negated {
        character = take()?;
    }
    let mut ranges = Vec::new();
    loop {
        if is(character, ']') && !ranges.is_empty() {
            return Some(Token::Class { negated, ranges });
        }
        let low = if is(character, '\\') { take()? } else { character };
        character = take()?;
        if is(character, '-') {
            let high = match take()? {
                escape if is(escape, '\\') => take()?,
                end if is(end, ']') => return None,
                high => high,
            };
            ranges.push((low, high));
            character = take()?;
        } else {
            ranges.push((low, low));
        }
    }
}

/// Whether text has characters that make it a pattern.
#[must_use]
pub fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A path as Go's `filepath.Clean` has it: what leads upwards or starts at the root stays, and so matches nothing that
/// is in a context.
#[must_use]
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// A list of patterns of which the last that matches decides; `!` in front of one brings back.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: Pattern,
    brings_back: bool,
}

/// Which rules a folder matched, so that what is in it need not ask again.
#[derive(Clone, Debug, Default)]
pub struct Matched(Vec<bool>);

impl Matcher {
    /// Parses patterns; blank ones mean nothing.
    ///
    /// # Errors
    /// When one is malformed.
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, Error> {
        let mut rules = Vec::new();
        for text in patterns {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            // The mark is looked at behind the cleaning, which takes it for a part of the path.
            let clean = clean(text.as_bytes());
            let (brings_back, text) = clean.strip_prefix(b"!").map_or((false, &clean[..]), |rest| (true, rest));
            if brings_back && text.is_empty() {
                return Err(Error::Pattern { pattern: "!".into(), reason: "there is nothing to bring back" });
            }
            rules.push(Rule { pattern: Pattern::crossing(text)?, brings_back });
        }
        Ok(Self { rules })
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether something in a folder that matches may be brought back.
    #[must_use]
    pub fn brings_back(&self) -> bool {
        self.rules.iter().any(|rule| rule.brings_back)
    }

    /// Whether a path matches, by a rule for it or for a folder that it is in.
    #[must_use]
    pub fn matches(&self, path: &[u8], parent: &Matched) -> (bool, Matched) {
        let mut matched = false;
        let mut each = Vec::with_capacity(self.rules.len());
        for (at, rule) in self.rules.iter().enumerate() {
            let known = parent.0.get(at).copied().unwrap_or(false);
            // A rule that would change nothing is not asked, and so counts for nothing in the folder either.
            let hit = known || rule.brings_back == matched && rule.pattern.matches(path);
            each.push(hit);
            if hit {
                matched = !rule.brings_back;
            }
        }
        (matched, Matched(each))
    }

    /// As [`Self::matches`], for a path whose folders have not been asked about.
    #[must_use]
    pub fn matches_whole(&self, path: &[u8]) -> bool {
        let mut parent = Matched::default();
        for (at, byte) in path.iter().enumerate() {
            if *byte == b'/' {
                parent = self.matches(&path[..at], &parent).1;
            }
        }
        self.matches(path, &parent).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_within_a_folder_unless_doubled() {
        for (pattern, path, matches) in [
            ("*", "a", true),
            ("*", "a/b", false),
            ("a/*/c", "a/b/c", true),
            ("**", "a/b/c", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "a/bc", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
            ("a**b", "a/x/b", true),
            ("**.pyc", "a/b.pyc", true),
            ("**.pyc", "b.pyc", true),
            ("**.py?", "a/b.pyc", false),
            ("**log", "a/catalog", true),
            ("?.txt", "a.txt", true),
            ("?.txt", "/.txt", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]]", "]", true),
            ("?.txt", "é.txt", true),
            ("[à-ý][^a]", "éü", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
        ] {
            let parsed = Pattern::crossing(pattern.as_bytes()).expect(pattern);
            assert_eq!(parsed.matches(path.as_bytes()), matches, "{pattern} {path}");
        }
        assert!(Pattern::within(b"[a").is_err());
        assert!(Pattern::within(b"a\\").is_err());
        assert!(!Pattern::within(b"**/c").expect("a pattern").matches(b"a/b/c"));
        let hostile = Pattern::crossing("*a".repeat(200).as_bytes()).expect("a pattern");
        assert!(!hostile.matches("a".repeat(5000).replace("aa", "ab").as_bytes()));
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let matcher = Matcher::new(["node_modules", "*.log", "!keep.log", "/abs", "a/../b", "../c"]).expect("rules");
        for (path, matched) in [
            ("node_modules", true),
            ("node_modules/x/y", true),
            ("x.log", true),
            ("keep.log", false),
            ("sub/x.log", false),
            ("abs", false),
            ("c", false),
            ("b", true),
            ("a", false),
        ] {
            assert_eq!(matcher.matches_whole(path.as_bytes()), matched, "{path}");
        }
        // What brings back a folder that nothing has left out does not bring back what is left out of it.
        let matcher = Matcher::new(["**/*.log", "!logs"]).expect("rules");
        assert!(matcher.matches_whole(b"logs/a.log"));
        let matcher = Matcher::new(["*", "!logs"]).expect("rules");
        assert!(!matcher.matches_whole(b"logs/a.log"));
    }
}
