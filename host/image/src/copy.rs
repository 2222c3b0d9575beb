//! Copying an image from one place to another: blobs side by side, documents after what they name.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use oci::{Descriptor, Digest, Index, Manifest, digest_of, media_type};
use registry::{BlobSource, Bytes, Pushed};

use crate::error::Error;
use crate::resolve::DEEPEST;
use crate::{Document, Later, Sink, Source};

/// Blobs under way at the same time.
const PARALLEL: usize = 6;

/// What copying did with one blob.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Which.
    pub descriptor: Descriptor,
    /// How it came to be there.
    pub how: Pushed,
}

/// Told of each blob.
pub type Report<'r> = &'r (dyn Fn(&Copied) + Send + Sync);

/// A blob of a source, as something that can be sent.
struct Blob {
    source: Arc<dyn Source>,
    descriptor: Descriptor,
}

impl BlobSource for Blob {
    fn open(&self) -> registry::Later<'_, std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>> {
        Box::pin(async { self.source.open(&self.descriptor).await.map_err(std::io::Error::other) })
    }
}

/// Copies an image, or all images of an index; gives the digest of what was copied.
///
/// # Errors
/// When something cannot be read or written.
pub async fn copy(source: Arc<dyn Source>, sink: &dyn Sink, report: Report<'_>) -> Result<Digest, Error> {
    let root = source.root().await?;
    let mut copied = BTreeSet::new();
    copy_document(&source, sink, &root, 0, &mut copied, report).await?;
    digest_of(&root.descriptor)
        .map_err(|error| Error::Malformed { what: "the image".into(), reason: error.to_string() })
}

fn copy_document<'f>(
    source: &'f Arc<dyn Source>,
    sink: &'f dyn Sink,
    document: &'f Document,
    depth: u32,
    copied: &'f mut BTreeSet<Digest>,
    report: Report<'f>,
) -> Later<'f, Result<(), Error>> {
    Box::pin(async move {
        let malformed =
            |error: serde_json::Error| Error::Malformed { what: "the image".into(), reason: error.to_string() };
        if depth > DEEPEST {
            let reason = "its indexes are nested too deeply".to_owned();
            return Err(Error::Malformed { what: "the image".into(), reason });
        }
        // Named twice, it is the same: indexes that name each other's twice would take for ever.
        if !copied.insert(Digest::of(&document.bytes)) {
            return Ok(());
        }
        if media_type::is_index(document.descriptor.media_type().as_ref()) {
            let index: Index = serde_json::from_slice(&document.bytes).map_err(malformed)?;
            for descriptor in index.manifests() {
                let bytes = source.document(descriptor).await?;
                let inner = Document { descriptor: descriptor.clone(), bytes };
                copy_document(source, sink, &inner, depth + 1, copied, report).await?;
            }
        } else {
            let manifest: Manifest = serde_json::from_slice(&document.bytes).map_err(malformed)?;
            let mut blobs = manifest.layers().clone();
            blobs.push(manifest.config().clone());
            copy_blobs(source, sink, blobs, report).await?;
        }
        sink.document(document, depth == 0).await
    })
}

/// Brings blobs from one place to another.
///
/// # Errors
/// At the first that cannot be read or written.
pub async fn copy_blobs(
    source: &Arc<dyn Source>,
    sink: &dyn Sink,
    mut blobs: Vec<Descriptor>,
    report: Report<'_>,
) -> Result<(), Error> {
    blobs.sort_by_key(|descriptor| descriptor.digest().to_string());
    blobs.dedup_by_key(|descriptor| descriptor.digest().to_string());
    let send = |descriptor: Descriptor| async move {
        let blob = Arc::new(Blob { source: source.clone(), descriptor: descriptor.clone() });
        let how = sink.blob(&descriptor, blob, source.repository_of(&descriptor).as_ref()).await?;
        report(&Copied { descriptor, how });
        Ok::<_, Error>(())
    };
    let mut running = stream::iter(blobs).map(send).buffered(PARALLEL);
    while let Some(result) = running.next().await {
        result?;
    }
    Ok(())
}
