//! Splitting text into words, quotes and escapes kept.

/// The words of `text`; quotes hold words together and stay, and so do escape characters.
#[must_use]
pub fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // An escape character at the very end means nothing.
            let Some(next) = chars.next() else { break };
            word.push(c);
            word.push(next);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn quotes_and_escapes_hold_words_together() {
        for (text, words) in [
            ("a b", vec!["a", "b"]),
            ("a='x y' b", vec!["a='x y'", "b"]),
            ("a=\"x \\\" y\" b", vec!["a=\"x \\\" y\"", "b"]),
            ("a=x\\ y", vec!["a=x\\ y"]),
            ("a='it\\' b", vec!["a='it\\'", "b"]),
            ("a=\"\" \\", vec!["a=\"\""]),
            ("  ", vec![]),
        ] {
            assert_eq!(split(text, '\\'), words, "{text}");
        }
    }
}
