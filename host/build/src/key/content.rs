//! What context files hold, for keys: each is read once a build.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use context::Context;
use oci::Digest;
use oci::media_type::Compression;
use oci::tree::{Kind, Tree};
use plan::graph::Vertex;
use plan::key::Frame;
use snapshot::compress::{Level, Writer};

use crate::error::Error;
use crate::op::Planned;
use crate::op::copy::{self, How, Source};

/// Digests of context files.
#[derive(Default)]
pub(super) struct Digests {
    files: BTreeMap<(std::path::PathBuf, oci::tree::Path), Digest>,
    pub(super) listings: Listings,
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
        let wanted: Vec<oci::tree::Path> = planned
            .iter()
            .filter_map(|planned| planned.origin.as_ref())
            .map(|origin| origin.inode.path.clone())
            .filter(|path| !self.files.contains_key(&(context.folder.clone(), path.clone())))
            .collect();
        let folder = context.folder.clone();
        let read = tokio::task::spawn_blocking(move || digest_files(&folder, &wanted)).await;
        for (path, digest) in read.map_err(|error| failed(error.to_string()))?.map_err(failed)? {
            self.files.insert((context.folder.clone(), path), digest);
        }
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
                        let digest = self.files.get(&(context.folder.clone(), origin.inode.path.clone()));
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

/// Reads files side by side.
fn digest_files(folder: &Path, wanted: &[oci::tree::Path]) -> Result<Vec<(oci::tree::Path, Digest)>, String> {
    let root = sys::Root::open(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let size = wanted.len().div_ceil(threads).max(1);
    let read = |path: &oci::tree::Path| -> Result<(oci::tree::Path, Digest), String> {
        let relative = Path::new(std::ffi::OsStr::from_bytes(path));
        let failed = |error: std::io::Error| format!("{}: {error}", folder.join(relative).display());
        let mut file = root.read(relative).map_err(failed)?;
        let mut hasher = oci::Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok((path.clone(), hasher.finish())),
                length => hasher.update(&buffer[..length]),
            }
        }
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = wanted
            .chunks(size)
            .map(|part| scope.spawn(|| part.iter().map(read).collect::<Result<Vec<_>, String>>()))
            .collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().map_err(|_| "reading the context failed".to_owned())??);
        }
        Ok(all)
    })
}
