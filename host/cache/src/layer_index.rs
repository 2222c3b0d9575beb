//! The indexes of layers that no step has given, those of base images, as documents of a backend: whoever copies onto a
//! base image need not fetch it.

use oci::DiffId;
use registry::Pushed;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Blob, Document, Error, Named, NewBlob, NewDocument};

/// A larger index is none.
const LARGEST: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Head {
    layer: DiffId,
    /// Seconds since 1970.
    created_at: u64,
}

pub(crate) fn parse(name: &str) -> Option<&str> {
    name.strip_prefix("index-").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whose index a document is, and when it was made.
pub(crate) fn known(document: &Document) -> Option<(DiffId, u64)> {
    let head: Head = serde_json::from_value(document.head.clone()).ok()?;
    Some((head.layer, head.created_at))
}

fn name(layer: DiffId) -> String {
    format!("index-{}", layer.0.hex())
}

/// The blob with a layer's index, as `snapshot` packs it.
///
/// # Errors
/// When the backend does not say.
pub async fn find_index(backend: &dyn Backend, layer: DiffId) -> Result<Option<Blob>, Error> {
    let Named::Document(document) = backend.read(&name(layer)).await? else { return Ok(None) };
    let is_its = serde_json::from_value::<Head>(document.head).is_ok_and(|head| head.layer == layer);
    Ok(document.blobs.first().copied().filter(|blob| is_its && blob.size <= LARGEST))
}

/// Keeps the index of a layer, unless one is there; says whether it was sent. The time is seconds since 1970 and the same
/// in RFC 3339.
///
/// # Errors
/// When it cannot be written.
pub async fn put_index(
    backend: &dyn Backend,
    layer: DiffId,
    (created_at, created): (u64, String),
    blob: NewBlob,
) -> Result<bool, Error> {
    let name = name(layer);
    if backend.read(&name).await? != Named::Nothing {
        return Ok(false);
    }
    let head = serde_json::to_value(Head { layer, created_at }).unwrap_or_default();
    let title = format!("the index of {layer}");
    let document = NewDocument { head, details: serde_json::Value::Null, title, created, blobs: vec![blob] };
    Ok(backend.write(&name, document).await?.first() == Some(&Pushed::Sent))
}
