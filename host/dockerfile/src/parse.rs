//! A whole build file: directives, global arguments, stages.

use plan::op::{Arguments, Instruction, Keyword};
use plan::{Diagnostic, Span};

use crate::directive::{self, Directives};
use crate::instruction::{self, Line};
use crate::line::{self, Source};
use crate::words;

/// A parsed build file.
#[derive(Clone, Debug)]
pub struct File {
    /// What its head says.
    pub directives: Directives,
    /// ARG before the first FROM: name, default as written, and where.
    pub global_args: Vec<GlobalArg>,
    /// The lines that these stand on.
    pub global_lines: Vec<Line>,
    /// In order.
    pub stages: Vec<Stage>,
}

/// An argument that FROM can use, and stages can import.
#[derive(Clone, Debug)]
pub struct GlobalArg {
    /// Its name, as written.
    pub name: String,
    /// Its default, as written.
    pub default: Option<String>,
    /// Where it stands.
    pub span: Span,
}

/// A FROM and what follows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// After AS, in lower case.
    pub name: Option<String>,
    /// As written.
    pub base: String,
    /// `--platform`, as written.
    pub platform: Option<String>,
    /// The FROM.
    pub line: Line,
    /// The instructions.
    pub lines: Vec<Line>,
}

/// Parses a build file. `keywords` are all that the instruction plugins handle.
///
/// # Errors
/// At the first thing that cannot be understood.
pub fn parse(name: &str, text: &str, keywords: &[Keyword]) -> Result<File, Diagnostic> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(name, text);
    let (directives, head) = directive::read(&source)?;
    let find = |keyword: &str| keywords.iter().find(|spec| spec.keyword == keyword);
    let (global_args, global_lines) = (Vec::new(), Vec::new());
    let mut file = File { directives, global_args, global_lines, stages: Vec::new() };
    let (mut offset, mut comments) = (head, Vec::new());
    while offset < text.len() {
        let logical = line::read(&source, offset, file.directives.escape);
        if logical.text.trim().is_empty() {
            note(&mut comments, logical.comment);
            offset = logical.next;
            continue;
        }
        let (mut line, next) = instruction::read(&source, offset, &logical, file.directives.escape, &find)?;
        offset = next;
        line.comments = std::mem::take(&mut comments);
        add(&mut file, line, keywords)?;
    }
    if file.stages.is_empty() {
        let message = "the build file holds no stage: it needs a FROM instruction";
        let help = "start it with FROM and a base image, or FROM scratch";
        return Err(Diagnostic::error("NoStage", message, Some(source.span(0, 0))).with_help(help));
    }
    Ok(file)
}

/// Keeps what a comment says for the instruction below; an empty one parts it from what is above.
fn note(comments: &mut Vec<String>, comment: Option<String>) {
    match comment {
        Some(comment) if comment.is_empty() => comments.clear(),
        comment => comments.extend(comment),
    }
}

/// What the head of a build file says, whatever language the rest is in.
///
/// # Errors
/// When it says something twice, or what cannot be.
pub fn directives(name: &str, text: &str) -> Result<Directives, Diagnostic> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    directive::read(&Source::new(name, text)).map(|(directives, _)| directives)
}

fn add(file: &mut File, line: Line, keywords: &[Keyword]) -> Result<(), Diagnostic> {
    let instruction = &line.instruction;
    match (instruction.keyword.as_str(), file.stages.last_mut()) {
        ("FROM", _) => file.stages.push(from(line)?),
        ("ARG", None) => {
            file.global_args.extend(global_args(instruction)?);
            file.global_lines.push(line);
        }
        (_, Some(stage)) => {
            check(instruction, keywords)?;
            stage.lines.push(line);
        }
        (keyword, None) => {
            check(instruction, keywords)?;
            let message = format!("no build stage in current context: {keyword} stands before the first FROM");
            return Err(Diagnostic::error("NoStage", message, Some(instruction.span.clone()))
                .with_help("only ARG may stand before the first FROM"));
        }
    }
    Ok(())
}

/// Refuses what no plugin handles.
fn check(instruction: &Instruction, keywords: &[Keyword]) -> Result<(), Diagnostic> {
    let keyword = &instruction.keyword;
    let Some(spec) = keywords.iter().find(|spec| spec.keyword == *keyword) else {
        let mut span = instruction.span.clone();
        span.end = span.start;
        // As written, which may be shorter than in upper case, or be cut by a continuation.
        let written = instruction.source.split_whitespace().next().map_or(0, str::len);
        span.end.column += u32::try_from(written).unwrap_or(1);
        let diagnostic = Diagnostic::error("UnknownInstruction", format!("unknown instruction: {keyword}"), Some(span));
        let known = keywords.iter().map(|spec| spec.keyword.as_str()).chain(["FROM"]);
        return Err(match plan::diagnostic::nearest(keyword, known) {
            Some(near) => diagnostic.with_help(format!("did you mean {near}?")),
            None => diagnostic.with_help("a plugin can add instructions: see `plywood plugin --help`"),
        });
    };
    instruction::check_flags(instruction, spec)
}

/// Parses what an ONBUILD has kept for the stages built on its image.
///
/// # Errors
/// When it is not an instruction that may be deferred.
pub fn parse_trigger(name: &str, text: &str, keywords: &[Keyword]) -> Result<Line, Diagnostic> {
    let source = Source::new(name, text);
    let find = |keyword: &str| keywords.iter().find(|spec| spec.keyword == keyword);
    let logical = line::read(&source, 0, '\\');
    let (line, next) = instruction::read(&source, 0, &logical, '\\', &find)?;
    let keyword = &line.instruction.keyword;
    if matches!(keyword.as_str(), "FROM" | "ONBUILD") {
        let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
        return Err(Diagnostic::error("InvalidTrigger", message, Some(line.instruction.span.clone())));
    }
    let mut below = text[next..].lines().map(str::trim_start);
    if below.any(|line| !line.is_empty() && !line.starts_with('#')) {
        let message = "onbuild trigger should be a single expression";
        return Err(Diagnostic::error("InvalidTrigger", message, Some(line.instruction.span.clone())));
    }
    check(&line.instruction, keywords)?;
    Ok(line)
}

/// Parses instructions that a plugin wants read in another's place, where `escape` escapes.
///
/// # Errors
/// At the first thing that cannot be understood; FROM is such a thing.
pub fn parse_included(name: &str, text: &str, escape: char, keywords: &[Keyword]) -> Result<Vec<Line>, Diagnostic> {
    let source = Source::new(name, text);
    let find = |keyword: &str| keywords.iter().find(|spec| spec.keyword == keyword);
    let (mut lines, mut offset, mut comments) = (Vec::new(), 0, Vec::new());
    while offset < text.len() {
        let logical = line::read(&source, offset, escape);
        if logical.text.trim().is_empty() {
            note(&mut comments, logical.comment);
            offset = logical.next;
            continue;
        }
        let (mut line, next) = instruction::read(&source, offset, &logical, escape, &find)?;
        line.comments = std::mem::take(&mut comments);
        check(&line.instruction, keywords)?;
        lines.push(line);
        offset = next;
    }
    Ok(lines)
}

fn global_args(instruction: &Instruction) -> Result<Vec<GlobalArg>, Diagnostic> {
    let error = |message: &str| Diagnostic::error("InvalidArg", message, Some(instruction.span.clone()));
    if let Some(flag) = instruction.flags.first() {
        let message = format!("unknown flag: --{}", flag.name);
        return Err(Diagnostic::error("UnknownFlag", message, Some(flag.span.clone())));
    }
    let Arguments::Text(text) = &instruction.arguments else {
        return Err(error("ARG has no JSON form"));
    };
    let words = words::split(text, instruction.escape);
    if words.is_empty() {
        return Err(error("ARG requires at least one argument"));
    }
    let arg = |word: String| match word.split_once('=') {
        Some(("", _)) => Err(error("ARG names can not be blank")),
        Some((name, default)) => {
            Ok(GlobalArg { name: name.into(), default: Some(default.into()), span: instruction.span.clone() })
        }
        None => Ok(GlobalArg { name: word, default: None, span: instruction.span.clone() }),
    };
    words.into_iter().map(arg).collect()
}

fn from(line: Line) -> Result<Stage, Diagnostic> {
    let instruction = &line.instruction;
    let error = |message: String| Diagnostic::error("InvalidFrom", message, Some(instruction.span.clone()));
    let mut platform = None;
    for flag in &instruction.flags {
        if flag.name != "platform" {
            let message = format!("unknown flag: --{}", flag.name);
            return Err(
                Diagnostic::error("UnknownFlag", message, Some(flag.span.clone())).with_help("FROM takes --platform")
            );
        }
        let value = flag.value.clone().ok_or_else(|| error("missing a value on flag: --platform".into()))?;
        if platform.is_some() {
            let message = "duplicate flag specified: platform".to_owned();
            return Err(Diagnostic::error("DuplicateFlag", message, Some(flag.span.clone())));
        }
        platform = Some(value);
    }
    let Arguments::Text(text) = &instruction.arguments else {
        return Err(error("FROM has no JSON form".into()));
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let (base, name) = match words[..] {
        [base] => (base, None),
        [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => (base, Some(name.to_lowercase())),
        _ => return Err(error("FROM requires either one or three arguments".into())),
    };
    if let Some(name) = &name {
        let legal = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !legal {
            return Err(error(format!(
                "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
            )));
        }
    }
    let platform = platform.filter(|platform| !platform.is_empty());
    Ok(Stage { name, base: base.to_owned(), platform, lines: Vec::new(), line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::op::FlagSpec;

    fn flag(name: &str, value: bool) -> FlagSpec {
        FlagSpec { name: name.into(), takes_value: value, repeatable: value, doc: String::new(), deviation: None }
    }

    fn keywords() -> Vec<Keyword> {
        let spec = |keyword: &str, heredoc, exec| Keyword {
            keyword: keyword.into(),
            flags: vec![flag("link", false), flag("mount", true)],
            doc: String::new(),
            allows_heredoc: heredoc,
            allows_exec_form: exec,
            deviation: None,
        };
        vec![
            spec("RUN", true, true),
            spec("COPY", true, true),
            spec("ENV", false, false),
            spec("ONBUILD", false, false),
        ]
    }

    fn message(text: &str) -> String {
        let diagnostic = parse("Dockerfile", text, &keywords()).expect_err(text);
        let span = diagnostic.span.expect("a place");
        format!("{}:{}: {}", span.start.line, span.start.column, diagnostic.message)
    }

    #[test]
    fn a_file_is_parsed() {
        let text = "# syntax=docker/dockerfile:1\n# escape=`\n\nARG V=1 W\nFROM --platform=$P a:$V AS B\n\
            RUN --mount=type=bind --mount=x `\n  # comment\n  echo hi\nCOPY <<A <<-B /\na\nA\n\tb\n\tB\nfrom scratch\n\
            RUN [\"x\", \"y\"]\nENV a=b\n";
        let file = parse("Dockerfile", text, &keywords()).expect("a file");
        assert_eq!(file.directives.escape, '`');
        assert_eq!(file.directives.syntax.as_ref().map(|s| s.0.as_str()), Some("docker/dockerfile:1"));
        assert_eq!(file.global_args.len(), 2);
        let stage = &file.stages[0];
        assert_eq!((stage.name.as_deref(), stage.base.as_str()), (Some("b"), "a:$V"));
        let run = &stage.lines[0].instruction;
        assert_eq!(run.flags.len(), 2);
        assert_eq!(run.arguments, Arguments::Text("echo hi".into()));
        assert_eq!((run.span.start.line, run.span.end.line), (6, 8));
        let copy = &stage.lines[1].instruction;
        assert_eq!(copy.heredocs.iter().map(|h| h.content.as_str()).collect::<Vec<_>>(), ["a\n", "\tb\n"]);
        assert_eq!(file.stages[1].lines[0].instruction.arguments, Arguments::Exec(vec!["x".into(), "y".into()]));
        assert_eq!(file.stages[1].lines.len(), 2);
    }

    #[test]
    fn arguments_are_located_over_continuations() {
        let file = parse("Dockerfile", "FROM a\nENV x=1 \\\n  yy=2\n", &keywords()).expect("a file");
        let span = file.stages[0].lines[0].locate(6, 10);
        assert_eq!((span.start.line, span.start.column), (3, 3));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_its_place() {
        assert_eq!(message(""), "1:1: the build file holds no stage: it needs a FROM instruction");
        assert_eq!(message("FROM a\nRNU x"), "2:1: unknown instruction: RNU");
        assert_eq!(message("RUN x"), "1:1: no build stage in current context: RUN stands before the first FROM");
        assert_eq!(message("FROM a b"), "1:1: FROM requires either one or three arguments");
        assert_eq!(
            message("FROM a AS 1x"),
            "1:1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols"
        );
        assert_eq!(message("FROM a\nRUN --mont=x y"), "2:5: unknown flag: --mont");
        assert_eq!(message("FROM a\nRUN --mount y"), "2:5: missing a value on flag: --mount");
        assert_eq!(message("FROM a\nRUN --link --link y"), "2:12: duplicate flag specified: link");
        assert_eq!(message("FROM a\nRUN --link=2 y"), "2:5: expecting boolean value for flag --link, not: 2");
        assert_eq!(
            message("FROM a\nRUN [\"a\", 1]"),
            "2:5: when using JSON array syntax, arrays must be comprised of strings only"
        );
        assert_eq!(
            message("FROM a\nCOPY <<E /\nx\n"),
            "2:1: unterminated heredoc: `E` stands on no line of its own below"
        );
        assert_eq!(message("# escape=x\nFROM a"), "1:1: invalid escape token 'x' does not match ` or \\");
        assert_eq!(message("# escape=`\n# escape=`\nFROM a"), "2:1: only one escape parser directive can be used");
    }

    #[test]
    fn an_unknown_word_is_shown_as_far_as_its_line_goes() {
        for (text, end) in [("FROM a\nRNU x", 4), ("FROM a\nR\\\nNU x", 3), ("FROM a\n\u{390}\n", 3)] {
            let diagnostic = parse("Dockerfile", text, &keywords()).expect_err(text);
            let span = diagnostic.span.expect("a place");
            assert_eq!((span.start.line, span.end.line, span.end.column), (2, 2, end), "{text}");
        }
    }

    #[test]
    fn triggers_are_one_instruction_and_may_not_nest() {
        assert!(parse_trigger("t", "ONBUILD RUN x", &keywords()).is_err());
        assert!(parse_trigger("t", "FROM x", &keywords()).is_err());
        assert!(parse_trigger("t", "RUN x", &keywords()).is_ok());
        assert!(parse_trigger("t", "RUN <<E\nx\nE\n# c\n", &keywords()).is_ok());
        assert!(parse_trigger("t", "RUN x\nRUN y", &keywords()).is_err());
    }
}
