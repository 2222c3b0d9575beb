//! Entries in a folder: `entries/<key>[-<n>].json`, and their blobs as in an OCI layout, `blobs/sha256/<digest>`.
//!
//! What is written is written aside and renamed, so that several builds can use one folder.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use oci::{Digest, Hasher};
use plan::key::Key;
use registry::{BlobSource, Bytes, Later, Pushed};
use serde::{Deserialize, Serialize};
use store::Record;

use crate::backend::{Backend, Blob, Entry, Error, Kept, NewEntry, Wanted, made};

/// Bytes of one piece.
const PIECE: usize = 256 << 10;
/// So many entries of one key may be of no use before nobody looks further.
const MOST: u32 = 16;

/// A folder that keeps entries.
#[derive(Clone, Debug)]
pub(crate) struct FolderCache {
    folder: PathBuf,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Document {
    record: Record,
    layer: Blob,
    index: Option<Blob>,
}

impl FolderCache {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), name: format!("local {}", folder.display()) }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { place: self.name.clone(), source }
    }

    fn entry(&self, key: Key, number: u32) -> PathBuf {
        let name = if number == 0 { format!("{key}.json") } else { format!("{key}-{number}.json") };
        self.folder.join("entries").join(name)
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// The entry of a file that is there; `Some(None)` where it is of no use.
    fn look(&self, path: &Path, wanted: Wanted) -> Option<Option<Entry>> {
        let bytes = fs::read(path).ok()?;
        let document: Option<Document> = serde_json::from_slice(&bytes).ok();
        let useful = document.filter(|document| {
            let size = fs::metadata(self.blob(document.layer.digest)).map(|meta| meta.len()).ok();
            wanted.is(&document.record) && size == Some(document.layer.size)
        });
        Some(useful.map(|Document { record, layer, index }| Entry { record, layer, index }))
    }

    /// Writes a file aside and moves it to its place.
    fn commit(&self, place: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
        let parent = place.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent)?;
        let mut aside = tempfile::NamedTempFile::new_in(parent)?;
        write(aside.as_file_mut())?;
        aside.as_file().sync_data()?;
        aside.persist(place).map_err(|error| error.error)?;
        Ok(())
    }

    async fn keep(&self, blob: &Blob, source: &dyn BlobSource) -> io::Result<Pushed> {
        let place = self.blob(blob.digest);
        if fs::metadata(&place).is_ok_and(|meta| meta.len() == blob.size) {
            return Ok(Pushed::Exists);
        }
        let parent = self.folder.join("blobs/sha256");
        fs::create_dir_all(&parent)?;
        let mut aside = tempfile::NamedTempFile::new_in(&parent)?;
        let mut hasher = Hasher::default();
        let mut pieces = source.open().await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            hasher.update(&piece);
            aside.write_all(&piece)?;
        }
        if hasher.finish() != blob.digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is something else", blob.digest)));
        }
        aside.as_file().sync_data()?;
        aside.persist(&place).map_err(|error| error.error)?;
        Ok(Pushed::Sent)
    }

    async fn write(&self, path: &Path, entry: &NewEntry) -> io::Result<Pushed> {
        let (layer, source) = &entry.layer;
        let pushed = self.keep(layer, &**source).await?;
        let index = match &entry.index {
            Some((index, _, source)) => self.keep(index, &**source).await.map(|_| Some(*index))?,
            None => None,
        };
        let document = Document { record: entry.record.clone(), layer: *layer, index };
        let bytes = serde_json::to_vec(&document).map_err(io::Error::other)?;
        self.commit(path, |file| file.write_all(&bytes))?;
        Ok(pushed)
    }
}

impl Backend for FolderCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn find<'f>(&'f self, key: Key, wanted: Wanted) -> Later<'f, Result<Option<Entry>, Error>> {
        Box::pin(async move {
            let found = (0..MOST).map_while(|number| self.look(&self.entry(key, number), wanted)).flatten().next();
            Ok(found)
        })
    }

    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async move {
            let file = fs::File::open(self.blob(blob.digest)).map_err(|error| self.failed(error))?;
            let next = |mut file: fs::File| async move {
                let mut piece = vec![0; PIECE];
                match file.read(&mut piece) {
                    Ok(0) => None,
                    Ok(length) => {
                        piece.truncate(length);
                        Some((Ok(Bytes::from(piece)), file))
                    }
                    Err(error) => Some((Err(error), file)),
                }
            };
            Ok(stream::unfold(file, next).boxed())
        })
    }

    fn put<'f>(
        &'f self,
        key: Key,
        wanted: Wanted,
        entry: Later<'f, Result<NewEntry, String>>,
    ) -> Later<'f, Result<Kept, Error>> {
        Box::pin(async move {
            for number in 0..MOST {
                let path = self.entry(key, number);
                match self.look(&path, wanted) {
                    Some(Some(_)) => return Ok(Kept::Exists),
                    Some(None) => {}
                    None => {
                        let entry = made(&self.name, entry).await?;
                        let layer = self.write(&path, &entry).await.map_err(|error| self.failed(error))?;
                        return Ok(Kept::Written { layer, size: entry.layer.0.size });
                    }
                }
            }
            Err(Error::Full { place: self.name.clone(), key, many: MOST })
        })
    }
}
