//! COPY and ADD.

use plywood_sdk::instruction::{CopyOp, CopySource, InlineFile, Lowered, Op, OriginSource, PathSource, Unpack};

use crate::args::list;
use crate::lowering::{Result, flag, invalid, invalid_with_help, layer, not_yet, switch};
use crate::run::chomped;
use crate::scope::Scope;

/// `COPY [flags] source... destination`, `ADD [flags] source... destination`
pub(crate) fn lower(scope: &Scope<'_>) -> Result<Lowered> {
    let is_add = scope.instruction.keyword == "ADD";
    let flags = Flags::read(scope)?;
    let mut words = list(scope.instruction);
    let Some(destination) = words.pop().filter(|_| !words.is_empty()) else {
        let message = format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            scope.instruction.keyword
        );
        return Err(invalid("MissingArgument", message, &scope.instruction.span));
    };
    let destination = scope.expand(&destination)?;

    // A word that announces a here-document is a file of that name; the others are paths.
    let (mut patterns, mut inline, mut history) = (Vec::new(), Vec::new(), String::new());
    let mut heredocs = scope.instruction.heredocs.iter();
    for word in words {
        if announces_heredoc(&word)
            && let Some(heredoc) = heredocs.next()
        {
            let body = chomped(heredoc);
            let content = if heredoc.expand { scope.expand_body(&body)? } else { body };
            inline.push(InlineFile { name: heredoc.name.clone(), content: content.into_bytes() });
            continue;
        }
        patterns.push(scope.expand(&word)?);
    }
    for pattern in &patterns {
        check_source(scope, pattern, is_add)?;
        history.push_str(&format!(" {pattern}"));
    }
    for file in &inline {
        history.push_str(&format!(" <<{}", file.name));
    }
    let history = format!("{}{}{history} {destination} # buildkit", scope.instruction.keyword, flags.printed());

    let mut sources = Vec::new();
    if !patterns.is_empty() {
        sources.push(match &flags.from {
            Some(origin) => CopySource::Stage(OriginSource { origin: origin.clone(), patterns }),
            None => {
                let unpack = if flags.unpack.unwrap_or(is_add) { Unpack::Archives } else { Unpack::Never };
                CopySource::Context(PathSource { patterns, unpack })
            }
        });
    }
    if !inline.is_empty() {
        sources.push(CopySource::Inline(inline));
    }
    let op = CopyOp {
        sources,
        destination,
        chown: flags.chown,
        chmod: flags.chmod,
        exclude: flags.exclude,
        link: flags.link,
        parents: flags.parents,
    };
    Ok(layer(vec![Op::Copy(op)], history))
}

struct Flags {
    from: Option<String>,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    link: bool,
    parents: bool,
    unpack: Option<bool>,
}

impl Flags {
    fn read(scope: &Scope<'_>) -> Result<Self> {
        let expanded = |name: &str| {
            let value = flag(scope.instruction, name).filter(|value| !value.is_empty());
            value.map(|value| scope.expand(value)).transpose()
        };
        let from = flag(scope.instruction, "from").filter(|from| !from.is_empty());
        if from.is_some_and(|from| from.contains('$')) {
            let message = "variable expansion is not supported for --from";
            let help = "define a new stage with FROM using ARG from global scope, and copy from that";
            return Err(invalid_with_help("NoExpansion", message, &scope.instruction.span, help));
        }
        for name in ["checksum", "keep-git-dir"] {
            if let Some(flag) = scope.instruction.flags.iter().find(|flag| flag.name == name) {
                return Err(not_yet(&format!("ADD --{name}"), &flag.span));
            }
        }
        let chmod = expanded("chmod")?;
        if let Some(mode) = &chmod {
            check_mode(scope, mode)?;
        }
        let excludes = scope.instruction.flags.iter().filter(|flag| flag.name == "exclude");
        let exclude =
            excludes.map(|flag| scope.expand_quietly(flag.value.as_deref().unwrap_or_default())).collect::<Result<_>>()?;
        Ok(Self {
            from: from.map(|from| scope.stage.resolve_stage(from).unwrap_or_else(|| from.to_owned())),
            chown: expanded("chown")?,
            link: switch(scope.instruction, "link").unwrap_or(false) && chmod.is_none(),
            chmod,
            exclude,
            parents: switch(scope.instruction, "parents").unwrap_or(false),
            unpack: switch(scope.instruction, "unpack"),
        })
    }

    /// The flags that BuildKit's history shows.
    fn printed(&self) -> String {
        let mut text = String::new();
        if self.parents {
            text.push_str(" --parents");
        }
        self.chown.iter().for_each(|chown| text.push_str(&format!(" --chown={chown}")));
        self.chmod.iter().for_each(|chmod| text.push_str(&format!(" --chmod={chmod}")));
        text
    }
}

/// Octal up to 07777, or chmod's clauses; a value that looks like a number must be one.
fn check_mode(scope: &Scope<'_>, mode: &str) -> Result<()> {
    let octal = u32::from_str_radix(mode, 8);
    let symbolic = !mode.is_empty()
        && mode.split(',').all(|clause| {
            let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
            rest.starts_with(['+', '-', '='])
                && rest
                    .chars()
                    .all(|c| matches!(c, '+' | '-' | '=' | 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o'))
        });
    if octal.is_ok_and(|mode| mode <= 0o7777) || symbolic {
        return Ok(());
    }
    let message = format!("invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777");
    let help = "or chmod's symbolic form, as in u=rwX,go=rX";
    Err(invalid_with_help("InvalidMode", message, &scope.instruction.span, help))
}

fn announces_heredoc(word: &str) -> bool {
    word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<").is_some_and(|rest| !rest.starts_with('<'))
}

fn check_source(scope: &Scope<'_>, source: &str, is_add: bool) -> Result<()> {
    let is_http = source.starts_with("http://") || source.starts_with("https://");
    let path = source.split(['#', '?']).next().unwrap_or(source);
    let is_git = source.starts_with("git://")
        || source.starts_with("ssh://")
        || source.starts_with("git@")
        || is_http && path.ends_with(".git");
    match (is_git, is_http, is_add) {
        (true, _, false) => {
            Err(invalid("InvalidSource", "source can't be a git ref for COPY", &scope.instruction.span))
        }
        (false, true, false) => {
            Err(invalid("InvalidSource", "source can't be a URL for COPY", &scope.instruction.span))
        }
        (true, _, true) => Err(not_yet("ADD from a git repository", &scope.instruction.span)),
        (false, true, true) => Err(not_yet("ADD from a URL", &scope.instruction.span)),
        (false, false, _) => Ok(()),
    }
}
