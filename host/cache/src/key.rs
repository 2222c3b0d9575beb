//! From what a step depends on, and what the policy makes of it, to keys.

use oci::Digest;
use plan::key::{Component, Key, KeyEdit, Kind};

/// The scope that entries are in when a policy names none.
const DEFAULT_SCOPE: &str = "";

/// Under which keys a step is looked for, and under which it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Most wanted first.
    pub read: Vec<Key>,
    /// None: it is not kept.
    pub write: Option<Key>,
    /// An older entry, in seconds, is a miss.
    pub max_age: Option<u64>,
    /// What stands for the step where another depends on it.
    pub definition: Key,
    /// What the keys are made of.
    pub components: Vec<Component>,
    /// The names of the components that the policy left out.
    pub dropped: Vec<String>,
}

/// Why an edit cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A name that is no component of the step.
    #[error("the policy drops `{0}`, which is no component of the step")]
    Unknown(String),
    /// What it would be is not clear.
    #[error("the policy adds `{0}` twice")]
    Twice(String),
}

impl Keys {
    /// Every component, no age, the default scope.
    #[must_use]
    pub fn standard(components: &[Component]) -> Self {
        let key = Key::new(DEFAULT_SCOPE, None, components);
        let components = components.to_vec();
        Self { read: vec![key], write: Some(key), max_age: None, definition: key, components, dropped: Vec::new() }
    }

    /// Applies a policy's edit. `policy` is its digest.
    ///
    /// # Errors
    /// When the edit does not fit the components.
    pub fn new(components: &[Component], edit: &KeyEdit, policy: Digest) -> Result<Self, EditError> {
        let has = |name: &str| components.iter().any(|component| component.name == name);
        if let Some(unknown) = edit.drop.iter().find(|name| !has(name)) {
            return Err(EditError::Unknown(unknown.clone()));
        }
        let mut names: Vec<&str> = edit.add.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(EditError::Twice(pair[0].to_owned()));
        }
        let added = edit.add.iter().map(|(name, value)| {
            let framed = plan::key::Frame::new("added").field(value).finish();
            Component::digest(Kind::Added, framed).of(name.clone())
        });
        let kept = components.iter().filter(|component| !edit.drop.contains(&component.name)).cloned();
        let components: Vec<Component> = kept.chain(added).collect();
        let dropper = (!edit.drop.is_empty()).then_some(policy);
        let key = |scope: &str| Key::new(scope, dropper, &components);
        let read = edit.read_scopes.iter().map(|scope| key(scope)).collect();
        let write = edit.write_scope.as_deref().map(key);
        let definition = key(DEFAULT_SCOPE);
        Ok(Self { read, write, max_age: edit.max_age, definition, components, dropped: edit.drop.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components() -> Vec<Component> {
        vec![Component::text(Kind::Op, "RUN x"), Component::text(Kind::Arg, "1").of("SHA")]
    }

    fn edit() -> KeyEdit {
        KeyEdit { write_scope: Some(String::new()), ..KeyEdit::default() }
    }

    #[test]
    fn dropping_an_input_puts_the_policy_into_the_key() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let drop = KeyEdit { drop: vec!["arg:SHA".into()], ..edit() };
        let keys = |edit: &KeyEdit, policy| Keys::new(&components(), edit, policy).expect("keys").definition;
        assert_eq!(keys(&edit(), a), keys(&edit(), b));
        assert_ne!(keys(&drop, a), keys(&drop, b));
        let without = Keys::new(&components()[..1], &edit(), a).expect("keys").definition;
        assert_ne!(keys(&drop, a), without);
    }

    #[test]
    fn edits_must_fit() {
        let policy = Digest::of(b"policy");
        let drop = KeyEdit { drop: vec!["nothing".into()], ..edit() };
        assert!(Keys::new(&components(), &drop, policy).is_err());
        let twice = KeyEdit { add: vec![("a".into(), vec![]), ("a".into(), vec![1])], ..edit() };
        assert!(Keys::new(&components(), &twice, policy).is_err());
        // A name of the policy's own is none of the host's, today or later.
        let add = KeyEdit { add: vec![("op".into(), vec![])], ..edit() };
        let keys = Keys::new(&components(), &add, policy).expect("keys");
        assert_eq!(keys.components.last().map(|component| component.name.as_str()), Some("added:op"));
    }

    #[test]
    fn scopes_have_keys_of_their_own() {
        let policy = Digest::of(b"policy");
        assert_eq!(Keys::new(&components(), &edit(), policy).expect("keys").read, []);
        let default = KeyEdit { read_scopes: vec![String::new()], ..edit() };
        assert_eq!(Keys::new(&components(), &default, policy).expect("keys"), Keys::standard(&components()));
        let edit =
            KeyEdit { read_scopes: vec!["branch".into(), "main".into()], write_scope: Some("branch".into()), ..edit() };
        let keys = Keys::new(&components(), &edit, policy).expect("keys");
        assert_eq!(keys.write, Some(keys.read[0]));
        assert_ne!(keys.read[0], keys.read[1]);
    }
}
