//! Documents in a folder or a bucket: `entries/<name>.json`, and their blobs as in an OCI layout,
//! `blobs/sha256/<digest>`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{
    Error as ObjectError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, WriteMultipart,
};
use oci::{Digest, Hasher};
use registry::{BlobSource, Bytes, Client, Later, Pushed};

use crate::backend::{Backend, Blob, Document, Error, Named, NewDocument, Place, name};
use crate::bucket::Bucket;

/// A document may not be larger.
const LARGEST: u64 = 4 << 20;
/// Blobs up to this size go in one piece; larger ones in pieces of it, of which S3 takes ten thousand.
const PIECE: usize = 16 << 20;
/// Pieces on their way at the same time.
const PIECES: usize = 3;
/// A blob that is younger may be of a document that is still to be written.
const GRACE: Duration = Duration::from_secs(60 * 60);

/// A folder or bucket that keeps documents.
#[derive(Debug)]
pub(crate) struct ObjectCache {
    objects: Arc<dyn ObjectStore>,
    name: String,
}

impl ObjectCache {
    pub(crate) fn folder(folder: &Path) -> Result<Self, Error> {
        let name = name(&Place::Folder(folder.to_owned()));
        let made = std::fs::create_dir_all(folder)
            .map_err(|error| Error::Invalid { place: name.clone(), reason: error.to_string() });
        // Where it cannot be made it may still be there to be read.
        if !folder.is_dir() {
            made?;
        }
        let objects = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| Error::Objects { place: name.clone(), source })?
            .with_fsync(true);
        Ok(Self { objects: Arc::new(objects), name })
    }

    pub(crate) fn bucket(bucket: &Bucket, client: &Client) -> Result<Self, Error> {
        let name = name(&Place::Bucket(bucket.clone()));
        let (objects, prefix) = http::bucket::open(&bucket.url(), &bucket.settings, client.http())
            .map_err(|source| Error::Objects { place: name.clone(), source })?;
        let objects: Arc<dyn ObjectStore> =
            if prefix.as_ref().is_empty() { objects } else { Arc::new(PrefixStore::new(objects, prefix)) };
        Ok(Self { objects, name })
    }

    fn failed(&self, source: ObjectError) -> Error {
        Error::Objects { place: self.name.clone(), source }
    }

    fn invalid(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Invalid { place: self.name.clone(), reason: error.to_string() }
    }

    fn entry(name: &str) -> ObjectPath {
        ObjectPath::from(format!("entries/{name}.json"))
    }

    fn blob(digest: Digest) -> ObjectPath {
        ObjectPath::from(format!("blobs/sha256/{}", digest.hex()))
    }

    async fn size(&self, path: &ObjectPath) -> Result<Option<u64>, Error> {
        match self.objects.head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn keep(&self, blob: &Blob, source: &dyn BlobSource) -> Result<Pushed, Error> {
        let path = Self::blob(blob.digest);
        if self.size(&path).await? == Some(blob.size) {
            return Ok(Pushed::Exists);
        }
        let mut pieces = source.open().await.map_err(|error| self.invalid(&error))?;
        if blob.size <= PIECE as u64 {
            let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(PIECE));
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece.map_err(|error| self.invalid(&error))?);
            }
            if Digest::of(&bytes) != blob.digest {
                return Err(self.invalid(&format!("{} is something else", blob.digest)));
            }
            self.objects.put(&path, PutPayload::from(bytes)).await.map_err(|error| self.failed(error))?;
            return Ok(Pushed::Sent);
        }
        let upload = self.objects.put_multipart(&path).await.map_err(|error| self.failed(error))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE);
        let mut hasher = Hasher::default();
        let sent = async {
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| self.invalid(&error))?;
                hasher.update(&piece);
                upload.wait_for_capacity(PIECES).await.map_err(|error| self.failed(error))?;
                upload.put(piece);
            }
            match hasher.finish() {
                digest if digest == blob.digest => Ok(()),
                digest => Err(self.invalid(&format!("{} is {digest}", blob.digest))),
            }
        };
        match sent.await {
            Ok(()) => upload.finish().await.map_err(|error| self.failed(error)).map(|_| Pushed::Sent),
            Err(error) => {
                // What was sent of it is the store's to forget, should this fail as well.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, Error> {
        let folder = ObjectPath::from(folder);
        self.objects.list(Some(&folder)).try_collect().await.map_err(|error| self.failed(error))
    }

    async fn delete(&self, paths: Vec<ObjectPath>) -> Result<(), Error> {
        let paths = stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut deleted = self.objects.delete_stream(paths);
        let mut failed = None;
        while let Some(result) = deleted.next().await {
            match result {
                // Somebody was faster.
                Ok(_) | Err(ObjectError::NotFound { .. }) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), |error| Err(self.failed(error)))
    }
}

impl Backend for ObjectCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read<'f>(&'f self, name: &'f str) -> Later<'f, Result<Named, Error>> {
        Box::pin(async move {
            let got = match self.objects.get(&Self::entry(name)).await {
                Ok(got) if got.meta.size > LARGEST => return Ok(Named::Illegible),
                Ok(got) => got,
                Err(ObjectError::NotFound { .. }) => return Ok(Named::Nothing),
                Err(error) => return Err(self.failed(error)),
            };
            let bytes = got.bytes().await.map_err(|error| self.failed(error))?;
            Ok(serde_json::from_slice(&bytes).map_or(Named::Illegible, Named::Document))
        })
    }

    fn has<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<bool, Error>> {
        Box::pin(async { Ok(self.size(&Self::blob(blob.digest)).await? == Some(blob.size)) })
    }

    fn open<'f>(&'f self, blob: &'f Blob) -> Later<'f, Result<BoxStream<'static, io::Result<Bytes>>, Error>> {
        Box::pin(async {
            let got = self.objects.get(&Self::blob(blob.digest)).await.map_err(|error| self.failed(error))?;
            Ok(got.into_stream().map_err(io::Error::other).boxed())
        })
    }

    fn write<'f>(&'f self, name: &'f str, document: NewDocument) -> Later<'f, Result<Vec<Pushed>, Error>> {
        Box::pin(async move {
            let mut pushed = Vec::new();
            for new in &document.blobs {
                pushed.push(self.keep(&new.blob, &*new.source).await?);
            }
            let blobs = document.blobs.iter().map(|new| new.blob).collect();
            let kept = Document { head: document.head, blobs };
            let mut kept = serde_json::to_value(kept).map_err(|error| self.invalid(&error))?;
            kept["details"] = document.details;
            let bytes = kept.to_string().into_bytes();
            if bytes.len() as u64 > LARGEST {
                return Err(self.invalid(&format!("{name} would be larger than {LARGEST} bytes")));
            }
            let (path, payload) = (Self::entry(name), PutPayload::from(bytes));
            match self.objects.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
                Ok(_) => Ok(pushed),
                Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => {
                    Err(Error::Taken { place: self.name.clone(), name: name.to_owned() })
                }
                // Not every store knows conditions; of two that race the second wins then.
                Err(ObjectError::NotImplemented { .. } | ObjectError::NotSupported { .. }) => {
                    self.objects.put(&path, payload).await.map_err(|error| self.failed(error))?;
                    Ok(pushed)
                }
                Err(error) => Err(self.failed(error)),
            }
        })
    }

    fn names(&self) -> Later<'_, Result<Vec<String>, Error>> {
        Box::pin(async {
            let names = self.list("entries").await?.into_iter();
            Ok(names.filter_map(|meta| Some(meta.location.filename()?.strip_suffix(".json")?.to_owned())).collect())
        })
    }

    fn remove<'f>(&'f self, names: &'f [String]) -> Later<'f, Result<(), Error>> {
        Box::pin(self.delete(names.iter().map(|name| Self::entry(name)).collect()))
    }

    fn sweep<'f>(&'f self, needed: &'f BTreeSet<Digest>) -> Later<'f, Result<Option<u64>, Error>> {
        Box::pin(async move {
            for mark in ["oci-layout", "index.json"] {
                // Somebody else's images are in the same folder.
                if self.size(&ObjectPath::from(mark)).await?.is_some() {
                    return Ok(None);
                }
            }
            let needed: BTreeSet<String> = needed.iter().map(|digest| digest.hex().to_string()).collect();
            let now = SystemTime::now();
            let goes = |meta: &ObjectMeta| {
                let is_old = now.duration_since(meta.last_modified.into()).is_ok_and(|age| age > GRACE);
                let is_hex = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
                is_old && meta.location.filename().is_some_and(|name| is_hex(name) && !needed.contains(name))
            };
            let blobs: Vec<_> = self.list("blobs/sha256").await?.into_iter().filter(goes).collect();
            let bytes = blobs.iter().map(|meta| meta.size).sum();
            self.delete(blobs.into_iter().map(|meta| meta.location).collect()).await?;
            Ok(Some(bytes))
        })
    }
}
