//! The language of build files as the targets need it: which instructions there are, and where spans may lie.

use dockerfile::Line;
use plan::op::{Arguments, FlagSpec, Keyword};
use plan::{Diagnostic, Span};

fn flag(name: &str) -> FlagSpec {
    // As the built-in plugin has them: switches, repeatable ones, and values.
    let switch = matches!(name, "link" | "parents" | "unpack" | "keep-git-dir");
    let repeatable = matches!(name, "mount" | "exclude" | "device");
    FlagSpec { name: name.into(), takes_value: !switch, repeatable, doc: String::new(), deviation: None }
}

/// The instructions of the built-in plugin.
#[must_use]
pub fn keywords() -> Vec<Keyword> {
    let spec = |keyword: &str, allows_heredoc, allows_exec_form, flags: &[&str]| Keyword {
        keyword: keyword.into(),
        flags: flags.iter().map(|name| flag(name)).collect(),
        doc: String::new(),
        allows_heredoc,
        allows_exec_form,
        deviation: None,
    };
    let mut keywords = vec![
        spec("ADD", true, true, &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"]),
        spec("COPY", true, true, &["chown", "chmod", "link", "exclude", "from", "parents"]),
        spec("RUN", true, true, &["mount", "network", "security", "device"]),
        spec("HEALTHCHECK", false, false, &["interval", "timeout", "start-period", "start-interval", "retries"]),
    ];
    for name in ["CMD", "ENTRYPOINT", "SHELL", "VOLUME"] {
        keywords.push(spec(name, false, true, &[]));
    }
    for name in ["ARG", "ENV", "EXPOSE", "LABEL", "MAINTAINER", "ONBUILD", "STOPSIGNAL", "USER", "WORKDIR"] {
        keywords.push(spec(name, false, false, &[]));
    }
    keywords
}

/// A text by lines, for looking at what a span shows.
pub struct Lines<'t>(Vec<&'t [u8]>);

impl<'t> Lines<'t> {
    /// Of what the parser sees.
    #[must_use]
    pub fn of(text: &'t str) -> Self {
        Self(text.as_bytes().split(|byte| *byte == b'\n').collect())
    }

    /// Both ends of a span are places in the text, and in order.
    pub fn hold(&self, span: &Span) {
        assert!(span.start <= span.end, "a span that ends before it starts: {span:?}");
        for place in [span.start, span.end] {
            let line = (place.line as usize).checked_sub(1).and_then(|line| self.0.get(line));
            // One column past the line's last byte is its newline, or the end of the text.
            assert!(
                line.is_some_and(|line| place.column >= 1 && place.column as usize <= line.len() + 1),
                "a span outside of the text: {span:?}"
            );
        }
    }

    /// As [`Self::hold`], for what a diagnostic points at.
    pub fn hold_of(&self, diagnostic: &Diagnostic) {
        diagnostic.span.iter().for_each(|span| self.hold(span));
    }

    /// Every span of an instruction; and each byte of its arguments is where it is said to be.
    pub fn hold_line(&self, line: &Line) {
        let instruction = &line.instruction;
        self.hold(&instruction.span);
        instruction.flags.iter().for_each(|flag| self.hold(&flag.span));
        if let Arguments::Text(text) = &instruction.arguments {
            for (at, byte) in text.bytes().enumerate() {
                let span = line.locate(at, at + 1);
                self.hold(&span);
                let shown = self.0[span.start.line as usize - 1].get(span.start.column as usize - 1);
                assert_eq!(shown, Some(&byte), "byte {at} of {text:?} is not at {span:?}");
            }
            self.hold(&line.locate(0, text.len()));
        }
        self.hold(&line.locate(0, usize::MAX / 2));
    }
}
