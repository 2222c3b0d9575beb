//! From layers and configuration to an image, and from there to where it is wanted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;
use image::{ArchiveFormat, ArchiveSink, Document, LayoutSink, RegistrySink, Sink, Source, StoreSink, StoreSource};
use oci::media_type::Compression;
use oci::{Descriptor, DiffId, Digest, ImageConfig, Reference, describe};
use registry::Bytes;

use crate::error::Error;
use crate::event::Event;
use crate::planner::Planned;
use crate::request::{BuildOutput, BuildRequest, Output, Tools};
use crate::resolve::LayerSource;
use crate::solve::{Solved, Solver};

mod files;

/// An image, its documents in the store.
pub(crate) struct Made {
    document: Document,
    config_digest: Digest,
    platform: oci::Platform,
    layers: Vec<DiffId>,
    solver: Arc<Solver>,
}

/// Makes an image's documents.
pub(crate) async fn make(
    request: &BuildRequest,
    tools: &Tools,
    solver: Arc<Solver>,
    planned: &Planned,
    target: Option<Solved>,
) -> Result<Made, Error> {
    let mut layers: Vec<DiffId> = target.as_ref().map(|solved| solved.layers.to_vec()).unwrap_or_default();
    if request.rewrite_times {
        rewrite_times(request, tools, &solver, &mut layers).await?;
    }
    let config = config(request, planned, &solver, &layers).await?;
    let blobs = try_join_all(layers.iter().map(|layer| blob(&solver, tools, *layer, request))).await?;
    let store = &tools.store;
    let json = |error: serde_json::Error| Error::Request(error.to_string());
    let mut config_text = serde_json::to_vec(&config).map_err(json)?;
    if request.inline_cache {
        config_text = with_cache(&config, &solver).map_err(json)?;
    }
    let config_digest = store.write_blob(&config_text)?;
    let config_descriptor = describe(request.format.config(), config_digest, config_text.len() as u64);
    let mut manifest = oci::manifest(request.format.manifest(), config_descriptor, blobs);
    if !request.annotations.is_empty() {
        manifest.set_annotations(Some(request.annotations.iter().cloned().collect()));
    }
    let text = serde_json::to_vec(&manifest).map_err(json)?;
    let digest = store.write_blob(&text)?;
    let mut descriptor = describe(request.format.manifest(), digest, text.len() as u64);
    descriptor.set_platform(Some((&config.platform()).into()));
    let document = Document { descriptor, bytes: text };
    Ok(Made { document, config_digest, platform: config.platform(), layers, solver })
}

/// A configuration that says of which steps the image's layers are.
fn with_cache(config: &ImageConfig, solver: &Solver) -> Result<Vec<u8>, serde_json::Error> {
    let mut entries = solver.inline_entries();
    entries.retain(|entry| config.rootfs.diff_ids.contains(&entry.record.layer));
    let mut document = serde_json::to_value(config)?;
    document[cache::INLINE] = serde_json::to_value(entries)?;
    serde_json::to_vec(&document)
}

/// Puts layers in the place of the image's own in which nothing is younger than the build's time.
async fn rewrite_times(
    request: &BuildRequest,
    tools: &Tools,
    solver: &Arc<Solver>,
    layers: &mut [DiffId],
) -> Result<(), Error> {
    let Some(epoch) = solver.epoch() else {
        let message = "rewrite-timestamp=true changes nothing in a build without SOURCE_DATE_EPOCH";
        (tools.events)(Event::Note(format!("warning: {message}: give --build-arg SOURCE_DATE_EPOCH=SECONDS")));
        return Ok(());
    };
    // What comes from the base image stays as it is there.
    let is_base = |layer: &&mut DiffId| solver.lookups().layer_source(**layer).is_some_and(|origin| origin.is_base);
    let own = layers.iter_mut().skip_while(is_base);
    for layer in own {
        // What came of it is kept like a step's result.
        let key = plan::key::Frame::new("not after").field(layer.0.as_bytes()).field(&epoch.to_le_bytes());
        let key = key.finish().hex();
        if let Some(known) = tools.store.read_record(&key)
            && !tools.store.variants(known.layer).is_empty()
        {
            *layer = known.layer;
            continue;
        }
        let (store, compression, old) = (tools.store.clone(), request.compression, *layer);
        solver.fetch(old).await?;
        let work = move || snapshot::rewrite::not_after(&store, old, epoch, compression);
        *layer = tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))??;
        let name = format!("the layer {old} with no time after {epoch}");
        let now = crate::time::now();
        let created = crate::time::rfc3339(now);
        let record =
            store::Record { layer: *layer, below: None, created, created_at: now, name, components: Vec::new() };
        tools.store.write_record(&key, &record)?;
    }
    Ok(())
}

/// Writes every output: of one image, or of an index of several.
pub(crate) async fn export(
    request: &BuildRequest,
    tools: &Tools,
    images: Vec<Made>,
    several: bool,
) -> Result<BuildOutput, Error> {
    let store = &tools.store;
    let document = match &images[..] {
        [only] if !several => only.document.clone(),
        images => index(request, tools, images)?,
    };
    let descriptor = document.descriptor.clone();
    let source: Arc<dyn Source> = Arc::new(Origins::new(StoreSource::at(store, descriptor.clone()), &images));
    for output in &request.outputs {
        write(request, tools, &source, &images, several, output).await?;
    }
    if request.outputs.is_empty() {
        let sink = StoreSink::new(store, request.tags.clone());
        sink.document(&document, true).await?;
    }
    let digest = oci::digest_of(&descriptor).map_err(|error| Error::Request(error.to_string()))?;
    let config_digest = images.first().filter(|_| !several).map(|image| image.config_digest);
    let count = |count: (usize, usize), image: &Made| {
        let (cached, all) = image.solver.counts();
        (count.0 + cached, count.1 + all)
    };
    let cached = images.iter().fold((0, 0), count);
    Ok(BuildOutput { digest, config_digest, descriptor, tags: request.tags.clone(), cached })
}

/// The images of several platforms, in the order in which they were asked for.
fn index(request: &BuildRequest, tools: &Tools, images: &[Made]) -> Result<Document, Error> {
    let mut index = oci::Index::default();
    index.set_schema_version(2);
    index.set_media_type(Some(request.format.index().into()));
    index.set_manifests(images.iter().map(|image| image.document.descriptor.clone()).collect());
    let bytes = serde_json::to_vec(&index).map_err(|error| Error::Request(error.to_string()))?;
    let digest = tools.store.write_blob(&bytes)?;
    Ok(Document { descriptor: describe(request.format.index(), digest, bytes.len() as u64), bytes })
}

/// An image whose documents are in the store, and each blob there or where it can be had.
struct Origins {
    store: StoreSource,
    elsewhere: BTreeMap<Digest, LayerSource>,
}

impl Origins {
    fn new(store: StoreSource, images: &[Made]) -> Self {
        let layers = images.iter().flat_map(|image| image.layers.iter().map(move |layer| (image, *layer)));
        let sources = layers.filter_map(|(image, layer)| image.solver.lookups().layer_source(layer));
        let of = |source: LayerSource| Some((oci::digest_of(&source.descriptor).ok()?, source));
        Self { store, elsewhere: sources.filter_map(of).collect() }
    }

    fn origin(&self, descriptor: &Descriptor) -> Option<&LayerSource> {
        self.elsewhere.get(&oci::digest_of(descriptor).ok()?)
    }
}

impl Source for Origins {
    fn root(&self) -> image::Later<'_, Result<Document, image::Error>> {
        self.store.root()
    }

    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> image::Later<'f, Result<Vec<u8>, image::Error>> {
        self.store.document(descriptor)
    }

    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> image::Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, image::Error>> {
        match self.origin(descriptor) {
            Some(origin) if !self.store.blob_in_store(descriptor) => origin.source.open(&origin.descriptor),
            _ => self.store.open(descriptor),
        }
    }

    fn repository_of(&self, descriptor: &Descriptor) -> Option<Reference> {
        self.origin(descriptor)?.source.reference().cloned()
    }
}

/// The image's configuration: what the stages made of it, and how each layer came to be.
async fn config(
    request: &BuildRequest,
    planned: &Planned,
    solver: &Arc<Solver>,
    layers: &[DiffId],
) -> Result<ImageConfig, Error> {
    let mut config = planned.config.clone();
    config.rootfs.diff_ids = layers.to_vec();
    for (name, value) in &request.labels {
        config.config.labels.insert(name.clone(), value.clone());
    }
    config.history.clone_from(&planned.base_history);
    let mut times = Vec::new();
    for (_, vertex) in &planned.history {
        times.push(match vertex {
            Some(_) if solver.epoch().is_some() => solver.epoch().map(crate::time::rfc3339),
            Some(id) => solver.solve(*id).await?.created,
            None => None,
        });
    }
    // A line without a layer has the time of the layer below it; those before the first, that of the first.
    let base = planned.base_history.iter().rev().find_map(|line| line.created.clone()).or(planned.base_created.clone());
    let first = times.iter().flatten().next().cloned();
    let epoch = solver.epoch().map(crate::time::rfc3339);
    let mut last = epoch.or(first).or(base).unwrap_or_else(|| crate::time::rfc3339(0));
    for ((line, _), time) in planned.history.iter().zip(times) {
        if let Some(time) = time {
            last = time;
        }
        config.history.push(oci::config::History {
            created: Some(last.clone()),
            created_by: Some(line.created_by.clone()),
            comment: line.comment.clone(),
            empty_layer: line.empty_layer,
            author: None,
        });
    }
    config.created = Some(last);
    Ok(config)
}

/// The blob of a layer as it will be sent: a base image's own, or one in the compression that was asked for.
async fn blob(solver: &Arc<Solver>, tools: &Tools, layer: DiffId, request: &BuildRequest) -> Result<Descriptor, Error> {
    let digest = |descriptor: &Descriptor| oci::digest_of(descriptor).map_err(|e| Error::Request(e.to_string()));
    let origin = solver.lookups().layer_source(layer);
    let known = tools.store.variants(layer);
    if let Some(origin) = &origin {
        let digest = digest(&origin.descriptor)?;
        let kind = origin.descriptor.media_type().to_string();
        let compression = oci::media_type::compression(&kind).unwrap_or(Compression::Gzip);
        // What goes to a registry alone need not be here: that has it, or takes it from where it is.
        let here = known.iter().find(|variant| variant.digest == digest);
        let fits = origin.is_base || compression == request.compression;
        if fits && (here.is_some() || known.is_empty() && goes_to_registries(request)) {
            // What the store has has been measured; the image may have lied.
            let size = here.map_or(origin.descriptor.size(), |variant| variant.size);
            return Ok(describe(request.format.layer(compression), digest, size));
        }
    }
    solver.fetch(layer).await?;
    if let Some(origin) = origin.filter(|origin| origin.is_base) {
        let digest = digest(&origin.descriptor)?;
        let known = tools.store.variants(layer);
        if let Some(own) = known.iter().find(|variant| variant.digest == digest) {
            return Ok(describe(request.format.layer(own.compression), digest, own.size));
        }
    }
    let (store, compression) = (tools.store.clone(), request.compression);
    let variant = tokio::task::spawn_blocking(move || snapshot::index::variant(&store, layer, compression)).await;
    let variant = variant.map_err(|error| Error::Request(error.to_string()))??;
    Ok(describe(request.format.layer(variant.compression), variant.digest, variant.size))
}

fn goes_to_registries(request: &BuildRequest) -> bool {
    !request.outputs.is_empty() && request.outputs.iter().all(|output| matches!(output, Output::Registry(_)))
}

async fn write(
    request: &BuildRequest,
    tools: &Tools,
    source: &Arc<dyn Source>,
    images: &[Made],
    several: bool,
    output: &Output,
) -> Result<(), Error> {
    if several && matches!(output, Output::Docker(_) | Output::Load) {
        let reason = "an archive for docker load holds one platform: build one at a time, or use type=oci or registry";
        return Err(Error::Request(reason.into()));
    }
    let events = &tools.events;
    let names: Vec<image::Name> = request.tags.iter().map(image::Name::from).collect();
    match output {
        Output::Registry(reference) => {
            let references = match reference {
                Some(reference) => vec![reference.clone()],
                None if request.tags.is_empty() => {
                    return Err(Error::Request("to push an image it needs a name: give -t REGISTRY/NAME:TAG".into()));
                }
                None => request.tags.clone(),
            };
            for reference in references {
                let sink = RegistrySink::new(&tools.registry, reference.clone());
                let digest = copy(source, &sink, events).await?;
                events(Event::Note(format!("pushed {reference} ({digest})")));
            }
        }
        Output::Oci { path: Some(path), tar: false } => {
            copy(source, &LayoutSink::new(path, names)?, events).await?;
        }
        Output::Oci { path, .. } => {
            copy(source, &archive(path.as_deref(), ArchiveFormat::Oci, names)?, events).await?;
        }
        Output::Docker(path) => {
            copy(source, &archive(path.as_deref(), ArchiveFormat::Docker, names)?, events).await?;
        }
        Output::Load => load(source, names, events).await?,
        Output::Local(files) => {
            files::to_folder(tools, images, files.split.unwrap_or(several), files).await?;
        }
        Output::Tar { path, split } => {
            files::to_tar(tools, images, split.unwrap_or(several), path.as_deref()).await?;
        }
    }
    Ok(())
}

async fn copy(source: &Arc<dyn Source>, sink: &dyn Sink, events: &crate::Events) -> Result<Digest, Error> {
    let report = |copied: &image::Copied| {
        let how = match copied.how {
            registry::Pushed::Exists => "is there already",
            registry::Pushed::Mounted => "mounted from another repository",
            registry::Pushed::Sent => "sent",
        };
        events(Event::Note(format!("{} ({} bytes) {how}", copied.descriptor.digest(), copied.descriptor.size())));
    };
    Ok(image::copy(source.clone(), sink, &report).await?)
}

fn archive(path: Option<&Path>, format: ArchiveFormat, names: Vec<image::Name>) -> Result<ArchiveSink, Error> {
    Ok(match path {
        Some(path) => ArchiveSink::create(path, format, names)?,
        None => ArchiveSink::stream(Box::new(std::io::stdout()), format, names)?,
    })
}

/// Pipes the image into `docker load`.
async fn load(source: &Arc<dyn Source>, names: Vec<image::Name>, events: &crate::Events) -> Result<(), Error> {
    let failed = |source| Error::Output { place: "docker load".into(), source };
    let mut child =
        Command::new("docker").arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(failed)?;
    let stdin = child.stdin.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
    let sink = ArchiveSink::stream(Box::new(stdin), ArchiveFormat::Docker, names)?;
    let copied = copy(source, &sink, events).await;
    drop(sink);
    let status = tokio::task::spawn_blocking(move || child.wait()).await;
    let status = status.map_err(|error| Error::Request(error.to_string()))?.map_err(failed)?;
    copied?;
    if status.success() { Ok(()) } else { Err(Error::Request("docker load did not take the image".into())) }
}

/// Where a path of an output cannot be written.
pub(crate) fn at(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let place = path.display().to_string();
    move |source| Error::Output { place: place.clone(), source }
}

/// A file, or standard output.
pub(crate) fn sink(path: Option<&Path>) -> Result<(Box<dyn Write + Send>, PathBuf), Error> {
    Ok(match path {
        Some(path) => (Box::new(std::io::BufWriter::new(fs::File::create(path).map_err(at(path))?)), path.to_owned()),
        None => (Box::new(std::io::stdout()), PathBuf::from("-")),
    })
}
