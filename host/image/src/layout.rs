//! An image in a folder that is an OCI image layout (image-spec, "image layout").

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci::{Descriptor, Digest, Index, REF_NAME, Reference, digest_of};
use registry::{BlobSource, Bytes, Pushed};

use crate::error::{At, Error};
use crate::stream::{FileBlob, read_document};
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
    let full = |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(FULL_NAME).cloned();
    let matches = |descriptor: &&Descriptor, wanted: &str| {
        let wanted_full = wanted.parse::<Reference>().map(|reference| reference.to_string()).ok();
        if full(descriptor).is_some_and(|full| full == wanted || wanted_full == Some(full)) {
            return true;
        }
        let tag_of_name = |name: String| {
            name == wanted
                || name.parse::<Reference>().is_ok_and(|r| r.tag() == Some(wanted) || r.to_string() == wanted)
        };
        descriptor.digest().to_string() == wanted || name(descriptor).is_some_and(tag_of_name)
    };
    let manifests = index.manifests();
    let found = match (wanted, &manifests[..]) {
        // A lone image without a name is what anyone who asks for `latest` means.
        (Some("latest"), [only]) if name(only).is_none() => Some(only),
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
        let text = read_document(&path)?;
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
        let bytes = read_document(&path)?;
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

/// containerd's annotation for the whole name of an image; `org.opencontainers.image.ref.name` has the tag alone.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";

/// What an image is called in a layout or archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    tag: String,
    full: Option<String>,
}

impl Name {
    /// A tag, or a whole reference.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.parse::<Reference>() {
            Ok(reference) if text.contains(['/', ':']) => Self::from(&reference),
            _ => Self { tag: text.to_owned(), full: None },
        }
    }

    /// The whole name, where there is one.
    pub(crate) fn full(&self) -> &str {
        self.full.as_deref().unwrap_or(&self.tag)
    }
}

impl From<&Reference> for Name {
    fn from(reference: &Reference) -> Self {
        Self { tag: reference.tag().unwrap_or("latest").to_owned(), full: Some(reference.to_string()) }
    }
}

/// Writes an image into a layout; images that are there stay.
#[derive(Debug)]
pub struct LayoutSink {
    folder: PathBuf,
    names: Vec<Name>,
}

impl LayoutSink {
    /// Opens or makes a layout; the image gets these names.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &Path, names: Vec<Name>) -> Result<Self, Error> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).at(&blobs)?;
        let sink = Self { folder: folder.to_owned(), names };
        let marker = folder.join("oci-layout");
        if !marker.exists() {
            sink.replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(sink)
    }

    /// A file in the layout's folder that nobody else writes to.
    fn aside(&self) -> Result<(PathBuf, fs::File), Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!(".partial-{}-{number}", std::process::id()));
        let file = fs::File::create(&path).at(&path)?;
        Ok((path, file))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let (temporary, mut file) = self.aside()?;
        let done = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
        if done.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        done.at(path)
    }

    /// Changes the list of images, one process at a time.
    fn add_to_index(&self, document: &Document) -> Result<(), Error> {
        let folder = fs::File::open(&self.folder).at(&self.folder)?;
        folder.lock().at(&self.folder)?;
        let path = self.folder.join("index.json");
        let malformed =
            |error: serde_json::Error| Error::Malformed { what: path.display().to_string(), reason: error.to_string() };
        let mut index: Index = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(malformed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(error).at(&path),
        };
        index.set_schema_version(2);
        index.set_media_type(Some(oci::media_type::OCI_INDEX.into()));
        let mut manifests = index.manifests().clone();
        let added = named(&document.descriptor, &self.names);
        let note = |descriptor: &Descriptor, key: &str| descriptor.annotations().as_ref()?.get(key).cloned();
        manifests.retain(|old| {
            added.iter().all(|new| {
                let same_name = |key| note(old, key) == note(new, key);
                let nameless = note(new, REF_NAME).is_none();
                !(same_name(REF_NAME) && same_name(FULL_NAME) && (!nameless || old.digest() == new.digest()))
            })
        });
        manifests.extend(added);
        index.set_manifests(manifests);
        let text = serde_json::to_vec(&index).map_err(malformed)?;
        self.replace(&path, &text)
    }
}

/// The descriptor once for each name, or once without.
pub(crate) fn named(descriptor: &Descriptor, names: &[Name]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![descriptor.clone()];
    }
    let name = |name: &Name| {
        let mut descriptor = descriptor.clone();
        let mut annotations = descriptor.annotations().clone().unwrap_or_default();
        annotations.insert(REF_NAME.to_owned(), name.tag.clone());
        if let Some(full) = &name.full {
            annotations.insert(FULL_NAME.to_owned(), full.clone());
        }
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
            let (temporary, mut file) = self.aside()?;
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
            self.replace(&path, &document.bytes)?;
            if is_root { self.add_to_index(document) } else { Ok(()) }
        })
    }
}
