//! What is known of a layer: its index, and the blobs that hold it.

use std::fs;
use std::path::PathBuf;

use oci::media_type::Compression;
use oci::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{At, Error};
use crate::layout::{Flavour, Store};

/// A blob that holds a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// Trees written before this machine was started may have lost data that was never synced.
fn boot_id() -> &'static str {
    static BOOT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    });
    &BOOT
}

impl Store {
    /// The blobs that are known to hold a layer and are there.
    #[must_use]
    pub fn variants(&self, layer: DiffId) -> Vec<Variant> {
        let read = fs::read(self.layer_variants(layer)).ok();
        let variants: Vec<Variant> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        variants.into_iter().filter(|variant| self.has_blob(variant.digest)).collect()
    }

    /// Notes that a blob holds a layer.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_variant(&self, layer: DiffId, variant: Variant) -> Result<(), Error> {
        let _lock = self.lock(&format!("variants {layer}"))?;
        let mut variants = self.variants(layer);
        if variants.contains(&variant) {
            return Ok(());
        }
        variants.push(variant);
        let path = self.layer_variants(layer);
        let bytes = serde_json::to_vec(&variants)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
        self.replace(&path, &bytes)
    }

    /// A layer's index, as `snapshot` has encoded it.
    #[must_use]
    pub fn read_index(&self, layer: DiffId) -> Option<Vec<u8>> {
        fs::read(self.layer_index(layer)).ok()
    }

    /// Keeps a layer's index.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_index(&self, layer: DiffId, bytes: &[u8]) -> Result<(), Error> {
        // An index is a function of its layer: one that is there, in this version's encoding, is this one.
        if self.read_index(layer).as_deref() == Some(bytes) {
            return Ok(());
        }
        self.replace(&self.layer_index(layer), bytes)
    }

    /// The tree of a layer, if it is there and was made since the machine was started.
    #[must_use]
    pub fn tree(&self, flavour: &Flavour, layer: DiffId) -> Option<PathBuf> {
        let folder = self.layer(flavour, layer);
        Self::is_current(&folder).then(|| {
            self.touch(&folder.join("boot"));
            folder.join("fs")
        })
    }

    /// Whether a tree's folder was made since the machine was started.
    pub(crate) fn is_current(folder: &std::path::Path) -> bool {
        fs::read_to_string(folder.join("boot")).is_ok_and(|boot| boot == boot_id())
    }

    /// Puts a tree in its place: `made` holds it as `fs`. What another process has put there meanwhile stays.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn commit_tree(&self, flavour: &Flavour, layer: DiffId, made: &std::path::Path) -> Result<PathBuf, Error> {
        let (parent, place) = (self.layers(flavour), self.layer(flavour, layer));
        fs::create_dir_all(&parent).at(&parent)?;
        fs::write(made.join("boot"), boot_id()).at(made)?;
        if place.exists() && self.tree(flavour, layer).is_none() {
            // From before a restart: out of the way, to be deleted with the scratch folder it goes to.
            let _ = fs::rename(&place, made.with_extension("stale"));
        }
        match fs::rename(made, &place) {
            Ok(()) => {}
            Err(_) if self.tree(flavour, layer).is_some() => {}
            Err(error) => return Err(error).at(&place),
        }
        Ok(place.join("fs"))
    }
}
