//! Cache keys: typed, length-framed, domain-separated, so that no two different inputs give one key.

use oci::Digest;
use serde::{Deserialize, Serialize};

/// The number of the key's scheme: a change of what a key means changes it, and with it every key.
pub const SCHEMA: u32 = 1;

/// What a component is. The names are the contract's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is named after what it holds")]
pub enum Kind {
    Platform,
    Parent,
    Op,
    User,
    WorkingDir,
    Epoch,
    Arg,
    Env,
    Context,
    Stage,
    Inline,
    Http,
    Git,
    Mount,
    /// What a policy has put in.
    Added,
}

impl Kind {
    /// As plugins and people see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Parent => "parent",
            Self::Op => "op",
            Self::User => "user",
            Self::WorkingDir => "working-dir",
            Self::Epoch => "epoch",
            Self::Arg => "arg",
            Self::Env => "env",
            Self::Context => "context",
            Self::Stage => "stage",
            Self::Inline => "inline",
            Self::Http => "http",
            Self::Git => "git",
            Self::Mount => "mount",
            Self::Added => "added",
        }
    }
}

/// One named thing that a step's result depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Component {
    /// Unique in its step: `platform`, `op`, `parent`, `arg:NAME`, `context:PATTERN`; of several that would be called the
    /// same, the second has `#2` behind it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Which one of several.
    pub subject: Option<String>,
    /// Of its value.
    pub digest: Digest,
    /// The value, where it is small and not secret. Never stored.
    #[serde(skip)]
    pub value: Option<String>,
}

impl Component {
    /// A component of small, public text.
    #[must_use]
    pub fn text(kind: Kind, value: impl Into<String>) -> Self {
        let value = value.into();
        let digest = Frame::new("text").field(value.as_bytes()).finish();
        Self { value: Some(value), ..Self::digest(kind, digest) }
    }

    /// A component whose value is not shown.
    #[must_use]
    pub fn digest(kind: Kind, digest: Digest) -> Self {
        Self { name: kind.name().to_owned(), kind, subject: None, digest, value: None }
    }

    /// The component that is about this one of several.
    #[must_use]
    pub fn of(self, subject: impl Into<String>) -> Self {
        let subject = subject.into();
        Self { name: format!("{}:{subject}", self.kind.name()), subject: Some(subject), ..self }
    }
}

/// Components of one step, each under a name of its own.
#[derive(Clone, Debug, Default)]
pub struct Components(Vec<Component>);

impl Components {
    /// Adds one; where its name is taken, it is the second, third... of that name.
    pub fn push(&mut self, component: Component) {
        let (mut name, mut number) = (component.name.clone(), 1);
        while self.0.iter().any(|known| known.name == name) {
            number += 1;
            name = format!("{}#{number}", component.name);
        }
        self.0.push(Component { name, ..component });
    }

    /// All of them, in the order in which they were added.
    #[must_use]
    pub fn into_inner(self) -> Vec<Component> {
        self.0
    }
}

/// The instruction that a step comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// In upper case.
    pub keyword: String,
    /// As written.
    pub source: String,
    /// Where it stands.
    pub span: crate::Span,
}

/// A step, as a cache policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stage's name, where it has one.
    pub stage_name: Option<String>,
    /// From 0 in the build file.
    pub stage_index: u32,
    /// From 0 in its stage.
    pub index: u32,
    /// None for what no instruction asks for.
    pub instruction: Option<Provenance>,
    /// Whether its layer is part of the image.
    pub in_image: bool,
    /// What is done.
    pub op: crate::op::Op,
    /// What the stage is for.
    pub platform: oci::Platform,
    /// What the result depends on.
    pub components: Vec<Component>,
    /// What the instruction plugin says of it.
    pub hints: Vec<(String, String)>,
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
    /// As without a policy.
    Standard,
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
    /// Whose entries are read, most wanted first; empty: no one's.
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
        let text = |subject: &str, value: &str| Component::text(Kind::Env, value).of(subject);
        let (a, b) = (text("a", "1"), text("b", "2"));
        let key = |components: &[Component]| Key::new("", None, components);
        assert_eq!(key(&[a.clone(), b.clone()]), key(&[b.clone(), a.clone()]));
        assert_ne!(key(&[text("a", "2"), text("b", "1")]), key(&[a.clone(), b]));
        assert_ne!(Key::new("main", None, std::slice::from_ref(&a)), key(std::slice::from_ref(&a)));
        assert_ne!(Key::new("", Some(Digest::of(b"policy")), std::slice::from_ref(&a)), key(&[a]));
    }

    #[test]
    fn each_component_has_a_name_of_its_own_that_others_do_not_change() {
        let mut components = Components::default();
        for subject in ["a", "b", "a", "a#2"] {
            components.push(Component::text(Kind::Context, "").of(subject));
        }
        let names: Vec<String> = components.into_inner().into_iter().map(|component| component.name).collect();
        assert_eq!(names, ["context:a", "context:b", "context:a#2", "context:a#2#2"]);
    }
}
