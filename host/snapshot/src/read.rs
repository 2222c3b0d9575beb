//! Reading the tar of a layer, as hostile input: names stay inside, sizes and numbers are bounded.

use std::io::Read;
use std::ops::ControlFlow;

use oci::tar::{Found, Records};
use oci::tree::{self, Entry, File, Inode, Kind, Path, Time};

use crate::error::{Error, show};

/// An opaque directory's mark (image-spec, "Opaque Whiteout").
const OPAQUE: &[u8] = b".wh..wh..opq";
/// A removed file's mark (image-spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// What aufs kept for itself; such entries mean nothing.
const AUFS: &[u8] = b".wh..wh.";
/// Linux takes no longer path.
const LONGEST_PATH: usize = 4095;
/// And no longer name in one.
const LONGEST_NAME: usize = 255;
/// Attributes in which overlayfs keeps its own notes: in a layer they would make it show other files.
const OVERLAY: [&str; 2] = ["trusted.overlay.", "user.overlay."];
const XATTR: &str = "SCHILY.xattr.";

/// One entry of a layer, in the order of the tar.
#[derive(Debug)]
pub struct Item {
    /// In normal form.
    pub path: Path,
    /// What it is. A hard link has the inode of what it links to.
    pub entry: Entry,
    /// What it is another name of.
    pub link: Option<Path>,
}

impl Item {
    /// The same entry in another place.
    #[must_use]
    pub fn at(mut self, path: Path) -> Self {
        if let Kind::File(file) = &mut self.entry.kind
            && self.link.is_none()
        {
            file.inode.path.clone_from(&path);
        }
        self.path = path;
        self
    }

    /// Whether it comes with bytes.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        matches!(self.entry.kind, Kind::File(_)) && self.link.is_none()
    }
}

/// Passes each entry of a layer to `visit`, with a reader of its bytes. Bytes that are not read are skipped.
///
/// # Errors
/// When the tar is malformed, holds what no layer may, or `visit` fails.
pub fn entries<R: Read>(
    source: R,
    mut visit: impl FnMut(Item, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    oci::tar::each(source, Error::Read, |found| {
        if let Some(item) = item(&found)? {
            visit(item, found.entry)?;
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// What a tar entry means; none for one that means nothing.
fn item<R: Read>(found: &Found<'_, '_, R>) -> Result<Option<Item>, Error> {
    let Found { entry, path: raw, link: link_name, records } = found;
    let extensions = Extensions::read(records);
    let hostile = |problem| Error::Hostile { path: show(raw), problem };
    // As for a process whose root this is, `..` stops at the root, and a leading slash is as good as none.
    let path = tree::clean(raw);
    let is_long = || path.split(|byte| *byte == b'/').any(|name| name.len() > LONGEST_NAME);
    if path.len() > LONGEST_PATH || path.contains(&0) || is_long() {
        return Err(hostile("which is no path"));
    }
    let header = entry.header();
    // The largest number means "as it is" to chown(2).
    let owner = |told: Option<u32>, header: std::io::Result<u64>| -> Result<u32, Error> {
        let number = told.or_else(|| u32::try_from(header.ok()?).ok()).filter(|number| *number != u32::MAX);
        number.ok_or_else(|| hostile("whose owner is no number of Linux"))
    };
    let mode = header.mode().map_err(Error::Read)? & 0o7777;
    let (uid, gid) = (owner(extensions.uid, header.uid())?, owner(extensions.gid, header.gid())?);
    let seconds = i64::from_ne_bytes(header.mtime().unwrap_or(0).to_ne_bytes());
    let mtime = extensions.mtime.unwrap_or(Time { seconds, nanoseconds: 0 });
    let device = || -> Result<(u32, u32), Error> {
        // The kernel takes twelve bits and twenty, and forgets the others.
        let number = |value: std::io::Result<Option<u32>>, bits: u32| value.ok().flatten().filter(|n| n >> bits == 0);
        number(header.device_major(), 12)
            .zip(number(header.device_minor(), 20))
            .ok_or_else(|| hostile("a device without number"))
    };
    let mut link = None;
    let name = tree::name(&path);
    let (path, kind) = if name == OPAQUE {
        // Noted on the directory itself by whoever collects entries.
        (tree::parent(&path).to_vec(), Kind::Dir { opaque: true })
    } else if name.starts_with(AUFS) {
        return Ok(None);
    } else if let Some(gone) = name.strip_prefix(WHITEOUT) {
        if gone.is_empty() || gone == b"." || gone == b".." {
            return Err(hostile("a whiteout of nothing"));
        }
        (tree::join(tree::parent(&path), gone), Kind::Whiteout)
    } else {
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Dir { opaque: false },
            tar::EntryType::Symlink => {
                if link_name.is_empty() || link_name.len() > LONGEST_PATH || link_name.contains(&0) {
                    return Err(hostile("a symbolic link to nowhere"));
                }
                Kind::Symlink(link_name.clone())
            }
            tar::EntryType::Link => {
                let target = tree::clean(link_name);
                if target.is_empty() {
                    return Err(hostile("a hard link to the root"));
                }
                link = Some(target.clone());
                Kind::File(File { size: 0, digest: None, inode: Inode { layer: None, path: target } })
            }
            tar::EntryType::Char => {
                let (major, minor) = device()?;
                if (major, minor) == (0, 0) {
                    return Err(hostile("which overlayfs would take for a removed file"));
                }
                Kind::Char(major, minor)
            }
            tar::EntryType::Block => {
                let (major, minor) = device()?;
                Kind::Block(major, minor)
            }
            tar::EntryType::Fifo => Kind::Fifo,
            // Sparse files are read out with their holes.
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let inode = Inode { layer: None, path: path.clone() };
                Kind::File(File { size: entry.size(), digest: None, inode })
            }
            tar::EntryType::XGlobalHeader => return Ok(None),
            _ => return Err(hostile("of a type that no layer has")),
        };
        (path, kind)
    };
    if path.is_empty() && !matches!(kind, Kind::Dir { .. }) {
        return Err(hostile("which would replace the root"));
    }
    if extensions.xattrs.iter().any(|(name, _)| OVERLAY.iter().any(|prefix| name.starts_with(prefix))) {
        return Err(hostile("with an attribute that is overlayfs's own"));
    }
    Ok(Some(Item { path, entry: Entry { kind, mode, uid, gid, mtime, xattrs: extensions.xattrs }, link }))
}

/// What PAX records add (POSIX pax, "extended header keywords").
struct Extensions {
    xattrs: Vec<(String, Vec<u8>)>,
    mtime: Option<Time>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Extensions {
    fn read(records: &Records) -> Self {
        let text = |key: &str| records.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let xattr = |(key, value): (&String, &Vec<u8>)| {
            let name = key.strip_prefix(XATTR).filter(|name| !name.is_empty())?;
            Some((name.to_owned(), value.clone()))
        };
        Self {
            xattrs: records.iter().filter_map(xattr).collect(),
            mtime: text("mtime").and_then(parse_time),
            uid: text("uid").and_then(|text| text.parse().ok()),
            gid: text("gid").and_then(|text| text.parse().ok()),
        }
    }
}

/// Seconds with a fraction, perhaps negative.
fn parse_time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(if whole.starts_with('-') && nanoseconds > 0 {
        Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds }
    } else {
        Time { seconds, nanoseconds }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar of one entry whose name and link are written as they are.
    fn tar_of(name: &[u8], kind: tar::EntryType, link: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([0; 1024]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Kind)>, String> {
        let mut items = Vec::new();
        entries(bytes, |item, _| {
            items.push((show(&item.path), item.entry.kind));
            Ok(())
        })
        .map_err(|error| error.to_string())?;
        Ok(items)
    }

    #[test]
    fn nothing_leads_outside() {
        use tar::EntryType::{Link, Regular};
        let path = |name: &[u8]| read(&tar_of(name, Regular, b"")).expect("it stays inside")[0].0.clone();
        assert_eq!(path(b"../x"), "x");
        assert_eq!(path(b"a/../../x"), "x");
        assert_eq!(path(b"/a/../etc/x"), "etc/x");
        let link = read(&tar_of(b"x", Link, b"../../etc/passwd")).expect("it stays inside");
        assert!(matches!(&link[0].1, Kind::File(file) if file.inode.path == b"etc/passwd"));
    }

    #[test]
    fn marks_of_removal_are_understood() {
        use tar::EntryType::Regular;
        assert_eq!(read(&tar_of(b"a/.wh.b", Regular, b"")), Ok(vec![("a/b".into(), Kind::Whiteout)]));
        let opaque = Kind::Dir { opaque: true };
        assert_eq!(read(&tar_of(b"a/.wh..wh..opq", Regular, b"")), Ok(vec![("a".into(), opaque)]));
        assert_eq!(read(&tar_of(b".wh..wh.plnk/x", Regular, b"")).map(|v| v.len()), Ok(1));
        assert!(read(&tar_of(b"a/.wh...", Regular, b"")).is_err());
        assert!(read(&tar_of(b".wh.", Regular, b"")).is_err());
    }

    #[test]
    fn times_have_fractions() {
        assert_eq!(parse_time("12.5"), Some(Time { seconds: 12, nanoseconds: 500_000_000 }));
        assert_eq!(parse_time("-1.25"), Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(parse_time("x"), None);
    }
}
