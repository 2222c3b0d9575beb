//! The component runtime: one engine a process, its limits, and loading.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci::Digest;
use wasmtime::component::Component;
use wasmtime::{Config, OptLevel};

use crate::compiled::{self, Cache};
use crate::failure::{Error, Identity};
use crate::worlds::{self, Kind};

/// How long the engine's clock takes for one tick; plugins give way to others at each.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Native stack of a call.
const STACK: usize = 512 << 10;
/// A larger file is no plugin.
const LARGEST: usize = 32 << 20;

/// What one call may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, in bytes.
    pub memory: usize,
    /// From its start to its end, host calls included.
    pub time: Duration,
    /// What the host allocates for its answer and its requests, in bytes.
    pub answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 64 << 20, time: Duration::from_secs(2), answer: 16 << 20 }
    }
}

/// The runtime, with a linker for each world that holds just what that world may import.
pub struct Engine {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) linkers: worlds::Linkers,
    cache: Cache,
}

/// A component, compiled, of known kind.
#[derive(Clone)]
pub struct Loaded {
    pub(crate) component: Component,
    /// Of its bytes.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// What it is for.
    pub kind: Kind,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {:?})", self.source, self.digest.short(), self.kind)
    }
}

fn config(baseline: bool) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true).max_wasm_stack(STACK).async_stack_size(2 * STACK).concurrency_support(false);
    // The guest's own compiler has optimised already: doing it again costs a first run a quarter more time, and later runs
    // are no faster for it.
    config.cranelift_opt_level(OptLevel::None);
    // Same answers on every machine: instruction and cache-policy plugins are deterministic.
    config.cranelift_nan_canonicalization(true);
    // Small reservations, for places where address space is limited.
    config.memory_reservation(64 << 20);
    if baseline {
        // Code for any processor of this architecture: naming the target keeps the runtime from using this one's.
        let _ = config.target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    }
    config
}

impl Engine {
    /// Starts the runtime. Compiled code is kept in `cache`, a folder of `user` alone.
    ///
    /// # Errors
    /// When the machine cannot run it.
    pub fn new(cache: Option<&Path>, user: u32) -> Result<Self, Error> {
        let failed =
            |error: wasmtime::Error| Error::NotAPlugin { origin: "the runtime".into(), reason: format!("{error:#}") };
        let engine = wasmtime::Engine::new(&config(false)).map_err(failed)?;
        let ticker = engine.weak();
        // Detached: it ends with the engine, and does nothing but count.
        std::thread::spawn(move || {
            while let Some(engine) = {
                std::thread::sleep(TICK);
                ticker.upgrade()
            } {
                engine.increment_epoch();
            }
        });
        let linkers = worlds::Linkers::new(&engine).map_err(failed)?;
        Ok(Self { engine, linkers, cache: Cache::open(cache, user) })
    }

    /// Loads a component from its bytes.
    ///
    /// # Errors
    /// When the bytes are no component, or one of no known world.
    pub fn load(&self, source: &str, wasm: &[u8]) -> Result<Loaded, Error> {
        let invalid = |reason: String| Error::NotAPlugin { origin: source.to_owned(), reason };
        if wasm.len() > LARGEST {
            return Err(invalid(format!("it is {} MiB, and a plugin is at most {}", wasm.len() >> 20, LARGEST >> 20)));
        }
        let digest = Digest::of(wasm);
        let component = self.cache.load(&self.engine, digest, wasm).map_err(|error| invalid(format!("{error:#}")))?;
        self.loaded(source, digest, component)
    }

    /// Loads a built-in from code that was compiled when this program was built, or else from its bytes.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_builtin(&self, name: &str, wasm: &[u8], code: Option<&'static [u8]>) -> Result<Loaded, Error> {
        if let Some(component) = code.and_then(|code| compiled::from_binary(&self.engine, code).ok()) {
            return self.loaded("builtin", Digest::of(wasm), component);
        }
        self.load("builtin", wasm).map_err(|error| match error {
            Error::NotAPlugin { reason, .. } => Error::NotAPlugin { origin: format!("the built-in {name}"), reason },
            other => other,
        })
    }

    fn loaded(&self, source: &str, digest: Digest, component: Component) -> Result<Loaded, Error> {
        let kind = worlds::kind(&self.engine, &component)
            .map_err(|reason| Error::NotAPlugin { origin: source.to_owned(), reason })?;
        Ok(Loaded { component, digest, source: source.to_owned(), kind })
    }

    /// Compiles for any processor of this architecture; for shipping inside the program.
    ///
    /// # Errors
    /// When the bytes are no component.
    pub fn precompile(wasm: &[u8]) -> Result<Vec<u8>, Error> {
        let invalid =
            |error: wasmtime::Error| Error::NotAPlugin { origin: "the component".into(), reason: format!("{error:#}") };
        let engine = wasmtime::Engine::new(&config(true)).map_err(invalid)?;
        engine.precompile_component(wasm).map_err(invalid)
    }
}

/// A plugin ready to be called: its code, what it may use, what surrounds it.
#[derive(Clone)]
pub(crate) struct Callee {
    pub(crate) engine: Arc<Engine>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) limits: Limits,
    pub(crate) grants: Arc<crate::Grants>,
    pub(crate) imports: crate::imports::Imports,
}
