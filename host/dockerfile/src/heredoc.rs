//! Here-documents: finding `<<NAME` words in a line, and their bodies below it.

use plan::op::Heredoc;

use crate::expand::{self, Options};
use crate::line::Source;

/// What a line announces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) name: String,
    pub(crate) expand: bool,
    /// `<<-`: tabs at the start of each line are not part of the body.
    chomp: bool,
    /// `<< NAME`: with a blank between them it may as well be a shift of the shell's arithmetic; whether the body is
    /// there tells.
    pub(crate) maybe: bool,
}

/// The here-documents that a line announces, in order.
pub(crate) fn announced(line: &str) -> Vec<Announced> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let options = Options { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Options::default() };
    let Ok(words) = expand::words(line, &|_| None, options) else {
        return Vec::new();
    };
    let (mut found, mut words) = (Vec::new(), words.words.iter().peekable());
    while let Some(word) = words.next() {
        let is_mark = word.trim_start_matches(|c: char| c.is_ascii_digit()) == "<<";
        match words.peek().filter(|_| is_mark) {
            Some(name) => {
                let announced = announce(&format!("{word}{name}"));
                found.extend(announced.map(|announced| Announced { maybe: true, ..announced }));
            }
            None => found.extend(announce(word)),
        }
    }
    found
}

/// `[digits]<<[-]NAME`, the name perhaps quoted.
fn announce(word: &str) -> Option<Announced> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let keep = Options { keep_unset: true, ..Options::default() };
    let plain = expand::words(rest, &|_| None, keep).ok()?.words;
    // Quotes keep variables in the body from being expanded; a backslash in the name does not.
    let quoted = expand::words(rest, &|_| None, Options { raw_quotes: true, ..keep }).ok()?.words;
    match (&plain[..], &quoted[..]) {
        ([name], [quoted]) => Some(Announced { name: name.clone(), expand: name == quoted, chomp, maybe: false }),
        _ => None,
    }
}

/// Reads the body that starts at `offset`; gives it and its length with the delimiter's line, or none where the
/// delimiter never comes.
pub(crate) fn body(announced: &Announced, source: &Source<'_>, offset: usize) -> Option<(Heredoc, usize)> {
    let mut content = String::new();
    let mut length = 0;
    for raw in source.text[offset..].split_inclusive('\n') {
        length += raw.len();
        let line = raw.trim_end_matches(['\n', '\r']);
        let line = if announced.chomp { line.trim_start_matches('\t') } else { line };
        if line == announced.name {
            let Announced { name, expand, chomp, .. } = announced;
            let span = source.span(offset, offset + content.len());
            return Some((Heredoc { name: name.clone(), content, expand: *expand, chomp: *chomp, span }, length));
        }
        content.push_str(raw);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_found_among_words() {
        let names = |line| announced(line).into_iter().map(|a| (a.name, a.expand, a.chomp)).collect::<Vec<_>>();
        assert_eq!(names("RUN <<EOF"), [("EOF".into(), true, false)]);
        assert_eq!(names("RUN cat <<-\"A\" 3<<'B b'"), [("A".into(), false, true), ("B b".into(), false, false)]);
        assert_eq!(names("RUN x <<<y"), []);
        assert_eq!(names("RUN echo '<<EOF'"), []);
        assert_eq!(names("RUN a << b"), [("b".into(), true, false)]);
        assert!(announced("RUN a << b")[0].maybe && !announced("RUN a <<b")[0].maybe);
    }

    #[test]
    fn a_body_ends_at_its_delimiter() {
        let announced = announced("COPY <<-E /").remove(0);
        let source = Source::new("Dockerfile", "COPY <<-E /\n\t\ta\n b\n\tE\nrest");
        let (heredoc, length) = body(&announced, &source, 12).expect("a body");
        assert_eq!((heredoc.content.as_str(), length), ("\t\ta\n b\n", 10));
        assert_eq!((heredoc.span.start.line, heredoc.span.end.line, heredoc.span.end.column), (2, 4, 1));
        assert_eq!(body(&announced, &Source::new("Dockerfile", "a\n E\n"), 0), None);
    }
}
