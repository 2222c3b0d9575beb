//! Shell patterns of `${x#p}` and `${x/p/r}`: `*`, `?`, everything else literally.

/// A parsed pattern.
pub(super) struct Pattern(Vec<Token>);

#[derive(PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Literal(char),
}

/// `text` with each escape character giving way to what follows it.
pub(super) fn unescape(text: &str, escape: char) -> String {
    let mut chars = text.chars();
    let mut out = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        out.push(if c == escape { chars.next().unwrap_or(c) } else { c });
    }
    out
}

impl Pattern {
    pub(super) fn parse(text: &str, escape: char) -> Self {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                _ if c == escape => Token::Literal(chars.next().unwrap_or(c)),
                _ => Token::Literal(c),
            });
        }
        Self(tokens)
    }

    /// Whether the pattern matches all of `text`: linear in practice, since only the last star is ever retried.
    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut token, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.0.get(token) {
                Some(Token::Star) => {
                    retry = Some((token, at));
                    token += 1;
                }
                Some(Token::Any) => (token, at) = (token + 1, at + 1),
                Some(Token::Literal(c)) if *c == text[at] => (token, at) = (token + 1, at + 1),
                _ => match retry {
                    Some((star, from)) => {
                        retry = Some((star, from + 1));
                        (token, at) = (star + 1, from + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0[token..].iter().all(|token| *token == Token::Star)
    }

    /// `text` without the shortest (or longest) part at its front that matches.
    pub(super) fn without_prefix<'t>(&self, text: &'t str, longest: bool) -> &'t str {
        let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        let found = |mut ends: Box<dyn Iterator<Item = usize>>| ends.find(|end| self.matches(&text[..*end]));
        let ends: Vec<usize> = ends.collect();
        let end = if longest { found(Box::new(ends.into_iter().rev())) } else { found(Box::new(ends.into_iter())) };
        end.map_or(text, |end| &text[end..])
    }

    /// `text` without the shortest (or longest) part at its back that matches.
    pub(super) fn without_suffix<'t>(&self, text: &'t str, longest: bool) -> &'t str {
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let found = |mut starts: Box<dyn Iterator<Item = usize>>| starts.find(|start| self.matches(&text[*start..]));
        let start =
            if longest { found(Box::new(starts.into_iter())) } else { found(Box::new(starts.into_iter().rev())) };
        start.map_or(text, |start| &text[..start])
    }

    /// `text` with the first longest match (or each) replaced. An empty pattern replaces nothing.
    pub(super) fn replace(&self, text: &str, replacement: &str, all: bool) -> String {
        let mut out = String::new();
        let mut rest = text;
        while !rest.is_empty() && !self.0.is_empty() {
            let longest =
                rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev().find(|end| self.matches(&rest[..*end]));
            let Some(end) = longest else {
                let first = rest.chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..first]);
                rest = &rest[first..];
                continue;
            };
            out.push_str(replacement);
            rest = &rest[end..];
            if !all {
                break;
            }
        }
        out + rest
    }
}
