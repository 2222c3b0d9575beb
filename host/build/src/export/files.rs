//! The files of images instead of the images: in a folder, or in one tar.

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
use store::Store;
use sys::rustix::fs::OFlags;

use super::{Made, at, sink};
use crate::error::Error;
use crate::request::{Files, Tools};

/// The trees of some platforms as one layer: sorted, each file with its bytes from the layer that has it. `split` gives
/// each platform a folder of its own; without it, no two may have a file at one path.
async fn flatten(tools: &Tools, images: &[Made], split: bool) -> Result<DiffId, Error> {
    let mut trees = Vec::new();
    for image in images {
        trees.push(image.solver.tree(&image.layers).await?);
        for layer in &image.layers {
            image.solver.fetch(*layer).await?;
        }
    }
    let store = tools.store.clone();
    let platforms: Vec<Platform> = images
        .iter()
        .zip(trees)
        .map(|(image, tree)| Platform {
            // As BuildKit names them: linux_amd64, linux_arm_v7.
            name: image.platform.to_string().replace('/', "_"),
            tree,
            layers: image.layers.clone(),
            epoch: image.solver.epoch(),
        })
        .collect();
    let work = move || -> Result<DiffId, Error> {
        let scratch = store.scratch_folder()?;
        let mut all: BTreeMap<tree::Path, (String, Part)> = BTreeMap::new();
        for platform in &platforms {
            platform.extract(&store, scratch.path())?;
            for part in platform.parts(scratch.path(), split) {
                let is_dir = part.entry.is_dir();
                match all.get(&part.path) {
                    Some((_, known)) if known.entry.is_dir() && is_dir => {}
                    Some((other, _)) => {
                        let path = String::from_utf8_lossy(&part.path).into_owned();
                        let name = &platform.name;
                        let reason = format!(
                            "/{path} is in the images for {other} and {name}, which are to share a folder: leave out \
                             platform-split=false"
                        );
                        return Err(Error::Request(reason));
                    }
                    None => {
                        all.insert(part.path.clone(), (platform.name.clone(), part));
                    }
                }
            }
        }
        let mut parts: Vec<Part> = all.into_values().map(|(_, part)| part).collect();
        parts.sort_by(|a, b| tree::order(&a.path, &b.path));
        Ok(assemble::layer(&store, parts, Compression::Zstd, Level::fast())?)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))?
}

/// The files of one platform's image.
struct Platform {
    name: String,
    tree: Arc<Tree>,
    layers: Vec<DiffId>,
    epoch: Option<u64>,
}

impl Platform {
    /// Takes the bytes of all files out of the layers that have them.
    fn extract(&self, store: &Store, scratch: &Path) -> Result<(), Error> {
        for layer in &self.layers {
            let wanted: BTreeSet<tree::Path> = self
                .tree
                .iter()
                .filter_map(|(_, entry)| match &entry.kind {
                    Kind::File(file) if file.inode.layer == Some(*layer) => Some(file.inode.path.clone()),
                    _ => None,
                })
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let folder = scratch.join(layer.0.hex());
            fs::create_dir_all(&folder).map_err(at(&folder))?;
            let blob = blob(store, *layer);
            assemble::extract(fs::File::open(&blob).map_err(at(&blob))?, &wanted, &folder)?;
        }
        Ok(())
    }

    fn parts(&self, scratch: &Path, split: bool) -> Vec<Part> {
        let place = |path: &[u8]| if split { tree::join(self.name.as_bytes(), path) } else { path.to_vec() };
        let time = self.epoch.and_then(|epoch| i64::try_from(epoch).ok());
        let time = time.map(|seconds| tree::Time { seconds, nanoseconds: 0 });
        let mut first: BTreeMap<tree::Inode, tree::Path> = BTreeMap::new();
        let part = |(path, entry): (&tree::Path, &Entry)| {
            let mut entry = entry.clone();
            // Files that leave the image bear its time, all of them.
            entry.mtime = time.unwrap_or(entry.mtime);
            let path = place(path);
            let mut body = None;
            if let Kind::File(file) = &mut entry.kind {
                let name = first.entry(file.inode.clone()).or_insert_with(|| path.clone()).clone();
                if name == path
                    && let Some(layer) = file.inode.layer
                {
                    let folder = scratch.join(layer.0.hex());
                    body = Some(Body::Beneath(folder, assemble::extracted(&file.inode.path).into_bytes()));
                }
                file.inode = tree::Inode { layer: None, path: name };
            }
            Part { path, entry, body }
        };
        let mut entries: Vec<_> = self.tree.iter().filter(|(path, _)| !path.is_empty()).collect();
        entries.sort_by(|(a, _), (b, _)| tree::order(a, b));
        let now = i64::try_from(crate::time::now()).unwrap_or(0);
        let now = tree::Time { seconds: now, nanoseconds: 0 };
        let own = Entry::dir(0o755, time.unwrap_or(now));
        let own = split.then(|| Part { path: self.name.clone().into_bytes(), entry: own, body: None });
        own.into_iter().chain(entries.into_iter().map(part)).collect()
    }
}

/// A blob that holds a layer which is in the store.
fn blob(store: &Store, layer: DiffId) -> std::path::PathBuf {
    store.variants(layer).into_iter().next().map(|variant| store.blob(variant.digest)).unwrap_or_default()
}

/// Writes the files as a tar.
pub(super) async fn to_tar(tools: &Tools, images: &[Made], split: bool, path: Option<&Path>) -> Result<(), Error> {
    let layer = flatten(tools, images, split).await?;
    let store = tools.store.clone();
    let path = path.map(Path::to_owned);
    let work = move || -> Result<(), Error> {
        let blob = blob(&store, layer);
        let mut plain = compress::reader(fs::File::open(&blob).map_err(at(&blob))?).map_err(at(&blob))?;
        let (mut out, place) = sink(path.as_deref())?;
        std::io::copy(&mut plain, &mut out).and_then(|_| out.flush()).map_err(at(&place))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))?
}

/// Writes the files into a folder, as this user's: owners and devices are for tars.
pub(super) async fn to_folder(tools: &Tools, images: &[Made], split: bool, files: &Files) -> Result<(), Error> {
    let layer = flatten(tools, images, split).await?;
    let (store, folder, delete) = (tools.store.clone(), files.folder.clone(), files.delete);
    let work = move || -> Result<(), Error> {
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        if delete {
            let opened = fs::File::open(&folder).and_then(|opened| sys::remove::content(&opened));
            opened.map_err(at(&folder))?;
        }
        let root = sys::Root::open(&folder).map_err(at(&folder))?;
        let blob = blob(&store, layer);
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
