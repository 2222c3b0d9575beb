//! `--cache-from` and `--cache-to`, in the words of `docker buildx build`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use build::{CacheExport, CacheMode, CachePlace};
use oci::Reference;

use super::fields;

const TYPES: &str = "the types are registry and local";

/// Where results are looked for.
pub(super) fn from(text: &str) -> Result<CachePlace> {
    let flag = format!("--cache-from {text}");
    let Some(mut fields) = Fields::read(text, &flag)? else { return registry(text, &flag) };
    let place = fields.place("src")?;
    fields.end()?;
    Ok(place)
}

/// Where results are kept.
pub(super) fn to(text: &str) -> Result<CacheExport> {
    let flag = format!("--cache-to {text}");
    let Some(mut fields) = Fields::read(text, &flag)? else {
        return Ok(CacheExport { place: registry(text, &flag)?, mode: CacheMode::Max, ignore_error: true });
    };
    let place = fields.place("dest")?;
    let mode = match fields.take("mode").as_deref() {
        None | Some("max") => CacheMode::Max,
        Some("min") => CacheMode::Min,
        Some(other) => bail!("{flag}: mode is max or min, not {other}"),
    };
    let ignore_error = match fields.take("ignore-error").as_deref() {
        None | Some("" | "true" | "1") => true,
        Some("false" | "0") => false,
        Some(other) => bail!("{flag}: ignore-error is true or false, not {other}"),
    };
    fields.end()?;
    Ok(CacheExport { place, mode, ignore_error })
}

fn registry(text: &str, flag: &str) -> Result<CachePlace> {
    let reference: Reference = text.parse().with_context(|| flag.to_owned())?;
    if reference.digest().is_some() {
        bail!("{flag}: a cache is a repository, and perhaps what its tags begin with; it has no digest");
    }
    Ok(CachePlace::Registry(reference))
}

/// Fields that have not been taken.
struct Fields<'t> {
    flag: &'t str,
    rest: Vec<(&'t str, Option<&'t str>)>,
}

impl<'t> Fields<'t> {
    /// None where the text is a repository alone.
    fn read(text: &'t str, flag: &'t str) -> Result<Option<Self>> {
        let rest: Vec<_> = fields(text).collect();
        match &rest[..] {
            [(_, None)] => Ok(None),
            _ if rest.iter().any(|(key, _)| *key == "type") => Ok(Some(Self { flag, rest })),
            _ => bail!("{flag}: it has no type; {TYPES}"),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.rest.iter().position(|(key, _)| *key == name)?;
        Some(self.rest.remove(at).1.unwrap_or_default().to_owned())
    }

    fn place(&mut self, folder: &str) -> Result<CachePlace> {
        let flag = self.flag;
        let kind = self.take("type").unwrap_or_default();
        match kind.as_str() {
            "registry" => {
                let reference = self.take("ref").filter(|text| !text.is_empty());
                registry(&reference.with_context(|| format!("{flag}: it needs ref=REPOSITORY"))?, flag)
            }
            "local" => {
                let path = self.take(folder).filter(|text| !text.is_empty());
                let path = path.with_context(|| format!("{flag}: it needs {folder}=FOLDER"))?;
                Ok(CachePlace::Folder(std::path::absolute(PathBuf::from(path))?))
            }
            other => bail!("{flag}: the type {other} is not supported; {TYPES}"),
        }
    }

    fn end(self) -> Result<()> {
        match self.rest.first() {
            Some((key, _)) => bail!("{}: `{key}` is not supported", self.flag),
            None => Ok(()),
        }
    }
}
