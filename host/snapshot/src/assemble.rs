//! Making a layer from entries whose bytes are elsewhere: in the build file, in a context, in an unpacked layer.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::media_type::Compression;
use oci::tree::{self, Entry};
use oci::{DiffId, Digest};
use serde::{Deserialize, Serialize};
use store::Store;
use sys::Root;

use crate::compress::{self, Level};
use crate::error::{At, Error};
use crate::read;
use crate::write::LayerWriter;

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Here.
    Bytes(Vec<u8>),
    /// In a folder, at a path beneath it that goes through no symbolic link.
    Beneath(PathBuf, tree::Path),
}

/// An entry of the layer to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it goes.
    pub path: tree::Path,
    /// What it is; a file whose inode is the path of another part is a hard link to that.
    pub entry: Entry,
    /// A file's bytes.
    pub body: Option<Body>,
}

/// Writes a layer of `parts`, which are in the order of [`tree::order`].
///
/// # Errors
/// When bytes are not where they should be, or there is no room.
pub fn layer(store: &Store, parts: Vec<Part>, compression: Compression, level: Level) -> Result<DiffId, Error> {
    let mut writer = LayerWriter::new(store, compression, level)?;
    let mut root: Option<(PathBuf, Root)> = None;
    for part in parts {
        match part.body {
            None => writer.add(&part.path, part.entry, None)?,
            Some(Body::Bytes(bytes)) => writer.add(&part.path, part.entry, Some(&mut &bytes[..]))?,
            Some(Body::Beneath(folder, path)) => {
                if root.as_ref().is_none_or(|(known, _)| *known != folder) {
                    root = Some((folder.clone(), Root::open(&folder).at(&folder)?));
                }
                let Some((_, root)) = &root else { continue };
                let path = Path::new(std::ffi::OsStr::from_bytes(&path));
                let mut file = root.read(path).at(folder.join(path))?;
                writer.add(&part.path, part.entry, Some(&mut file))?;
            }
        }
    }
    writer.finish()
}

/// Takes the files at `wanted` out of a layer's blob into `folder`, each under the hexadecimal digits of the digest of
/// its path, for layers that are nowhere unpacked.
///
/// # Errors
/// When the blob cannot be read.
pub fn extract(
    blob: impl Read + Send,
    wanted: &std::collections::BTreeSet<tree::Path>,
    folder: &Path,
) -> Result<(), Error> {
    let mut collector = crate::index::Collector::default();
    read::entries(compress::reader(blob).map_err(Error::Read)?, |item, bytes| {
        if let Some(path) = collector.take(item)?.filter(|path| wanted.contains(path)) {
            let place = folder.join(extracted(&path));
            let mut file = std::fs::File::create(&place).at(&place)?;
            io::copy(bytes, &mut file).map_err(Error::Read)?;
        }
        Ok(())
    })
}

/// The name under which [`extract`] puts a file.
#[must_use]
pub fn extracted(path: &[u8]) -> String {
    Digest::of(path).hex()
}
