//! Looking a step up in the store, and keeping what it gave.

use oci::{ChainId, DiffId};
use plan::key::Key;
use store::{Record, Store};

use crate::Keys;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry, and the layer that it names is there.
    Hit(Record),
    /// Nothing that can be used, and why.
    Miss(&'static str),
}

/// Looks a step up that stands on the layers `below`, at `now` (seconds since 1970).
#[must_use]
pub fn look_up(store: &Store, keys: &Keys, below: Option<ChainId>, now: u64) -> Found {
    let mut why = "nothing like it has been built here";
    for key in &keys.read {
        let Some(record) = store.read_record(&key.to_string()) else {
            continue;
        };
        if keys.max_age.is_some_and(|age| now.saturating_sub(record.created_at) > age) {
            why = "the entry is older than the policy allows";
            continue;
        }
        if record.below.is_some() && record.below != below {
            why = "a step below has been run anew";
            continue;
        }
        if store.variants(record.layer).is_empty() {
            why = "the layer of the entry is gone";
            continue;
        }
        return Found::Hit(record);
    }
    Found::Miss(why)
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
    let components = keys.components.iter().map(|component| (component.name.clone(), component.digest)).collect();
    let record = Record { layer, below, created: now.1, created_at: now.0, name: name.to_owned(), components };
    store.write_record(&key.to_string(), &record)?;
    Ok(record)
}
