//! Writing the tar of a layer: one pass, entries in order, headers fixed.
//!
//! ustar with PAX records only where ustar cannot say it: long names, large numbers, fractions of a second, attributes.

use std::io::{self, Read, Write};

use oci::media_type::Compression;
use oci::tree::{self, Entry, Kind, Layer};
use oci::{DiffId, Hasher};
use store::{BlobWriter, Store, Variant};

use crate::compress::{self, Level};
use crate::error::Error;
use crate::index::{self, Hashing};

/// Takes the digest of the plain tar on its way to the sink.
struct Tee<W> {
    hasher: Hasher,
    sink: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// A layer being written to a blob of the store.
pub struct LayerWriter {
    store: Store,
    compression: Compression,
    pub(crate) tar: TarWriter<compress::Writer<BlobWriter>>,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerWriter({} entries)", self.tar.index.entries.len())
    }
}

impl LayerWriter {
    /// Starts a layer.
    ///
    /// # Errors
    /// When the store has no room.
    pub fn new(store: &Store, compression: Compression, level: Level) -> Result<Self, Error> {
        let sink = compress::Writer::new(store.blob_writer()?, compression, level).map_err(Error::Read)?;
        Ok(Self { store: store.clone(), compression, tar: TarWriter::new(sink) })
    }

    /// Adds an entry, in the order of [`tree::order`]. A file's bytes come from `body`, exactly as many as its size says; a
    /// file whose inode is another path of this layer is a hard link to that.
    ///
    /// # Errors
    /// When the bytes cannot be read or written, or the name is one that no layer can hold.
    pub fn add(&mut self, path: &[u8], entry: Entry, body: Option<&mut dyn Read>) -> Result<(), Error> {
        self.tar.add(path, entry, body)
    }

    /// Ends the layer and puts blob and index into the store.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn finish(self) -> Result<DiffId, Error> {
        let (sink, layer, index) = self.tar.finish()?;
        let (digest, size) = sink.finish().map_err(Error::Read)?.commit(None)?;
        self.store.add_variant(layer, Variant { digest, size, compression: self.compression })?;
        self.store.write_index(layer, &index::encode(&index))?;
        Ok(layer)
    }
}

/// The tar of a layer being written to wherever.
pub(crate) struct TarWriter<W: Write> {
    out: io::BufWriter<Tee<W>>,
    index: Layer,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(sink: W) -> Self {
        let out = io::BufWriter::with_capacity(256 << 10, Tee { hasher: Hasher::default(), sink });
        Self { out, index: Layer::default() }
    }

    /// As [`LayerWriter::add`].
    pub(crate) fn add(&mut self, path: &[u8], mut entry: Entry, body: Option<&mut dyn Read>) -> Result<(), Error> {
        // image-spec, "Whiteouts": whoever reads the layer would remove something.
        let problem = match entry.kind {
            _ if tree::name(path).starts_with(b".wh.") => Some("whose name means that something is removed"),
            Kind::Char(0, 0) => Some("which overlayfs would take for a removed file"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(Error::Hostile { path: crate::error::show(path), problem });
        }
        let (name, kind, link, size) = match &entry.kind {
            Kind::Whiteout => {
                let marked = [b".wh.", tree::name(path)].concat();
                (tree::join(tree::parent(path), &marked), b'0', Vec::new(), 0)
            }
            Kind::Dir { .. } if path.is_empty() => (b"./".to_vec(), b'5', Vec::new(), 0),
            Kind::Dir { .. } => ([path, b"/"].concat(), b'5', Vec::new(), 0),
            Kind::File(file) if file.inode.layer.is_none() && file.inode.path != path => {
                (path.to_vec(), b'1', file.inode.path.clone(), 0)
            }
            Kind::File(file) => (path.to_vec(), b'0', Vec::new(), file.size),
            Kind::Symlink(target) => (path.to_vec(), b'2', target.clone(), 0),
            Kind::Char(..) => (path.to_vec(), b'3', Vec::new(), 0),
            Kind::Block(..) => (path.to_vec(), b'4', Vec::new(), 0),
            Kind::Fifo => (path.to_vec(), b'6', Vec::new(), 0),
        };
        self.header(&name, kind, &link, size, &entry).map_err(Error::Read)?;
        if let Kind::File(file) = &mut entry.kind
            && kind == b'0'
        {
            let mut empty = io::empty();
            let mut body = Hashing::new(body.unwrap_or(&mut empty).take(size));
            let copied = io::copy(&mut body, &mut self.out).map_err(Error::Read)?;
            if copied != size {
                let message = format!("/{}: it got shorter while it was read", crate::error::show(path));
                return Err(Error::Read(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
            }
            self.pad(size).map_err(Error::Read)?;
            file.digest = Some(body.finish().map_err(Error::Read)?);
            file.inode = tree::Inode { layer: None, path: path.to_vec() };
        }
        let opaque = matches!(entry.kind, Kind::Dir { opaque: true });
        self.index.entries.push((path.to_vec(), entry));
        if opaque {
            let mark = tree::join(path, b".wh..wh..opq");
            let plain = Entry { kind: Kind::Fifo, ..Entry::dir(0o644, tree::Time::default()) };
            self.header(&mark, b'0', b"", 0, &plain).map_err(Error::Read)?;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % 512).unwrap_or(0);
        if rest > 0 { self.out.write_all(&[0; 512][rest..]) } else { Ok(()) }
    }

    fn header(&mut self, name: &[u8], kind: u8, link: &[u8], size: u64, entry: &Entry) -> io::Result<()> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        let mut place = |field: &mut [u8], key: &str, text: &[u8]| {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
            if text.len() > field.len() || !text.is_ascii() {
                records.push((key.to_owned(), text.to_vec()));
            }
        };
        place(&mut header.as_old_mut().name, "path", name);
        place(&mut header.as_old_mut().linkname, "linkpath", link);
        header.set_mode(entry.mode);
        // Seven octal digits.
        let mut number = |key: &str, value: u64, limit: u64| {
            if value > limit {
                records.push((key.to_owned(), value.to_string().into_bytes()));
                0
            } else {
                value
            }
        };
        header.set_uid(number("uid", entry.uid.into(), 0o7_777_777));
        header.set_gid(number("gid", entry.gid.into(), 0o7_777_777));
        header.set_size(number("size", size, 0o77_777_777_777));
        let mtime = entry.mtime;
        if mtime.nanoseconds != 0 || mtime.seconds < 0 {
            records.push(("mtime".to_owned(), print_time(mtime).into_bytes()));
        }
        header.set_mtime(u64::try_from(mtime.seconds).unwrap_or(0).min(0o77_777_777_777));
        if let Kind::Char(major, minor) | Kind::Block(major, minor) = entry.kind {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        // A hard link's attributes are those of what it links to.
        if kind != b'1' {
            let xattr = |(name, value): &(String, Vec<u8>)| (format!("SCHILY.xattr.{name}"), value.clone());
            records.extend(entry.xattrs.iter().map(xattr));
        }
        header.set_cksum();
        if !records.is_empty() {
            records.sort();
            self.pax(name, &records)?;
        }
        self.out.write_all(header.as_bytes())
    }

    /// The records that go before an entry's own header.
    fn pax(&mut self, name: &[u8], records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let mut data = Vec::new();
        for (key, value) in records {
            // "length key=value\n", where the length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        let title = [b"PaxHeaders/", tree::name(name.strip_suffix(b"/").unwrap_or(name))].concat();
        let field = &mut header.as_old_mut().name;
        let length = title.len().min(field.len());
        field[..length].copy_from_slice(&title[..length]);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(&data)?;
        self.pad(data.len() as u64)
    }

    /// Ends the tar; gives what it was written to, its digest, and the index.
    pub(crate) fn finish(mut self) -> Result<(W, DiffId, Layer), Error> {
        self.out.write_all(&[0; 1024]).map_err(Error::Read)?;
        let tee = self.out.into_inner().map_err(|error| Error::Read(error.into_error()))?;
        Ok((tee.sink, DiffId(tee.hasher.finish()), self.index))
    }
}

fn print_time(time: tree::Time) -> String {
    let (seconds, nanoseconds) = match time.seconds {
        s if s < 0 && time.nanoseconds > 0 => (s + 1, 1_000_000_000 - time.nanoseconds),
        s => (s, time.nanoseconds),
    };
    let sign = if time.seconds < 0 && seconds == 0 { "-" } else { "" };
    match nanoseconds {
        0 => format!("{sign}{seconds}"),
        n => format!("{sign}{seconds}.{n:09}").trim_end_matches('0').to_owned(),
    }
}
