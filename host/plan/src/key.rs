//! Cache keys: typed, length-framed, domain-separated, so that no two different inputs give one key.

use oci::Digest;
use serde::{Deserialize, Serialize};

/// The number of the key's scheme: a change of what a key means changes it, and with it every key.
pub const SCHEMA: u32 = 1;

/// One named thing that a step's result depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Component {
    /// What it is: `platform`, `op`, `parent`, `arg:NAME`, `context:PATH`, ...
    pub name: String,
    /// Of its value.
    pub digest: Digest,
    /// The value, where it is small and not secret. Never stored.
    #[serde(skip)]
    pub value: Option<String>,
}

impl Component {
    /// A component of small, public text.
    #[must_use]
    pub fn text(name: impl Into<String>, value: impl Into<String>) -> Self {
        let value = value.into();
        Self { name: name.into(), digest: Frame::new("text").field(value.as_bytes()).finish(), value: Some(value) }
    }

    /// A component whose value is not shown.
    #[must_use]
    pub fn digest(name: impl Into<String>, digest: Digest) -> Self {
        Self { name: name.into(), digest, value: None }
    }
}

/// A step, as a cache policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stage's name.
    pub stage: String,
    /// From 0 in its stage.
    pub index: u32,
    /// What is done.
    pub op: crate::op::Op,
    /// What the image runs on.
    pub platform: oci::Platform,
    /// What the result depends on.
    pub components: Vec<Component>,
    /// The reference in FROM of the stage's base image, and its digest.
    pub base: Option<(String, Option<Digest>)>,
    /// The time that the user gave, where one was given.
    pub source_date_epoch: Option<u64>,
}

/// What a policy says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub decision: Decision,
    /// For people.
    pub reason: Option<String>,
    /// For people, about the build file.
    pub diagnostics: Vec<crate::Diagnostic>,
}

/// What to do with a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Look it up and store it under the key so edited.
    Keyed(KeyEdit),
    /// Run it each time and store nothing.
    Never,
}

/// Edits of a step's components.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEdit {
    /// Left out.
    pub drop: Vec<String>,
    /// Put in.
    pub add: Vec<(String, Vec<u8>)>,
    /// An older entry, in seconds, is a miss.
    pub max_age: Option<u64>,
    /// Whose entries are read, most wanted first; empty: the default scope's.
    pub read_scopes: Vec<String>,
    /// Whose entries are written; none: no one's.
    pub write_scope: Option<String>,
}

/// The name under which a step's result is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub Digest);

impl Key {
    /// The key of these components in this scope; `policy` is who dropped an input, where one did.
    #[must_use]
    pub fn new(scope: &str, policy: Option<Digest>, components: &[Component]) -> Self {
        let mut sorted: Vec<&Component> = components.iter().collect();
        sorted.sort();
        let mut frame = Frame::new("step").field(scope.as_bytes());
        frame = match policy {
            Some(digest) => frame.field(b"dropped-by").field(digest.as_bytes()),
            None => frame.field(b"complete"),
        };
        for component in sorted {
            frame = frame.field(component.name.as_bytes()).field(component.digest.as_bytes());
        }
        Self(frame.finish())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.hex())
    }
}

/// A hash over fields, each preceded by its length.
#[derive(Debug)]
pub struct Frame(oci::Hasher);

impl Frame {
    /// A frame in a domain of its own: equal fields in two domains give two digests.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let mut hasher = oci::Hasher::default();
        hasher.update(b"plywood key ");
        hasher.update(&SCHEMA.to_le_bytes());
        Self(hasher).field(domain.as_bytes())
    }

    /// With one field more.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// With a list of fields, its length framed as well.
    #[must_use]
    pub fn list<'f>(self, fields: impl ExactSizeIterator<Item = &'f [u8]>) -> Self {
        let counted = self.field(&(fields.len() as u64).to_le_bytes());
        fields.fold(counted, Self::field)
    }

    /// The digest.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let frame = |fields: &[&str]| fields.iter().fold(Frame::new("x"), |f, t| f.field(t.as_bytes())).finish();
        assert_ne!(frame(&["ab", "c"]), frame(&["a", "bc"]));
        assert_ne!(frame(&["a", ""]), frame(&["a"]));
        assert_ne!(Frame::new("x").field(b"a").finish(), Frame::new("y").field(b"a").finish());
    }

    #[test]
    fn the_order_of_components_does_not_matter_and_their_names_do() {
        let (a, b) = (Component::text("a", "1"), Component::text("b", "2"));
        let key = |components: &[Component]| Key::new("", None, components);
        assert_eq!(key(&[a.clone(), b.clone()]), key(&[b.clone(), a.clone()]));
        assert_ne!(key(&[Component::text("a", "2"), Component::text("b", "1")]), key(&[a.clone(), b]));
        assert_ne!(Key::new("main", None, std::slice::from_ref(&a)), key(std::slice::from_ref(&a)));
        assert_ne!(Key::new("", Some(Digest::of(b"policy")), std::slice::from_ref(&a)), key(&[a]));
    }
}
