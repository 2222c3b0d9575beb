//! From what a step depends on, and what the policy makes of it, to keys.

use oci::Digest;
use plan::key::{Component, Key, KeyEdit};

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
    /// A component that is there already would be replaced.
    #[error("the policy adds `{0}`, which is a component of the step already")]
    Present(String),
}

impl Keys {
    /// Applies a policy's edit. `policy` is its digest.
    ///
    /// # Errors
    /// When the edit does not fit the components.
    pub fn new(components: &[Component], edit: &KeyEdit, policy: Digest) -> Result<Self, EditError> {
        let has = |name: &str| components.iter().any(|component| component.name == name);
        if let Some(unknown) = edit.drop.iter().find(|name| !has(name)) {
            return Err(EditError::Unknown(unknown.clone()));
        }
        if let Some((present, _)) = edit.add.iter().find(|(name, _)| has(name)) {
            return Err(EditError::Present(present.clone()));
        }
        let added = edit.add.iter().map(|(name, value)| {
            let framed = plan::key::Frame::new("added").field(value).finish();
            Component::digest(name.clone(), framed)
        });
        let kept = components.iter().filter(|component| !edit.drop.contains(&component.name)).cloned();
        let components: Vec<Component> = kept.chain(added).collect();
        let dropper = (!edit.drop.is_empty()).then_some(policy);
        let key = |scope: &str| Key::new(scope, dropper, &components);
        let read = match &edit.read_scopes[..] {
            [] => vec![key(DEFAULT_SCOPE)],
            scopes => scopes.iter().map(|scope| key(scope)).collect(),
        };
        let write = edit.write_scope.as_deref().map(key);
        let definition = key(DEFAULT_SCOPE);
        Ok(Self { read, write, max_age: edit.max_age, definition, components, dropped: edit.drop.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components() -> Vec<Component> {
        vec![Component::text("op", "RUN x"), Component::text("arg:SHA", "1")]
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
        let add = KeyEdit { add: vec![("op".into(), vec![])], ..edit() };
        assert!(Keys::new(&components(), &add, policy).is_err());
    }

    #[test]
    fn scopes_have_keys_of_their_own() {
        let edit =
            KeyEdit { read_scopes: vec!["branch".into(), "main".into()], write_scope: Some("branch".into()), ..edit() };
        let keys = Keys::new(&components(), &edit, Digest::of(b"policy")).expect("keys");
        assert_eq!(keys.write, Some(keys.read[0]));
        assert_ne!(keys.read[0], keys.read[1]);
    }
}
