//! Where an image lives: a registry, the store, an OCI layout, an archive. One trait to read from them, one to write to
//! them, and copying between any two.

mod archive;
mod copy;
mod error;
mod layout;
mod location;
mod registry_image;
mod resolve;
mod store_image;
mod stream;

pub use archive::{ArchiveFormat, ArchiveSink, ArchiveSource};
pub use copy::{Copied, Report, copy, copy_blobs};
pub use error::Error;
pub use layout::{LayoutSink, LayoutSource, Name};
pub use location::Location;
pub use registry_image::{RegistrySink, RegistrySource};
pub use resolve::{Image, resolve};
pub use store_image::{StoreSink, StoreSource};
pub use stream::{FileBlob, fetch_to_store};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use oci::{Descriptor, Reference};
use registry::{BlobSource, Bytes, Pushed};

/// A future that a trait object can give.
pub type Later<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// A document with its descriptor.
#[derive(Clone, Debug)]
pub struct Document {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A place that holds an image.
pub trait Source: Send + Sync {
    /// The image's manifest, or the index of its platforms.
    fn root(&self) -> Later<'_, Result<Document, Error>>;
    /// A manifest or configuration that the root leads to.
    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> Later<'f, Result<Vec<u8>, Error>>;
    /// A layer's bytes, not yet checked against its digest.
    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>>;
    /// Where it is in a registry, where it is in one: blobs can be mounted from there.
    fn reference(&self) -> Option<&Reference> {
        None
    }
    /// The repository that has this blob, where it is not the image's own.
    fn repository_of(&self, _descriptor: &Descriptor) -> Option<Reference> {
        self.reference().cloned()
    }
    /// The blob of the store that holds a layer already.
    fn blob_in_store(&self, _descriptor: &Descriptor) -> bool {
        false
    }
}

/// A place that takes an image: blobs in any order, then documents, what is named before what names it.
pub trait Sink: Send + Sync {
    /// Takes a blob, unless it is there. `from` is where a registry may have it.
    fn blob<'f>(
        &'f self,
        descriptor: &'f Descriptor,
        source: Arc<dyn BlobSource>,
        from: Option<&'f Reference>,
    ) -> Later<'f, Result<Pushed, Error>>;
    /// Takes a manifest or index; `is_root` says that it is the image's own.
    fn document<'f>(&'f self, document: &'f Document, is_root: bool) -> Later<'f, Result<(), Error>>;
}
