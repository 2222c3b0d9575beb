//! From a place to the one image in it that runs on a platform.

use oci::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, Platform, digest_of, media_type};

use crate::Source;
use crate::error::Error;

/// One image: its configuration, and the blobs of its layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// Of the manifest.
    pub digest: Digest,
    /// The configuration's digest.
    pub config_digest: Digest,
    /// The configuration.
    pub config: ImageConfig,
    /// Each layer's blob and diff ID, bottom first.
    pub layers: Vec<(Descriptor, DiffId)>,
}

/// Indexes may name indexes, so deep.
pub(crate) const DEEPEST: u32 = 4;

/// Finds the image for `platform`. A lone image of another platform is given where there is no choice and `exact` does
/// not forbid it.
///
/// # Errors
/// When there is none, or its documents make no sense.
pub async fn resolve(source: &dyn Source, name: &str, platform: &Platform, exact: bool) -> Result<Image, Error> {
    let malformed = |reason: String| Error::Malformed { what: name.to_owned(), reason };
    let parse = |error: serde_json::Error| malformed(error.to_string());
    let root = source.root().await?;
    let (mut descriptor, mut bytes) = (root.descriptor, root.bytes);
    let mut depth = 0;
    while media_type::is_index(descriptor.media_type().as_ref()) {
        depth += 1;
        if depth > DEEPEST {
            return Err(malformed("its indexes are nested too deeply".into()));
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(parse)?;
        descriptor = choose(&index, platform, exact).ok_or_else(|| {
            let platforms = images(&index).filter_map(|d| d.platform().as_ref()).map(|p| Platform::from(p).to_string());
            let available = platforms.collect::<Vec<_>>().join(", ");
            Error::NoPlatform { image: name.to_owned(), wanted: platform.to_string(), available }
        })?;
        bytes = source.document(&descriptor).await?;
    }
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(parse)?;
    let digest = Digest::of(&bytes);
    let expected = digest_of(&descriptor).map_err(|error| malformed(error.to_string()))?;
    if digest != expected {
        let (expected, got) = (expected.to_string(), digest.to_string());
        return Err(Error::Mismatch { what: name.to_owned(), expected, got });
    }
    let config_digest = digest_of(manifest.config()).map_err(|error| malformed(error.to_string()))?;
    let text = source.document(manifest.config()).await?;
    if Digest::of(&text) != config_digest {
        let (expected, got) = (config_digest.to_string(), Digest::of(&text).to_string());
        return Err(Error::Mismatch { what: format!("the configuration of {name}"), expected, got });
    }
    let config: ImageConfig = serde_json::from_slice(&text).map_err(parse)?;
    let (layers, diff_ids) = (manifest.layers(), &config.rootfs.diff_ids);
    if layers.len() != diff_ids.len() {
        let (blobs, ids) = (layers.len(), diff_ids.len());
        return Err(malformed(format!("it has {blobs} layers, and its configuration names {ids}")));
    }
    for layer in layers {
        let kind = layer.media_type().to_string();
        if media_type::compression(&kind).is_none() {
            return Err(malformed(format!("a layer is {kind}, which is nothing that can be unpacked")));
        }
    }
    let layers = layers.iter().cloned().zip(diff_ids.iter().copied()).collect();
    Ok(Image { digest, config_digest, config, layers })
}

/// The entries that are images: attestations are about an image, and none themselves.
fn images(index: &Index) -> impl Iterator<Item = &Descriptor> {
    index.manifests().iter().filter(|descriptor| {
        let notes = descriptor.annotations().as_ref();
        !notes.is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"))
    })
}

fn choose(index: &Index, platform: &Platform, exact: bool) -> Option<Descriptor> {
    let ranked = images(index).filter_map(|descriptor| {
        let own = descriptor.platform().as_ref().map(Platform::from)?;
        Some((platform.rank(&own)?, descriptor))
    });
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor);
    let mut all = images(index);
    match (best, all.next(), all.next()) {
        (Some(best), ..) => Some(best.clone()),
        // One that does not say what it runs on, or the only one there is.
        (None, Some(only), None) if !exact || only.platform().is_none() => Some(only.clone()),
        _ => None,
    }
}
