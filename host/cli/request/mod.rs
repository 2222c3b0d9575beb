//! What was typed becomes what is meant.

mod aws;
mod cache;
mod commands;
mod context;
pub(crate) mod executor;
mod output;

pub(crate) use cache::place as cache_place;
pub(crate) use commands::{age, bytes};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use build::commands::Commands;
use build::remote::{self, Remote};
use build::{BuildRequest, NamedContext, Output};
use image::Location;
use oci::Reference;
use oci::media_type::{Compression, Format};

use crate::args::build::{BuildArgs, ImageFormat, Input, LayerCompression, PlanArgs};

/// The folder of a context that is one, for the project's configuration.
pub(crate) fn project(input: &Input) -> Option<&Path> {
    Some(Path::new(&input.context)).filter(|path| path.is_dir())
}

/// What a build with this context is known by.
pub(crate) fn project_name(context: &str) -> String {
    std::fs::canonicalize(context).map_or_else(|_| context.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// A request without outputs, for planning. `roots` are certificates beyond the machine's.
pub(crate) async fn plan(args: &PlanArgs, roots: &[PathBuf]) -> Result<BuildRequest> {
    let secrets = args.secret.iter().map(|text| secret(text)).collect::<Result<_>>()?;
    request(&args.input, roots, secrets, commands::commands(&args.commands)?).await
}

/// What planning and building share.
async fn request(
    input: &Input,
    roots: &[PathBuf],
    secrets: BTreeMap<String, Vec<u8>>,
    mut commands: Commands,
) -> Result<BuildRequest> {
    let build_args: Vec<(String, String)> = input.build_arg.iter().filter_map(|text| build_arg(text)).collect();
    commands.surroundings.host_name = given(&build_args, "BUILDKIT_SANDBOX_HOSTNAME");
    commands.cache_mount_space = given(&build_args, "BUILDKIT_CACHE_MOUNT_NS");
    if context::needs_agent(input) && !commands.ssh.contains_key("default") {
        commands.ssh.extend(commands::own_agent()?);
    }
    let remote = Remote::new(roots.to_vec(), secrets.clone(), commands.ssh.get("default").cloned(), None);
    let found = context::find(input, &build_args, &remote).await?;
    let mut platforms: Vec<oci::Platform> = Vec::new();
    for text in input.platform.iter().flat_map(|text| text.split(',')).map(str::trim) {
        let platform = if text.eq_ignore_ascii_case("local") { oci::Platform::host() } else { text.parse()? };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    let several_platforms = match given(&build_args, "BUILDKIT_MULTI_PLATFORM").as_deref() {
        None => false,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") if platforms.len() > 1 => {
            bail!("conflicting config: returning multiple target platforms is not allowed")
        }
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(other) => bail!("invalid boolean value for multi-platform: {other}"),
    };
    Ok(BuildRequest {
        project: project_name(&input.context),
        file_name: found.file_name,
        file: found.file,
        target: input.target.clone(),
        platforms,
        several_platforms,
        build_args,
        labels: Vec::new(),
        annotations: Vec::new(),
        context: found.context,
        named_contexts: input.build_context.iter().map(|text| named_context(text)).collect::<Result<_>>()?,
        fetched_images: BTreeMap::new(),
        secrets,
        commands,
        no_cache: input.no_cache,
        cache_from: input.cache_from.iter().map(|text| cache::from(text)).collect::<Result<Vec<_>>>()?.concat(),
        cache_to: Vec::new(),
        inline_cache: false,
        cache_mount_store: None,
        require_cached: false,
        pull: input.pull,
        tags: Vec::new(),
        outputs: Vec::new(),
        isolation: None,
        jobs: std::thread::available_parallelism().map_or(2, usize::from),
        ca_bundle: None,
        format: Format::Oci,
        compression: Compression::Gzip,
        rewrite_times: false,
    })
}

/// A request to build.
pub(crate) async fn build(args: &BuildArgs, roots: &[PathBuf]) -> Result<BuildRequest> {
    for (flag, value) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        if value != "false" {
            bail!("--{flag}={value} is not supported yet: only --{flag}=false is");
        }
    }
    let secrets = args.secret.iter().map(|text| secret(text)).collect::<Result<_>>()?;
    let mut request = request(&args.input, roots, secrets, commands::commands(&args.commands)?).await?;
    request.format = match args.format {
        ImageFormat::Oci => Format::Oci,
        ImageFormat::Docker => Format::Docker,
    };
    request.compression = match args.compression {
        LayerCompression::Gzip => Compression::Gzip,
        LayerCompression::Zstd => Compression::Zstd,
        LayerCompression::None => Compression::None,
    };
    // A name alone has an empty value, as in docker.
    let label = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    request.labels = args.label.iter().map(label).collect();
    let exports: Vec<_> = args.cache_to.iter().map(|text| cache::to(text)).collect::<Result<_>>()?;
    request.inline_cache = exports.contains(&None)
        || given(&request.build_args, "BUILDKIT_INLINE_CACHE").is_some_and(|value| value == "1");
    request.cache_to = exports.into_iter().flatten().collect();
    request.cache_mount_store = args.cache_mount_store.as_deref().map(cache::mounts).transpose()?;
    let fetched = |(name, folder): &(Reference, PathBuf)| (name.clone(), Location::Layout(folder.clone(), None));
    request.fetched_images = args.fetched_images.iter().map(fetched).collect();
    request.require_cached = args.require_cached;
    request.annotations = args.annotation.iter().map(|text| pair("--annotation", text)).collect::<Result<_>>()?;
    request.tags = args.tag.iter().map(|text| text.parse::<Reference>()).collect::<Result<_, _>>()?;
    if let Some(pinned) = request.tags.iter().find(|tag| tag.digest().is_some()) {
        bail!("-t {pinned}: a name for a new image cannot have a digest");
    }
    for text in &args.output {
        let output = output::output(text, &mut request)?;
        request.outputs.push(output);
    }
    output::check(&request, &args.commands.allow)?;
    if args.push && !request.outputs.iter().any(|output| matches!(output, Output::Registry(_))) {
        request.outputs.push(Output::Registry(None));
    }
    if args.load {
        request.outputs.push(Output::Load);
    }
    if request.format == Format::Docker && request.compression == Compression::Zstd {
        bail!("Docker's media types have no name for zstd layers: leave out --compression=zstd or --format=docker");
    }
    if let Some(jobs) = args.jobs {
        if jobs == 0 {
            bail!("--jobs must be at least 1");
        }
        request.jobs = jobs;
    }
    request.isolation = args
        .isolation
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: String| anyhow::anyhow!("--isolation: {error}"))?;
    if args.ca_inject {
        request.ca_bundle = Some(ca_bundle()?);
    }
    Ok(request)
}

/// The value of a build argument that says how to build.
fn given(args: &[(String, String)], name: &str) -> Option<String> {
    args.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
}

/// Whether an output goes to standard output, which then must carry nothing else.
pub(crate) fn uses_stdout(request: &BuildRequest) -> bool {
    request.outputs.iter().any(|output| {
        matches!(output, Output::Oci { path: None, .. } | Output::Docker(None) | Output::Tar { path: None, .. })
    })
}

/// `NAME=VALUE`, or a name whose value the environment has.
pub(crate) fn build_arg(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.to_owned(), value)),
    }
}

fn pair(flag: &str, text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').with_context(|| format!("{flag} {text}: it must be NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn named_context(text: &str) -> Result<(String, NamedContext)> {
    let (name, value) = pair("--build-context", text)?;
    if matches!(name.as_str(), "context" | "scratch" | "") {
        bail!("--build-context {text}: the name `{name}` is reserved");
    }
    let context = if value.starts_with("oci-layout://") || value.starts_with("docker-image://") {
        NamedContext::Image(value.parse::<Location>()?)
    } else if let Some(reference) = remote::Reference::parse(&value) {
        NamedContext::Git(reference.map_err(|reason| anyhow::anyhow!("--build-context {text}: {reason}"))?)
    } else if remote::is_address(&value) {
        NamedContext::Web(value)
    } else if value.contains("://") {
        bail!(
            "--build-context {text}: it is a folder, a git repository, a file on the web, oci-layout:// or docker-image://"
        );
    } else {
        let folder = std::path::absolute(&value)?;
        if !folder.is_dir() {
            bail!("--build-context {text}: {} is no folder", folder.display());
        }
        NamedContext::Folder(folder)
    };
    Ok((name, context))
}

/// Fields of a comma-separated list.
fn fields(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(',').map(|field| field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value))))
}

fn secret(text: &str) -> Result<(String, Vec<u8>)> {
    let (mut id, mut src, mut env, mut kind) = (None, None, None, None);
    for (key, value) in fields(text) {
        let value = value.with_context(|| format!("--secret {text}: {key} needs a value"))?;
        match key {
            "id" => id = Some(value),
            "src" | "source" => src = Some(value),
            "env" => env = Some(value),
            "type" => kind = Some(value),
            other => bail!("--secret {text}: `{other}` is not supported; id, src, env and type are"),
        }
    }
    let id = id.with_context(|| format!("--secret {text}: it has no id"))?.to_owned();
    let read = |path: &str| std::fs::read(path).with_context(|| format!("--secret {text}"));
    let variable = |name: &str| std::env::var(name).with_context(|| format!("--secret {text}: ${name}"));
    let value = match (src, env, kind) {
        (Some(path), None, None | Some("file")) => read(path)?,
        (Some(name), None, Some("env")) | (None, Some(name), None | Some("env")) => variable(name)?.into_bytes(),
        // A name alone is a variable of that name, else a file.
        (None, None, None) => match std::env::var(&id) {
            Ok(value) => value.into_bytes(),
            Err(_) => read(&id)?,
        },
        _ => bail!("--secret {text}: it needs src=FILE or env=NAME"),
    };
    Ok((id, value))
}

/// Where systems keep their bundle.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file with this machine's certificates.
pub(crate) fn bundle() -> Option<String> {
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut places = named.chain(BUNDLES.map(str::to_owned));
    places.find(|path| std::fs::File::open(path).is_ok())
}

fn ca_bundle() -> Result<Vec<u8>> {
    let path =
        bundle().context("--ca-inject: this machine has no bundle of certificates in any of the usual places")?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("--ca-inject: {}", path.display()));
    let path = Path::new(&path);
    if !path.is_dir() {
        return read(path);
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let texts = files.iter().filter(|file| file.is_file()).map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    Ok(texts.join(&b'\n'))
}
