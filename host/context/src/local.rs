//! A folder as a context.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci::tree::{self, Entry, File, Inode, Kind, Time, Tree};

use crate::Context;
use crate::error::Error;
use crate::pattern::{Matched, Matcher};

/// Walks `folder`, leaving out what `ignore` matches.
///
/// A socket is an empty file, as it is to BuildKit.
///
/// # Errors
/// When something in it cannot be looked at.
pub fn local(folder: &Path, ignore: &Matcher) -> Result<Context, Error> {
    let mut walk = Walk { folder, ignore, links: BTreeMap::new(), tree: Tree::default() };
    walk.directory(&[], &Matched::default(), &mut Vec::new())?;
    Ok(Context { tree: walk.tree.into(), folder: folder.to_owned(), ..Context::default() })
}

struct Walk<'w> {
    folder: &'w Path,
    ignore: &'w Matcher,
    links: BTreeMap<(u64, u64), tree::Path>,
    tree: Tree,
}

impl Walk<'_> {
    /// `pending` are folders that are left out unless something in them is brought back.
    fn directory(
        &mut self,
        path: &[u8],
        matched: &Matched,
        pending: &mut Vec<(tree::Path, Entry)>,
    ) -> Result<(), Error> {
        let at = self.folder.join(std::ffi::OsStr::from_bytes(path));
        let failed = |source| Error::Io { path: at.clone(), source };
        for found in fs::read_dir(&at).map_err(failed)? {
            let found = found.map_err(failed)?;
            let child = tree::join(path, found.file_name().as_bytes());
            let (left_out, child_matched) = self.ignore.matches(&child, matched);
            let is_dir = found.file_type().map_err(failed)?.is_dir();
            if left_out && !(is_dir && self.ignore.brings_back()) {
                continue;
            }
            let path = found.path();
            let meta = fs::symlink_metadata(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
            let entry = self.entry(&child, &path, &meta)?;
            if left_out {
                pending.push((child.clone(), entry));
                self.directory(&child, &child_matched, pending)?;
                pending.pop_if(|(path, _)| *path == child);
                continue;
            }
            for (path, entry) in pending.drain(..) {
                self.tree.insert(path, entry);
            }
            self.tree.insert(child.clone(), entry);
            if is_dir {
                self.directory(&child, &child_matched, &mut Vec::new())?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, child: &[u8], path: &Path, meta: &fs::Metadata) -> Result<Entry, Error> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let kind = meta.file_type();
        let device = || (sys::rustix::fs::major(meta.rdev()), sys::rustix::fs::minor(meta.rdev()));
        let kind = if kind.is_dir() {
            Kind::Dir { opaque: false }
        } else if kind.is_symlink() {
            Kind::Symlink(fs::read_link(path).map_err(failed)?.into_os_string().into_vec())
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if kind.is_char_device() {
            Kind::Char(device().0, device().1)
        } else if kind.is_block_device() {
            Kind::Block(device().0, device().1)
        } else {
            let mut first = child.to_vec();
            if meta.nlink() > 1 {
                first = self.links.entry((meta.dev(), meta.ino())).or_insert(first).clone();
            }
            let size = if kind.is_socket() { 0 } else { meta.size() };
            Kind::File(File { size, digest: None, inode: Inode { layer: None, path: first } })
        };
        let xattrs = sys::xattr::list(path).map_err(failed)?;
        Ok(Entry {
            kind,
            mode: meta.mode() & 0o7777,
            uid: 0,
            gid: 0,
            mtime: Time { seconds: meta.mtime(), nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0) },
            xattrs: xattrs.into_iter().filter(|(name, _)| name == "security.capability").collect(),
        })
    }
}
