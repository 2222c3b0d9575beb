//! Making room: what was not used for longest goes first, and nothing goes while anyone uses the store.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sys::rustix::fs::FlockOperation;

use crate::error::{At, Error};
use crate::layout::Store;
use crate::lock::Lock;
use crate::record::Record;
use crate::scratch::Scratch;
use crate::usage::{Item, Kind, entries, used};

/// The lock of everyone who uses the store.
const USE: &str = "use";

/// Records of layers that are gone stay so long, since they tell that there was one.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is kept. What an image with a name needs is kept in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What was used at this time or later.
    pub used_since: Option<SystemTime>,
    /// So much, in bytes, of what was used last; none: all, or if there is a time what was used since then.
    pub bytes: Option<u64>,
}

/// What was taken away, or would be.
#[derive(Debug)]
pub struct Collected {
    /// What took room.
    pub items: Vec<Item>,
    /// What is left takes so many bytes.
    pub left: u64,
    /// Trees that are to be deleted; those of a user namespace need a worker for that.
    pub scratch: Option<Scratch>,
}

impl Store {
    /// Says that the store is used until the lock is dropped; waits while room is made.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub fn begin_use(&self) -> Result<Lock, Error> {
        self.flock(USE, FlockOperation::LockShared).map(crate::lock::Held::expect_held)
    }

    /// The store for oneself, to make room; none while anyone uses it, unless `wait`.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub fn end_use(&self, wait: bool) -> Result<Option<Lock>, Error> {
        match wait {
            true => self.lock(USE).map(Some),
            false => self.try_lock(USE),
        }
    }

    /// Makes room, or says what would go. `_alone` is the lock of [`Store::end_use`].
    ///
    /// # Errors
    /// When something cannot be read or taken away.
    pub fn collect(&self, limits: Limits, dry_run: bool, _alone: &Lock) -> Result<Collected, Error> {
        let items = self.items()?;
        let mut left = items.iter().map(|item| item.bytes).sum::<u64>();
        let mut items: Vec<Item> = items.into_iter().filter(|item| item.kind != Kind::Image).collect();
        items.sort_by(|one, other| (one.used, &one.path).cmp(&(other.used, &other.path)));
        let goes = |item: &Item, left: u64| {
            let is_old = limits.used_since.is_none_or(|since| item.used < since);
            let is_too_much = limits.bytes.is_none_or(|bytes| left > bytes);
            item.used == UNIX_EPOCH || is_old && is_too_much && limits != Limits::default()
        };
        let mut gone = Vec::new();
        for item in items {
            if goes(&item, left) {
                left -= item.bytes;
                gone.push(item);
            }
        }
        if dry_run {
            return Ok(Collected { items: gone, left, scratch: None });
        }
        let scratch = self.scratch_folder()?;
        for (number, item) in gone.iter().enumerate() {
            match item.kind {
                Kind::Image | Kind::Blob => fs::remove_file(&item.path).at(&item.path)?,
                Kind::Tree | Kind::Mount => {
                    fs::rename(&item.path, scratch.path().join(number.to_string())).at(&item.path)?;
                }
            }
        }
        self.forget()?;
        Ok(Collected { items: gone, left, scratch: Some(scratch) })
    }

    /// Removes what stands for things that are gone: old records without a layer, indexes without one, listings without
    /// a record.
    fn forget(&self) -> Result<(), Error> {
        let remove = |path: &std::path::Path| match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at(path),
            _ => Ok(()),
        };
        let now = SystemTime::now();
        let mut named = BTreeSet::new();
        for path in entries(&self.records()) {
            let record: Option<Record> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let is_new = now.duration_since(used(&path)).is_ok_and(|age| age < REMEMBERED);
            match record.filter(|record| is_new || !self.variants(record.layer).is_empty()) {
                Some(record) => named.extend(record.components.into_iter().map(|(_, digest)| digest.hex().to_string())),
                None => remove(&path)?,
            }
        }
        for path in entries(&self.all_stamps()) {
            if now.duration_since(used(&path)).is_ok_and(|age| age > REMEMBERED) {
                remove(&path)?;
            }
        }
        for path in entries(&self.listings()) {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| named.contains(name)) {
                remove(&path)?;
            }
        }
        let unpacked: BTreeSet<_> = entries(&self.all_layers()).iter().flat_map(|flavour| entries(flavour)).collect();
        let unpacked: BTreeSet<_> = unpacked.iter().filter_map(|path| path.file_name()).collect();
        for path in entries(&self.indexes()) {
            let layer =
                path.file_stem().and_then(|name| name.to_str()).and_then(|hex| format!("sha256:{hex}").parse().ok());
            let is_known = layer.is_some_and(|layer| !self.variants(oci::DiffId(layer)).is_empty());
            if !is_known && !path.file_stem().is_some_and(|name| unpacked.contains(name)) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}
