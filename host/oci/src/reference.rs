//! Names of images: `registry.example:5000/team/app:1.2@sha256:...` (distribution, "reference").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Where an image is: registry, repository, and a tag or a digest or both.
///
/// Short names are Docker Hub's: `alpine` is `docker.io/library/alpine:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{reference}` is not an image reference: {reason}")]
pub struct ReferenceError {
    /// The text.
    pub reference: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// Host, and port where one is given: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The same image in a mirror, `host[:port][/path]`.
    ///
    /// # Errors
    /// When that is no place of images.
    pub fn mirrored(&self, mirror: &str) -> Result<Self, ReferenceError> {
        let place: Self = format!("{}/{}", mirror.trim_end_matches('/'), self.repository).parse()?;
        Ok(Self { tag: self.tag.clone(), digest: self.digest, ..place })
    }

    /// Path below the registry: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag as given; `latest` stands in when neither tag nor digest is.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// The tag, where one is given.
    #[must_use]
    pub fn own_tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The same repository under this tag.
    ///
    /// # Errors
    /// When no tag may be called so.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError { reference: format!("{}:{tag}", self.name()), reason: NO_TAG });
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The digest, when the reference is pinned.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry is asked for: the digest where there is one, else the tag.
    #[must_use]
    pub fn locator(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// The same repository at this digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The name without tag and digest: `docker.io/library/alpine`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

const NO_TAG: &str = "a tag is letters, digits, `_`, `.` and `-`, at most 128 of them";

fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_legal_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                return port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
            }
            _ => return false,
        },
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or dashes.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    ends && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = |reason| ReferenceError { reference: text.to_owned(), reason };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| error("what follows the @ is not a SHA-256 digest"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(error(NO_TAG));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_legal_host(registry) {
            return Err(error("the registry is not a host name"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(error("a repository is lower-case letters, digits and separators"));
        }
        if registry.len() + repository.len() > 255 {
            return Err(error("the name is longer than 255 characters"));
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_docker_hubs() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("team/app", "docker.io/team/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("[::1]:5000/a:x", "[::1]:5000/a:x"),
            ("r.example/a__b/c-d--e:V1", "r.example/a__b/c-d--e:V1"),
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(full.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_digest_outranks_the_tag() {
        let digest = Digest::of(b"x");
        let reference: Reference = format!("r.example/a:1@{digest}").parse().expect("a reference");
        assert_eq!((reference.locator(), reference.tag()), (digest.to_string(), Some("1")));
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in ["", ":", "a:", "UPPER", "a/B", "a//b", "a b", "r.example/", "a@sha256:1", "-a", "a___b", "r:x/a"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
