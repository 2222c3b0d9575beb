//! What takes room in the store, and when it was last used.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use oci::{Digest, Index, Manifest, digest_of};
use sys::rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use crate::error::{At, Error};
use crate::layout::Store;

/// What something in the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A blob that an image with a name needs.
    Image,
    /// A blob that none needs: a layer or document that would be fetched or made again.
    Blob,
    /// A layer unpacked.
    Tree,
    /// What a cache mount holds.
    Mount,
}

/// Something in the store that takes room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it was last used; the beginning of time: it is of no use any more.
    pub used: SystemTime,
    pub(crate) path: PathBuf,
}

/// Room by what takes it, in bytes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs of images with a name.
    pub images: u64,
    /// Other blobs.
    pub blobs: u64,
    /// Layers unpacked.
    pub trees: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// All else: records, indexes, notes, half-made things.
    pub other: u64,
}

impl Usage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.images + self.blobs + self.trees + self.mounts + self.other
    }
}

/// Bytes that a file or folder takes on the disk, as du(1) counts them: each inode once. What cannot be read is left out.
fn on_disk(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let mut bytes = 0;
    let mut rest = vec![path.to_owned()];
    while let Some(path) = rest.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.nlink() == 1 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            rest.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

pub(crate) fn used(path: &Path) -> SystemTime {
    fs::symlink_metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH)
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// The disk that a store is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its file system: `ext4`.
    pub kind: String,
    /// What this process may still use, in bytes.
    pub free: u64,
}

impl Store {
    /// The disk that this store is on.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn disk(&self) -> Result<Disk, Error> {
        let stat = sys::rustix::fs::statvfs(self.root()).map_err(std::io::Error::from).at(self.root())?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // proc_pid_mountinfo(5): the fifth field is where, the first behind the dash what. The last of the longest counts.
        let mount = |line: &str| {
            let (place, what) = line.split_once(" - ")?;
            let place = place.split(' ').nth(4)?.to_owned();
            self.root()
                .starts_with(&place)
                .then(|| (place.len(), what.split(' ').next().unwrap_or_default().to_owned()))
        };
        let kind = mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind);
        Ok(Disk { kind: kind.unwrap_or_else(|| "an unknown file system".into()), free: stat.f_bavail * stat.f_frsize })
    }

    /// Notes that something is used now. A store that cannot be written is not collected either.
    pub fn touch(&self, path: &Path) {
        let now = || Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = utimensat(
            CWD,
            path,
            &Timestamps { last_access: now(), last_modification: now() },
            AtFlags::SYMLINK_NOFOLLOW,
        );
    }

    /// Notes that a layer's blobs are used now.
    pub fn touch_layer(&self, layer: oci::DiffId) {
        for variant in self.variants(layer) {
            self.touch(&self.blob(variant.digest));
        }
    }

    /// What takes room, but for what is small: records, indexes, notes.
    ///
    /// # Errors
    /// When the list of images cannot be read.
    pub fn items(&self) -> Result<Vec<Item>, Error> {
        let needed = self.needed_blobs()?;
        let mut items = Vec::new();
        let folder = self.blob(Digest::of(b""));
        for path in entries(folder.parent().unwrap_or(&folder)) {
            let is_needed = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| needed.contains(name));
            let kind = if is_needed { Kind::Image } else { Kind::Blob };
            items.push(Item { kind, bytes: on_disk(&path, &mut BTreeSet::new()), used: used(&path), path });
        }
        for path in entries(&self.all_layers()).iter().flat_map(|flavour| entries(flavour)) {
            let used = if Self::is_current(&path) { used(&path.join("boot")) } else { UNIX_EPOCH };
            items.push(Item { kind: Kind::Tree, bytes: Self::tree_size(&path), used, path });
        }
        for path in entries(&self.mounts()) {
            let bytes = on_disk(&path, &mut BTreeSet::new());
            items.push(Item { kind: Kind::Mount, bytes, used: used(&path), path });
        }
        Ok(items)
    }

    /// A tree does not change, so it is walked once.
    fn tree_size(tree: &Path) -> u64 {
        let note = tree.join("size");
        if let Some(known) = fs::read_to_string(&note).ok().and_then(|text| text.parse().ok()) {
            return known;
        }
        let bytes = on_disk(tree, &mut BTreeSet::new());
        // Where it cannot be written, it is walked again.
        let _ = fs::write(&note, bytes.to_string());
        bytes
    }

    /// What takes how much room. Everything is looked at.
    ///
    /// # Errors
    /// When the list of images cannot be read.
    pub fn usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        for item in self.items()? {
            match item.kind {
                Kind::Image => usage.images += item.bytes,
                Kind::Blob => usage.blobs += item.bytes,
                Kind::Tree | Kind::Mount => {}
            }
        }
        let mut seen = BTreeSet::new();
        usage.trees = on_disk(&self.all_layers(), &mut seen);
        usage.mounts = on_disk(&self.mounts(), &mut seen);
        let all = on_disk(self.root(), &mut BTreeSet::new());
        usage.other = all.saturating_sub(usage.total());
        Ok(usage)
    }

    /// The blobs that images with a name are made of, in hexadecimal digits.
    fn needed_blobs(&self) -> Result<BTreeSet<String>, Error> {
        let mut needed = BTreeSet::new();
        let mut rest: Vec<Digest> =
            self.images()?.iter().filter_map(|image| digest_of(&image.descriptor).ok()).collect();
        while let Some(digest) = rest.pop() {
            if !needed.insert(digest.hex().to_string()) {
                continue;
            }
            let path = self.blob(digest);
            // Documents are small; a layer is not read for being one.
            let is_small = fs::metadata(&path).is_ok_and(|meta| meta.len() < 8 << 20);
            let Ok(bytes) = (if is_small { fs::read(&path) } else { Ok(Vec::new()) }).at(&path) else { continue };
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
                rest.extend(manifest.layers().iter().chain([manifest.config()]).filter_map(|d| digest_of(d).ok()));
            } else if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
                rest.extend(index.manifests().iter().filter_map(|d| digest_of(d).ok()));
            }
        }
        Ok(needed)
    }
}
