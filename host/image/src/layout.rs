//! An image in a folder that is an OCI image layout (image-spec, "image layout").

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci::{Descriptor, Digest, Index, REF_NAME, Reference, digest_of};
use registry::{BlobSource, Bytes, Pushed};

use crate::error::{At, Error};
use crate::stream::FileBlob;
use crate::{Document, Later, Sink, Source};

/// Reads an image of a layout.
#[derive(Clone, Debug)]
pub struct LayoutSource {
    folder: PathBuf,
    root: Descriptor,
}

fn blob(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

/// The descriptor that a tag or digest means in an index; without one, `latest` or the only image there is.
pub(crate) fn select(index: &Index, wanted: Option<&str>, what: &str) -> Result<Descriptor, Error> {
    let name = |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(REF_NAME).cloned();
    let matches = |descriptor: &&Descriptor, wanted: &str| {
        let tag_of_name = |name: String| {
            name == wanted
                || name.parse::<Reference>().is_ok_and(|r| r.tag() == Some(wanted) || r.to_string() == wanted)
        };
        descriptor.digest().to_string() == wanted || name(descriptor).is_some_and(tag_of_name)
    };
    let manifests = index.manifests();
    let found = match (wanted, &manifests[..]) {
        (Some(wanted), _) => manifests.iter().find(|descriptor| matches(descriptor, wanted)),
        (None, [only]) => Some(only),
        (None, _) => manifests.iter().find(|descriptor| matches(descriptor, "latest")),
    };
    found.cloned().ok_or_else(|| {
        Error::NotFound(match wanted {
            Some(wanted) => format!("{wanted} in {what}"),
            None => format!("an image to choose in {what} (it holds {}; say which)", manifests.len()),
        })
    })
}

impl LayoutSource {
    /// The image with this tag or digest.
    ///
    /// # Errors
    /// When the folder is no layout, or does not hold it.
    pub fn open(folder: &Path, wanted: Option<&str>) -> Result<Self, Error> {
        let path = folder.join("index.json");
        let text = fs::read(&path).at(&path)?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| Error::Malformed { what: path.display().to_string(), reason: error.to_string() })?;
        let root = select(&index, wanted, &folder.display().to_string())?;
        Ok(Self { folder: folder.to_owned(), root })
    }

    fn path(&self, descriptor: &Descriptor) -> Result<(PathBuf, Digest), Error> {
        let malformed = |error: oci::DigestError| Error::Malformed {
            what: self.folder.display().to_string(),
            reason: error.to_string(),
        };
        let digest = digest_of(descriptor).map_err(malformed)?;
        Ok((blob(&self.folder, digest), digest))
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let (path, expected) = self.path(descriptor)?;
        let bytes = fs::read(&path).at(&path)?;
        match Digest::of(&bytes) {
            got if got == expected => Ok(bytes),
            got => Err(Error::Mismatch {
                what: path.display().to_string(),
                expected: expected.to_string(),
                got: got.to_string(),
            }),
        }
    }
}

impl Source for LayoutSource {
    fn root(&self) -> Later<'_, Result<Document, Error>> {
        Box::pin(async {
            let mut descriptor = self.root.clone();
            descriptor.set_annotations(None);
            Ok(Document { bytes: self.read(&descriptor)?, descriptor })
        })
    }

    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> Later<'f, Result<Vec<u8>, Error>> {
        Box::pin(async { self.read(descriptor) })
    }

    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async {
            let (path, _) = self.path(descriptor)?;
            FileBlob::whole(path.clone()).stream().await.at(path)
        })
    }
}

/// Writes an image into a layout; images that are there stay.
#[derive(Debug)]
pub struct LayoutSink {
    folder: PathBuf,
    names: Vec<String>,
}

impl LayoutSink {
    /// Opens or makes a layout; the image gets these names.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &Path, names: Vec<String>) -> Result<Self, Error> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).at(&blobs)?;
        let marker = folder.join("oci-layout");
        fs::write(&marker, r#"{"imageLayoutVersion":"1.0.0"}"#).at(&marker)?;
        Ok(Self { folder: folder.to_owned(), names })
    }

    fn add_to_index(&self, document: &Document) -> Result<(), Error> {
        let path = self.folder.join("index.json");
        let mut index: Index =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        index.set_schema_version(2);
        index.set_media_type(Some(oci::media_type::OCI_INDEX.into()));
        let mut manifests = index.manifests().clone();
        manifests.retain(|old| {
            let name = old.annotations().as_ref().and_then(|notes| notes.get(REF_NAME));
            name.map_or(old.digest() != document.descriptor.digest(), |name| !self.names.contains(name))
        });
        manifests.extend(named(&document.descriptor, &self.names));
        index.set_manifests(manifests);
        let text = serde_json::to_vec(&index)
            .map_err(|error| Error::Malformed { what: path.display().to_string(), reason: error.to_string() })?;
        fs::write(&path, text).at(path)
    }
}

/// The descriptor once for each name, or once without.
pub(crate) fn named(descriptor: &Descriptor, names: &[String]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![descriptor.clone()];
    }
    let name = |name: &String| {
        let mut descriptor = descriptor.clone();
        let mut annotations = descriptor.annotations().clone().unwrap_or_default();
        annotations.insert(REF_NAME.to_owned(), name.clone());
        descriptor.set_annotations(Some(annotations));
        descriptor
    };
    names.iter().map(name).collect()
}

impl Sink for LayoutSink {
    fn blob<'f>(
        &'f self,
        descriptor: &'f Descriptor,
        source: Arc<dyn BlobSource>,
        _: Option<&'f Reference>,
    ) -> Later<'f, Result<Pushed, Error>> {
        Box::pin(async move {
            let expected = digest_of(descriptor)
                .map_err(|error| Error::Malformed { what: "a layer".into(), reason: error.to_string() })?;
            let path = blob(&self.folder, expected);
            if path.exists() {
                return Ok(Pushed::Exists);
            }
            let temporary = path.with_extension("partial");
            let mut file = fs::File::create(&temporary).at(&temporary)?;
            let mut hasher = oci::Hasher::default();
            let mut pieces = source.open().await.at(&path)?;
            while let Some(piece) = pieces.next().await {
                let piece = piece.at(&path)?;
                hasher.update(&piece);
                file.write_all(&piece).at(&temporary)?;
            }
            let got = hasher.finish();
            if got != expected {
                let _ = fs::remove_file(&temporary);
                let what = path.display().to_string();
                return Err(Error::Mismatch { what, expected: expected.to_string(), got: got.to_string() });
            }
            fs::rename(&temporary, &path).at(&path)?;
            Ok(Pushed::Sent)
        })
    }

    fn document<'f>(&'f self, document: &'f Document, is_root: bool) -> Later<'f, Result<(), Error>> {
        Box::pin(async move {
            let path = blob(&self.folder, Digest::of(&document.bytes));
            fs::write(&path, &document.bytes).at(&path)?;
            if is_root { self.add_to_index(document) } else { Ok(()) }
        })
    }
}
