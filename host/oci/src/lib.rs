//! The nouns of container images: references, digests, descriptors, manifests, configurations, platforms.
//!
//! Pure data, no input or output but for [`tar`], which reads what it is handed. Descriptors, manifests and indexes are
//! `oci-spec`'s own types; what the image specification leaves to Docker (health checks, `SHELL`, `ONBUILD`) is added
//! in [`config`].

pub mod config;
mod digest;
pub mod media_type;
mod platform;
mod reference;
pub mod tar;
pub mod tree;

pub use config::ImageConfig;
pub use digest::{ChainId, DiffId, Digest, DigestError, Hasher};
pub use oci_spec::image::{Descriptor, ImageIndex as Index, ImageManifest as Manifest, MediaType};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};

/// The annotation that names an image within an OCI image layout (image-spec, annotations).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The digest that a descriptor names.
///
/// # Errors
/// When it is not a well-formed SHA-256 digest; no other algorithm is in use.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, DigestError> {
    descriptor.digest().to_string().parse()
}

/// A descriptor of these bytes' kind, digest and size.
#[must_use]
pub fn describe(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    let digest: oci_spec::image::Digest =
        digest.to_string().parse().unwrap_or_else(|_| unreachable!("a Digest is well-formed by construction"));
    Descriptor::new(MediaType::from(media_type), size, digest)
}

/// An image manifest of these documents.
#[must_use]
pub fn manifest(media_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
    oci_spec::image::ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(media_type)
        .config(config)
        .layers(layers)
        .build()
        .unwrap_or_else(|_| unreachable!("every required field is set"))
}
