//! A tar as a context, or as a source that ADD unpacks: its entries become a tree, its files lie side by side in a
//! folder under numbers, so that no name of the archive ever is a path on disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use liblzma::stream::{CONCATENATED, Stream};
use oci::tar::Found;
use oci::tree::{self, Entry, File, Inode, Kind, Time, Tree};

use crate::Context;
use crate::error::Error;

/// Linux takes no longer path.
const LONGEST_PATH: usize = 4095;
/// And no longer name in one.
const LONGEST_NAME: usize = 255;

/// Four times what `xz -9` needs; a header may ask for gigabytes. The others are content with less.
const XZ_MEMORY: u64 = 256 << 20;

/// Decompresses whatever `source` holds, by its first bytes: plain, gzip, bzip2, xz or zstd.
///
/// # Errors
/// When it cannot be read.
pub fn decompress<'r>(source: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut source = BufReader::with_capacity(128 << 10, source);
    let head = source.fill_buf()?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        _ => Box::new(source),
    })
}

/// Whether this is a tar, compressed or not: its first header must be one.
#[must_use]
pub fn is_tar(source: impl Read + Send) -> bool {
    let Ok(plain) = decompress(source) else { return false };
    let mut is_one = false;
    let read = oci::tar::each(
        plain,
        |error| error,
        |_| {
            is_one = true;
            Ok(ControlFlow::Break(()))
        },
    );
    read.is_ok() && is_one
}

/// Whether these are the first bytes of an archive: one of the compressions, or a header of tar.
#[must_use]
pub fn is_archive(head: &[u8]) -> bool {
    let marks: [&[u8]; 4] = [&[0x1f, 0x8b, 8], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd]];
    if marks.iter().any(|mark| head.starts_with(mark)) {
        return true;
    }
    let Some(block) = head.first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(block);
    // The sum counts its own field as blanks (POSIX.1-1988, ustar).
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum();
    header.cksum().is_ok_and(|stated| stated == sum) && block.iter().any(|byte| *byte != 0)
}

/// A context that holds nothing.
///
/// # Errors
/// When its folder cannot be made.
pub fn empty() -> Result<Context, Error> {
    let folder = tempfile::Builder::new().prefix("plywood-context-").tempdir().map_err(Error::Archive)?;
    Ok(Context { folder: folder.path().to_owned(), unpacked: Some(folder), ..Context::default() })
}

/// Reads an archive as a context.
///
/// # Errors
/// When it cannot be read, or holds an entry that would lie outside.
pub fn read(source: impl Read + Send, keep_owners: bool) -> Result<Context, Error> {
    let folder = tempfile::Builder::new().prefix("plywood-context-").tempdir().map_err(Error::Archive)?;
    let mut tree = Tree::default();
    let mut implied = BTreeSet::new();
    let mut number = 0u64;
    oci::tar::each(decompress(source).map_err(Error::Archive)?, Error::Archive, |found| {
        let Found { entry: bytes, path: raw, link, records } = found;
        let shown = || String::from_utf8_lossy(&raw[..raw.len().min(LONGEST_NAME)]).into_owned();
        let outside = || Error::Outside(shown());
        let raw = inside(&raw).ok_or_else(outside)?;
        let is_name = |name: &[u8]| name.len() <= LONGEST_NAME && !name.contains(&0);
        if raw.len() > LONGEST_PATH || !raw.split(|byte| *byte == b'/').all(is_name) {
            return Err(Error::NoName(shown()));
        }
        let text = |key: &str| records.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let fraction = text("mtime").and_then(|text| text.split('.').next()?.parse::<i64>().ok());
        // The one attribute that layers keep.
        let capability = records.get("SCHILY.xattr.security.capability");
        // Through the links of the archive itself, as unpacking it below a root would go.
        let path = tree.resolve_parent(&raw).map_err(|_| outside())?;
        let header = bytes.header();
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let id = |value: io::Result<u64>| -> u32 {
            if keep_owners {
                value.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX).unwrap_or(0)
            } else {
                0
            }
        };
        let mut entry = Entry {
            kind: Kind::Dir { opaque: false },
            mode: header.mode().map_err(Error::Archive)? & 0o7777,
            uid: id(header.uid()),
            gid: id(header.gid()),
            mtime: Time { seconds: fraction.unwrap_or(seconds), nanoseconds: 0 },
            xattrs: capability.map(|value| ("security.capability".to_owned(), value.clone())).into_iter().collect(),
        };
        entry.kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Dir { opaque: false },
            tar::EntryType::Symlink if link.is_empty() || link.len() > LONGEST_PATH || link.contains(&0) => {
                return Err(Error::NoName(shown()));
            }
            tar::EntryType::Symlink => {
                entry.mode = 0o777;
                Kind::Symlink(link)
            }
            tar::EntryType::Link => {
                let target = tree.resolve_parent(&link).map_err(|_| outside())?;
                match tree.get(&target) {
                    Some(known) if !known.is_dir() => entry = known.clone(),
                    _ => return Err(outside()),
                }
                entry.kind.clone()
            }
            tar::EntryType::Fifo => Kind::Fifo,
            tar::EntryType::Char | tar::EntryType::Block => {
                let number = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
                let (major, minor) = (number(header.device_major()), number(header.device_minor()));
                if header.entry_type() == tar::EntryType::Char {
                    Kind::Char(major, minor)
                } else {
                    Kind::Block(major, minor)
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let name = number.to_string();
                number += 1;
                let place = folder.path().join(&name);
                let failed = |source| Error::Io { path: place.clone(), source };
                let mut file = fs::File::create(&place).map_err(failed)?;
                let size = io::copy(bytes, &mut file).map_err(Error::Archive)?;
                Kind::File(File { size, digest: None, inode: Inode { layer: None, path: name.into_bytes() } })
            }
            _ => return Ok(ControlFlow::Continue(())),
        };
        if !path.is_empty() {
            fill_parents(&mut tree, &mut implied, tree::parent(&path));
            implied.remove(&path);
            tree.insert(path, entry);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let files = tree.iter().filter(|(_, entry)| matches!(entry.kind, Kind::File(_)));
    let made = files.map(|(_, entry)| entry.mtime.seconds).max();
    Ok(Context { tree: tree.into(), folder: folder.path().to_owned(), made, implied, unpacked: Some(folder) })
}

/// A name without the parts that lead nowhere; none where it leads out.
fn inside(name: &[u8]) -> Option<tree::Path> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// Folders that the archive does not mention.
fn fill_parents(tree: &mut Tree, implied: &mut BTreeSet<tree::Path>, path: &[u8]) {
    if !path.is_empty() && !tree.is_dir(path) {
        fill_parents(tree, implied, tree::parent(path));
        implied.insert(path.to_vec());
        tree.insert(path.to_vec(), Entry::dir(0o755, Time::default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(archive: &mut Vec<u8>, name: &[u8], kind: tar::EntryType, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        archive.extend(header.as_bytes());
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }

    #[test]
    fn names_are_paths() {
        for (long, fits) in [("d/".repeat(2000), true), ("d/".repeat(1_000_000), false)] {
            let mut archive = Vec::new();
            append(&mut archive, b"././@LongLink", tar::EntryType::GNULongName, long.as_bytes());
            append(&mut archive, b"d", tar::EntryType::Regular, b"x");
            assert_eq!(read(&archive[..], false).is_ok(), fits);
        }
        let mut archive = Vec::new();
        append(&mut archive, b"link", tar::EntryType::Symlink, b"");
        assert!(read(&archive[..], false).is_err());
    }

    #[test]
    fn xz_gets_so_much_memory() {
        // Ten letters. The byte says how large a dictionary they want; the checksum is its header's.
        let unpack = |dictionary: u8, checksum: [u8; 4]| {
            let mut packed = b"\xfd7zXZ\0\0\0\xff\x12\xd9\x41\x02\0\x21\x01".to_vec();
            packed.extend([dictionary, 0, 0, 0]);
            packed.extend(checksum);
            packed.extend(b"\xe0\0\x09\0\x06\x5d\0\x3c\x6b\x7c\0\0\0\0\0\0\0\x01\x1a\x0a\xee\xa6\x7e\x70\x06\x72");
            packed.extend(b"\x9e\x7a\x01\0\0\0\0\0YZ");
            let mut plain = Vec::new();
            decompress(&packed[..])?.read_to_end(&mut plain).map(|_| plain)
        };
        assert_eq!(unpack(12, [0x8f, 0x98, 0x41, 0x9c]).ok().as_deref(), Some(&b"xxxxxxxxxx"[..]), "256 KiB");
        assert!(unpack(38, [0xd5, 0xd7, 0xce, 0x53]).is_err(), "2 GiB");
    }
}
