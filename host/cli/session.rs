//! What a command works with: store, plugins, registry client; each made when it is first needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use registry::Settings;
use store::{Lock, Store};

use crate::args::Global;
use crate::config::{self, Config};
use crate::plugins::{self, Plugins};
use crate::surroundings::{self, Process};

/// What a command works with.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) store: Store,
    /// Nothing is taken from the store while this is.
    _in_use: Lock,
    pub(crate) config: Config,
}

impl Session {
    /// Opens the store and reads the configuration; `project` is the folder that may hold a plywood.toml.
    pub(crate) fn open(global: &Global, project: Option<&Path>) -> Result<Self> {
        let store = store(global)?;
        let in_use = store.begin_use()?;
        let config = config::load(global.config.as_deref(), project)?;
        Ok(Self { global: global.clone(), store, _in_use: in_use, config })
    }

    pub(crate) async fn plugins(&self, process: Arc<Process>) -> Result<Plugins> {
        plugins::load(&self.config, &self.global.plugins, &self.global.registry_ca, process).await
    }

    /// A client of registries that asks the credential plugins who the user is.
    pub(crate) fn registry(&self, plugins: &Plugins) -> registry::Client {
        let chain = credential::Chain::new(plugins.credentials.clone());
        let settings = Settings {
            insecure: self.global.insecure_registry.iter().cloned().collect(),
            extra_roots: self.global.registry_ca.iter().map(PathBuf::from).collect(),
            mirrors: mirrors(&self.global.registry_mirror),
            only_mirrors: self.global.only_mirrors,
        };
        registry::Client::new(Arc::new(chain), settings)
    }
}

/// Mirrors by the registry that they are of, in the order in which they were given.
fn mirrors(words: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for word in words {
        let (registry, mirror) = word.split_once('=').unwrap_or(("docker.io", word));
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        mirrors.entry(registry.to_owned()).or_default().push(mirror.to_owned());
    }
    mirrors
}

/// The store alone. Whoever works with what is in it opens a session instead.
pub(crate) fn store(global: &Global) -> Result<Store> {
    let root = match &global.root {
        Some(root) => root.clone(),
        None => surroundings::xdg("XDG_DATA_HOME", ".local/share")
            .map(|folder| folder.join("plywood"))
            .context("there is no home folder to keep the store in: give --root")?,
    };
    let root = std::path::absolute(&root).with_context(|| root.display().to_string())?;
    Store::open(&root).with_context(|| format!("opening the store at {}", root.display()))
}
