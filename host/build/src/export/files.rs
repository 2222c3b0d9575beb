//! An image's files instead of the image: in a folder, or in one tar.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use oci::DiffId;
use oci::media_type::Compression;
use oci::tree::{self, Entry, Kind, Tree};
use snapshot::assemble::{self, Body, Part};
use snapshot::compress::{self, Level};
use sys::rustix::fs::OFlags;

use super::{at, sink};
use crate::error::Error;
use crate::request::Tools;
use crate::solve::Solver;

/// The tree as one layer: sorted, each file with its bytes from the layer that has it.
async fn flatten(tools: &Tools, solver: &Arc<Solver>, layers: &[DiffId]) -> Result<DiffId, Error> {
    let tree = solver.tree(layers).await?;
    for layer in layers {
        solver.fetch(*layer).await?;
    }
    let (store, layers, epoch) = (tools.store.clone(), layers.to_vec(), solver.epoch());
    let work = move || -> Result<DiffId, Error> {
        let scratch = store.scratch_folder()?;
        let parts = parts(&tree, scratch.path(), epoch);
        for layer in &layers {
            let wanted: BTreeSet<tree::Path> = tree
                .iter()
                .filter_map(|(_, entry)| match &entry.kind {
                    Kind::File(file) if file.inode.layer == Some(*layer) => Some(file.inode.path.clone()),
                    _ => None,
                })
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let folder = scratch.path().join(layer.0.hex());
            fs::create_dir_all(&folder).map_err(at(&folder))?;
            let variant = store.variants(*layer).into_iter().next();
            let blob = variant.map(|variant| store.blob(variant.digest)).unwrap_or_default();
            assemble::extract(fs::File::open(&blob).map_err(at(&blob))?, &wanted, &folder)?;
        }
        Ok(assemble::layer(&store, parts, Compression::Zstd, Level::fast())?)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))?
}

fn parts(tree: &Tree, scratch: &Path, epoch: Option<u64>) -> Vec<Part> {
    let mut first: BTreeMap<tree::Inode, tree::Path> = BTreeMap::new();
    let part = |(path, entry): (&tree::Path, &Entry)| {
        let mut entry = entry.clone();
        // Files that leave the image bear its time, all of them.
        if let Some(seconds) = epoch.and_then(|epoch| i64::try_from(epoch).ok()) {
            entry.mtime = tree::Time { seconds, nanoseconds: 0 };
        }
        let mut body = None;
        if let Kind::File(file) = &mut entry.kind {
            let name = first.entry(file.inode.clone()).or_insert_with(|| path.clone()).clone();
            if name == *path
                && let Some(layer) = file.inode.layer
            {
                let folder = scratch.join(layer.0.hex());
                body = Some(Body::Beneath(folder, assemble::extracted(&file.inode.path).into_bytes()));
            }
            file.inode = tree::Inode { layer: None, path: name };
        }
        Part { path: path.clone(), entry, body }
    };
    let mut entries: Vec<_> = tree.iter().collect();
    entries.sort_by(|(a, _), (b, _)| tree::order(a, b));
    entries.into_iter().map(part).collect()
}

/// Writes the files as a tar.
pub(super) async fn to_tar(
    tools: &Tools,
    solver: &Arc<Solver>,
    layers: &[DiffId],
    path: Option<&Path>,
) -> Result<(), Error> {
    let layer = flatten(tools, solver, layers).await?;
    let store = tools.store.clone();
    let path = path.map(Path::to_owned);
    let work = move || -> Result<(), Error> {
        let variant = store.variants(layer).into_iter().next();
        let blob = variant.map(|variant| store.blob(variant.digest)).unwrap_or_default();
        let mut plain = compress::reader(fs::File::open(&blob).map_err(at(&blob))?).map_err(at(&blob))?;
        let (mut out, place) = sink(path.as_deref())?;
        std::io::copy(&mut plain, &mut out).and_then(|_| out.flush()).map_err(at(&place))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))?
}

/// Writes the files into a folder, as this user's: owners and devices are for tars.
pub(super) async fn to_folder(
    tools: &Tools,
    solver: &Arc<Solver>,
    layers: &[DiffId],
    folder: &Path,
) -> Result<(), Error> {
    let layer = flatten(tools, solver, layers).await?;
    let (store, folder) = (tools.store.clone(), folder.to_owned());
    let work = move || -> Result<(), Error> {
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let root = sys::Root::open(&folder).map_err(at(&folder))?;
        let variant = store.variants(layer).into_iter().next();
        let blob = variant.map(|variant| store.blob(variant.digest)).unwrap_or_default();
        let mut modes = Vec::new();
        let source = compress::reader(fs::File::open(&blob).map_err(at(&blob))?).map_err(at(&blob))?;
        snapshot::read::entries(source, |item, bytes| {
            let path = Path::new(std::ffi::OsStr::from_bytes(&item.path));
            let failed = |source: std::io::Error| snapshot::Error::Io { path: folder.join(path), source };
            write_entry(&root, path, &item.entry, item.link.is_some(), bytes).map_err(failed)?;
            if item.entry.is_dir() {
                modes.push((path.to_owned(), item.entry.mode));
            }
            Ok(())
        })?;
        for (path, mode) in modes.into_iter().rev() {
            let opened = root.open_plain(&path, OFlags::RDONLY | OFlags::DIRECTORY);
            let set =
                opened.and_then(|opened| fs::File::from(opened).set_permissions(fs::Permissions::from_mode(mode)));
            set.map_err(at(&folder.join(&path)))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))?
}

/// The folder may hold links of an earlier build, so each parent is opened without following one.
fn write_entry(
    root: &sys::Root,
    path: &Path,
    entry: &Entry,
    is_link: bool,
    bytes: &mut dyn Read,
) -> std::io::Result<()> {
    use sys::rustix::fs::{AtFlags, FileType, Mode, chmodat, linkat, mkdirat, openat, statat, symlinkat, unlinkat};
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let (parent, name) = root.parent(path)?;
    let there = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode)).ok();
    if there.is_some_and(|there| there != FileType::Directory) {
        unlinkat(&parent, name, AtFlags::empty())?;
    }
    let open = Mode::from_raw_mode(0o755);
    match &entry.kind {
        // Something is to be put into it, and then it gets its mode.
        Kind::Dir { .. } if there == Some(FileType::Directory) => Ok(chmodat(&parent, name, open, AtFlags::empty())?),
        Kind::Dir { .. } => Ok(mkdirat(&parent, name, open)?),
        Kind::File(file) if is_link => {
            let (from, from_name) = root.parent(Path::new(std::ffi::OsStr::from_bytes(&file.inode.path)))?;
            Ok(linkat(&from, from_name, &parent, name, AtFlags::empty())?)
        }
        Kind::File(_) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = fs::File::from(openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
            std::io::copy(bytes, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(entry.mode & 0o777))?;
            let time =
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(entry.mtime.seconds).unwrap_or(0));
            file.set_modified(time)
        }
        Kind::Symlink(target) => Ok(symlinkat(std::ffi::OsStr::from_bytes(target), &parent, name)?),
        // Devices and pipes are the machine's business; a tar has them.
        Kind::Char(..) | Kind::Block(..) | Kind::Fifo | Kind::Whiteout => Ok(()),
    }
}
