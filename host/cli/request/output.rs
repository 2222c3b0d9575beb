//! `--output type=TYPE,...`, in the words of `docker buildx build`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use build::{BuildRequest, Files, Output};
use oci::Reference;
use oci::media_type::{Compression, Format};

use super::fields;
use crate::args::commands::LOCAL_DELETE;

const KEYS: &str =
    "type, dest, name, push, tar, mode, platform-split, compression, oci-mediatypes and rewrite-timestamp";

/// One output; what it says of the image itself goes into the request.
pub(super) fn output(text: &str, request: &mut BuildRequest) -> Result<Output> {
    if text == "-" {
        return Ok(Output::Tar { path: None, split: None });
    }
    if !text.contains('=') {
        return Ok(Output::Local(Files { folder: PathBuf::from(text), delete: false, split: None }));
    }
    let (mut kind, mut dest, mut name, mut push, mut tar) = (None, None, None, false, true);
    let (mut mode, mut split) = (None, None);
    for (key, value) in fields(text) {
        let required = || value.with_context(|| format!("-o {text}: {key} needs a value"));
        let boolean = |value: Option<&str>| match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => bail!("-o {text}: {key} is true or false, not {other}"),
        };
        match key {
            "type" => kind = Some(required()?),
            "dest" => dest = Some(required()?),
            "name" => name = Some(required()?),
            "push" => push = boolean(value)?,
            "tar" => tar = boolean(value)?,
            "mode" => mode = Some(required()?),
            "platform-split" => split = Some(boolean(value)?),
            "oci-mediatypes" => request.format = if boolean(value)? { Format::Oci } else { Format::Docker },
            "rewrite-timestamp" => request.rewrite_times = boolean(value)?,
            "compression" => {
                request.compression = match required()? {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "uncompressed" | "none" => Compression::None,
                    other => bail!("-o {text}: compression {other} is not supported: gzip, zstd or none are"),
                }
            }
            other => bail!("-o {text}: `{other}` is not supported; {KEYS} are"),
        }
    }
    let path = dest.filter(|dest| *dest != "-").map(PathBuf::from);
    let named = name.map(str::parse::<Reference>).transpose()?;
    let kind = kind.with_context(|| format!("-o {text}: it has no type; oci, docker, local, tar and registry are"))?;
    if let Some(key) = mode.map(|_| "mode").filter(|_| kind != "local") {
        bail!("-o {text}: {key} is for type=local");
    }
    if split.is_some() && !matches!(kind, "local" | "tar") {
        bail!("-o {text}: platform-split is for type=local and type=tar");
    }
    // What an archive calls the image is what the store calls it.
    match (kind, named.clone()) {
        ("oci" | "docker", Some(name)) if !request.tags.contains(&name) => request.tags.push(name),
        ("local" | "tar", Some(_)) => bail!("-o {text}: name is for images; what type={kind} writes has none"),
        _ => {}
    }
    match kind {
        "oci" => Ok(Output::Oci { path, tar }),
        "docker" => Ok(Output::Docker(path)),
        "local" => {
            let folder = path.with_context(|| format!("-o {text}: local needs dest=FOLDER"))?;
            let delete = match mode {
                None | Some("copy") => false,
                Some("delete") => true,
                Some(other) => bail!("-o {text}: mode is copy or delete, not {other}"),
            };
            Ok(Output::Local(Files { folder, delete, split }))
        }
        "tar" => Ok(Output::Tar { path, split }),
        "registry" => Ok(Output::Registry(named)),
        "image" if push => Ok(Output::Registry(named)),
        other => bail!("-o {text}: the type {other} is not supported; oci, docker, local, tar and registry are"),
    }
}

/// Whether the outputs may do what they are to do: to delete what is in a folder that is not below this one must be
/// allowed by name.
pub(super) fn check(request: &BuildRequest, allow: &[String]) -> Result<()> {
    if allow.iter().any(|allowed| allowed == LOCAL_DELETE) {
        return Ok(());
    }
    for output in &request.outputs {
        let Output::Local(Files { folder, delete: true, .. }) = output else { continue };
        if !is_below_this(folder)? {
            let folder = folder.display();
            bail!(
                "-o type=local,dest={folder},mode=delete: {folder} is not below the working directory, and all that is in \
                 it would be deleted: give --allow {LOCAL_DELETE} if that is meant"
            );
        }
    }
    Ok(())
}

/// Whether a folder, which may not be there yet, is truly in the working directory.
fn is_below_this(folder: &Path) -> Result<bool> {
    let here = std::env::current_dir()?.canonicalize()?;
    let mut place = std::path::absolute(folder)?;
    let mut rest = Vec::new();
    let real = loop {
        match place.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let Some(name) = place.file_name().map(ToOwned::to_owned) else { return Ok(false) };
                rest.push(name);
                place.pop();
            }
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        }
    };
    Ok(!rest.iter().any(|name| name == "..") && (real.starts_with(&here) && (real != here || !rest.is_empty())))
}
