//! The layer of a cache's entry, as something that can be read like one of an image.
//!
//! An entry may be found and its layer be gone, cut or another: only who reads it to its end knows. Which cache it was is
//! noted, so that the build can be done without it.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use cache::{Backend, Blob};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use image::{Document, Error, Later, Source};
use oci::{Descriptor, Hasher, Reference};
use registry::Bytes;

/// The first backend that failed, and how.
pub(super) type Bad = Arc<Mutex<Option<(String, String)>>>;

pub(super) struct CachedLayer {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) blob: Blob,
    pub(super) bad: Bad,
}

/// What has been read of a layer.
struct Read {
    pieces: BoxStream<'static, std::io::Result<Bytes>>,
    hasher: Option<Hasher>,
    size: u64,
    blob: Blob,
    name: String,
    bad: Bad,
}

fn note(bad: &Bad, name: &str, reason: &str) {
    let mut bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
    bad.get_or_insert_with(|| (name.to_owned(), reason.to_owned()));
}

impl Read {
    /// The next piece; after the last and after an error none. The last is looked at before it is handed on: who knows how
    /// long a layer is may read no further.
    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        let hasher = self.hasher.as_mut()?;
        let piece = self.pieces.next().await;
        let reason = match &piece {
            Some(Ok(bytes)) => {
                hasher.update(bytes);
                self.size += bytes.len() as u64;
                match self.size.cmp(&self.blob.size) {
                    Ordering::Less => return piece,
                    Ordering::Equal => match self.hasher.take()?.finish() {
                        digest if digest == self.blob.digest => return piece,
                        digest => format!("a layer should be {}, and is {digest}", self.blob.digest),
                    },
                    Ordering::Greater => "a layer is longer than its entry says".to_owned(),
                }
            }
            Some(Err(error)) => error.to_string(),
            None => "a layer is shorter than its entry says".to_owned(),
        };
        self.hasher = None;
        note(&self.bad, &self.name, &reason);
        Some(Err(std::io::Error::other(format!("the cache {}: {reason}", self.name))))
    }
}

impl CachedLayer {
    fn no_document() -> Error {
        Error::Io { path: "a layer".into(), source: std::io::Error::other("it has no documents") }
    }
}

impl Source for CachedLayer {
    fn root(&self) -> Later<'_, Result<Document, Error>> {
        Box::pin(async { Err(Self::no_document()) })
    }

    fn document<'f>(&'f self, _: &'f Descriptor) -> Later<'f, Result<Vec<u8>, Error>> {
        Box::pin(async { Err(Self::no_document()) })
    }

    fn open<'f>(&'f self, _: &'f Descriptor) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async {
            let name = self.backend.name().to_owned();
            let pieces = self.backend.open(&self.blob).await.map_err(|error| {
                let text = error.to_string();
                let prefix = format!("the cache {name}: ");
                note(&self.bad, &name, text.strip_prefix(&prefix).unwrap_or(&text));
                Error::Io { path: "a layer".into(), source: std::io::Error::other(error) }
            })?;
            let (blob, bad) = (self.blob, self.bad.clone());
            let read = Read { pieces, hasher: Some(Hasher::default()), size: 0, blob, name, bad };
            let next = |mut read: Read| async move { Some((read.next().await?, read)) };
            Ok(stream::unfold(read, next).boxed())
        })
    }

    fn reference(&self) -> Option<&Reference> {
        self.backend.repository()
    }
}
