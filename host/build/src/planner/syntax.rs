//! Which language a build file is in, by its own word or the user's.

use dockerfile::Directives;
use plan::Diagnostic;

use crate::error::Error;
use crate::request::BuildRequest;

/// `# syntax=docker/dockerfile...` is what is built in; anything else would have to be a pinned plugin.
pub(super) fn check(directives: &Directives, request: &BuildRequest, known: &[String]) -> Result<(), Error> {
    let given = request.build_args.iter().rev().find(|(name, _)| name == "BUILDKIT_SYNTAX");
    let (value, span) = match (given, &directives.syntax) {
        (Some((_, value)), _) => (value, None),
        (None, Some((value, span))) => (value, Some(span.clone())),
        (None, None) => return Ok(()),
    };
    let image = value.split_whitespace().next().unwrap_or_default();
    let name = image.split(['@', ':']).next().unwrap_or_default();
    let builtin = ["docker/dockerfile", "docker.io/docker/dockerfile", "dockerfile.v0"];
    let upstream = ["docker/dockerfile-upstream", "docker.io/docker/dockerfile-upstream"];
    if builtin.contains(&name) || upstream.contains(&name) || known.iter().any(|known| known == image) {
        return Ok(());
    }
    let message = format!("the syntax `{value}` is none that this program has");
    let help = "docker/dockerfile:1 is built in; a plugin that is to serve another must be configured and pinned, as \
                `[plugins.NAME]` with `source`, `digest` and `syntax`";
    Err(Diagnostic::error("UnknownSyntax", message, span).with_help(help).into())
}
