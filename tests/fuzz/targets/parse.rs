//! Build files, triggers and included instructions: no panic, and every span lies where it says.

#![no_main]

use std::sync::LazyLock;

use dockerfile::File;
use libfuzzer_sys::fuzz_target;
use plan::op::Keyword;
use plywood_fuzz::language::{self, Lines};
use plywood_fuzz::memory;

static KEYWORDS: LazyLock<Vec<Keyword>> = LazyLock::new(language::keywords);

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    memory::within((1 << 20) + 2000 * text.len(), || {
        whole(&text);
        let lines = Lines::of(&text);
        match dockerfile::parse_trigger("trigger", &text, &KEYWORDS) {
            Ok(line) => lines.hold_line(&line),
            Err(diagnostic) => lines.hold_of(&diagnostic),
        }
        match dockerfile::parse_included("included", &text, '\\', &KEYWORDS) {
            Ok(included) => included.iter().for_each(|line| lines.hold_line(line)),
            Err(diagnostic) => lines.hold_of(&diagnostic),
        }
    });
});

fn whole(text: &str) {
    // Columns count from behind a byte-order mark.
    let seen = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::of(seen);
    match dockerfile::parse("Dockerfile", text, &KEYWORDS) {
        Ok(file) => hold(seen, &lines, &file),
        Err(diagnostic) => lines.hold_of(&diagnostic),
    }
}

fn hold(text: &str, lines: &Lines<'_>, file: &File) {
    file.directives.syntax.iter().chain(&file.directives.check).for_each(|(_, span)| lines.hold(span));
    dockerfile::lint::syntax(file).iter().for_each(|finding| lines.hold_of(&finding.diagnostic));
    file.global_args.iter().for_each(|arg| lines.hold(&arg.span));
    for line in file.stages.iter().flat_map(|stage| std::iter::once(&stage.line).chain(&stage.lines)) {
        lines.hold_line(line);
        let instruction = &line.instruction;
        assert!(text.contains(&instruction.source), "an instruction whose source is not in the file");
        for heredoc in &instruction.heredocs {
            assert!(text.contains(&heredoc.content), "a here-document that is not in the file");
        }
        if let plan::op::Arguments::Text(text) = &instruction.arguments {
            for word in dockerfile::split_words(text, instruction.escape) {
                let again = dockerfile::split_words(&word, instruction.escape);
                assert_eq!(again, [word], "a word that is not one");
            }
        }
    }
}
