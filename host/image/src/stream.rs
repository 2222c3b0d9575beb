//! Bytes of blobs on their way.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use oci::{Descriptor, Digest, digest_of};
use registry::{BlobSource, Bytes};
use store::Store;

use crate::Source;
use crate::error::Error;

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

/// Brings a blob into the store and checks it.
///
/// # Errors
/// When it cannot be read or is not what its descriptor says.
pub async fn fetch_to_store(source: &dyn Source, descriptor: &Descriptor, store: &Store) -> Result<Digest, Error> {
    let digest = digest_of(descriptor).map_err(|e| malformed(&e.to_string()))?;
    if store.has_blob(digest) {
        return Ok(digest);
    }
    // Another process, or another stage, may be fetching the same.
    let lock = {
        let (store, name) = (store.clone(), format!("fetch {digest}"));
        tokio::task::spawn_blocking(move || store.lock(&name)).await.map_err(|e| malformed(&e.to_string()))??
    };
    if store.has_blob(digest) {
        return Ok(digest);
    }
    let mut pieces = source.open(descriptor).await?;
    let mut writer = store.blob_writer()?;
    while let Some(piece) = pieces.next().await {
        let written = piece.and_then(|piece| writer.write_all(&piece));
        written.map_err(|error| Error::Io { path: digest.to_string().into(), source: error })?;
    }
    let committed = tokio::task::spawn_blocking(move || writer.commit(Some(digest))).await;
    committed.map_err(|e| malformed(&e.to_string()))??;
    drop(lock);
    Ok(digest)
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { what: "a blob".into(), reason: reason.to_owned() }
}
