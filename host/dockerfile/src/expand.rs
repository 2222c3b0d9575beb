//! Word expansion: `$x`, `${x}` with all its operators, quotes and escapes, as Dockerfiles have them.
//!
//! A subset of POSIX shell parameter expansion (XCU 2.6.2) with bash's `${x/pattern/replacement}`; BuildKit's
//! `frontend/dockerfile/shell` says which.

use std::collections::BTreeSet;

use plan::op::{ExpandError, Expanded};

mod pattern;

/// Gives the value of a variable.
pub type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// What expansion leaves as it is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The escape character.
    pub escape: char,
    /// Quotes stay, and still quote.
    pub raw_quotes: bool,
    /// Escape characters stay, and still escape.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub ignore_quotes: bool,
    /// A variable without a value stays as it is written.
    pub keep_unset: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { escape: '\\', raw_quotes: false, raw_escapes: false, ignore_quotes: false, keep_unset: false }
    }
}

/// Expands `text` to one word.
///
/// # Errors
/// When it is malformed, or `${x?}` finds nothing.
pub fn word(text: &str, lookup: Lookup<'_>, options: Options) -> Result<Expanded, ExpandError> {
    let (word, _, unset) = expand(text, lookup, options)?;
    Ok(Expanded { words: vec![word], unset })
}

/// Expands `text` to words: unquoted blanks part them, those of values included.
///
/// # Errors
/// As [`word`].
pub fn words(text: &str, lookup: Lookup<'_>, options: Options) -> Result<Expanded, ExpandError> {
    let (_, words, unset) = expand(text, lookup, options)?;
    Ok(Expanded { words, unset })
}

fn expand(text: &str, lookup: Lookup<'_>, options: Options) -> Result<(String, Vec<String>, Vec<String>), ExpandError> {
    let mut expander = Expander { text, at: 0, lookup, options, unset: BTreeSet::new(), depth: 0, made: 0 };
    let (word, words) = expander.until(None, options.raw_escapes)?;
    Ok((word, words, expander.unset.into_iter().collect()))
}

/// `${a:-${b:-...}}` nests; the limit keeps hostile input off the stack.
const DEEPEST: u32 = 100;
/// What substitutions may make of one text, all together: `${a//?/${a//?/...}}` multiplies at each level. Linux takes no
/// argument or variable longer than an eighth of it.
const LONGEST: usize = 1 << 20;

struct Expander<'t> {
    text: &'t str,
    at: usize,
    lookup: Lookup<'t>,
    options: Options,
    unset: BTreeSet<String>,
    depth: u32,
    /// Bytes that substitutions have made so far.
    made: usize,
}

/// Collects words while characters pass.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    word: String,
    inside: bool,
}

impl Words {
    fn push(&mut self, c: char) {
        if c.is_whitespace() {
            self.end();
        } else {
            self.push_raw(c);
        }
    }

    fn push_raw(&mut self, c: char) {
        self.inside = true;
        self.word.push(c);
    }

    fn push_str_raw(&mut self, text: &str) {
        self.inside = true;
        self.word.push_str(text);
    }

    fn end(&mut self) {
        if self.inside {
            self.inside = false;
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error(&self, start: usize, message: impl Into<String>) -> ExpandError {
        ExpandError { message: message.into(), start, end: self.at.max(start + 1).min(self.text.len()).max(start) }
    }

    /// Expands up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), ExpandError> {
        let start = self.at;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(start, "substitutions are nested too deeply"));
        }
        let mut result = String::new();
        let mut words = Words::default();
        loop {
            let Some(c) = self.peek() else {
                return match stop {
                    Some(stop) => {
                        Err(self.error(start, format!("unexpected end of statement while looking for matching {stop}")))
                    }
                    None => {
                        self.depth -= 1;
                        words.end();
                        Ok((result, words.words))
                    }
                };
            };
            match c {
                _ if Some(c) == stop => {
                    self.next();
                    self.depth -= 1;
                    words.end();
                    return Ok((result, words.words));
                }
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.push(c));
                    result.push_str(&value);
                }
                '\'' | '"' if !self.options.ignore_quotes => {
                    let value = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    words.push_str_raw(&value);
                    result.push_str(&value);
                }
                _ if c == self.options.escape => {
                    self.next();
                    if raw_escapes {
                        words.push_raw(c);
                        result.push(c);
                    }
                    if let Some(escaped) = self.next() {
                        words.push_raw(escaped);
                        result.push(escaped);
                    }
                }
                _ => {
                    self.next();
                    words.push(c);
                    result.push(c);
                }
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let rest = &self.text[start + 1..];
        let Some(length) = rest.find('\'') else {
            self.at = self.text.len();
            return Err(self.error(start, "unexpected end of statement while looking for matching single-quote"));
        };
        self.at = start + length + 2;
        Ok(if self.options.raw_quotes { &self.text[start..self.at] } else { &rest[..length] }.to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let mut result = String::new();
        let quote = |result: &mut String, raw: bool| {
            if raw {
                result.push('"');
            }
        };
        self.next();
        quote(&mut result, self.options.raw_quotes);
        loop {
            match self.peek() {
                None => {
                    let message = "unexpected end of statement while looking for matching double-quote";
                    return Err(self.error(start, message));
                }
                Some('"') => {
                    self.next();
                    quote(&mut result, self.options.raw_quotes);
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(c) if c == self.options.escape => {
                    self.next();
                    match self.peek() {
                        // Only these can be escaped; before anything else the escape character is itself.
                        Some(next) if next == '"' || next == '$' || next == self.options.escape => {
                            self.next();
                            if self.options.raw_escapes {
                                result.push(c);
                            }
                            result.push(next);
                        }
                        Some(_) => result.push(c),
                        None => {}
                    }
                }
                Some(c) => {
                    self.next();
                    result.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let value = self.substitution(start)?;
        self.made += value.len();
        if self.made > LONGEST { Err(self.too_long(start)) } else { Ok(value) }
    }

    fn too_long(&self, start: usize) -> ExpandError {
        self.error(start, "substitutions make more than 1 MiB of this")
    }

    fn substitution(&mut self, start: usize) -> Result<String, ExpandError> {
        self.next();
        match self.peek() {
            None => Ok("$".into()),
            Some('{') => {
                self.next();
                self.braced(start)
            }
            Some(_) => {
                let name = self.name();
                if name.is_empty() {
                    return Ok("$".into());
                }
                Ok(match self.value(&name) {
                    Some(value) => value,
                    None if self.options.keep_unset => format!("${name}"),
                    None => String::new(),
                })
            }
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_none() {
            self.unset.insert(name.to_owned());
        }
        value
    }

    /// A name, the digits of a position, or one special character.
    fn name(&mut self) -> String {
        let rest = &self.text[self.at..];
        let first = rest.chars().next();
        let length = match first {
            Some(c) if c.is_ascii_digit() => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        self.at += length;
        rest[..length].to_owned()
    }

    fn unclosed(&self, start: usize) -> ExpandError {
        self.error(start, "syntax error: missing '}'")
    }

    /// What follows an operator, up to `stop`. What is wrong there is told, unless it is that the text ends.
    fn operand(&mut self, stop: char, raw_escapes: bool, start: usize) -> Result<String, ExpandError> {
        match self.until(Some(stop), raw_escapes) {
            Ok((word, _)) => Ok(word),
            Err(_) if self.at == self.text.len() => Err(self.unclosed(start)),
            Err(error) => Err(error),
        }
    }

    /// What follows `${`.
    fn braced(&mut self, start: usize) -> Result<String, ExpandError> {
        if matches!(self.peek(), None | Some('{')) {
            return Err(self.error(start, "syntax error: bad substitution"));
        }
        let name = self.name();
        if name.is_empty() {
            // `${}`, `${:-x}`.
            self.next();
            return Err(self.error(start, "syntax error: bad substitution"));
        }
        let mut operator = self.next().ok_or_else(|| self.unclosed(start))?;
        if operator == '}' {
            return Ok(match self.value(&name) {
                Some(value) => value,
                None if self.options.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            });
        }
        let mut empty_is_unset = false;
        let mut written = operator.to_string();
        if operator == ':' {
            empty_is_unset = true;
            operator = self.next().ok_or_else(|| self.unclosed(start))?;
            written.push(operator);
        }
        match operator {
            '+' | '-' | '?' => {
                let word = self.operand('}', false, start)?;
                // `${x:-y}` is what one writes when x may be unset: that is no use of an unset name.
                let value = (self.lookup)(&name);
                let has_value = value.as_ref().is_some_and(|value| !(empty_is_unset && value.is_empty()));
                match (operator, has_value) {
                    ('-', false) | ('+', true) => Ok(word),
                    ('+', false) => Ok(String::new()),
                    ('?', false) => {
                        let state = if value.is_some() { "empty" } else { "unset" };
                        let word = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                        Err(self.error(start, format!("{name}: {word}")))
                    }
                    _ => Ok(value.unwrap_or_default()),
                }
            }
            '#' | '%' if !empty_is_unset => {
                let mut word = self.operand('}', true, start)?;
                let value = self.value(&name).unwrap_or_default();
                let greedy = word.starts_with(operator);
                if greedy {
                    word.remove(0);
                }
                let pattern = pattern::Pattern::parse(&word).map_err(|reason| self.error(start, reason))?;
                Ok(if operator == '#' {
                    pattern.without_prefix(&value, greedy)
                } else {
                    pattern.without_suffix(&value, greedy)
                })
            }
            '/' if !empty_is_unset => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let word = self.operand('/', true, start)?;
                let replacement = self.operand('}', true, start)?;
                let value = self.value(&name).unwrap_or_default();
                let pattern = pattern::Pattern::parse(&word).map_err(|reason| self.error(start, reason))?;
                pattern.replace(&value, &replacement, all, LONGEST).ok_or_else(|| self.too_long(start))
            }
            _ => Err(self.error(start, format!("unsupported modifier ({written}) in substitution"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "x" => "value",
            "empty" => "",
            "path" => "a/b/c.tar.gz",
            "two" => "one two",
            "PWD" => "/home",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn words_are_expanded() {
        for (text, expected) in [
            ("$x-${x}", "value-value"),
            (r"\$x \a", "$x a"),
            ("'$x'\"$x\"", "$xvalue"),
            (r#""\$x \" \a""#, r#"$x " \a"#),
            ("${no:-d}${empty:-d}${empty-d}${x-d}", "ddvalue"),
            ("${x:+y}${x+y}${empty:+y}${empty+y}${no+y}", "yyy"),
            ("${no:-${x}}", "value"),
            ("${no:-'a b'}", "a b"),
            ("${path#*/}|${path##*/}|${path%.*}|${path%%.*}", "b/c.tar.gz|c.tar.gz|a/b/c.tar|a/b/c"),
            ("${path/b/X}|${path//[/X}|${path//\\//_}", "a/X/c.tar.gz|a/b/c.tar.gz|a_b_c.tar.gz"),
            (r"${path//\//\/}", r"a\/b\/c.tar.gz"),
            ("${x?}${x:?no}", "valuevalue"),
            ("$1$@x$", "x$"),
            ("$PWD/..", "/home/.."),
            ("é$x", "évalue"),
            ("$no.", "."),
        ] {
            assert_eq!(
                word(text, &lookup, Options::default()).map(|e| e.words.concat()),
                Ok(expected.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_words_are_refused() {
        for (text, message) in [
            ("${x", "missing '}'"),
            ("${", "bad substitution"),
            ("${}", "bad substitution"),
            ("${:x}", "bad substitution"),
            ("${x:#p}", "unsupported modifier (:#)"),
            ("${x!y}", "unsupported modifier (!)"),
            ("${x:-y", "missing '}'"),
            ("'x", "single-quote"),
            ("\"x", "double-quote"),
            ("${no?}", "no: is not allowed to be unset"),
            ("${empty:?}", "empty: is not allowed to be empty"),
            ("${no:?give it}", "no: give it"),
            ("${no:-${empty:?give it}} x", "empty: give it"),
        ] {
            let error = word(text, &lookup, Options::default()).expect_err(text);
            assert!(error.message.contains(message), "{text}: {}", error.message);
        }
        let deep = "${a:-".repeat(100_000);
        assert!(word(&deep, &lookup, Options::default()).is_err());
    }

    #[test]
    fn patterns_take_the_shortest_or_longest_part() {
        let lookup = |name: &str| Some(if name == "v" { "aXbXbé" } else { "a?*" }.to_owned());
        for (text, expected) in [
            ("${v#*X}|${v##*X}|${v%X*}|${v%%X*}", "bXbé|bé|aXb|a"),
            ("${v#*b*b}|${v%b*b?}|${v#b}|${v%%*}", "é|aX|aXbXbé|"),
            ("${v/X*b/-}|${v//?X/-}|${v//b?/-}|${v//x*/-}", "a-é|--bé|aX--|aXbXbé"),
            (r"${w#a\?}|${w%\*}|${w//\\?/}", "*|a?|a?*"),
        ] {
            let got = word(text, &lookup, Options::default()).map(|e| e.words.concat());
            assert_eq!(got, Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn long_values_take_little_time_and_none_takes_much_memory() {
        let long = "ab".repeat(50_000);
        let lookup = |_: &str| Some(long.clone());
        let length = |text: &str| word(text, &lookup, Options::default()).map(|e| e.words.concat().len());
        assert_eq!(length("${v//ab/x}"), Ok(50_000));
        assert_eq!(length("${v//a*c/x}${v#*c}${v%c*}${v//*b*a*b*/x}"), Ok(300_001));
        let text = format!("{}x{}", "${v//?/".repeat(50), "}".repeat(50));
        let error = word(&text, &lookup, Options::default()).expect_err("too long");
        assert!(error.message.contains("1 MiB"), "{}", error.message);
    }

    #[test]
    fn values_are_split_unless_quoted() {
        let split = |text| words(text, &lookup, Options::default()).expect(text).words;
        assert_eq!(split("$two \"$two\" x"), ["one", "two", "one two", "x"]);
        assert_eq!(split("a'' ''"), ["a", ""]);
    }

    #[test]
    fn raw_text_keeps_its_quotes() {
        let options = Options { raw_quotes: true, raw_escapes: true, ..Options::default() };
        let raw = word("'$x' \"$x\" \\$x \\a", &lookup, options).expect("raw").words.concat();
        assert_eq!(raw, "'$x' \"value\" \\$x \\a");
    }

    #[test]
    fn names_without_a_value_are_told() {
        let expanded = word("$no ${nope} ${maybe:-x}", &lookup, Options::default()).expect("words");
        assert_eq!(expanded.unset, ["no", "nope"]);
    }
}
