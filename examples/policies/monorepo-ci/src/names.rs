//! Names of variables: patterns for them, and whether a text speaks of one.

/// Patterns as the setting lists them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Patterns(Vec<Pattern>);

#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    start: String,
    /// Whether more may follow.
    open: bool,
}

impl Patterns {
    /// Reads a list separated by blanks or commas: `GIT_SHA, BUILD_*`.
    pub(crate) fn parse(list: &str) -> Result<Self, String> {
        let words = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let pattern = |word: &str| {
            let (start, open) = match word.strip_suffix('*') {
                Some(start) => (start, true),
                None => (word, false),
            };
            match start.bytes().all(is_of_name) {
                true => Ok(Pattern { start: start.to_owned(), open }),
                false => Err(format!("`{word}` is no name of a variable; a `*` may stand at its end")),
            }
        };
        words.map(pattern).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn match_name(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.open {
            true => name.starts_with(&pattern.start),
            false => name == pattern.start,
        })
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether a name stands in a text as a word of its own. `$NAME` and `${NAME:-x}` are not all: a command may ask for its
/// variables by name (`printenv NAME`, `os.environ["NAME"]`), and to take a mere word for a use costs a rebuild at most.
pub(crate) fn mentions(text: &str, name: &str) -> bool {
    let is_apart = |byte: Option<u8>| !byte.is_some_and(is_of_name);
    text.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).map(|before| text.as_bytes()[before]);
        is_apart(before) && is_apart(text.as_bytes().get(at + name.len()).copied())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let patterns = Patterns::parse(" GIT_SHA,\tBUILD_*\n,, ").expect("patterns");
        for (name, matches) in
            [("GIT_SHA", true), ("GIT_SHA1", false), ("BUILD_", true), ("BUILD_ID", true), ("BUILD", false)]
        {
            assert_eq!(patterns.match_name(name), matches, "{name}");
        }
        assert_eq!(Patterns::parse(""), Ok(Patterns(Vec::new())));
        for wrong in ["A*B", "*A", "$A", "A;B", "**", "--A"] {
            assert!(Patterns::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whole_words_are_mentions() {
        for text in ["$SHA", "${SHA}", "a${SHA:-x}b", "\"$SHA\"", "printenv SHA", "environ['SHA']", "$SHA1 $SHA", "SHA"]
        {
            assert!(mentions(text, "SHA"), "{text}");
        }
        for text in ["", "$SHA1", "$GIT_SHA", "${SHA_1}", "sha", "aSHA"] {
            assert!(!mentions(text, "SHA"), "{text}");
        }
    }
}
