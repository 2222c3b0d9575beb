//! Reading tars that may be hostile: what stands between two files is bounded, and so are the holes of sparse files.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

/// Names, attributes and lists of holes of one entry take no more; Go's archive/tar takes 1 MiB of each.
const HEADERS: u64 = 4 << 20;
/// A few bytes can promise any number of zeros, and somebody has to write them all.
const HOLES: u64 = 1 << 30;
const BLOCK: usize = 512;

/// PAX records, by name.
pub type Records = BTreeMap<String, Vec<u8>>;

/// What passes between reader and loop.
#[derive(Default)]
struct Shared {
    /// Bytes that may still be read; none: as many as there are.
    left: Cell<Option<u64>>,
    position: Cell<u64>,
    /// The headers that were read last.
    headers: RefCell<Vec<u8>>,
}

/// The reader below a tar.
pub struct Bounded<R> {
    inner: R,
    shared: Rc<Shared>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.shared.left.get();
        if left == Some(0) && !buffer.is_empty() {
            return Err(io::Error::other(format!("the headers of an entry are longer than {HEADERS} bytes")));
        }
        let most = left.map_or(buffer.len(), |left| usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len()));
        let length = self.inner.read(&mut buffer[..most])?;
        self.shared.position.set(self.shared.position.get() + length as u64);
        if let Some(left) = left {
            self.shared.left.set(Some(left - length as u64));
            self.shared.headers.borrow_mut().extend_from_slice(&buffer[..length]);
        }
        Ok(length)
    }
}

/// An entry of a tar.
pub struct Found<'t, 'e, R: Read> {
    /// Its header and its bytes; those that are not read are skipped.
    pub entry: &'e mut ::tar::Entry<'t, Bounded<R>>,
    /// Its name, as written.
    pub path: Vec<u8>,
    /// What it links to, as written.
    pub link: Vec<u8>,
    /// Its PAX records, the last of each name.
    pub records: Records,
}

/// Passes each entry to `visit`, until that has seen enough.
///
/// # Errors
/// When the tar is malformed or takes more than it may, and what `visit` fails with.
pub fn each<R: Read, E>(
    source: R,
    failed: impl Fn(io::Error) -> E,
    mut visit: impl FnMut(Found<'_, '_, R>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let shared = Rc::new(Shared::default());
    let mut archive = ::tar::Archive::new(Bounded { inner: source, shared: shared.clone() });
    let mut entries = archive.entries().map_err(&failed)?;
    let mut holes = 0u64;
    loop {
        shared.headers.borrow_mut().clear();
        shared.left.set(Some(HEADERS));
        // What fills up the last entry's block comes first.
        let padding = usize::try_from(shared.position.get().next_multiple_of(BLOCK as u64) - shared.position.get());
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(&failed)?;
        shared.left.set(None);
        let extension = extension(shared.headers.borrow().get(padding.unwrap_or(0)..).unwrap_or_default());
        let (records, has_long_name, has_long_link) = extension.map_err(&failed)?;
        let record = |key: &str| records.get(key).cloned();
        let size = record("size").map(|text| String::from_utf8_lossy(&text).parse::<u64>().ok());
        let is_sparse = entry.header().entry_type().is_gnu_sparse();
        if records.keys().any(|key| key.starts_with("GNU.sparse.")) {
            return Err(failed(io::Error::other("it holds a sparse file in a form that is not understood")));
        }
        if is_sparse {
            holes = holes.saturating_add(entry.size().saturating_sub(entry.header().entry_size().unwrap_or(0)));
        } else if size.is_some_and(|size| size != Some(entry.size())) {
            return Err(failed(io::Error::other("the size of an entry cannot be read")));
        }
        if holes > HOLES {
            return Err(failed(io::Error::other(format!(
                "the holes of its sparse files are larger than {HOLES} bytes"
            ))));
        }
        let path = record("path").filter(|_| !has_long_name).unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = record("linkpath").filter(|_| !has_long_link);
        let link = link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let flow = visit(Found { entry: &mut entry, path, link, records })?;
        if flow.is_break() {
            return Ok(());
        }
        io::copy(&mut entry, &mut io::sink()).map_err(&failed)?;
    }
}

/// The PAX records among the headers of an entry, and whether GNU's own entries give it a long name or link.
fn extension(mut headers: &[u8]) -> io::Result<(Records, bool, bool)> {
    let (mut found, mut name, mut link) = (Records::new(), false, false);
    while let Some((block, rest)) = headers.split_at_checked(BLOCK) {
        let header = ::tar::Header::from_byte_slice(block);
        let kind = header.entry_type();
        let length = usize::try_from(header.entry_size()?).unwrap_or(usize::MAX);
        match () {
            () if kind.is_pax_local_extensions() => found = records(rest.get(..length).unwrap_or_default())?,
            () if kind.is_gnu_longname() => name = true,
            () if kind.is_gnu_longlink() => link = true,
            () => break,
        }
        headers = rest.get(length.saturating_add(BLOCK - 1) / BLOCK * BLOCK..).unwrap_or_default();
    }
    Ok((found, name, link))
}

/// `length key=value\n`, by their lengths: a value may hold anything, newlines included (POSIX pax, "Extended Header").
fn records(mut bytes: &[u8]) -> io::Result<Records> {
    let malformed = || io::Error::other("a PAX record is malformed");
    let mut found = Records::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length = std::str::from_utf8(&bytes[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
        let (record, rest) = length.and_then(|length| bytes.split_at_checked(length)).ok_or_else(malformed)?;
        let record = record.get(blank + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        // A key that is no text is nobody's.
        if let Ok(key) = std::str::from_utf8(&record[..equals]) {
            found.insert(key.to_owned(), record[equals + 1..].to_vec());
        }
        bytes = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_newlines() {
        let bytes = b"15 path=a\nb=c\nd\n8 e=\nf\n\n6 g=h\n7 g=ii\n";
        let pair = |key: &str, value: &[u8]| (key.to_owned(), value.to_vec());
        assert!(records(&bytes[..15]).is_err());
        let bytes = b"16 path=a\nb=c\nd\n8 e=\nf\n\n6 g=h\n7 g=ii\n";
        let expected = Records::from([pair("path", b"a\nb=c\nd"), pair("e", b"\nf\n"), pair("g", b"ii")]);
        assert_eq!(records(bytes).ok(), Some(expected));
        for wrong in [&b"x"[..], b"5 a=b\n", b"99 a=b\n", b"6 a=bx", b"6 aab\n", b"0 ", b"-1 a=b\n"] {
            assert!(records(wrong).is_err(), "{wrong:?}");
        }
    }
}
