//! What is to be built, and with what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use context::Context;
use image::Location;
use oci::media_type::{Compression, Format};
use oci::{Platform, Reference};
use plugin::{CachePolicy, Instructions};
use store::Store;

pub use cache::{Bucket, Place as CachePlace};

use crate::commands::Commands;
use crate::event::Events;
use crate::remote;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// What the build is known by afterwards: the context's absolute path, or whatever else names it.
    pub project: String,
    /// The build file's name, for messages.
    pub file_name: String,
    /// Its text.
    pub file: String,
    /// A stage's name; none: the last.
    pub target: Option<String>,
    /// What the image shall run on; none: this machine's. Several make an index.
    pub platforms: Vec<Platform>,
    /// Whether this is the build of one of several platforms, whose steps are told apart by it.
    pub several_platforms: bool,
    /// `--build-arg`.
    pub build_args: Vec<(String, String)>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--annotation`: on the manifest.
    pub annotations: Vec<(String, String)>,
    /// The build context.
    pub context: ContextSource,
    /// `--build-context`, by name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Base images that have been fetched before: they are used where their registry still means the same.
    pub fetched_images: BTreeMap<Reference, Location>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// What every command gets.
    pub commands: Commands,
    /// Run every step.
    pub no_cache: bool,
    /// `--cache-from`: where results are looked for beside the store.
    pub cache_from: Vec<CacheImport>,
    /// `--cache-to`.
    pub cache_to: Vec<CacheExport>,
    /// `--cache-to type=inline`: whether the image says of which steps its layers are.
    pub inline_cache: bool,
    /// `--cache-mount-store`.
    pub cache_mount_store: Option<MountStore>,
    /// Whether a step that is not found ends the build.
    pub require_cached: bool,
    /// Ask the registry even for what the store has.
    pub pull: bool,
    /// `-t`.
    pub tags: Vec<Reference>,
    /// Where the image goes; none: it stays in the store.
    pub outputs: Vec<Output>,
    /// How commands are isolated; none: in the first way that works.
    pub isolation: Option<crate::worker::Mode>,
    /// Steps at the same time.
    pub jobs: usize,
    /// Certificates that commands shall trust.
    pub ca_bundle: Option<Vec<u8>>,
    /// Which names the documents bear.
    pub format: Format,
    /// How layers are compressed.
    pub compression: Compression,
    /// Whether files of the image's own layers that are younger than SOURCE_DATE_EPOCH bear that time.
    pub rewrite_times: bool,
}

/// A cache to look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheImport {
    /// Where it is.
    pub place: CachePlace,
    /// The age, in seconds, from which its entries count no more; none: they always do.
    pub max_age: Option<u64>,
}

/// A cache to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheExport {
    /// Where it is.
    pub place: CachePlace,
    /// What is written.
    pub mode: CacheMode,
    /// Whether the build goes on when writing fails.
    pub ignore_error: bool,
    /// As in [`CacheImport`]: an older entry is superseded.
    pub max_age: Option<u64>,
}

/// Where cache mounts are kept for machines that have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountStore {
    /// Where it is.
    pub place: CachePlace,
    /// Mounts of different scopes are different mounts.
    pub scope: String,
    /// Files of the build context: what was kept with the same ones is wanted most.
    pub key_files: Vec<String>,
    /// What takes more bytes is neither saved nor restored.
    pub limit: u64,
}

/// Which steps' results are written to a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Those whose layers are part of the image.
    Min,
    /// All.
    Max,
}

/// Where the build context is.
#[derive(Clone, Debug)]
pub enum ContextSource {
    /// A folder, and the build file whose ignore rules come first.
    Folder(PathBuf, Option<PathBuf>),
    /// Read already.
    Loaded(Arc<Context>),
}

/// What a name means instead of an image.
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// A folder.
    Folder(PathBuf),
    /// An image.
    Image(Location),
    /// A repository's files.
    Git(remote::Reference),
    /// A file on the web, called `context`.
    Web(String),
}

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To each of its tags' registries, or this one.
    Registry(Option<Reference>),
    /// An OCI layout: a tar, or a folder.
    Oci {
        /// None: standard output.
        path: Option<PathBuf>,
        /// Whether a tar.
        tar: bool,
    },
    /// An archive for `docker load`; none: standard output.
    Docker(Option<PathBuf>),
    /// Its files, in a folder.
    Local(Files),
    /// Its files, in a tar.
    Tar {
        /// None: standard output.
        path: Option<PathBuf>,
        /// As in [`Files`].
        split: Option<bool>,
    },
    /// To `docker load`.
    Load,
}

impl Output {
    /// Where it is written to, if that is a file or a folder.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Oci { path, .. } | Self::Docker(path) | Self::Tar { path, .. } => path.as_deref(),
            Self::Local(files) => Some(&files.folder),
            Self::Registry(_) | Self::Load => None,
        }
    }
}

/// A folder for an image's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where it is.
    pub folder: PathBuf,
    /// Whether what was in it goes.
    pub delete: bool,
    /// Whether each platform has a folder of its own in it; none: where there are several.
    pub split: Option<bool>,
}

/// What a build is done with.
#[derive(Clone)]
pub struct Tools {
    /// Where everything is kept.
    pub store: Store,
    /// Registries.
    pub registry: registry::Client,
    /// Certificates beyond the machine's, for repositories and the web.
    pub roots: Vec<PathBuf>,
    /// Who gives instructions their meaning, the first that handles a keyword wins.
    pub instructions: Vec<Instructions>,
    /// What `# syntax=` may name beside the language that is built in.
    pub syntaxes: Vec<String>,
    /// Who decides about cache keys.
    pub policy: CachePolicy,
    /// Who is told what happens.
    pub events: Events,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What a build gave.
#[derive(Clone, Debug)]
pub struct BuildOutput {
    /// Of the manifest, or of the index of several.
    pub digest: oci::Digest,
    /// Of the configuration; an index has none.
    pub config_digest: Option<oci::Digest>,
    /// The manifest's, or the index's.
    pub descriptor: oci::Descriptor,
    /// The image's names.
    pub tags: Vec<Reference>,
    /// Steps that were found in the cache, and all.
    pub cached: (usize, usize),
}
