//! A layer once more, with the times of its entries changed.

use std::fs::File;

use oci::DiffId;
use oci::media_type::Compression;
use oci::tree::{self, Entry, Kind, Time};
use std::collections::BTreeMap;
use store::Store;

use crate::compress::{self, Level};
use crate::error::{At, Error};
use crate::write::LayerWriter;
use crate::{index, read};

/// The layer in which nothing is younger than `seconds` since 1970 and that is else like this one, which this program
/// has written.
///
/// # Errors
/// When the layer is in no blob, or there is no room.
pub fn not_after(store: &Store, layer: DiffId, seconds: u64, compression: Compression) -> Result<DiffId, Error> {
    let limit = Time { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanoseconds: 0 };
    let index = index::of(store, layer)?;
    if index.entries.iter().all(|(_, entry)| entry.mtime <= limit) {
        return Ok(layer);
    }
    let entries: BTreeMap<&tree::Path, &Entry> = index.entries.iter().map(|(path, entry)| (path, entry)).collect();
    let variant = store.variants(layer).into_iter().next().ok_or_else(|| index::missing(layer))?;
    let path = store.blob(variant.digest);
    let plain = compress::reader(File::open(&path).at(&path)?).map_err(Error::Read)?;
    let mut writer = LayerWriter::new(store, compression, Level::default_of(compression))?;
    read::entries(plain, |item, bytes| {
        // The mark of an opaque directory comes behind it, and is written with it.
        if matches!(item.entry.kind, Kind::Dir { opaque: true }) {
            return Ok(());
        }
        let mut entry = entries.get(&item.path).map_or(item.entry, |entry| (*entry).clone());
        entry.mtime = entry.mtime.min(limit);
        writer.add(&item.path, entry, Some(bytes))
    })?;
    writer.finish()
}
