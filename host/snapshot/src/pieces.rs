//! A tree as pieces of its tar, cut where the content says so: what has changed little shares most of its pieces.
//!
//! Each piece is a zstd frame (RFC 8878), so that the pieces one after the other are the tar in zstd.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fastcdc::v2020::FastCDC;
use oci::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{At, Error};
use crate::write::TarWriter;
use crate::{apply, diff};

/// Bytes of a piece: at least, on average, at most.
const SIZES: (usize, usize, usize) = (1 << 20, 4 << 20, 16 << 20);
/// What is packed is used a few times: speed counts more than size.
const LEVEL: i32 = 3;

/// A piece of a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Of its bytes.
    pub content: Digest,
    /// Of them compressed.
    pub blob: Digest,
    /// Of them compressed, in bytes.
    pub size: u64,
    /// Whether it was known before; else it is in a file called by `blob`'s hex.
    pub known: bool,
}

/// A tree in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The digest of the whole tar.
    pub layer: DiffId,
    /// Of the tar, in bytes.
    pub size: u64,
    /// In order.
    pub pieces: Vec<Piece>,
}

/// Cuts what is written to it.
struct Cutter<'k> {
    folder: PathBuf,
    /// Blobs and their sizes by content.
    known: &'k BTreeMap<Digest, (Digest, u64)>,
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
    size: u64,
    limit: u64,
}

impl Cutter<'_> {
    /// Cuts a piece off the front of the buffer.
    fn cut(&mut self) -> io::Result<()> {
        let (least, average, most) = SIZES;
        let (_, end) = FastCDC::new(&self.buffer, least, average, most).cut(0, self.buffer.len());
        let bytes = &self.buffer[..end];
        let content = Digest::of(bytes);
        let (blob, size, known) = match self.known.get(&content) {
            Some((blob, size)) => (*blob, *size, true),
            None => {
                let packed = zstd::bulk::compress(bytes, LEVEL)?;
                let blob = Digest::of(&packed);
                fs::write(self.folder.join(blob.hex()), &packed)?;
                (blob, packed.len() as u64, false)
            }
        };
        self.pieces.push(Piece { content, blob, size, known });
        self.buffer.drain(..end);
        Ok(())
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {} bytes", self.limit)));
        }
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= SIZES.2 {
            self.cut()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a tree's pieces to files of `folder`, but for those whose content is `known`, by blob and size. A tree whose tar
/// has more than `limit` bytes is too large.
///
/// # Errors
/// When the tree cannot be read, is too large, holds what no layer can, or there is no room.
pub fn pack(tree: &Path, folder: &Path, known: &BTreeMap<Digest, (Digest, u64)>, limit: u64) -> Result<Packed, Error> {
    let cutter = Cutter { folder: folder.to_owned(), known, buffer: Vec::new(), pieces: Vec::new(), size: 0, limit };
    let mut writer = TarWriter::new(cutter);
    diff::walk(&diff::Changes { upper: tree, lowers: &[], one_user: None }, &mut writer)?;
    let (mut cutter, layer, _) = writer.finish()?;
    while !cutter.buffer.is_empty() {
        cutter.cut().at(folder)?;
    }
    Ok(Packed { layer, size: cutter.size, pieces: cutter.pieces })
}

/// Unpacks pieces into an empty folder: files in order, that have the tar `layer` of at most `limit` bytes.
///
/// # Errors
/// When they are not that tar, hold what no layer may, or the place is full.
pub fn unpack(
    files: Vec<PathBuf>,
    layer: DiffId,
    limit: u64,
    target: &Path,
    abilities: apply::Abilities,
) -> Result<(), Error> {
    let chain = Chain { rest: files.into(), open: None };
    let tar = zstd::stream::read::Decoder::new(chain).map_err(Error::Read)?.take(limit);
    apply::unpack(tar, layer, target, abilities).map(|_| ())
}

/// Files one after the other.
struct Chain {
    rest: VecDeque<PathBuf>,
    open: Option<File>,
}

impl Read for Chain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                match file.read(buffer)? {
                    0 if !buffer.is_empty() => self.open = None,
                    length => return Ok(length),
                }
            }
            match self.rest.pop_front() {
                Some(path) => self.open = Some(File::open(path)?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not repeat, the same for a seed.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn known(packed: &Packed) -> BTreeMap<Digest, (Digest, u64)> {
        packed.pieces.iter().map(|piece| (piece.content, (piece.blob, piece.size))).collect()
    }

    #[test]
    fn a_tree_comes_back_and_a_change_costs_a_piece_or_two() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tree, out) = (folder.path().join("tree"), folder.path().join("out"));
        for path in [&tree, &out] {
            fs::create_dir(path).expect("a folder");
        }
        for number in 0..40 {
            fs::write(tree.join(format!("{number:02}")), noise(number, 1 << 20)).expect("a file");
        }
        std::os::unix::fs::symlink("00", tree.join("link")).expect("a link");
        fs::hard_link(tree.join("01"), tree.join("hard")).expect("a link");
        let first = pack(&tree, &out, &BTreeMap::new(), u64::MAX).expect("pieces");
        assert!(first.pieces.len() > 5 && first.pieces.iter().all(|piece| !piece.known));
        let files = first.pieces.iter().map(|piece| out.join(piece.blob.hex())).collect::<Vec<_>>();
        let back = folder.path().join("back");
        fs::create_dir(&back).expect("a folder");
        let abilities = apply::Abilities { devices: false, user_xattrs: true, one_user: false };
        unpack(files.clone(), first.layer, first.size, &back, abilities).expect("a tree");
        assert_eq!(pack(&back, &out, &known(&first), u64::MAX).expect("pieces").layer, first.layer);
        // Something new in the middle.
        fs::write(tree.join("20a"), noise(99, 12_345)).expect("a file");
        let second = pack(&tree, &out, &known(&first), u64::MAX).expect("pieces");
        let new = second.pieces.iter().filter(|piece| !piece.known).count();
        assert!((1..=3).contains(&new), "{new} of {} pieces", second.pieces.len());
        // What is too large, or another, is refused.
        assert!(pack(&tree, &out, &BTreeMap::new(), 1 << 20).is_err());
        let other = folder.path().join("other");
        fs::create_dir(&other).expect("a folder");
        assert!(unpack(files[1..].to_vec(), first.layer, first.size, &other, abilities).is_err());
        assert!(unpack(files, first.layer, 1 << 20, &other, abilities).is_err());
    }
}
