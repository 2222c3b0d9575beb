//! Where everything is. No other file knows a path of the store.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oci::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{At, Error};
use crate::scratch::Scratch;

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Where this process's small files are written before they are renamed to their places.
    pub(crate) aside: Arc<OnceLock<Scratch>>,
}

/// Trees that must not mix: who wrote them, with which attributes, under which numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flavour(String);

impl Flavour {
    /// Trees of the machine's root, whiteouts as trusted attributes.
    #[must_use]
    pub fn root() -> Self {
        Self("root-1".into())
    }

    /// Trees of a user namespace; `mapping` says which numbers stand for which.
    #[must_use]
    pub fn user(mapping: &str) -> Self {
        Self(format!("user-1-{}", Digest::of(mapping.as_bytes()).short()))
    }
}

const FOLDERS: [&str; 9] =
    ["blobs/blobs/sha256", "indexes", "layers", "cache", "mounts", "locks", "tmp", "plugins", "web"];

/// image-spec, "oci-layout file".
const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

impl Store {
    /// Opens the store at `root`, making it where it is not.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let store = Self { root: root.to_owned(), aside: Arc::default() };
        if !store.blobs().join("oci-layout").exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(root).at(root)?;
            fs::set_permissions(root, fs::Permissions::from_mode(0o700)).at(root)?;
            for folder in FOLDERS {
                let path = root.join(folder);
                fs::create_dir_all(&path).at(&path)?;
            }
            store.replace(&store.blobs().join("oci-layout"), OCI_LAYOUT.as_bytes())?;
        }
        store.sweep();
        Ok(store)
    }

    /// Opens the store at `root` as it is, to read from it: it may be somebody else's, or on a disk that cannot be written.
    ///
    /// # Errors
    /// When there is none.
    pub fn open_to_read(root: &Path) -> Result<Self, Error> {
        let store = Self { root: root.to_owned(), aside: Arc::default() };
        let mark = store.blobs().join("oci-layout");
        fs::metadata(&mark).at(&mark)?;
        Ok(store)
    }

    /// The folder that everything is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The OCI image layout that the blobs and tags are.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/blobs/sha256").join(digest.hex())
    }

    /// The folder of a layer's tree: `fs` in it is the tree.
    #[must_use]
    pub fn layer(&self, flavour: &Flavour, layer: DiffId) -> PathBuf {
        self.layers(flavour).join(layer.0.hex())
    }

    /// The folder of all trees of a flavour.
    #[must_use]
    pub fn layers(&self, flavour: &Flavour) -> PathBuf {
        self.all_layers().join(&flavour.0)
    }

    pub(crate) fn all_layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    pub(crate) fn indexes(&self) -> PathBuf {
        self.root.join("indexes")
    }

    pub(crate) fn listings(&self) -> PathBuf {
        self.root.join("listings")
    }

    /// The folder of a cache mount of this name.
    #[must_use]
    pub fn mount(&self, flavour: &Flavour, id: &str) -> PathBuf {
        self.mounts().join(Digest::of(format!("{}\0{id}", flavour.0).as_bytes()).hex())
    }

    /// Where a plugin's component is kept.
    #[must_use]
    pub fn plugin(&self, digest: Digest) -> PathBuf {
        self.root.join("plugins").join(format!("{}.wasm", digest.hex()))
    }

    pub(crate) fn image_index(&self) -> PathBuf {
        self.root.join("blobs/index.json")
    }

    pub(crate) fn layer_index(&self, layer: DiffId) -> PathBuf {
        self.indexes().join(format!("{}.layer", layer.0.hex()))
    }

    pub(crate) fn layer_variants(&self, layer: DiffId) -> PathBuf {
        self.indexes().join(format!("{}.json", layer.0.hex()))
    }

    pub(crate) fn record(&self, key: &str) -> PathBuf {
        self.records().join(format!("{key}.json"))
    }

    /// What a server has said of the file at an address.
    pub(crate) fn web(&self, address: &str) -> PathBuf {
        self.root.join("web").join(format!("{}.json", Digest::of(address.as_bytes()).hex()))
    }

    pub(crate) fn all_stamps(&self) -> PathBuf {
        self.root.join("stamps")
    }

    /// What is known of the files of a folder outside.
    pub(crate) fn stamps(&self, folder: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.all_stamps().join(Digest::of(folder.as_os_str().as_bytes()).hex())
    }

    /// What the latest build of a project did.
    pub(crate) fn build(&self, project: &str) -> PathBuf {
        self.root.join("builds").join(format!("{}.json", Digest::of(project.as_bytes()).hex()))
    }

    /// What a key component stands for.
    pub(crate) fn listing(&self, component: Digest) -> PathBuf {
        self.listings().join(component.hex())
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn lock_file(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(Digest::of(name.as_bytes()).hex())
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }
}
