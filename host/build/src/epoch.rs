//! The time that an image shall bear (reproducible-builds.org, SOURCE_DATE_EPOCH): a number of seconds, or the time of
//! something that comes from elsewhere: the context, a named context, a stage that is one repository or file.

use std::sync::Arc;

use dockerfile::File;
use plan::op::CopySource;

use crate::error::Error;
use crate::planner::{self, Extent};
use crate::remote::Remote;
use crate::request::{BuildRequest, ContextSource, NamedContext, Tools};
use crate::resolve::Lookups;

pub(crate) const NAME: &str = "SOURCE_DATE_EPOCH";

/// The time of a build, and the request with the number in the place of what led to it.
pub(crate) async fn settle(request: &BuildRequest, tools: &Tools) -> Result<(BuildRequest, Option<u64>), Error> {
    let mut settled = request.clone();
    let given = request.build_args.iter().rev().find(|(name, _)| name == NAME).map(|(_, value)| value.clone());
    let value = match given {
        Some(value) => value,
        // The file itself may say it, for FROM and all stages.
        None if request.file.contains(NAME) => {
            let keywords = planner::keywords(&tools.instructions);
            let file = dockerfile::parse(&request.file_name, &request.file, &keywords)?;
            let global = file.global_args.iter().rev().find(|arg| arg.name == NAME);
            global.and_then(|arg| arg.default.clone()).unwrap_or_default()
        }
        None => return Ok((settled, None)),
    };
    settled.build_args.retain(|(name, _)| name != NAME);
    if value.is_empty() {
        return Ok((settled, None));
    }
    let time = match value.parse::<i64>() {
        Ok(number) => Some(number),
        Err(_) => named(&settled, tools, &value).await?,
    };
    let invalid = |_| Error::Request(format!("invalid {NAME}: {value}: times before 1970 are not supported"));
    let time = time.map(u64::try_from).transpose().map_err(invalid)?;
    settled.build_args.extend(time.map(|time| (NAME.to_owned(), time.to_string())));
    Ok((settled, time))
}

/// The time of what a name means; none where that has no time.
async fn named(request: &BuildRequest, tools: &Tools, name: &str) -> Result<Option<i64>, Error> {
    if name == "context" {
        return Ok(match &request.context {
            ContextSource::Loaded(context) => context.made,
            ContextSource::Folder(..) => None,
        });
    }
    let lookups = Arc::new(Lookups::new(request, tools));
    match request.named_contexts.get(name) {
        Some(NamedContext::Git(_) | NamedContext::Web(_)) => return Ok(lookups.context(Some(name)).await?.made),
        Some(NamedContext::Folder(_) | NamedContext::Image(_)) => return Ok(None),
        None => {}
    }
    let keywords = planner::keywords(&tools.instructions);
    let file = dockerfile::parse(&request.file_name, &request.file, &keywords)?;
    let lower = name.to_lowercase();
    match file.stages.iter().position(|stage| stage.name.as_deref() == Some(&lower)) {
        Some(stage) => of_stage(request, tools, lookups, &file, stage).await,
        None => Err(Error::Request(format!("invalid {NAME}: {name}"))),
    }
}

/// The time of a stage that is nothing but one repository or one file of the web.
async fn of_stage(
    request: &BuildRequest,
    tools: &Tools,
    lookups: Arc<Lookups>,
    file: &File,
    stage: usize,
) -> Result<Option<i64>, Error> {
    let refuse = |reason: &str| Err(Error::Request(format!("{NAME} stage {reason}")));
    let syntax = &file.stages[stage];
    if syntax.base != "scratch" {
        return refuse("must use FROM scratch");
    }
    let request = BuildRequest { target: syntax.name.clone(), ..request.clone() };
    let quiet: crate::Events = Arc::new(|_| {});
    let extent = Extent::Target;
    let planner =
        planner::plan(&request, &tools.instructions, &tools.syntaxes, lookups.clone(), &quiet, extent).await?;
    let mut found = None;
    for line in syntax.lines.iter().filter(|line| line.instruction.keyword != "ARG") {
        let sources = planner.sources_at(stage, &line.instruction.span);
        match sources.as_deref() {
            Some([source @ (CopySource::Http { .. } | CopySource::Git(_))]) if found.is_none() => {
                found = Some(source.clone());
            }
            Some([CopySource::Http { .. } | CopySource::Git(_)]) => {
                return refuse("must contain exactly one remote ADD");
            }
            Some([_, _, ..]) => return refuse("must contain exactly one remote ADD source"),
            _ => {
                let keyword = &line.instruction.keyword;
                return refuse(&format!("does not meet source-only requirements: unsupported {keyword} instruction"));
            }
        }
    }
    match found {
        Some(source) => of_source(&lookups.remote, &source).await,
        None => refuse("must contain exactly one remote ADD"),
    }
}

async fn of_source(remote: &Remote, source: &CopySource) -> Result<Option<i64>, Error> {
    match source {
        CopySource::Git(git) => {
            let reference = crate::remote::reference(git).map_err(Error::Request)?;
            Ok(remote.checkout(&reference).await?.made)
        }
        CopySource::Http { url, checksum, .. } => {
            let file = remote.file(url, *checksum).await?;
            match file.made {
                Some(time) => Ok(Some(time)),
                None => newest_in(&file),
            }
        }
        _ => Ok(None),
    }
}

/// The time of the newest file in an archive; none for what is no archive.
fn newest_in(file: &context::Context) -> Result<Option<i64>, Error> {
    let Some((path, _)) = file.tree.iter().next() else { return Ok(None) };
    let name = String::from_utf8_lossy(path).into_owned();
    let open = || crate::open_in_context(file, &name).map_err(|error| Error::Request(format!("{name}: {error}")));
    if !context::archive::is_tar(open()?) {
        return Ok(None);
    }
    Ok(context::archive::read(open()?, false)?.made)
}
