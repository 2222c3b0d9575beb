//! `--cache-from` and `--cache-to`, in the words of `docker buildx build`, and places of caches in general.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use build::{Bucket, CacheExport, CacheImport, CacheMode, CachePlace, MountStore};
use oci::Reference;

use super::{age, aws, bytes, fields};

/// Where results are looked for: what a tag names may be an image with an inline cache, or begin the tags of a cache.
pub(super) fn from(text: &str) -> Result<Vec<CacheImport>> {
    let flag = format!("--cache-from {text}");
    let (place, max_age) = match Fields::read(text, &flag, "registry, local, s3 and store")? {
        None => (registry(text, &flag)?, None),
        Some(mut fields) => {
            let place = fields.place("src")?;
            let max_age = fields.max_age()?;
            fields.end()?;
            (place, max_age)
        }
    };
    let image = match &place {
        CachePlace::Registry(reference) if reference.own_tag().is_some() => Some(CachePlace::Image(reference.clone())),
        _ => None,
    };
    Ok([Some(place), image].into_iter().flatten().map(|place| CacheImport { place, max_age }).collect())
}

/// Where results are kept; none: in the image itself.
pub(super) fn to(text: &str) -> Result<Option<CacheExport>> {
    let flag = format!("--cache-to {text}");
    let Some(mut fields) = Fields::read(text, &flag, "registry, local, s3 and inline")? else {
        let place = registry(text, &flag)?;
        return Ok(Some(CacheExport { place, mode: CacheMode::Max, ignore_error: true, max_age: None }));
    };
    if fields.is("inline") {
        fields.take("type");
        if fields.take("mode").is_some_and(|mode| mode != "min") {
            bail!(
                "{flag}: an inline cache has the steps of the image itself, mode=min; the others need a type=registry"
            );
        }
        fields.end()?;
        return Ok(None);
    }
    if fields.is("store") {
        bail!("{flag}: a store is only read as a cache; a folder that is written is type=local,dest=FOLDER");
    }
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
    let max_age = fields.max_age()?;
    fields.end()?;
    Ok(Some(CacheExport { place, mode, ignore_error, max_age }))
}

/// Where cache mounts are kept.
pub(super) fn mounts(text: &str) -> Result<MountStore> {
    let flag = format!("--cache-mount-store {text}");
    let Some(mut fields) = Fields::read(text, &flag, "registry, local and s3")? else {
        bail!("{flag}: it needs type=registry,ref={text}, type=local,dest=FOLDER or type=s3,bucket=NAME");
    };
    if fields.is("store") {
        bail!("{flag}: the type store is not supported; the types are registry, local and s3");
    }
    let place = fields.place("dest")?;
    let scope = fields.take("scope").unwrap_or_default();
    let key_files = fields.take("key-files").unwrap_or_default();
    let key_files = key_files.split(';').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    let limit = fields.take("max-size").unwrap_or_else(|| "2g".to_owned());
    let limit = bytes(&format!("{flag}: max-size"), &limit)?;
    fields.end()?;
    Ok(MountStore { place, scope, key_files, limit })
}

/// A cache that a command is about.
pub(crate) fn place(text: &str) -> Result<CachePlace> {
    let Some(mut fields) = Fields::read(text, text, "registry, local and s3")? else { return registry(text, text) };
    let folder = if fields.has("dest") { "dest" } else { "src" };
    let place = fields.place(folder)?;
    fields.end()?;
    Ok(place)
}

fn registry(text: &str, flag: &str) -> Result<CachePlace> {
    let reference: Reference = text.parse().with_context(|| flag.to_owned())?;
    if reference.digest().is_some() {
        bail!("{flag}: a cache is a repository, and perhaps what its tags begin with; it has no digest");
    }
    Ok(CachePlace::Registry(reference))
}

/// Fields that have not been taken.
pub(super) struct Fields<'t> {
    flag: &'t str,
    types: &'static str,
    rest: Vec<(&'t str, Option<&'t str>)>,
}

impl<'t> Fields<'t> {
    /// None where the text is a repository alone.
    pub(super) fn read(text: &'t str, flag: &'t str, types: &'static str) -> Result<Option<Self>> {
        let rest: Vec<_> = fields(text).collect();
        match &rest[..] {
            [(_, None)] => Ok(None),
            _ if rest.iter().any(|(key, _)| *key == "type") => Ok(Some(Self { flag, types, rest })),
            _ => bail!("{flag}: it has no type; the types are {types}"),
        }
    }

    fn is(&self, kind: &str) -> bool {
        self.rest.contains(&("type", Some(kind)))
    }

    fn has(&self, name: &str) -> bool {
        self.rest.iter().any(|(key, _)| *key == name)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.rest.iter().position(|(key, _)| *key == name)?;
        Some(self.rest.remove(at).1.unwrap_or_default().to_owned())
    }

    fn needed(&mut self, name: &str, what: &str) -> Result<String> {
        let value = self.take(name).filter(|text| !text.is_empty());
        value.with_context(|| format!("{}: it needs {name}={what}", self.flag))
    }

    fn max_age(&mut self) -> Result<Option<u64>> {
        self.take("max-age").map(|text| age(&format!("{}: max-age", self.flag), &text)).transpose()
    }

    /// Where the cache is; `folder` is the name of the field that names a folder.
    pub(super) fn place(&mut self, folder: &str) -> Result<CachePlace> {
        let flag = self.flag;
        let kind = self.take("type").unwrap_or_default();
        let absolute = |path: String| std::path::absolute(PathBuf::from(path));
        match kind.as_str() {
            "registry" => registry(&self.needed("ref", "REPOSITORY")?, flag),
            "local" => Ok(CachePlace::Folder(absolute(self.needed(folder, "FOLDER")?)?)),
            "store" => Ok(CachePlace::Store(absolute(self.needed("src", "FOLDER")?)?)),
            "s3" => self.bucket(),
            other => bail!("{flag}: the type {other} is not supported; the types are {}", self.types),
        }
    }

    fn bucket(&mut self) -> Result<CachePlace> {
        for secret in ["access_key_id", "secret_access_key", "session_token"] {
            if self.has(secret) {
                bail!(
                    "{}: {secret} would be seen by everyone who lists processes: set AWS_{} in the environment, or use \
                     a profile or the machine's role",
                    self.flag,
                    secret.to_uppercase()
                );
            }
        }
        let name = self.needed("bucket", "NAME")?;
        let prefix = self.take("prefix").unwrap_or_default();
        let given = [("AWS_REGION", self.take("region")), ("AWS_ENDPOINT_URL_S3", self.take("endpoint_url"))];
        let mut settings = aws::settings().with_context(|| self.flag.to_owned())?;
        settings.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(CachePlace::Bucket(Bucket { name, prefix, settings }))
    }

    pub(super) fn end(self) -> Result<()> {
        match self.rest.first() {
            Some((key, _)) => bail!("{}: `{key}` is not supported", self.flag),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_may_be_an_images_or_the_start_of_a_caches() {
        let places =
            |text: &str| from(text).expect("a cache").into_iter().map(|import| import.place).collect::<Vec<_>>();
        assert!(matches!(&places("r.example/app:main")[..], [CachePlace::Registry(_), CachePlace::Image(_)]));
        assert!(matches!(&places("type=registry,ref=r.example/app")[..], [CachePlace::Registry(_)]));
        let aged = from("type=local,src=/c,max-age=2h").expect("a cache");
        assert_eq!(aged[0].max_age, Some(7200));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let refused = |result: Result<()>| result.expect_err("it makes no sense").to_string();
        let of_from = |text: &str| refused(from(text).map(|_| ()));
        let of_to = |text: &str| refused(to(text).map(|_| ()));
        assert!(
            of_from("type=gha").ends_with("the type gha is not supported; the types are registry, local, s3 and store")
        );
        assert!(
            of_from("ref=r.example/app,mode=max")
                .ends_with("it has no type; the types are registry, local, s3 and store")
        );
        assert!(of_from("type=local,src=/c,mode=max").ends_with("`mode` is not supported"));
        assert!(of_from("type=s3,bucket=b,access_key_id=x").contains("set AWS_ACCESS_KEY_ID in the environment"));
        assert!(of_to("type=inline,mode=max").contains("mode=min"));
        assert!(of_to("type=store,src=/s").contains("type=local,dest=FOLDER"));
        assert!(
            of_to("r.example/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
                .contains("no digest")
        );
    }
}
