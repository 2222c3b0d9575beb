//! Names of places: `docker://REF`, `store:REF`, `oci-layout://DIR[:TAG|@DIGEST]`, `oci-archive:FILE[:NAME]`,
//! `docker-archive:FILE[:NAME]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci::Reference;

use crate::error::Error;

/// Where an image is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a registry.
    Registry(Reference),
    /// In the store.
    Store(Reference),
    /// In a folder that is an OCI layout; the tag or digest in it.
    Layout(PathBuf, Option<String>),
    /// In a tar of an OCI layout; the name in it.
    OciArchive(PathBuf, Option<String>),
    /// In a tar for `docker load`; the name in it.
    DockerArchive(PathBuf, Option<String>),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |reason: String| Error::Location { text: text.to_owned(), reason };
        let reference = |rest: &str| rest.parse::<Reference>().map_err(|e| error(e.to_string()));
        let path = |rest: &str| {
            // What follows the last colon behind the last slash is a name.
            let cut = rest.rfind('/').unwrap_or(0);
            let (path, name) = match rest[cut..].find([':', '@']) {
                Some(at) => (&rest[..cut + at], Some(rest[cut + at + 1..].to_owned())),
                None => (rest, None),
            };
            if path.is_empty() { Err(error("it has no path".into())) } else { Ok((PathBuf::from(path), name)) }
        };
        if let Some(rest) = text.strip_prefix("docker://").or_else(|| text.strip_prefix("docker-image://")) {
            return Ok(Self::Registry(reference(rest)?));
        }
        if let Some(rest) = text.strip_prefix("store:") {
            return Ok(Self::Store(reference(rest)?));
        }
        if let Some(rest) = text.strip_prefix("oci-layout://").or_else(|| text.strip_prefix("oci:")) {
            return path(rest).map(|(path, name)| Self::Layout(path, name));
        }
        // A name in an archive may have slashes and colons itself: only the first colon behind the file counts.
        let archive = |rest: &str| {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) => (path, Some(name.to_owned()).filter(|name| !name.is_empty())),
                None => (rest, None),
            };
            if path.is_empty() { Err(error("it has no file".into())) } else { Ok((PathBuf::from(path), name)) }
        };
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return archive(rest).map(|(path, name)| Self::OciArchive(path, name));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return archive(rest).map(|(path, name)| Self::DockerArchive(path, name));
        }
        let known = "places start with docker://, store:, oci-layout://, oci-archive: or docker-archive:";
        Err(error(known.into()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |name: &Option<String>| name.as_ref().map(|name| format!(":{name}")).unwrap_or_default();
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Store(reference) => write!(f, "store:{reference}"),
            Self::Layout(path, name) => write!(f, "oci-layout://{}{}", path.display(), part(name)),
            Self::OciArchive(path, name) => write!(f, "oci-archive:{}{}", path.display(), part(name)),
            Self::DockerArchive(path, name) => write!(f, "docker-archive:{}{}", path.display(), part(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let place = |text: &str| text.parse::<Location>().map(|place| place.to_string()).map_err(|e| e.to_string());
        assert_eq!(place("docker://alpine"), Ok("docker://docker.io/library/alpine:latest".into()));
        assert_eq!(place("oci-layout:///a.b/c:v1"), Ok("oci-layout:///a.b/c:v1".into()));
        assert_eq!(place("oci-layout://x:5/c"), Ok("oci-layout://x:5/c".into()));
        assert_eq!(place("oci-archive:x.tar:r.example/a:1"), Ok("oci-archive:x.tar:r.example/a:1".into()));
        assert!(place("x.tar").is_err());
        assert!(place("oci-archive:").is_err());
    }
}
