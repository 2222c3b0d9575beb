//! What cache mounts hold, as documents of a backend: `mount-<mount>-<files>-<generation>`.
//!
//! `<mount>` stands for the mount, its platform and its scope, `<files>` for the key files' content, and a generation is
//! the time at which it was kept. The blobs are pieces of a tar, cut where its content says so: what has not changed is
//! there already.

use oci::{DiffId, Digest};
use plan::key::Frame;
use registry::Pushed;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Blob, Document, Error, Named, NewBlob, NewDocument};

/// So much of a digest is enough to tell mounts apart, and short enough for a tag.
const HEX: usize = 24;

/// Which mount it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountKey {
    mount: Digest,
    files: Digest,
}

impl MountKey {
    /// The key of a mount: its id and how it starts, the platform, the scope, and what is in the files that it depends on.
    #[must_use]
    pub fn new(id: &str, platform: &str, scope: &str, files: &[(String, Digest)]) -> Self {
        let mount = Frame::new("cache mount").field(id.as_bytes()).field(platform.as_bytes()).field(scope.as_bytes());
        let mut frame = Frame::new("key files");
        for (path, digest) in files {
            frame = frame.field(path.as_bytes()).field(digest.as_bytes());
        }
        Self { mount: mount.finish(), files: frame.finish() }
    }

    fn family(&self) -> String {
        format!("mount-{}-", &self.mount.hex()[..HEX])
    }

    fn exact(&self) -> String {
        format!("{}{}-", self.family(), &self.files.hex()[..HEX])
    }
}

/// A mount's name without its generation, and that.
pub(crate) fn parse(name: &str) -> Option<(String, u64)> {
    let (key, generation) = name.rsplit_once('-')?;
    let mut parts = key.strip_prefix("mount-")?.split('-');
    let is_hex = |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    let fits = parts.next().is_some_and(|part| is_hex(part, HEX)) && parts.next().is_some_and(|part| is_hex(part, HEX));
    if !fits || parts.next().is_some() || !is_hex(generation, 16) {
        return None;
    }
    Some((key.to_owned(), u64::from_str_radix(generation, 16).ok()?))
}

/// The words of a mount's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// As the build file calls it.
    pub id: String,
    /// When it was kept, seconds since 1970.
    pub created_at: u64,
    /// The whole tar's.
    pub layer: DiffId,
    /// Of the tar, in bytes.
    pub size: u64,
    /// Of each piece of the tar, in the order of the blobs.
    pub pieces: Vec<Digest>,
}

/// What a mount held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// About it.
    pub head: Head,
    /// The pieces, compressed.
    pub blobs: Vec<Blob>,
    /// Whether it was kept with the same key files.
    pub is_exact: bool,
}

/// What was last kept of a mount: with the same key files, else with any. `names` are those of all documents.
///
/// # Errors
/// When the backend does not say.
pub async fn latest_mount(backend: &dyn Backend, names: &[String], key: &MountKey) -> Result<Option<Saved>, Error> {
    let newest = |prefix: String| {
        let mut of =
            names.iter().filter(|name| name.starts_with(&prefix)).filter_map(|name| Some((parse(name)?.1, name)));
        let mut all: Vec<_> = of.by_ref().collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.into_iter().map(|(_, name)| name)
    };
    let exact = newest(key.exact()).map(|name| (name, true));
    let others = newest(key.family()).map(|name| (name, false));
    for (name, is_exact) in exact.chain(others) {
        let Named::Document(Document { head, blobs }) = backend.read(name).await? else { continue };
        let Ok(head) = serde_json::from_value::<Head>(head) else { continue };
        if head.pieces.len() == blobs.len() {
            return Ok(Some(Saved { head, blobs, is_exact }));
        }
    }
    Ok(None)
}

/// Keeps what a mount holds; gives how many bytes of it were sent. `generation` is greater than any before.
///
/// # Errors
/// When it cannot be written.
pub async fn put_mount(
    backend: &dyn Backend,
    key: &MountKey,
    generation: u64,
    created: String,
    head: &Head,
    blobs: Vec<NewBlob>,
) -> Result<u64, Error> {
    let name = format!("{}{generation:016x}", key.exact());
    let sizes: Vec<u64> = blobs.iter().map(|new| new.blob.size).collect();
    let title = format!("the cache mount {}", head.id);
    let head = serde_json::to_value(head).unwrap_or_default();
    let pushed =
        backend.write(&name, NewDocument { head, details: serde_json::Value::Null, title, created, blobs }).await?;
    Ok(sizes.iter().zip(pushed).filter(|(_, pushed)| *pushed == Pushed::Sent).map(|(size, _)| size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let key = MountKey::new("go", "linux/amd64", "main", &[("go.sum".into(), Digest::of(b"1"))]);
        let name = format!("{}{:016x}", key.exact(), 77);
        assert_eq!(parse(&name), Some((key.exact().trim_end_matches('-').to_owned(), 77)));
        assert!(name.starts_with(&key.family()));
        for other in ["mount-1", "mount-x-y-z", &key.exact(), "v1.0-mount"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn every_part_counts() {
        let file = |content: &[u8]| vec![("go.sum".to_owned(), Digest::of(content))];
        let key = MountKey::new("go", "linux/amd64", "main", &file(b"1"));
        let same_family = MountKey::new("go", "linux/amd64", "main", &file(b"2"));
        assert_eq!(key.family(), same_family.family());
        assert_ne!(key.exact(), same_family.exact());
        for other in [
            MountKey::new("npm", "linux/amd64", "main", &file(b"1")),
            MountKey::new("go", "linux/arm64", "main", &file(b"1")),
            MountKey::new("go", "linux/amd64", "fork", &file(b"1")),
        ] {
            assert_ne!(other.family(), key.family());
        }
    }
}
