//! Bytes of blobs on their way.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use oci::{Descriptor, Digest, digest_of};
use registry::{BlobSource, Bytes};
use store::Store;

use crate::Source;
use crate::error::{At, Error};

/// Bytes of one piece.
const PIECE: usize = 256 << 10;

/// A blob that is a file, or a part of one.
#[derive(Clone, Debug)]
pub struct FileBlob {
    /// The file.
    pub path: PathBuf,
    /// Where the blob starts in it.
    pub offset: u64,
    /// In bytes; none: to the end.
    pub length: Option<u64>,
}

impl FileBlob {
    /// A blob that is a whole file.
    #[must_use]
    pub fn whole(path: PathBuf) -> Self {
        Self { path, offset: 0, length: None }
    }

    /// Its bytes, piece by piece.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn stream(&self) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let blob = self.clone();
        let open = move || {
            regular(&blob.path)?;
            let mut file = std::fs::File::open(&blob.path)?;
            file.seek(SeekFrom::Start(blob.offset))?;
            Ok::<_, io::Error>(file.take(blob.length.unwrap_or(u64::MAX)))
        };
        let file = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??;
        let next = |mut file: io::Take<std::fs::File>| async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; PIECE];
                let mut length = 0;
                while length < piece.len() {
                    match file.read(&mut piece[length..]) {
                        Ok(0) => break,
                        Ok(more) => length += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return (Err(error), file),
                    }
                }
                piece.truncate(length);
                (Ok(piece), file)
            });
            match read.await {
                Ok((Ok(piece), _)) if piece.is_empty() => None,
                Ok((Ok(piece), file)) => Some((Ok(Bytes::from(piece)), file)),
                Ok((Err(error), file)) => Some((Err(error), file)),
                Err(_) => None,
            }
        };
        Ok(stream::unfold(file, next).boxed())
    }
}

impl BlobSource for FileBlob {
    fn open(&self) -> registry::Later<'_, io::Result<BoxStream<'static, io::Result<Bytes>>>> {
        Box::pin(self.stream())
    }
}

/// Documents are read whole.
pub(crate) const LARGEST_DOCUMENT: u64 = 16 << 20;

/// Whoever made a layout may have put a pipe or a device there.
fn regular(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Reads a document that somebody else has written.
pub(crate) fn read_document(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = regular(path).and_then(|()| std::fs::File::open(path)).at(path)?;
    file.take(LARGEST_DOCUMENT + 1).read_to_end(&mut bytes).at(path)?;
    if bytes.len() as u64 > LARGEST_DOCUMENT { Err(too_large(path.display().to_string())) } else { Ok(bytes) }
}

/// A document that nobody would have written.
pub(crate) fn too_large(what: String) -> Error {
    Error::Malformed { what, reason: format!("it is longer than {LARGEST_DOCUMENT} bytes") }
}

/// Brings a blob into the store and checks it.
///
/// # Errors
/// When it cannot be read or is not what its descriptor says.
pub async fn fetch_to_store(source: &dyn Source, descriptor: &Descriptor, store: &Store) -> Result<Digest, Error> {
    let digest = digest_of(descriptor).map_err(|e| malformed(&e.to_string()))?;
    let checked = |size: u64| match size == descriptor.size() {
        true => Ok(digest),
        false => {
            let (expected, got) = (format!("{} bytes long", descriptor.size()), format!("{size} bytes long"));
            Err(Error::Mismatch { what: digest.to_string(), expected, got })
        }
    };
    let there = || std::fs::metadata(store.blob(digest)).ok();
    if let Some(meta) = there() {
        return checked(meta.len());
    }
    // Another process, or another stage, may be fetching the same.
    let lock = {
        let (store, name) = (store.clone(), format!("fetch {digest}"));
        tokio::task::spawn_blocking(move || store.lock(&name)).await.map_err(|e| malformed(&e.to_string()))??
    };
    if let Some(meta) = there() {
        return checked(meta.len());
    }
    let mut pieces = source.open(descriptor).await?;
    let mut writer = store.blob_writer()?;
    while let Some(piece) = pieces.next().await {
        let written = piece.and_then(|piece| writer.write_all(&piece));
        written.map_err(|error| Error::Io { path: digest.to_string().into(), source: error })?;
    }
    let committed = tokio::task::spawn_blocking(move || writer.commit(Some(digest))).await;
    let (_, size) = committed.map_err(|e| malformed(&e.to_string()))??;
    drop(lock);
    checked(size)
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { what: "a blob".into(), reason: reason.to_owned() }
}
