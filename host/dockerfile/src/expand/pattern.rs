//! Shell patterns of `${x#p}` and `${x/p/r}`: `*`, `?`, everything else literally.
//!
//! Values are as long as whoever writes a build file likes, so matching takes time in proportion to pattern times text.

/// A parsed pattern.
pub(super) struct Pattern {
    /// Before the first star.
    first: Part,
    /// Behind each star.
    behind: Vec<Part>,
}

/// What stands between stars; none is any character.
type Part = Vec<Option<char>>;

/// Whether a part matches at the front of `text`.
fn fits(part: &[Option<char>], text: &[char]) -> bool {
    part.len() <= text.len() && part.iter().zip(text).all(|(wanted, c)| wanted.is_none_or(|wanted| wanted == *c))
}

impl Pattern {
    /// Parses a pattern, in which a backslash makes the next character mean itself, whatever else escapes in the file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut part) = (Vec::new(), Part::new());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' => parts.push(std::mem::take(&mut part)),
                '?' => part.push(None),
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => part.push(Some(c)),
                    Some(c) => return Err(format!("invalid escape '\\{c}'")),
                    None => part.push(Some(c)),
                },
                _ => part.push(Some(c)),
            }
        }
        parts.push(part);
        Ok(Self::of(parts))
    }

    fn of(mut parts: Vec<Part>) -> Self {
        Self { first: parts.remove(0), behind: parts }
    }

    /// The same for text that is read backwards.
    fn reversed(self) -> Self {
        let mut parts: Vec<Part> = std::iter::once(self.first).chain(self.behind).collect();
        parts.iter_mut().for_each(|part| part.reverse());
        parts.reverse();
        Self::of(parts)
    }

    /// Where the match that starts at `start` ends. When there is none although the first part is there, there is none
    /// further on either.
    fn end(&self, text: &[char], start: usize, longest: bool) -> Option<usize> {
        let mut at = fits(&self.first, &text[start..]).then_some(start + self.first.len())?;
        for (number, part) in self.behind.iter().enumerate() {
            let mut places = at..=text.len();
            let is_here = |place: &usize| fits(part, &text[*place..]);
            // The first place leaves the most to the other parts; the last part may as well be far away.
            let is_last = number + 1 == self.behind.len();
            let place = if is_last && longest { places.rev().find(is_here) } else { places.find(is_here) };
            at = place? + part.len();
        }
        Some(at)
    }

    /// `text` without the shortest (or longest) part at its front that matches.
    pub(super) fn without_prefix(&self, text: &str, longest: bool) -> String {
        let text: Vec<char> = text.chars().collect();
        let end = self.end(&text, 0, longest).unwrap_or(0);
        text[end..].iter().collect()
    }

    /// `text` without the shortest (or longest) part at its back that matches.
    pub(super) fn without_suffix(self, text: &str, longest: bool) -> String {
        let text: Vec<char> = text.chars().rev().collect();
        let end = self.reversed().end(&text, 0, longest).unwrap_or(0);
        text[end..].iter().rev().collect()
    }

    /// `text` with the first longest match (or each) replaced; none when that is more than `most` bytes. An empty
    /// pattern replaces nothing.
    pub(super) fn replace(&self, text: &str, replacement: &str, all: bool, most: usize) -> Option<String> {
        if self.first.is_empty() && self.behind.is_empty() {
            return Some(text.to_owned());
        }
        let text: Vec<char> = text.chars().collect();
        let (mut out, mut at) = (String::new(), 0);
        while at < text.len() {
            if !fits(&self.first, &text[at..]) {
                out.push(text[at]);
                at += 1;
                continue;
            }
            let Some(end) = self.end(&text, at, true) else { break };
            out.push_str(replacement);
            at = end;
            if !all || out.len() > most {
                break;
            }
        }
        out.extend(&text[at..]);
        (out.len() <= most).then_some(out)
    }
}
