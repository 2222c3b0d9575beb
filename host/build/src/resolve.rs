//! Looking up what a build file names: images, named contexts, the context itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use context::Context;
use context::pattern::Matcher;
use futures_util::stream::BoxStream;
use image::{ArchiveSource, Document, Image, Later, LayoutSource, Location, RegistrySource, Source, StoreSource};
use oci::{Descriptor, DiffId, Platform, Reference, digest_of};
use plan::graph::ImageSource;
use registry::Bytes;
use store::Store;
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::planner::{BaseImage, Named, Resolver};
use crate::remote::Remote;
use crate::request::{BuildRequest, ContextSource, NamedContext, Tools};

/// Where a layer can be had that is not in the store.
#[derive(Clone)]
pub(crate) struct LayerSource {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) descriptor: Descriptor,
    /// Whether it is a base image's, and not a cache's.
    pub(crate) is_base: bool,
}

/// What a build has looked up.
pub(crate) struct Lookups {
    tools: Tools,
    /// By name in short form, with `::PLATFORM` behind where it is for one platform only.
    named: BTreeMap<String, NamedContext>,
    fetched: BTreeMap<Reference, Location>,
    pub(crate) remote: Remote,
    pull: bool,
    main: ContextSource,
    contexts: Mutex<BTreeMap<Option<String>, Arc<OnceCell<Arc<Context>>>>>,
    layers: Mutex<BTreeMap<DiffId, LayerSource>>,
}

/// A reference as people write it: without what is understood.
fn familiar(name: &str) -> String {
    let Ok(reference) = name.parse::<Reference>() else {
        return name.to_owned();
    };
    let full = reference.to_string();
    let short = full.strip_prefix("docker.io/library/").or_else(|| full.strip_prefix("docker.io/")).unwrap_or(&full);
    short.strip_suffix(":latest").unwrap_or(short).to_owned()
}

/// Opens an image wherever it is.
pub(crate) fn open(
    location: &Location,
    store: &Store,
    client: &registry::Client,
) -> Result<Arc<dyn Source>, image::Error> {
    Ok(match location {
        Location::Registry(reference) => Arc::new(Caching {
            inner: Arc::new(RegistrySource::new(client, reference.clone())),
            store: store.clone(),
            client: Some((client.clone(), reference.clone())),
        }),
        Location::Store(reference) => Arc::new(StoreSource::open(store, reference)?),
        Location::Layout(folder, name) => Arc::new(LayoutSource::open(folder, name.as_deref())?),
        Location::OciArchive(path, name) | Location::DockerArchive(path, name) => {
            Arc::new(ArchiveSource::open(path, name.as_deref())?)
        }
    })
}

/// Documents that the store has are not asked for again.
struct Caching {
    inner: Arc<dyn Source>,
    store: Store,
    client: Option<(registry::Client, Reference)>,
}

impl Source for Caching {
    fn root(&self) -> Later<'_, Result<Document, image::Error>> {
        Box::pin(async {
            // A tag may have moved: its digest is asked for, the document only if it is new.
            if let Some((client, reference)) = &self.client {
                let digest = match reference.digest() {
                    Some(digest) => digest,
                    None => client.digest(reference).await?,
                };
                if let Ok(bytes) = self.store.read_blob(digest)
                    && let Some(kind) = media_type_of(&bytes)
                {
                    let descriptor = oci::describe(&kind, digest, bytes.len() as u64);
                    return Ok(Document { descriptor, bytes });
                }
            }
            let document = self.inner.root().await?;
            self.store.write_blob(&document.bytes)?;
            Ok(document)
        })
    }

    fn document<'f>(&'f self, descriptor: &'f Descriptor) -> Later<'f, Result<Vec<u8>, image::Error>> {
        Box::pin(async {
            if let Some(known) = digest_of(descriptor).ok().and_then(|digest| self.store.read_blob(digest).ok()) {
                return Ok(known);
            }
            let bytes = self.inner.document(descriptor).await?;
            self.store.write_blob(&bytes)?;
            Ok(bytes)
        })
    }

    fn open<'f>(
        &'f self,
        descriptor: &'f Descriptor,
    ) -> Later<'f, Result<BoxStream<'static, std::io::Result<Bytes>>, image::Error>> {
        self.inner.open(descriptor)
    }

    fn reference(&self) -> Option<&Reference> {
        self.inner.reference()
    }
}

fn media_type_of(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(document.get("mediaType")?.as_str()?.to_owned())
}

impl Lookups {
    pub(crate) fn new(request: &BuildRequest, tools: &Tools) -> Self {
        let short = |name: &str| match name.split_once("::") {
            Some((name, platform)) => format!("{}::{platform}", familiar(name)),
            None => familiar(name),
        };
        let named = request.named_contexts.iter().map(|(name, context)| (short(name), context.clone()));
        let agent = request.commands.ssh.get("default").cloned();
        let remote = Remote::new(tools.roots.clone(), request.secrets.clone(), agent, Some(tools.store.clone()));
        Self {
            tools: tools.clone(),
            named: named.collect(),
            fetched: request.fetched_images.clone(),
            remote,
            pull: request.pull,
            main: request.context.clone(),
            contexts: Mutex::default(),
            layers: Mutex::default(),
        }
    }

    /// An image that was fetched before, if its registry still means it by that name, or cannot be asked.
    async fn fetched(&self, reference: &Reference) -> Option<Arc<dyn Source>> {
        let location = self.fetched.get(reference)?;
        let source = open(location, &self.tools.store, &self.tools.registry).ok()?;
        let here = oci::digest_of(&source.root().await.ok()?.descriptor).ok()?;
        let note = |text: String| (self.tools.events)(crate::event::Event::Note(text));
        match self.tools.registry.digest(reference).await {
            Ok(there) if there != here => {
                note(format!("{reference} is another image by now than the one in {location}, which is not used"));
                return None;
            }
            Ok(_) => {}
            Err(error) => note(format!("warning: {error}; {reference} is taken from {location}")),
        }
        Some(source)
    }

    /// The build context, or a named one; walked when it is first needed.
    pub(crate) async fn context(&self, name: Option<&str>) -> Result<Arc<Context>, Error> {
        let cell = {
            let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
            contexts.entry(name.map(str::to_owned)).or_default().clone()
        };
        let load = || async {
            let (folder, build_file) = match name {
                None => match &self.main {
                    ContextSource::Loaded(context) => return Ok(context.clone()),
                    ContextSource::Folder(folder, file) => (folder.clone(), file.clone()),
                },
                // Names of contexts that have been resolved are those of the list.
                Some(name) => match self.named.get(name) {
                    Some(NamedContext::Folder(folder)) => (folder.clone(), None),
                    Some(NamedContext::Git(reference)) => return self.remote.checkout(reference).await,
                    Some(NamedContext::Web(address)) => return self.remote.file_as(address, "context").await,
                    _ => return Err(Error::Request(format!("there is no build context named {name}"))),
                },
            };
            let walk = move || {
                let rules = context::ignore::rules(&folder, build_file.as_deref())?;
                context::local(&folder, &rules)
            };
            let walked = tokio::task::spawn_blocking(walk).await;
            Ok(Arc::new(walked.map_err(|error| Error::Request(error.to_string()))??))
        };
        cell.get_or_try_init(load).await.cloned()
    }

    /// Notes where a layer can be had, unless that is known.
    pub(crate) fn add_layer(&self, layer: DiffId, source: LayerSource) {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).entry(layer).or_insert(source);
    }

    /// Where a layer of a base image, or of a cache's entry, can be had.
    pub(crate) fn layer_source(&self, layer: DiffId) -> Option<LayerSource> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(&layer).cloned()
    }

    async fn resolve(
        &self,
        source: Arc<dyn Source>,
        name: &str,
        platform: &Platform,
        exact: bool,
    ) -> Result<Arc<BaseImage>, image::Error> {
        let image: Image = image::resolve(&*source, name, platform, exact).await?;
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for (descriptor, diff_id) in &image.layers {
            layers.entry(*diff_id).or_insert_with(|| LayerSource {
                source: source.clone(),
                descriptor: descriptor.clone(),
                is_base: true,
            });
        }
        let source = ImageSource {
            name: name.to_owned(),
            reference: source.reference().cloned(),
            digest: image.digest,
            layers: image.layers.iter().map(|(_, diff_id)| *diff_id).collect(),
            platform: image.config.platform(),
        };
        Ok(Arc::new(BaseImage { source, config: image.config }))
    }
}

impl Resolver for Lookups {
    fn named<'f>(
        &'f self,
        name: &'f str,
        platform: &'f Platform,
    ) -> crate::planner::Later<'f, Result<Option<Named>, image::Error>> {
        Box::pin(async move {
            if matches!(name, "scratch" | "context") {
                return Ok(None);
            }
            let (plain, own) = (familiar(name), format!("{}::{platform}", familiar(name)));
            let found = [own, plain].into_iter().find_map(|name| Some((self.named.get(&name)?, name)));
            match found {
                None => Ok(None),
                Some((NamedContext::Folder(_) | NamedContext::Git(_) | NamedContext::Web(_), name)) => {
                    Ok(Some(Named::Context(name)))
                }
                Some((NamedContext::Image(location), _)) => {
                    let source = open(location, &self.tools.store, &self.tools.registry)?;
                    self.resolve(source, name, platform, false).await.map(Named::Image).map(Some)
                }
            }
        })
    }

    fn ignored(&self) -> crate::planner::Later<'_, Option<Arc<Matcher>>> {
        Box::pin(async {
            let ContextSource::Folder(folder, file) = &self.main else { return None };
            // Rules that cannot be read are told of when the context is walked.
            context::ignore::rules(folder, file.as_deref()).ok().map(Arc::new)
        })
    }

    fn image<'f>(
        &'f self,
        name: &'f str,
        platform: &'f Platform,
        exact: bool,
    ) -> crate::planner::Later<'f, Result<Arc<BaseImage>, image::Error>> {
        Box::pin(async move {
            let malformed = |reason: String| image::Error::Malformed { what: name.into(), reason };
            let reference = name.parse::<Reference>().map_err(|error| malformed(error.to_string()))?;
            let in_store = if self.pull { None } else { self.tools.store.image(&reference)? };
            let source: Arc<dyn Source> = match in_store {
                Some(tagged) => Arc::new(StoreSource::at(&self.tools.store, tagged.descriptor)),
                None => match self.fetched(&reference).await {
                    Some(source) => source,
                    None => open(&Location::Registry(reference), &self.tools.store, &self.tools.registry)?,
                },
            };
            self.resolve(source, name, platform, exact).await
        })
    }
}
