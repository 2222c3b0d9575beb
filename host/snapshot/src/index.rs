//! Indexes of layers: made while the bytes pass, kept in the store, put together to trees.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use oci::media_type::Compression;
use oci::tree::{self, Entry, File, Inode, Kind, Layer, Path, Time, Tree};
use oci::{DiffId, Digest, Hasher};
use store::{Store, Variant};

use crate::compress;
use crate::error::{At, Error};
use crate::read::{self, Item};

/// What is wrong with a link to nothing.
pub(crate) const NO_TARGET: &str = "a hard link to a file that the layer does not hold";

/// A reader that takes the digest of what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    /// The digest of everything, what follows the tar's end included.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

/// Collects the entries of a layer.
#[derive(Default)]
pub(crate) struct Collector {
    entries: BTreeMap<Path, Entry>,
    /// Files that have further names.
    linked: BTreeSet<Path>,
}

impl Collector {
    fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// What lies in a directory of the layer, at any depth.
    fn below(&self, path: &[u8]) -> impl Iterator<Item = &Path> {
        let prefix = if path.is_empty() { Vec::new() } else { tree::join(path, b"") };
        let start = prefix.clone();
        self.entries.range(start..).map(|(path, _)| path).take_while(move |path| path.starts_with(&prefix))
    }

    /// What an entry does to a layer that has brought so much already, as it would if a process whose root this is
    /// unpacked it: its place is found through the layer's own links; a link is what it links to; a mark of removal
    /// means what is below the layer, never what the layer brings (image-spec, "Whiteouts"). A folder that must hide
    /// what is below it comes first.
    pub(crate) fn settle(&self, item: Item) -> Result<Vec<Item>, Error> {
        let written = item.path.clone();
        let hostile = |problem| Error::Hostile { path: crate::error::show(&written), problem };
        let is_mark = item.entry.kind == Kind::Dir { opaque: true };
        let resolve = |path: &[u8]| {
            tree::resolve(path, |path| self.get(path)).map_err(|_| hostile("whose symbolic links lead in a circle"))
        };
        let place = |path: &[u8]| -> Result<Path, Error> {
            if path.is_empty() {
                Ok(Path::new())
            } else {
                Ok(tree::join(&resolve(tree::parent(path))?, tree::name(path)))
            }
        };
        // A mark lies in its directory; anything else may take a link's place.
        let path = if is_mark { resolve(&item.path)? } else { place(&item.path)? };
        let mut folder = if is_mark { &path[..] } else { tree::parent(&path) };
        while !folder.is_empty() && self.get(folder).is_none() {
            folder = tree::parent(folder);
        }
        let mut items = Vec::new();
        match self.get(folder).map(|entry| &entry.kind) {
            Some(Kind::Whiteout) if folder != path => items.push(opaque(folder)),
            None | Some(Kind::Dir { .. } | Kind::Whiteout) => {}
            Some(_) => return Err(hostile("in something that is not a directory")),
        }
        let known = self.get(&path).map(|entry| &entry.kind);
        let is_folder = matches!(known, Some(Kind::Dir { .. })) || self.below(&path).next().is_some();
        match (&item.entry.kind, known) {
            (Kind::Dir { opaque: true }, _) => items.push(opaque(&path)),
            (Kind::Dir { .. }, Some(Kind::Whiteout)) => items.extend([opaque(&path), item.at(path)]),
            (Kind::Whiteout, _) if is_folder => items.push(opaque(&path)),
            (Kind::Whiteout, Some(_)) => {}
            _ => {
                let mut item = item.at(path);
                if let Some(target) = &item.link {
                    let target = place(target)?;
                    item.entry = match self.get(&target) {
                        Some(Entry { kind: Kind::Dir { .. }, .. }) => {
                            return Err(hostile("a hard link to a directory"));
                        }
                        Some(Entry { kind: Kind::Whiteout, .. }) => return Err(hostile(NO_TARGET)),
                        _ if target == item.path => return Err(hostile(NO_TARGET)),
                        Some(known) => known.clone(),
                        // A file of a layer below: the tree tells.
                        None => {
                            let inode = Inode { layer: None, path: target.clone() };
                            Entry { kind: Kind::File(File { size: 0, digest: None, inode }), ..item.entry }
                        }
                    };
                    item.link = Some(target);
                }
                items.push(item);
            }
        }
        Ok(items)
    }

    /// Adds what [`Self::settle`] gave; later ones win.
    pub(crate) fn add(&mut self, item: Item) -> Result<(), Error> {
        let Item { path, mut entry, link } = item;
        match (&mut entry.kind, self.entries.get_mut(&path)) {
            // The mark of an opaque directory may come before the directory or behind it.
            (Kind::Dir { opaque: true }, Some(Entry { kind: Kind::Dir { opaque: known }, .. })) => {
                *known = true;
                return Ok(());
            }
            (Kind::Dir { opaque }, Some(Entry { kind: Kind::Dir { opaque: known }, .. })) => *opaque = *known,
            (Kind::Dir { .. }, None) => {}
            _ => self.clear(&path)?,
        }
        if link.is_some()
            && let Kind::File(file) = &entry.kind
        {
            self.linked.insert(file.inode.path.clone());
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Takes away what is at a path, and everything in it.
    fn clear(&mut self, path: &[u8]) -> Result<(), Error> {
        let gone: Vec<Path> = self.below(path).cloned().chain([path.to_vec()]).collect();
        // The bytes of a file are found by its first name.
        if gone.iter().any(|path| self.linked.contains(path)) {
            let problem = "in the place of a file that has other names";
            return Err(Error::Hostile { path: crate::error::show(path), problem });
        }
        for path in gone {
            self.entries.remove(&path);
        }
        Ok(())
    }

    /// Settles and adds; gives the path of the file whose bytes come next.
    pub(crate) fn take(&mut self, item: Item) -> Result<Option<Path>, Error> {
        let mut file = None;
        for item in self.settle(item)? {
            file = item.has_bytes().then(|| item.path.clone());
            self.add(item)?;
        }
        Ok(file)
    }

    /// Notes what a file's bytes are.
    pub(crate) fn set_digest(&mut self, path: &[u8], digest: Digest) {
        if let Some(Entry { kind: Kind::File(file), .. }) = self.entries.get_mut(path) {
            file.digest = Some(digest);
        }
    }

    pub(crate) fn finish(self) -> Layer {
        Layer { entries: self.entries.into_iter().collect() }
    }
}

/// A directory that hides what is below it. Until the directory itself comes, it looks as a missing parent would.
fn opaque(path: &[u8]) -> Item {
    let entry = Entry { kind: Kind::Dir { opaque: true }, ..Entry::dir(0o755, Time::default()) };
    Item { path: path.to_vec(), entry, link: None }
}

/// Reads a layer's blob, checks that it is the layer `expected`, and gives its index.
///
/// # Errors
/// When it is not, or holds what no layer may.
pub fn of_blob(blob: impl Read + Send, expected: DiffId) -> Result<Layer, Error> {
    let mut source = Hashing::new(compress::reader(blob).map_err(Error::Read)?);
    let mut collector = Collector::default();
    read::entries(&mut source, |item, bytes| {
        if let Some(path) = collector.take(item)? {
            let mut bytes = Hashing::new(bytes);
            io::copy(&mut bytes, &mut io::sink()).map_err(Error::Read)?;
            collector.set_digest(&path, bytes.finish().map_err(Error::Read)?);
        }
        Ok(())
    })?;
    match source.finish().map_err(Error::Read)? {
        got if got == expected.0 => Ok(collector.finish()),
        got => Err(Error::Mismatch { expected, got }),
    }
}

/// The scheme of an index's bytes; another number is made anew.
const VERSION: u8 = 2;

/// An index as the store keeps it.
#[must_use]
pub fn encode(layer: &Layer) -> Vec<u8> {
    // Plain data without maps or floats cannot fail to encode.
    let mut bytes = vec![VERSION];
    bytes.extend(postcard::to_allocvec(layer).unwrap_or_default());
    bytes
}

/// Reads what [`encode`] wrote; none if another version of this program did.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Layer> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    postcard::from_bytes(rest).ok()
}

/// A layer's index, from the store, or made from its blob and kept.
///
/// # Errors
/// When there is no blob, or it is not the layer.
pub fn of(store: &Store, layer: DiffId) -> Result<Layer, Error> {
    if let Some(index) = store.read_index(layer).as_deref().and_then(decode) {
        return Ok(index);
    }
    let variant = store.variants(layer).into_iter().next().ok_or_else(|| missing(layer))?;
    learn(store, layer, variant)
}

/// Makes and keeps the index of a layer that a blob is said to hold, and notes that it does.
///
/// # Errors
/// When it holds another, or what no layer may.
pub fn learn(store: &Store, layer: DiffId, variant: Variant) -> Result<Layer, Error> {
    let path = store.blob(variant.digest);
    let index = of_blob(std::fs::File::open(&path).at(&path)?, layer)?;
    store.write_index(layer, &encode(&index))?;
    store.add_variant(layer, variant)?;
    Ok(index)
}

/// Looks whether a blob holds the layer that it is said to hold, and notes that it does.
///
/// # Errors
/// When it holds another.
pub fn check(store: &Store, layer: DiffId, variant: Variant) -> Result<(), Error> {
    let path = store.blob(variant.digest);
    let plain = compress::reader(std::fs::File::open(&path).at(&path)?).map_err(Error::Read)?;
    match Hashing::new(plain).finish().map_err(Error::Read)? {
        got if got == layer.0 => Ok(store.add_variant(layer, variant)?),
        got => Err(Error::Mismatch { expected: layer, got }),
    }
}

pub(crate) fn missing(layer: DiffId) -> Error {
    let source = io::Error::new(io::ErrorKind::NotFound, "no blob in the store holds this layer");
    Error::Store(store::Error::Io { path: layer.to_string().into(), source })
}

/// An index as a layer of its own, for places that take nothing but layers: a tar of one file, compressed; and its diff
/// ID.
///
/// # Errors
/// When it cannot be compressed.
pub fn pack(encoded: &[u8]) -> io::Result<(Vec<u8>, DiffId)> {
    let mut header = tar::Header::new_ustar();
    header.set_size(encoded.len() as u64);
    header.set_mode(0o444);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, PACKED, encoded)?;
    let plain = archive.into_inner()?;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut packed, &plain)?;
    Ok((packed.finish()?, DiffId(Digest::of(&plain))))
}

/// Reads what [`pack`] wrote; none where it is something else.
#[must_use]
pub fn unpack(packed: &[u8]) -> Option<Layer> {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(packed).take(LARGEST));
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    (entry.path_bytes() == PACKED.as_bytes()).then_some(())?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).ok()?;
    decode(&bytes)
}

/// The file in a packed index.
const PACKED: &str = "index";
/// No index is as large.
const LARGEST: u64 = 1 << 30;

/// The tree that a stack of layers makes, bottom first; `borrowed` are indexes that the store has not.
///
/// # Errors
/// As [`of`].
pub fn tree(store: &Store, layers: &[DiffId], borrowed: &BTreeMap<DiffId, Arc<Layer>>) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    for id in layers {
        let mut layer = match borrowed.get(id) {
            Some(index) => Layer::clone(index),
            None => of(store, *id)?,
        };
        // A hard link to a file of a layer below is another name of that file.
        let own: BTreeSet<Path> = layer.entries.iter().map(|(path, _)| path.clone()).collect();
        for (path, entry) in &mut layer.entries {
            if let Kind::File(file) = &entry.kind
                && !own.contains(&file.inode.path)
            {
                let target = tree.get(&file.inode.path).filter(|target| !target.is_dir()).cloned();
                *entry = target.ok_or_else(|| Error::Hostile { path: crate::error::show(path), problem: NO_TARGET })?;
            }
        }
        tree.apply(&layer, *id);
    }
    Ok(tree)
}

/// The blob of a layer in this compression, made from another if need be.
///
/// # Errors
/// When the layer is in no blob.
pub fn variant(store: &Store, layer: DiffId, compression: Compression) -> Result<Variant, Error> {
    let known = store.variants(layer);
    if let Some(variant) = known.iter().find(|variant| variant.compression == compression) {
        return Ok(*variant);
    }
    let source = known.first().ok_or_else(|| missing(layer))?;
    let path = store.blob(source.digest);
    let mut plain = Hashing::new(compress::reader(std::fs::File::open(&path).at(&path)?).map_err(Error::Read)?);
    let level = compress::Level::default_of(compression);
    let mut writer = compress::Writer::new(store.blob_writer()?, compression, level).map_err(Error::Read)?;
    io::copy(&mut plain, &mut writer).map_err(Error::Read)?;
    let blob = writer.finish().map_err(Error::Read)?;
    let got = plain.finish().map_err(Error::Read)?;
    if got != layer.0 {
        return Err(Error::Mismatch { expected: layer, got });
    }
    let (digest, size) = blob.commit(None)?;
    let variant = Variant { digest, size, compression };
    store.add_variant(layer, variant)?;
    Ok(variant)
}
