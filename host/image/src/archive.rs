//! An image in a tar file: an OCI layout, which for Docker has a `manifest.json` besides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci::{Descriptor, Digest, Index, Manifest, Reference, describe, digest_of, media_type};
use registry::{BlobSource, Bytes, Pushed};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::error::{At, Error};
use crate::layout::{Name, named, select};
use crate::stream::{FileBlob, LARGEST_DOCUMENT, too_large};
use crate::{Document, Later, Sink, Source};

/// Which tools the archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// Those that read OCI layouts.
    Oci,
    /// `docker load` as well.
    Docker,
}

/// A line of Docker's `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerLine {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Reads an image of an archive that is not compressed.
#[derive(Clone, Debug)]
pub struct ArchiveSource {
    path: PathBuf,
    root: Document,
    blobs: BTreeMap<Digest, (u64, u64)>,
}

impl ArchiveSource {
    /// The image of this name; without one the only one.
    ///
    /// # Errors
    /// When the file is no archive of an image.
    pub fn open(path: &Path, wanted: Option<&str>) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { what: path.display().to_string(), reason };
        let mut entries = BTreeMap::new();
        let failed = |source| Error::Io { path: path.to_owned(), source };
        oci::tar::each(File::open(path).at(path)?, failed, |found| {
            let name = String::from_utf8_lossy(&found.path).trim_start_matches("./").to_owned();
            entries.insert(name, (found.entry.raw_file_position(), found.entry.size()));
            Ok(ControlFlow::Continue(()))
        })?;
        let read_document = |(offset, length): (u64, u64)| match length > LARGEST_DOCUMENT {
            true => Err(too_large(format!("a document in {}", path.display()))),
            false => read_part(path, offset, length),
        };
        let read = |name: &str| entries.get(name).copied().map(read_document).transpose();
        let parse_error = |error: serde_json::Error| malformed(error.to_string());
        let mut blobs = BTreeMap::new();
        for (name, part) in &entries {
            if let Some(hex) = name.strip_prefix("blobs/sha256/")
                && let Ok(digest) = format!("sha256:{hex}").parse()
            {
                blobs.insert(digest, *part);
            }
        }
        if let Some(text) = read("index.json")? {
            let index: Index = serde_json::from_slice(&text).map_err(parse_error)?;
            let mut descriptor = select(&index, wanted, &path.display().to_string())?;
            descriptor.set_annotations(None);
            let digest = digest_of(&descriptor).map_err(|error| malformed(error.to_string()))?;
            let part = *blobs.get(&digest).ok_or_else(|| malformed(format!("{digest} is missing")))?;
            let bytes = read_document(part)?;
            let got = Digest::of(&bytes);
            if got != digest {
                let what = path.display().to_string();
                return Err(Error::Mismatch { what, expected: digest.to_string(), got: got.to_string() });
            }
            return Ok(Self { path: path.to_owned(), root: Document { descriptor, bytes }, blobs });
        }
        // Docker's older archives: layers by path, and no digests at all.
        let text =
            read("manifest.json")?.ok_or_else(|| malformed("it holds no index.json and no manifest.json".into()))?;
        let lines: Vec<DockerLine> = serde_json::from_slice(&text).map_err(parse_error)?;
        let is_wanted = |line: &&DockerLine| match wanted {
            Some(wanted) => line.repo_tags.iter().flatten().any(|tag| tag == wanted),
            None => true,
        };
        let line = lines
            .iter()
            .find(is_wanted)
            .ok_or_else(|| Error::NotFound(format!("{} in {}", wanted.unwrap_or("an image"), path.display())))?;
        let mut add = |name: &str, kind: &str| -> Result<Descriptor, Error> {
            let part = *entries.get(name).ok_or_else(|| malformed(format!("{name} is missing")))?;
            let digest = digest_part(path, part.0, part.1)?;
            blobs.insert(digest, part);
            Ok(describe(kind, digest, part.1))
        };
        let config = add(&line.config, media_type::DOCKER_CONFIG)?;
        let layers = line.layers.iter().map(|layer| {
            let (offset, length) = entries.get(layer).copied().unwrap_or_default();
            let head = read_part(path, offset, length.min(2))?;
            let kind = if head == [0x1f, 0x8b] { media_type::DOCKER_LAYER_GZIP } else { media_type::DOCKER_LAYER };
            add(layer, kind)
        });
        let layers = layers.collect::<Result<Vec<_>, Error>>()?;
        let manifest = oci::manifest(media_type::DOCKER_MANIFEST, config, layers);
        let bytes = serde_json::to_vec(&manifest).map_err(parse_error)?;
        let descriptor = describe(media_type::DOCKER_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
        Ok(Self { path: path.to_owned(), root: Document { descriptor, bytes }, blobs })
    }

    fn part(&self, descriptor: &Descriptor) -> Result<(Digest, u64, u64), Error> {
        let malformed = |reason: String| Error::Malformed { what: self.path.display().to_string(), reason };
        let digest = digest_of(descriptor).map_err(|error| malformed(error.to_string()))?;
        let (offset, length) = self.blobs.get(&digest).ok_or_else(|| malformed(format!("{digest} is missing")))?;
        Ok((digest, *offset, *length))
    }
}

fn read_part(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset)).at(path)?;
    Ok(bytes)
}

fn digest_part(path: &Path, offset: u64, length: u64) -> Result<Digest, Error> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path).at(path)?;
    file.seek(SeekFrom::Start(offset)).at(path)?;
    let mut part = file.take(length);
    let mut hasher = oci::Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match part.read(&mut buffer).at(path)? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

impl Source for ArchiveSource {
    fn root(&self) -> Later<'_, Result<Document, Error>> {
        Box::pin(async { Ok(self.root.clone()) })
    }

    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> Later<'f, Result<Vec<u8>, Error>> {
        Box::pin(async {
            let (expected, offset, length) = self.part(descriptor)?;
            let bytes = read_part(&self.path, offset, length.min(LARGEST_DOCUMENT))?;
            match Digest::of(&bytes) {
                got if got == expected => Ok(bytes),
                got => Err(Error::Mismatch {
                    what: self.path.display().to_string(),
                    expected: expected.to_string(),
                    got: got.to_string(),
                }),
            }
        })
    }

    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, Error>> {
        Box::pin(async {
            let (_, offset, length) = self.part(descriptor)?;
            let blob = FileBlob { path: self.path.clone(), offset, length: Some(length) };
            blob.stream().await.at(&self.path)
        })
    }
}

/// Writes an image into an archive, as its parts come. The file is in its place once the image is whole.
pub struct ArchiveSink {
    path: PathBuf,
    format: ArchiveFormat,
    names: Vec<Name>,
    state: Mutex<State>,
}

struct State {
    tar: tar::Builder<Box<dyn Write + Send>>,
    temporary: Option<PathBuf>,
    there: BTreeSet<Digest>,
}

impl std::fmt::Debug for ArchiveSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveSink({})", self.path.display())
    }
}

impl Drop for ArchiveSink {
    fn drop(&mut self) {
        if let Some(temporary) = &self.state.get_mut().temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

impl ArchiveSink {
    /// Starts an archive at `path`. What is there and no file, as a device or a pipe, is written to and never replaced.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path, format: ArchiveFormat, names: Vec<Name>) -> Result<Self, Error> {
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(path).at(path)?;
            return Self::start(path, Box::new(std::io::BufWriter::new(file)), None, format, names);
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.partial", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = std::io::BufWriter::new(File::create(&temporary).at(&temporary)?);
        Self::start(path, Box::new(file), Some(temporary), format, names)
    }

    /// Writes an archive to a stream.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn stream(out: Box<dyn Write + Send>, format: ArchiveFormat, names: Vec<Name>) -> Result<Self, Error> {
        Self::start(Path::new("-"), out, None, format, names)
    }

    fn start(
        path: &Path,
        out: Box<dyn Write + Send>,
        temporary: Option<PathBuf>,
        format: ArchiveFormat,
        names: Vec<Name>,
    ) -> Result<Self, Error> {
        let mut tar = tar::Builder::new(out);
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).at(path)?;
        let state = Mutex::new(State { tar, temporary, there: BTreeSet::new() });
        Ok(Self { path: path.to_owned(), format, names, state })
    }

    async fn close(&self, document: &Document) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let malformed =
            |error: serde_json::Error| Error::Malformed { what: "the image".into(), reason: error.to_string() };
        let mut index = Index::default();
        index.set_schema_version(2);
        index.set_media_type(Some(media_type::OCI_INDEX.into()));
        index.set_manifests(named(&document.descriptor, &self.names));
        let text = serde_json::to_vec(&index).map_err(malformed)?;
        append(&mut state.tar, "index.json", &text).at(&self.path)?;
        if self.format == ArchiveFormat::Docker {
            let manifest: Manifest = serde_json::from_slice(&document.bytes).map_err(malformed)?;
            let place =
                |descriptor: &Descriptor| format!("blobs/{}", descriptor.digest().to_string().replace(':', "/"));
            let line = DockerLine {
                config: place(manifest.config()),
                repo_tags: Some(self.names.iter().map(|name| name.full().to_owned()).collect::<Vec<_>>())
                    .filter(|names| !names.is_empty()),
                layers: manifest.layers().iter().map(place).collect(),
            };
            let text = serde_json::to_vec(&[line]).map_err(malformed)?;
            append(&mut state.tar, "manifest.json", &text).at(&self.path)?;
        }
        state.tar.finish().and_then(|()| state.tar.get_mut().flush()).at(&self.path)?;
        if let Some(temporary) = state.temporary.take() {
            std::fs::rename(&temporary, &self.path).at(&self.path)?;
        }
        Ok(())
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(tar: &mut tar::Builder<Box<dyn Write + Send>>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}

impl Sink for ArchiveSink {
    fn blob<'f>(
        &'f self,
        descriptor: &'f Descriptor,
        source: Arc<dyn BlobSource>,
        _: Option<&'f Reference>,
    ) -> Later<'f, Result<Pushed, Error>> {
        Box::pin(async move {
            let digest = digest_of(descriptor)
                .map_err(|error| Error::Malformed { what: "a layer".into(), reason: error.to_string() })?;
            // One entry at a time, in the order in which they came: an archive has no room for two that grow.
            let mut state = self.state.lock().await;
            if !state.there.insert(digest) {
                return Ok(Pushed::Exists);
            }
            let mut pieces = source.open().await.at(&self.path)?;
            let (size, mut written) = (descriptor.size(), 0);
            let mut header = header(size);
            header.set_path(format!("blobs/sha256/{}", digest.hex())).at(&self.path)?;
            header.set_cksum();
            let out = state.tar.get_mut();
            out.write_all(header.as_bytes()).at(&self.path)?;
            let mut hasher = oci::Hasher::default();
            while let Some(piece) = pieces.next().await {
                let piece = piece.at(&self.path)?;
                written += piece.len() as u64;
                hasher.update(&piece);
                out.write_all(&piece).at(&self.path)?;
            }
            let got = hasher.finish();
            if got != digest || written != size {
                let what = "a layer".to_owned();
                return Err(Error::Mismatch { what, expected: digest.to_string(), got: got.to_string() });
            }
            let padding = (512 - size % 512) % 512;
            out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)]).at(&self.path)?;
            Ok(Pushed::Sent)
        })
    }

    fn document<'f>(&'f self, document: &'f Document, is_root: bool) -> Later<'f, Result<(), Error>> {
        Box::pin(async move {
            {
                let mut state = self.state.lock().await;
                let digest = Digest::of(&document.bytes);
                if state.there.insert(digest) {
                    append(&mut state.tar, &format!("blobs/sha256/{}", digest.hex()), &document.bytes).at(&self.path)?;
                }
            }
            if is_root { self.close(document).await } else { Ok(()) }
        })
    }
}
