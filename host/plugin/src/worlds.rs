//! The kinds of plugins: what each exports, what its linker holds, and a Rust face for calling it.

use std::sync::Arc;
use std::time::Instant;

use plan::key::{Step, Verdict};
use plan::op::{Included, Instruction, Keyword, Lowered, Stage};
use wasmtime::component::{Component, HasSelf, Linker, Resource};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::p2::bindings::cli;

use crate::bindings::shared::plywood::plugin as api;
use crate::bindings::{cache_policy, instruction};
use crate::convert;
use crate::engine::{Callee, Engine, Limits, Loaded, TICK};
use crate::failure::{Error, Failure, Identity, line};
use crate::grant::Grants;
use crate::imports::Imports;
use crate::state::{StageHandle, State};

mod credential_helper;

pub use credential_helper::{Access, Credential, CredentialGrant, CredentialHelper, CredentialRequest, Scope};

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Gives instructions their meaning.
    Instruction,
    /// Decides what a cache key is made of.
    CachePolicy,
    /// Knows who the user is at a registry.
    Credential,
}

impl Kind {
    fn export(self) -> &'static str {
        match self {
            Self::Instruction => "plywood:plugin/instruction-handler@",
            Self::CachePolicy => "plywood:plugin/cache-policy@",
            Self::Credential => "plywood:plugin/credential-helper@",
        }
    }

    fn is_deterministic(self) -> bool {
        self != Self::Credential
    }
}

/// The contract that this program speaks. What is added to it makes 0.1.1, 0.1.2...; a plugin that imports what this
/// program does not have is told so by the linker.
const ABI: &str = "0.1.";

/// What a component exports says what it is for.
pub(crate) fn kind(engine: &wasmtime::Engine, component: &Component) -> Result<Kind, String> {
    let ty = component.component_type();
    let (mut found, mut other) = (None, None);
    for (name, _) in ty.exports(engine) {
        for kind in [Kind::Instruction, Kind::CachePolicy, Kind::Credential] {
            match name.strip_prefix(kind.export()) {
                Some(version) if version.starts_with(ABI) => {
                    if let Some(first) = found.replace(kind) {
                        return Err(format!("it is a {first:?} plugin and a {kind:?} plugin: it can be one of them"));
                    }
                }
                Some(version) => other = Some(version.to_owned()),
                None => {}
            }
        }
    }
    found.ok_or_else(|| match other {
        Some(version) => format!("it speaks plywood:plugin@{version}, and this program {ABI}x"),
        None => "it exports no interface of plywood:plugin".into(),
    })
}

/// A linker for each world, holding just what that world imports.
pub(crate) struct Linkers {
    instruction: Linker<State>,
    cache_policy: Linker<State>,
    credential: Linker<State>,
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let base = || -> wasmtime::Result<Linker<State>> {
            let mut linker = Linker::new(engine);
            // WASI without files and sockets: a plugin that imports those does not load.
            wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(&mut linker)?;
            let l = &mut linker;
            cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
            cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
            cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
            cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
            cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
            cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
            cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
            wasmtime_wasi::p2::bindings::random::insecure_seed::add_to_linker::<
                State,
                wasmtime_wasi::random::WasiRandom,
            >(l, |state| wasmtime_wasi::WasiView::ctx(state).ctx.random())?;
            api::types::add_to_linker::<State, HasSelf<_>>(l, |s| s)?;
            api::log::add_to_linker::<State, HasSelf<_>>(l, |s| s)?;
            api::settings::add_to_linker::<State, HasSelf<_>>(l, |s| s)?;
            Ok(linker)
        };
        let mut instruction = base()?;
        api::build_ir::add_to_linker::<State, HasSelf<_>>(&mut instruction, |s| s)?;
        api::stage_view::add_to_linker::<State, HasSelf<_>>(&mut instruction, |s| s)?;
        api::context_files::add_to_linker::<State, HasSelf<_>>(&mut instruction, |s| s)?;
        let mut cache_policy = base()?;
        api::build_ir::add_to_linker::<State, HasSelf<_>>(&mut cache_policy, |s| s)?;
        api::environment::add_to_linker::<State, HasSelf<_>>(&mut cache_policy, |s| s)?;
        let mut credential = base()?;
        api::http_client::add_to_linker::<State, HasSelf<_>>(&mut credential, |s| s)?;
        api::environment::add_to_linker::<State, HasSelf<_>>(&mut credential, |s| s)?;
        api::secrets::add_to_linker::<State, HasSelf<_>>(&mut credential, |s| s)?;
        api::files::add_to_linker::<State, HasSelf<_>>(&mut credential, |s| s)?;
        api::native_helper::add_to_linker::<State, HasSelf<_>>(&mut credential, |s| s)?;
        api::clock::add_to_linker::<State, HasSelf<_>>(&mut credential, |s| s)?;
        Ok(Self { instruction, cache_policy, credential })
    }

    fn of(&self, kind: Kind) -> &Linker<State> {
        match kind {
            Kind::Instruction => &self.instruction,
            Kind::CachePolicy => &self.cache_policy,
            Kind::Credential => &self.credential,
        }
    }
}

/// A plugin that can be called, whatever its kind.
#[derive(Clone)]
struct Plugin<Pre> {
    callee: Callee,
    kind: Kind,
    pre: Pre,
}

impl<Pre> Plugin<Pre> {
    /// A store for one call: its limits are on, and its time runs from now.
    fn store(&self) -> Store<State> {
        let callee = &self.callee;
        let mut store = Store::new(&callee.engine.engine, State::new(callee, self.kind.is_deterministic()));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(callee.limits.answer);
        store.set_epoch_deadline(1);
        let end = Instant::now() + callee.limits.time;
        store.epoch_deadline_callback(move |_| {
            Ok(if Instant::now() >= end { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        store
    }

    /// Makes one call in a store of its own, within its time.
    async fn call<T, F>(&self, name: &'static str, call: F) -> Result<T, Error>
    where
        F: AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    {
        let mut store = self.store();
        let limits = &self.callee.limits;
        // Twice the time a plugin may compute: what it waits for in the host counts here.
        let result = tokio::time::timeout(limits.time * 2 + TICK, call(&mut store)).await;
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => wasmtime::Error::msg(format!("no answer within {} ms", 2 * limits.time.as_millis())),
        };
        let output = String::from_utf8_lossy(&store.data().output.contents()).trim().to_owned();
        let output = store.data().without_secrets(output);
        Err(Error::Failed(Box::new(Failure::new(self.callee.identity.clone(), name, &error, &output, limits))))
    }

    fn error(&self, call: &'static str, error: api::types::PluginError) -> Error {
        let plugin = self.callee.identity.clone();
        let broken = |reason: String| {
            let plugin = self.callee.identity.clone();
            Error::Failed(Box::new(Failure { plugin, call, reason, frames: Vec::new(), output: String::new() }))
        };
        match error {
            api::types::PluginError::Invalid(diagnostics) => {
                let prefix = &self.callee.identity.name;
                let diagnostics: Vec<_> = diagnostics.into_iter().map(|d| convert::diagnostic(d, prefix)).collect();
                match diagnostics.iter().any(|d| d.severity == plan::Severity::Error) {
                    true => Error::Invalid(diagnostics),
                    false => broken("it refuses the input without a word".into()),
                }
            }
            api::types::PluginError::Unsupported => Error::Unsupported(plugin),
            api::types::PluginError::Denied(reason) => Error::Denied { plugin, reason: line(&reason) },
            api::types::PluginError::Unavailable(reason) => Error::Unavailable { plugin, reason: line(&reason) },
            api::types::PluginError::Internal(reason) => broken(line(&reason)),
        }
    }
}

/// Prepares a plugin of `kind`: links it, and asks it for its name.
async fn prepare<Pre>(
    engine: &Arc<Engine>,
    loaded: &Loaded,
    kind: Kind,
    limits: Limits,
    setup: Setup,
    link: impl FnOnce(wasmtime::component::InstancePre<State>) -> wasmtime::Result<Pre>,
    info: impl AsyncFnOnce(&Pre, &mut Store<State>) -> wasmtime::Result<api::types::PluginInfo>,
) -> Result<Plugin<Pre>, Error> {
    let invalid = |reason: String| Error::NotAPlugin { origin: loaded.source.clone(), reason };
    if loaded.kind != kind {
        return Err(invalid(format!("it is a {:?} plugin, and a {kind:?} plugin is wanted here", loaded.kind)));
    }
    let linked = engine.linkers.of(kind).instantiate_pre(&loaded.component).and_then(link);
    let pre = linked.map_err(|error| invalid(format!("{error:#}")))?;
    let identity = Identity {
        name: setup.name.clone(),
        version: "?".into(),
        digest: loaded.digest,
        source: loaded.source.clone(),
        description: String::new(),
        needs: Vec::new(),
    };
    let callee = Callee {
        engine: engine.clone(),
        identity: Arc::new(identity),
        limits,
        grants: Arc::new(setup.grants),
        imports: setup.imports,
    };
    let mut plugin = Plugin { callee, kind, pre };
    let told = plugin.call("info", async |store| info(&plugin.pre, store).await).await?;
    let mut identity = (*plugin.callee.identity).clone();
    identity.version = line(&told.version);
    identity.description = line(&told.description);
    identity.needs = told.needs.iter().take(MOST_NEEDS).map(convert::need).collect();
    plugin.callee.identity = Arc::new(identity);
    Ok(plugin)
}

/// Nobody reads about more.
const MOST_NEEDS: usize = 100;

/// What a plugin gets beyond its code.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) grants: Grants,
    pub(crate) imports: Imports,
}

/// What lowering an instruction gave.
#[derive(Clone, Debug)]
pub enum Lowering {
    /// Operations.
    Ops(Lowered),
    /// Instructions to read in this one's place.
    Source(Included),
}

/// An instruction plugin.
#[derive(Clone)]
pub struct Instructions {
    plugin: Plugin<instruction::InstructionPluginPre<State>>,
    keywords: Arc<[Keyword]>,
}

impl Instructions {
    /// Prepares a plugin that is known to the user as `name`.
    ///
    /// # Errors
    /// When it is of another kind, imports what it must not, or fails.
    pub async fn new(
        engine: &Arc<Engine>,
        loaded: &Loaded,
        name: &str,
        grants: Grants,
        imports: Imports,
    ) -> Result<Self, Error> {
        let setup = Setup { name: name.to_owned(), grants, imports };
        let plugin = prepare(
            engine,
            loaded,
            Kind::Instruction,
            Limits::default(),
            setup,
            instruction::InstructionPluginPre::new,
            async |pre, store| {
                let instance = pre.instantiate_async(&mut *store).await?;
                instance.plywood_plugin_instruction_handler().call_info(store).await
            },
        )
        .await?;
        let keywords = plugin
            .call("keywords", async |store| {
                let instance = plugin.pre.instantiate_async(&mut *store).await?;
                instance.plywood_plugin_instruction_handler().call_keywords(store).await
            })
            .await?;
        Ok(Self { keywords: keywords.into_iter().map(convert::keyword).collect(), plugin })
    }

    /// Which plugin it is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.plugin.callee.identity
    }

    /// What it has been granted.
    #[must_use]
    pub fn grants(&self) -> &Grants {
        &self.plugin.callee.grants
    }

    /// What it handles.
    #[must_use]
    pub fn keywords(&self) -> &[Keyword] {
        &self.keywords
    }

    /// The same plugin with a build context to read, where that is granted.
    #[must_use]
    pub fn with_context(&self, context: Arc<dyn crate::imports::ContextFiles>) -> Self {
        let mut plugin = self.clone();
        plugin.plugin.callee.imports.context = Some(context);
        plugin
    }

    /// Lowers one instruction.
    ///
    /// # Errors
    /// When the instruction is wrong, or the plugin is.
    pub async fn lower(&self, stage: Arc<dyn Stage>, instruction: &Instruction) -> Result<Lowering, Error> {
        let result = self
            .plugin
            .call("lower", async |store| {
                let own = store.data_mut().table.push(StageHandle(stage))?;
                let borrowed = Resource::new_borrow(own.rep());
                let instance = self.plugin.pre.instantiate_async(&mut *store).await?;
                let handler = instance.plywood_plugin_instruction_handler();
                handler.call_lower(store, borrowed, &convert::instruction(instruction)).await
            })
            .await?
            .map_err(|error| self.plugin.error("lower", error))?;
        let prefix = &self.identity().name;
        let malformed = |reason: String| {
            Error::Failed(Box::new(Failure {
                plugin: self.identity().clone(),
                call: "lower",
                reason,
                frames: Vec::new(),
                output: String::new(),
            }))
        };
        convert::lowering(result, prefix).map_err(malformed)
    }
}

impl std::fmt::Debug for Instructions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.identity())
    }
}

/// A cache-policy plugin.
#[derive(Clone)]
pub struct CachePolicy(Plugin<cache_policy::CachePolicyPluginPre<State>>);

impl CachePolicy {
    /// Prepares a plugin that is known to the user as `name`.
    ///
    /// # Errors
    /// When it is of another kind, imports what it must not, or fails.
    pub async fn new(
        engine: &Arc<Engine>,
        loaded: &Loaded,
        name: &str,
        grants: Grants,
        imports: Imports,
    ) -> Result<Self, Error> {
        let setup = Setup { name: name.to_owned(), grants, imports };
        prepare(
            engine,
            loaded,
            Kind::CachePolicy,
            Limits::default(),
            setup,
            cache_policy::CachePolicyPluginPre::new,
            async |pre, store| {
                let instance = pre.instantiate_async(&mut *store).await?;
                instance.plywood_plugin_cache_policy().call_info(store).await
            },
        )
        .await
        .map(Self)
    }

    /// Which plugin it is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.callee.identity
    }

    /// What it has been granted.
    #[must_use]
    pub fn grants(&self) -> &Grants {
        &self.0.callee.grants
    }

    /// Asks what to do with a step.
    ///
    /// # Errors
    /// When the plugin fails or refuses.
    pub async fn decide(&self, step: &Step) -> Result<Verdict, Error> {
        let verdict = self
            .0
            .call("decide", async |store| {
                let instance = self.0.pre.instantiate_async(&mut *store).await?;
                instance.plywood_plugin_cache_policy().call_decide(store, &convert::step(step)).await
            })
            .await?
            .map_err(|error| self.0.error("decide", error))?;
        Ok(convert::verdict(verdict, &self.identity().name))
    }
}

impl std::fmt::Debug for CachePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.identity())
    }
}
