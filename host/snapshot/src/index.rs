//! Indexes of layers: made while the bytes pass, kept in the store, put together to trees.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use oci::media_type::Compression;
use oci::tree::{self, Entry, Kind, Layer, Path, Time, Tree};
use oci::{DiffId, Digest, Hasher};
use store::{Store, Variant};

use crate::compress;
use crate::error::{At, Error};
use crate::read::{self, Item};

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
}

impl Collector {
    /// Where an entry of this name goes: through the symbolic links that the layer itself has brought so far, as it
    /// would if a process whose root this is unpacked it.
    pub(crate) fn place(&self, path: &[u8]) -> Result<Path, Error> {
        let is_link = |path: &[u8]| matches!(self.entries.get(path), Some(Entry { kind: Kind::Symlink(_), .. }));
        let mut parent = tree::parent(path);
        while !parent.is_empty() && !is_link(parent) {
            parent = tree::parent(parent);
        }
        if parent.is_empty() {
            return Ok(path.to_vec());
        }
        let links = self.entries.iter().filter(|(_, entry)| matches!(entry.kind, Kind::Symlink(_)));
        let links: Tree = links.map(|(path, entry)| (path.clone(), entry.clone())).collect();
        links.resolve_parent(path).map_err(|_| Error::Hostile {
            path: crate::error::show(path),
            problem: "whose symbolic links lead in a circle",
        })
    }

    /// Adds an entry; later ones win, and links get what they link to.
    pub(crate) fn add(&mut self, item: Item) -> Result<(), Error> {
        let Item { path, mut entry, is_link } = item;
        if is_link && let Kind::File(file) = &entry.kind {
            // A link to what this layer has is another name of it; one to a layer below is told by the tree.
            if let Some(target) = self.entries.get(&file.inode.path)
                && matches!(target.kind, Kind::File(_))
            {
                entry = target.clone();
            }
        }
        match (&mut entry.kind, self.entries.get(&path)) {
            // The mark of an opaque directory may come before the directory or behind it.
            (Kind::Dir { opaque }, Some(Entry { kind: Kind::Dir { opaque: known }, .. })) if *known || *opaque => {
                let mark_only = *opaque;
                *opaque = true;
                if mark_only && let Some(old) = self.entries.get_mut(&path) {
                    old.kind = Kind::Dir { opaque: true };
                    return Ok(());
                }
            }
            (Kind::Dir { opaque: true }, _) => {
                // Until the directory itself comes, it looks as a missing parent would.
                entry = Entry { kind: Kind::Dir { opaque: true }, ..Entry::dir(0o755, Time::default()) };
            }
            _ => {}
        }
        self.entries.insert(path, entry);
        Ok(())
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

/// Reads a layer's blob, checks that it is the layer `expected`, and gives its index.
///
/// # Errors
/// When it is not, or holds what no layer may.
pub fn of_blob(blob: impl Read + Send, expected: DiffId) -> Result<Layer, Error> {
    let mut source = Hashing::new(compress::reader(blob).map_err(Error::Read)?);
    let mut collector = Collector::default();
    read::entries(&mut source, |item, bytes| {
        let path = collector.place(&item.path)?;
        let is_file = matches!(item.entry.kind, Kind::File(_)) && !item.is_link;
        collector.add(item.at(path.clone()))?;
        if is_file {
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
const VERSION: u8 = 1;

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
    let blob = store.variants(layer).into_iter().next().ok_or_else(|| Error::Store(missing(layer)))?;
    let path = store.blob(blob.digest);
    let index = of_blob(std::fs::File::open(&path).at(&path)?, layer)?;
    store.write_index(layer, &encode(&index))?;
    Ok(index)
}

fn missing(layer: DiffId) -> store::Error {
    let source = io::Error::new(io::ErrorKind::NotFound, "no blob in the store holds this layer");
    store::Error::Io { path: layer.to_string().into(), source }
}

/// The tree that a stack of layers makes, bottom first.
///
/// # Errors
/// As [`of`].
pub fn tree(store: &Store, layers: &[DiffId]) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    for id in layers {
        let mut layer = of(store, *id)?;
        // A hard link to a file of a layer below is another name of that file.
        let own: BTreeSet<Path> = layer.entries.iter().map(|(path, _)| path.clone()).collect();
        for (_, entry) in &mut layer.entries {
            if let Kind::File(file) = &entry.kind
                && !own.contains(&file.inode.path)
                && let Some(target) = tree.get(&file.inode.path)
                && matches!(target.kind, Kind::File(_))
            {
                *entry = target.clone();
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
    let source = known.first().ok_or_else(|| Error::Store(missing(layer)))?;
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
