//! COPY and ADD.

use plywood_sdk::instruction::{
    CopyOp, CopySource, GitSource, HttpSource, InlineFile, Lowered, Op, OriginSource, PathSource, Unpack,
};

use crate::args::list;
use crate::lowering::{Result, flag, invalid, invalid_with_help, lowered, switch};
use crate::run::chomped;
use crate::scope::Scope;

/// `COPY [flags] source... destination`, `ADD [flags] source... destination`
pub(crate) fn lower(scope: &Scope<'_>) -> Result<Lowered> {
    let is_add = scope.instruction.keyword == "ADD";
    let flags = Flags::read(scope)?;
    let mut words = words(scope);
    let Some(destination) = words.pop().filter(|_| !words.is_empty()) else {
        let message = format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            scope.instruction.keyword
        );
        return Err(invalid("MissingArgument", message, &scope.instruction.span));
    };
    if announces_heredoc(&destination) && !scope.instruction.heredocs.is_empty() {
        let message = format!("{} cannot accept a heredoc as a destination", scope.instruction.keyword);
        return Err(invalid("HeredocDestination", message, &scope.instruction.span));
    }
    let destination = scope.expand(&destination)?;

    // A word that announces a here-document is a file of that name; the others are paths.
    let (mut patterns, mut inline, mut history) = (Vec::new(), Vec::new(), String::new());
    let mut heredocs = scope.instruction.heredocs.iter();
    for word in words {
        if announces_heredoc(&word)
            && let Some(heredoc) = heredocs.next()
        {
            if heredoc.name.contains('/') {
                let message =
                    format!("the here-document `{}` is to be a file of that name: leave out the slash", heredoc.name);
                return Err(invalid("InvalidHeredocName", message, &scope.instruction.span));
            }
            let body = chomped(heredoc);
            let content = if heredoc.expand { scope.expand_body(&body)? } else { body };
            inline.push(InlineFile { name: heredoc.name.clone(), content: content.into_bytes() });
            continue;
        }
        patterns.push(scope.expand(&word)?);
    }
    if flags.checksum.is_some() && (patterns.len() != 1 || !inline.is_empty()) {
        let message = "checksum can't be specified for multiple sources, or for here-documents";
        return Err(invalid("InvalidSource", message, &scope.instruction.span));
    }
    let sources_of = Sources { scope, flags: &flags, is_add };
    let mut sources: Vec<CopySource> = Vec::new();
    for pattern in patterns {
        history.push_str(&format!(" {pattern}"));
        sources_of.add(pattern, &mut sources)?;
    }
    for file in &inline {
        history.push_str(&format!(" <<{}", file.name));
    }
    let history = format!("{}{}{history} {destination} # buildkit", scope.instruction.keyword, flags.printed());

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
    Ok(lowered(vec![Op::Copy(op)], history))
}

struct Flags {
    from: Option<String>,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    link: bool,
    parents: bool,
    unpack: Option<bool>,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
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
        let chmod = expanded("chmod")?;
        if let Some(mode) = &chmod {
            check_mode(scope, mode)?;
        }
        let excludes = scope.instruction.flags.iter().filter(|flag| flag.name == "exclude");
        let exclude = excludes
            .map(|flag| scope.expand_quietly(flag.value.as_deref().unwrap_or_default()))
            .collect::<Result<_>>()?;
        Ok(Self {
            from: from.map(|from| scope.stage.resolve_stage(from).unwrap_or_else(|| from.to_owned())),
            chown: expanded("chown")?,
            link: switch(scope.instruction, "link").unwrap_or(false) && chmod.is_none(),
            chmod,
            exclude,
            parents: switch(scope.instruction, "parents").unwrap_or(false),
            unpack: switch(scope.instruction, "unpack"),
            checksum: expanded("checksum")?,
            keep_git_dir: switch(scope.instruction, "keep-git-dir"),
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
    let octal = u32::from_str_radix(if mode.starts_with('+') { "" } else { mode }, 8);
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

/// The words of the instruction; a mark of a here-document belongs to its name, whether a blank stands between them or
/// not.
fn words(scope: &Scope<'_>) -> Vec<String> {
    let (mut joined, mut words) = (Vec::new(), list(scope.instruction).into_iter());
    while let Some(word) = words.next() {
        let is_mark = word.trim_start_matches(|c: char| c.is_ascii_digit()) == "<<";
        joined.push(match is_mark && !scope.instruction.heredocs.is_empty() {
            true => format!("{word}{}", words.next().unwrap_or_default()),
            false => word,
        });
    }
    joined
}

fn announces_heredoc(word: &str) -> bool {
    word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<").is_some_and(|rest| !rest.starts_with('<'))
}

/// What each source is: a path, a file on the web, a repository.
struct Sources<'s> {
    scope: &'s Scope<'s>,
    flags: &'s Flags,
    is_add: bool,
}

impl Sources<'_> {
    fn add(&self, source: String, sources: &mut Vec<CopySource>) -> Result<()> {
        let flags = self.flags;
        let error = |message: &str| Err(invalid("InvalidSource", message, &self.scope.instruction.span));
        let (is_git, is_http) = (is_git(&source), source.starts_with("http://") || source.starts_with("https://"));
        if is_git && !self.is_add {
            return error("source can't be a git ref for COPY");
        }
        if is_http && !self.is_add {
            return error("source can't be a URL for COPY");
        }
        if flags.checksum.is_some() && !is_git && !is_http {
            return error("checksum requires HTTP(S) or Git sources");
        }
        let unpack = |default: bool| if flags.unpack.unwrap_or(default) { Unpack::Archives } else { Unpack::Never };
        if is_git {
            let (checksum, keep_git_dir) = (flags.checksum.clone(), flags.keep_git_dir);
            sources.push(CopySource::Git(GitSource { url: source, checksum, keep_git_dir }));
            return Ok(());
        }
        if is_http {
            let checksum = flags.checksum.clone();
            if checksum.as_deref().is_some_and(|checksum| !is_digest(checksum)) {
                return error("invalid checksum digest format: it must be sha256: and 64 hexadecimal digits");
            }
            sources.push(CopySource::Http(HttpSource { url: source, checksum, unpack: unpack(false) }));
            return Ok(());
        }
        match (sources.last_mut(), &flags.from) {
            (Some(CopySource::Context(paths)), None) => paths.patterns.push(source),
            (Some(CopySource::Stage(from)), Some(_)) => from.patterns.push(source),
            (_, None) => {
                let paths = PathSource { patterns: vec![source], unpack: unpack(self.is_add) };
                sources.push(CopySource::Context(paths));
            }
            (_, Some(origin)) => {
                sources.push(CopySource::Stage(OriginSource { origin: origin.clone(), patterns: vec![source] }));
            }
        }
        Ok(())
    }
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a source is a repository: by its scheme, by `.git` at the end of its path, or as `user@host:path`.
fn is_git(source: &str) -> bool {
    let path = source.split(['#', '?']).next().unwrap_or(source);
    if let Some((scheme, rest)) = path.split_once("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => rest.contains('/') && rest.ends_with(".git"),
            _ => false,
        };
    }
    let Some((user, rest)) = path.split_once('@') else {
        return false;
    };
    let Some((host, path)) = rest.split_once(':') else {
        return false;
    };
    let is_name = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(c))
    };
    is_name(user, "_") && is_name(host, ".") && !path.is_empty()
}
