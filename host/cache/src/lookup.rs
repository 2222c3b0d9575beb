//! Looking a step up in the store, and keeping what it gave.

use oci::{ChainId, DiffId, Digest};
use plan::key::{Component, Key};
use store::{Record, Store};

use crate::Keys;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry, and the layer that it names is there.
    Hit(Record),
    /// Nothing that can be used, and why.
    Miss(Miss),
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// There is no entry under any of the keys.
    #[error("nothing like it has been built here")]
    Unknown,
    /// There is one.
    #[error("the entry is older than the policy allows")]
    Expired,
    /// There is one.
    #[error("a step below has been run anew")]
    OnOtherLayers,
    /// There is one.
    #[error("the layer of the entry is gone")]
    Evicted,
}

/// Looks a step up that stands on the layers `below`, at `now` (seconds since 1970).
#[must_use]
pub fn look_up(store: &Store, keys: &Keys, below: Option<ChainId>, now: u64) -> Found {
    let mut why = Miss::Unknown;
    for key in &keys.read {
        let Some(record) = store.read_record(&key.to_string()) else {
            continue;
        };
        if keys.max_age.is_some_and(|age| now.saturating_sub(record.created_at) > age) {
            why = Miss::Expired;
            continue;
        }
        if record.below.is_some() && record.below != below {
            why = Miss::OnOtherLayers;
            continue;
        }
        if store.variants(record.layer).is_empty() {
            why = Miss::Evicted;
            continue;
        }
        return Found::Hit(record);
    }
    Found::Miss(why)
}

/// Components as a record has them.
#[must_use]
pub fn named(components: &[Component]) -> Vec<(String, Digest)> {
    components.iter().map(|component| (component.name.clone(), component.digest)).collect()
}

/// Keeps what a step gave. `now` is seconds since 1970 and the same time in RFC 3339.
///
/// # Errors
/// When the store cannot be written.
pub fn record(
    store: &Store,
    key: Key,
    keys: &Keys,
    name: &str,
    layer: DiffId,
    below: Option<ChainId>,
    now: (u64, String),
) -> Result<Record, store::Error> {
    let components = named(&keys.components);
    let record = Record { layer, below, created: now.1, created_at: now.0, name: name.to_owned(), components };
    store.write_record(&key.to_string(), &record)?;
    Ok(record)
}
