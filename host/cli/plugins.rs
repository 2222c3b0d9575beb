//! The plugins of this invocation: the built-ins, those of the configuration, those of the command line.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use plugin::grant::Request;
use plugin::imports::{Imports, Surroundings};
use plugin::{CachePolicy, CredentialHelper, Engine, Grants, Instructions, Kind, Loaded};
use registry::CredentialError;
use tokio::sync::OnceCell;

use crate::builtins::{BUILTINS, Builtin};
use crate::config::{Config, PluginConfig};
use crate::surroundings;

/// A component is at most so large, as the runtime has it.
const LARGEST: u64 = 32 << 20;

/// Plugins, ready to be called.
pub(crate) struct Plugins {
    pub(crate) instructions: Vec<Instructions>,
    /// What `# syntax=` may say because a pinned plugin serves it.
    pub(crate) syntaxes: Vec<String>,
    pub(crate) policy: CachePolicy,
    pub(crate) credentials: Arc<CredentialPlugins>,
}

/// Those that were given, then the built-in ones, which are loaded when a registry first asks who the user is.
pub(crate) struct CredentialPlugins {
    given: Vec<CredentialHelper>,
    loader: Arc<Loader>,
    builtin: Vec<(&'static Builtin, PluginConfig)>,
    all: OnceCell<Vec<CredentialHelper>>,
}

impl credential::Helpers for CredentialPlugins {
    fn all(&self) -> registry::Later<'_, Result<&[CredentialHelper], CredentialError>> {
        let load = || async {
            let mut all = self.given.clone();
            for (builtin, settings) in &self.builtin {
                let loader = self.loader.clone();
                let loading = tokio::task::spawn_blocking({
                    let builtin: &'static Builtin = builtin;
                    move || loader.engine.load_builtin(builtin.name, builtin.wasm, builtin.code)
                });
                let loaded = loading.await.map_err(|error| CredentialError(error.to_string()))?;
                let loaded = loaded.map_err(|error| CredentialError(error.to_string()))?;
                let (imports, grants) = (self.loader.imports(settings), settings.allow.clone().unwrap_or_default());
                let helper = CredentialHelper::new(&self.loader.engine, &loaded, builtin.name, grants, imports).await;
                all.push(helper.map_err(|error| CredentialError(error.to_string()))?);
            }
            Ok(all)
        };
        Box::pin(async move { self.all.get_or_try_init(load).await.map(Vec::as_slice) })
    }
}

/// What a built-in may have unless the user says otherwise.
fn default_grants(name: &str) -> Grants {
    match name {
        "credentials-docker-config" => Grants {
            env: vec!["DOCKER_AUTH_CONFIG".into()],
            files: surroundings::docker_config().map(|path| ("docker-config".to_owned(), path)).into_iter().collect(),
            native_helpers: vec!["*".into()],
            ..Grants::default()
        },
        _ => Grants::default(),
    }
}

/// The runtime, with a folder for compiled code.
pub(crate) fn engine() -> Result<Arc<Engine>> {
    let cache = surroundings::xdg("XDG_CACHE_HOME", ".cache").map(|folder| folder.join("plywood/compiled"));
    // Compiled code is native code: a folder that others can write to is not used (the runtime checks its owner).
    let user = owner_of_this_process();
    Ok(Arc::new(Engine::new(cache.as_deref(), user)?))
}

fn owner_of_this_process() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or(u32::MAX, |meta| meta.uid())
}

struct Loader {
    engine: Arc<Engine>,
    surroundings: Arc<dyn Surroundings>,
    web: Arc<credential::PluginWeb>,
}

impl Loader {
    fn imports(&self, config: &PluginConfig) -> Imports {
        Imports {
            surroundings: self.surroundings.clone(),
            context: None,
            http: Some(self.web.clone()),
            native_helper: Some(Arc::new(credential::NativeHelpers)),
            settings: config.settings.clone(),
        }
    }
}

/// Loads every plugin. Compiling, where it is needed, goes on side by side.
pub(crate) async fn load(
    config: &Config,
    paths: &[std::path::PathBuf],
    roots: &[std::path::PathBuf],
    surroundings: Arc<dyn Surroundings>,
) -> Result<Plugins> {
    let web = Arc::new(credential::PluginWeb(registry::Web::new(roots.to_vec())));
    let loader = Arc::new(Loader { engine: engine()?, surroundings, web });
    let mut loading: Vec<tokio::task::JoinHandle<Result<(String, Loaded, PluginConfig)>>> = Vec::new();
    for path in paths {
        let (loader, path) = (loader.clone(), path.clone());
        let name = name_of(&path);
        let settings = config.plugins.get(&name).cloned().unwrap_or_default();
        loading.push(tokio::task::spawn_blocking(move || Ok((name, from_path(&loader, &path)?, settings))));
    }
    let given: Vec<String> = paths.iter().map(|path| name_of(path)).collect();
    for (name, settings) in &config.plugins {
        let Some(source) = &settings.source else { continue };
        if given.contains(name) {
            continue;
        }
        let Some(path) = source.strip_prefix("path:") else {
            bail!("the plugin {name} has the source `{source}`; only path:FILE is supported yet");
        };
        let (loader, path) = (loader.clone(), settings.folder.join(path));
        let (name, settings) = (name.clone(), settings.clone());
        loading.push(tokio::task::spawn_blocking(move || Ok((name, from_path(&loader, &path)?, settings))));
    }
    let mut asked_later = Vec::new();
    for builtin in &BUILTINS {
        let (loader, name) = (loader.clone(), builtin.name.to_owned());
        let mut settings = config.plugins.get(builtin.name).cloned().unwrap_or_default();
        settings.allow = Some(settings.allow.unwrap_or_else(|| default_grants(builtin.name)));
        if builtin.kind == Kind::Credential {
            asked_later.push((builtin, settings));
            continue;
        }
        let load =
            move |builtin: &'static Builtin| loader.engine.load_builtin(builtin.name, builtin.wasm, builtin.code);
        loading.push(tokio::task::spawn_blocking(move || Ok((name, load(builtin)?, settings))));
    }
    let (mut instructions, mut policies, mut credentials) = (Vec::new(), Vec::new(), Vec::new());
    let mut syntaxes = Vec::new();
    for task in loading {
        let (name, loaded, settings) = task.await.context("loading a plugin")??;
        if let Some(pinned) = settings.digest.filter(|pinned| *pinned != loaded.digest) {
            bail!("the plugin {name} at {} is {}, and is pinned to {pinned}", loaded.source, loaded.digest);
        }
        if settings.digest.is_some() && loaded.kind == Kind::Instruction {
            syntaxes.extend(settings.syntax.iter().cloned());
        }
        let (engine, imports) = (&loader.engine, loader.imports(&settings));
        let grants = settings.allow.unwrap_or_default();
        match loaded.kind {
            Kind::Instruction => {
                instructions.push(Instructions::new(engine, &loaded, &name, grants, imports).await?);
            }
            Kind::CachePolicy => policies.push(CachePolicy::new(engine, &loaded, &name, grants, imports).await?),
            Kind::Credential => credentials.push(CredentialHelper::new(engine, &loaded, &name, grants, imports).await?),
        }
    }
    check_keywords(&instructions)?;
    // The built-in comes last: it is the policy when nothing else is.
    if let [first, second, _, ..] = &policies[..] {
        bail!("two cache policies are given, {} and {}: a build has one", first.identity(), second.identity());
    }
    let policy = policies.into_iter().next().context("there is no cache policy")?;
    let credentials = CredentialPlugins { given: credentials, loader, builtin: asked_later, all: OnceCell::new() };
    Ok(Plugins { instructions, syntaxes, policy, credentials: Arc::new(credentials) })
}

/// A keyword that a plugin further down handles as well is taken over only with the user's leave.
fn check_keywords(instructions: &[Instructions]) -> Result<()> {
    for (at, plugin) in instructions.iter().enumerate() {
        for keyword in plugin.keywords() {
            if keyword.keyword == "FROM" {
                bail!("the plugin {} wants to handle FROM, which is the program's own", plugin.identity());
            }
            let below = &instructions[at + 1..];
            if below.iter().any(|other| other.keywords().iter().any(|known| known.keyword == keyword.keyword)) {
                plugin.grants().require(&plugin.identity().name, Request::TakeOver(&keyword.keyword))?;
            }
        }
    }
    Ok(())
}

/// A plugin given by its path is known by its file's name.
fn name_of(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().replace('_', "-")).unwrap_or_default()
}

fn from_path(loader: &Loader, path: &Path) -> Result<Loaded> {
    // A project may name any path: no more is read than a plugin can have.
    let read = || build::read_file(path, None, LARGEST)?.context("it is not there");
    let wasm = read().with_context(|| format!("the plugin {}", path.display()))?;
    Ok(loader.engine.load(&path.display().to_string(), &wasm)?)
}
