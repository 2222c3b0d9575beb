//! The `--name[=value]` words between a keyword and its arguments.

/// A flag's text, unquoted, and where it stands in the line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawFlag {
    pub(crate) text: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Takes the flags off the front of `text`; gives them and the offset at which the arguments start.
///
/// A lone `--` ends them. Quotes and backslashes work within a flag whatever the escape directive says, as they do in
/// BuildKit.
pub(crate) fn take(text: &str) -> (Vec<RawFlag>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let (flag, length) = word(&text[at..]);
        if flag == "--" {
            return (flags, at + length);
        }
        flags.push(RawFlag { text: flag, start: at, end: at + length });
        at += length;
    }
}

/// The first word, quotes and backslashes resolved, and how many bytes it took.
fn word(text: &str) -> (String, usize) {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if quote == Some(c) => quote = None,
            _ if quote.is_none() && c.is_whitespace() => return (out, at),
            '\'' | '"' if quote.is_none() => quote = Some(c),
            '\\' => out.extend(chars.next().map(|(_, next)| next)),
            _ => out.push(c),
        }
    }
    (out, text.len())
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn flags_end_at_the_first_other_word() {
        let check = |text: &str| {
            let (flags, rest) = take(text);
            (flags.into_iter().map(|f| f.text).collect::<Vec<_>>(), text[rest..].to_owned())
        };
        assert_eq!(check("a --b"), (vec![], "a --b".into()));
        assert_eq!(check("--a --b=c d --e"), (vec!["--a".into(), "--b=c".into()], "d --e".into()));
        assert_eq!(check("--a='x y' z"), (vec!["--a=x y".into()], "z".into()));
        assert_eq!(check("--a -- --z"), (vec!["--a".into()], " --z".into()));
        assert_eq!(check("--a"), (vec!["--a".into()], String::new()));
    }
}
