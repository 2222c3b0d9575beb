//! What context files hold, for keys: each is read once a build.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use context::Context;
use oci::Digest;
use oci::media_type::Compression;
use oci::tree::{Kind, Tree};
use plan::graph::Vertex;
use plan::key::Frame;
use snapshot::compress::{Level, Writer};
use store::Store;

use super::stamps::{Read, Stamps};
use crate::error::Error;
use crate::op::Planned;
use crate::op::copy::{self, How, Source};

/// Digests of context files.
pub(super) struct Digests {
    store: Store,
    /// By the folder that they are in.
    folders: HashMap<PathBuf, Folder>,
    pub(super) listings: Listings,
}

/// What is known of a folder's files: in this build, and from earlier ones.
#[derive(Default)]
struct Folder {
    files: HashMap<oci::tree::Path, Digest>,
    stamps: Stamps,
}

/// What components of contexts stand for, by their digests.
pub(crate) type Listings = BTreeMap<Digest, Arc<Listing>>;

/// Which files a component stands for, each with the beginning of a digest of all that counts: `path NUL digest` one after
/// the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing(Vec<u8>);

/// Bytes of a digest that are kept: enough to tell two versions of a file.
const KEPT: usize = 8;
/// A listing in the store is no larger, unpacked.
const LARGEST: u64 = 256 << 20;

impl Listing {
    fn add(&mut self, path: &[u8], digest: Digest) {
        self.0.extend_from_slice(path);
        self.0.push(0);
        self.0.extend_from_slice(&digest.as_bytes()[..KEPT]);
    }

    /// Paths and what stands for the files.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let file = (&rest[..end], rest.get(end + 1..end + 1 + KEPT)?);
            rest = &rest[end + 1 + KEPT..];
            Some(file)
        })
    }

    /// For the store.
    pub(crate) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut writer = Writer::new(Vec::new(), Compression::Zstd, Level::fast())?;
        writer.write_all(&self.0)?;
        writer.finish()
    }

    /// From the store; none where it is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut listing = Vec::new();
        snapshot::compress::reader(bytes).ok()?.take(LARGEST).read_to_end(&mut listing).ok()?;
        Some(Self(listing))
    }
}

impl Digests {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), folders: HashMap::new(), listings: Listings::new() }
    }

    /// Keeps what has been learnt of files for builds to come.
    pub(super) fn into_listings(mut self) -> Listings {
        for (folder, known) in &mut self.folders {
            known.stamps.save(&self.store, folder, &known.files);
        }
        self.listings
    }

    /// Reads files of a context that have not been read in this build, unless they are as they were in an earlier one.
    async fn read(&mut self, context: &Arc<Context>, planned: &[Planned]) -> Result<&Folder, String> {
        let path = context.folder.clone();
        let known = match self.folders.remove(&path) {
            Some(folder) => folder,
            None if context.is_kept() => Folder { stamps: Stamps::load(&self.store, &path), ..Folder::default() },
            None => Folder::default(),
        };
        let paths = planned.iter().filter_map(|planned| Some(planned.origin.as_ref()?.inode.path.clone()));
        let wanted: Vec<oci::tree::Path> = paths.filter(|path| !known.files.contains_key(path)).collect();
        let (folder, is_kept) = (path.clone(), context.is_kept());
        let read = tokio::task::spawn_blocking(move || {
            let read = digest_files(&folder, &wanted, &known.stamps);
            (known, read)
        });
        let (mut known, read) = read.await.map_err(|error| error.to_string())?;
        for (path, read) in read? {
            let digest = match read {
                Known::Before(digest) => digest,
                Known::Now(read) if is_kept => known.stamps.add(path.clone(), &read),
                Known::Now(read) => read.digest,
            };
            known.files.insert(path, digest);
        }
        Ok(self.folders.entry(path).or_insert(known))
    }

    /// The digest of what a copy would take, without times: two contexts that would give the same files are the same.
    pub(super) async fn content(
        &mut self,
        context: &Arc<Context>,
        sources: &[Source],
        how: &How,
        vertex: &Vertex,
    ) -> Result<Digest, Error> {
        let failed = |reason: String| Error::Step { step: vertex.name.clone(), reason, span: vertex.span().cloned() };
        let planned = copy::plan(sources, how, &Tree::default()).map_err(failed)?;
        let known = self.read(context, &planned).await.map_err(failed)?;
        let (mut frame, mut listing) = (Frame::new("files"), Listing::default());
        // Files are called what they are called where people look for them. What has no bytes has no origin; it is from
        // where the others are from.
        let folder = |item: &Planned| Some(item.origin.as_ref()?.inode.path.strip_suffix(&item.path[..])?.to_vec());
        let folder = planned.iter().find_map(folder).unwrap_or_default();
        for item in &planned {
            let entry = &item.entry;
            let mut of = Frame::new("file").field(&item.path).field(&entry.mode.to_le_bytes());
            of = match &entry.kind {
                Kind::File(file) => match &item.origin {
                    Some(origin) => {
                        let digest = known.files.get(&origin.inode.path);
                        of.field(b"file").field(digest.map_or(&[][..], |digest| digest.as_bytes()))
                    }
                    None => of.field(b"link").field(&file.inode.path),
                },
                Kind::Symlink(target) => of.field(b"symlink").field(target),
                kind => of.field(format!("{kind:?}").as_bytes()),
            };
            for (name, value) in &entry.xattrs {
                of = of.field(name.as_bytes()).field(value);
            }
            let digest = of.finish();
            frame = frame.field(digest.as_bytes());
            match &item.origin {
                Some(origin) => listing.add(&origin.inode.path, digest),
                None => listing.add(&[&folder[..], &item.path].concat(), digest),
            }
        }
        let digest = frame.finish();
        self.listings.entry(digest).or_insert_with(|| Arc::new(listing));
        Ok(digest)
    }
}

/// How a file's digest is known.
enum Known {
    Before(Digest),
    Now(Read),
}

/// Reads files side by side, but for those that are as they were.
fn digest_files(
    folder: &Path,
    wanted: &[oci::tree::Path],
    stamps: &Stamps,
) -> Result<Vec<(oci::tree::Path, Known)>, String> {
    let root = sys::Root::open(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let size = wanted.len().div_ceil(threads).max(1);
    let read = |path: &oci::tree::Path, buffer: &mut [u8]| -> Result<(oci::tree::Path, Known), String> {
        let relative = Path::new(std::ffi::OsStr::from_bytes(path));
        let at = folder.join(relative);
        let failed = |error: std::io::Error| format!("{}: {error}", at.display());
        // An inode that was read before is that, whatever way leads to it.
        let known = std::fs::symlink_metadata(&at).ok().and_then(|meta| stamps.digest(path, &meta));
        if let Some(digest) = known {
            return Ok((path.clone(), Known::Before(digest)));
        }
        let mut file = root.read(relative).map_err(failed)?;
        let (before, now) = (file.metadata().map_err(failed)?, SystemTime::now());
        let mut hasher = oci::Hasher::default();
        loop {
            match file.read(buffer).map_err(failed)? {
                0 => return Ok((path.clone(), Known::Now(Read::new(hasher.finish(), &before, now)))),
                length => hasher.update(&buffer[..length]),
            }
        }
    };
    let part = |part: &[oci::tree::Path]| {
        let mut buffer = vec![0; 128 << 10];
        part.iter().map(|path| read(path, &mut buffer)).collect::<Result<Vec<_>, String>>()
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = wanted.chunks(size).map(|paths| scope.spawn(|| part(paths))).collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().map_err(|_| "reading the context failed".to_owned())??);
        }
        Ok(all)
    })
}
