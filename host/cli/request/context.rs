//! Where the build context is and which file is built: a folder, an archive, standard input, a repository, the web.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use build::ContextSource;
use build::remote::{self, Reference, Remote, Source};

use crate::args::build::Input;

/// A build file is text that a person has written.
const LARGEST: u64 = 16 << 20;

/// A context, and what is built in it.
pub(super) struct Found {
    pub(super) context: ContextSource,
    pub(super) file_name: String,
    pub(super) file: String,
}

/// Whether the context is a repository behind ssh.
pub(super) fn needs_agent(input: &Input) -> bool {
    let repository = Reference::parse_context(&input.context).and_then(Result::ok);
    repository.is_some_and(|reference| reference.remote.starts_with("ssh://") || !reference.remote.contains("://"))
}

pub(super) async fn find(input: &Input, build_args: &[(String, String)], remote: &Remote) -> Result<Found> {
    if input.context == "-" {
        return stdin(input);
    }
    let path = Path::new(&input.context);
    if path.is_dir() {
        return folder(input, path, remote).await;
    }
    if path.is_file() {
        let context = build::read_archive(std::fs::File::open(path)?);
        let context = Arc::new(context.with_context(|| format!("the context in {}", input.context))?);
        return in_context(input, context, remote).await;
    }
    if let Some(reference) = Reference::parse_context(&input.context) {
        let mut reference = reference.map_err(|reason| anyhow!("the context {}: {reason}", input.context))?;
        if super::given(build_args, "BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|value| is_true(&value)) {
            reference.keep_git_dir = Some(true);
        }
        let has_epoch = super::given(build_args, "SOURCE_DATE_EPOCH").is_some();
        reference.commit_time = reference.commit_time.or(has_epoch.then_some(true));
        return in_context(input, remote.checkout(&reference).await?, remote).await;
    }
    if remote::is_bucket(&input.context) || remote::is_address(&input.context) {
        let source = match remote::is_bucket(&input.context) {
            true => remote.bucket(&input.context, &super::aws::of_buckets()?).await?,
            false => remote.source(&input.context).await?,
        };
        return match source {
            Source::Archive(context) => in_context(input, Arc::new(context), remote).await,
            Source::BuildFile(file, context) => {
                if input.file.is_some() {
                    bail!("the context {} is a Dockerfile itself: leave out -f", input.context);
                }
                let (context, file_name) = (ContextSource::Loaded(context), "Dockerfile".to_owned());
                Ok(Found { context, file_name, file })
            }
        };
    }
    bail!("the context {} is not there: it is a folder, an archive, - or the address of one", input.context)
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// An archive on standard input, or a build file that needs no context.
fn stdin(input: &Input) -> Result<Found> {
    if input.file.as_deref() == Some("-") {
        bail!("both the Dockerfile and the context cannot come from standard input");
    }
    let mut bytes = vec![0; 1024];
    let mut stdin = std::io::stdin();
    let mut length = 0;
    while length < bytes.len() {
        match stdin.read(&mut bytes[length..]).context("standard input")? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    if build::is_archive(&bytes) {
        let whole = std::io::Cursor::new(bytes).chain(stdin);
        let context = Arc::new(build::read_archive(whole).context("the context in standard input")?);
        let (file_name, file) = match input.file.as_deref() {
            Some(file) if Path::new(file).exists() => (file.to_owned(), read(&mut std::fs::File::open(file)?, file)?),
            file => inside(&context, file)?,
        };
        return Ok(Found { context: ContextSource::Loaded(context), file_name, file });
    }
    if input.file.is_some() {
        bail!("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles");
    }
    let file = read(&mut std::io::Cursor::new(bytes).chain(stdin), "the Dockerfile on standard input")?;
    let context = ContextSource::Loaded(Arc::new(build::empty_context()?));
    Ok(Found { context, file_name: "Dockerfile".into(), file })
}

async fn folder(input: &Input, path: &Path, remote: &Remote) -> Result<Found> {
    let folder = std::path::absolute(path)?;
    if let Some((file_name, file)) = apart(input, remote).await? {
        return Ok(Found { context: ContextSource::Folder(folder, None), file_name, file });
    }
    let file = match &input.file {
        Some(file) => PathBuf::from(file),
        None => Some(folder.join("Dockerfile")).filter(|file| file.exists()).unwrap_or_else(|| {
            Some(folder.join("dockerfile")).filter(|file| file.exists()).unwrap_or_else(|| folder.join("Dockerfile"))
        }),
    };
    // As buildx does: a name is looked for here, and then in the context.
    let file = if file.exists() || file.is_absolute() { file } else { folder.join(&file) };
    let file = std::path::absolute(&file)?;
    let text = build_file(&folder, &file).with_context(|| format!("the Dockerfile {}", file.display()))?;
    let file_name = input.file.clone().unwrap_or_else(|| "Dockerfile".into());
    Ok(Found { context: ContextSource::Folder(folder, Some(file)), file_name, file: text })
}

/// The build file's text. One in the context is whoever's the context is; what the user has named elsewhere may be a
/// pipe.
fn build_file(folder: &Path, file: &Path) -> Result<String> {
    let is_inside = |rest: &Path| rest.components().all(|part| part != std::path::Component::ParentDir);
    if file.strip_prefix(folder).is_ok_and(is_inside) {
        let bytes = build::read_file(file, Some(folder), LARGEST)?;
        return text(bytes.context("it is not there")?);
    }
    read(&mut std::fs::File::open(file)?, "it")
}

/// A context that has been read, with the build file in it unless that is given apart.
async fn in_context(input: &Input, context: Arc<build::Context>, remote: &Remote) -> Result<Found> {
    let (file_name, file) = match apart(input, remote).await? {
        Some(found) => found,
        None => match input.file.as_deref() {
            Some(file) if Path::new(file).is_absolute() => {
                (file.to_owned(), read(&mut std::fs::File::open(file).context(file.to_owned())?, file)?)
            }
            file => inside(&context, file)?,
        },
    };
    Ok(Found { context: ContextSource::Loaded(context), file_name, file })
}

/// A build file on standard input or the web.
async fn apart(input: &Input, remote: &Remote) -> Result<Option<(String, String)>> {
    match input.file.as_deref() {
        Some("-") => {
            let text = read(&mut std::io::stdin(), "the Dockerfile on standard input")?;
            Ok(Some(("Dockerfile".into(), text)))
        }
        Some(file) if remote::is_address(file) => match remote.source(file).await? {
            Source::BuildFile(text, _) => Ok(Some((file.to_owned(), text))),
            Source::Archive(_) => bail!("the Dockerfile {file} is an archive"),
        },
        _ => Ok(None),
    }
}

fn inside(context: &build::Context, file: Option<&str>) -> Result<(String, String)> {
    let name = file.unwrap_or("Dockerfile");
    let opened = build::open_in_context(context, name).or_else(|error| match file {
        None => build::open_in_context(context, "dockerfile").map_err(|_| error),
        Some(_) => Err(error),
    });
    let mut opened = opened.with_context(|| format!("the Dockerfile {name} in the context"))?;
    Ok((name.to_owned(), read(&mut opened, name)?))
}

fn read(source: &mut impl Read, what: &str) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut bytes).with_context(|| what.to_owned())?;
    if bytes.len() as u64 > LARGEST {
        bail!("{what} is longer than {LARGEST} bytes");
    }
    text(bytes).with_context(|| what.to_owned())
}

fn text(bytes: Vec<u8>) -> Result<String> {
    build::text(bytes).map_err(|line| anyhow::anyhow!("line {line} is not UTF-8, as all but comments must be"))
}
