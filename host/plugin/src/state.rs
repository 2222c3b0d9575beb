//! The host's side of one call: what the plugin imports, answered within its grants.

use std::sync::Arc;
use std::time::Duration;

use plan::op::{ConfigField, ExpandError, Expansion, Stage};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{Result, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::bindings::shared::plywood::plugin as api;
use crate::convert;
use crate::engine::Callee;
use crate::failure::plain;
use crate::grant::Request;
use crate::imports::LogLevel;

mod asked;

/// What a plugin prints is kept for an error, up to this many bytes.
const OUTPUT: usize = 64 << 10;
/// Log lines of a call.
const LOG_LINES: u32 = 1000;
/// A file or body that a plugin reads.
const LARGEST_READ: u64 = 1 << 20;
/// Paths of one glob.
const MOST_PATHS: usize = 10_000;
/// HTTP exchanges of one call.
const MOST_REQUESTS: u32 = 16;

/// The stage that an instruction plugin looks at.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct StageHandle(pub(crate) Arc<dyn Stage>);

/// A secret that a plugin has opened.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct SecretHandle(Vec<u8>);

/// Everything behind one store.
pub(crate) struct State {
    callee: Callee,
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    pub(crate) limits: StoreLimits,
    pub(crate) output: MemoryOutputPipe,
    log_lines: u32,
    requests: u32,
    /// What the plugin has been told and nobody shall read.
    revealed: Vec<String>,
}

/// A clock that stands still, for plugins whose answers must not depend on the time.
struct Still;

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

impl State {
    /// A state for a call; `deterministic` plugins see no time and no chance.
    pub(crate) fn new(callee: &Callee, deterministic: bool) -> Self {
        let output = MemoryOutputPipe::new(OUTPUT);
        let mut wasi = WasiCtxBuilder::new();
        wasi.stderr(output.clone()).stdout(output.clone());
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        if deterministic {
            wasi.wall_clock(Still).monotonic_clock(Still);
            wasi.secure_random(Deterministic::new(vec![0])).insecure_random(Deterministic::new(vec![0]));
            wasi.insecure_random_seed(0);
        }
        let limits = StoreLimitsBuilder::new()
            .memory_size(callee.limits.memory)
            .table_elements(100_000)
            .instances(512)
            .memories(8)
            .tables(64)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(10_000);
        let (wasi, callee) = (wasi.build(), callee.clone());
        Self { callee, table, wasi, limits, output, log_lines: 0, requests: 0, revealed: Vec::new() }
    }

    /// Notes a value that is struck out of what the plugin logs and prints; what is shorter is everywhere by chance.
    fn reveals(&mut self, value: &[u8]) {
        let text = String::from_utf8_lossy(value).trim().to_owned();
        if text.len() >= 4 {
            self.revealed.push(text);
        }
    }

    /// Text without what the plugin has been told in confidence.
    pub(crate) fn without_secrets(&self, text: String) -> String {
        self.revealed.iter().fold(text, |text, secret| text.replace(secret, "***"))
    }

    fn allowed(&self, request: Request<'_>) -> std::result::Result<(), crate::Refusal> {
        self.callee.grants.require(&self.callee.identity.name, request)
    }

    /// A refusal that the plugin need not tell goes to the log, so that the user sees why it got nothing.
    fn granted(&self, request: Request<'_>) -> bool {
        match self.allowed(request) {
            Ok(()) => true,
            Err(refusal) => {
                let message = format!("{refusal}; {}", refusal.help);
                self.callee.imports.surroundings.log(&self.callee.identity.name, LogLevel::Warn, &message);
                false
            }
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl api::types::Host for State {}
impl api::build_ir::Host for State {}
impl api::stage_view::Host for State {}

impl api::log::Host for State {
    fn log(&mut self, level: api::log::Level, message: String) -> Result<()> {
        self.log_lines += 1;
        if self.log_lines <= LOG_LINES {
            let message = plain(&self.without_secrets(message));
            self.callee.imports.surroundings.log(&self.callee.identity.name, log_level(level), &message);
        }
        Ok(())
    }

    fn enabled(&mut self, level: api::log::Level) -> Result<bool> {
        Ok(log_level(level) >= self.callee.imports.surroundings.log_level())
    }
}

fn log_level(level: api::log::Level) -> LogLevel {
    match level {
        api::log::Level::Trace => LogLevel::Trace,
        api::log::Level::Debug => LogLevel::Debug,
        api::log::Level::Info => LogLevel::Info,
        api::log::Level::Warn => LogLevel::Warn,
        api::log::Level::Error => LogLevel::Error,
    }
}

impl api::settings::Host for State {
    fn get(&mut self, key: String) -> Result<Option<String>> {
        Ok(self.callee.imports.settings.get(&key).cloned())
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        Ok(self.callee.imports.settings.keys().cloned().collect())
    }
}

impl State {
    fn stage(&self, handle: &Resource<StageHandle>) -> Result<&dyn Stage> {
        Ok(&*self.table.get(handle)?.0)
    }

    fn expand(
        &self,
        handle: &Resource<StageHandle>,
        text: &str,
        how: Expansion,
    ) -> Result<std::result::Result<plan::op::Expanded, api::stage_view::ExpandError>> {
        Ok(self.stage(handle)?.expand(text, how).map_err(expand_error))
    }
}

fn expand_error(error: ExpandError) -> api::stage_view::ExpandError {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (start, end) = (number(error.start), number(error.end));
    api::stage_view::ExpandError { message: error.message, start, end }
}

type Expanded = std::result::Result<api::stage_view::Expanded, api::stage_view::ExpandError>;
type ExpandedWords = std::result::Result<api::stage_view::ExpandedWords, api::stage_view::ExpandError>;

fn one(expanded: plan::op::Expanded) -> api::stage_view::Expanded {
    api::stage_view::Expanded { text: expanded.words.concat(), unset: expanded.unset }
}

impl api::stage_view::HostStage for State {
    fn config(&mut self, stage: Resource<StageHandle>) -> Result<api::types::ImageConfig> {
        Ok(convert::image_config(self.stage(&stage)?.config()))
    }

    fn target_platform(&mut self, stage: Resource<StageHandle>) -> Result<api::types::Platform> {
        Ok(convert::platform(self.stage(&stage)?.target_platform()))
    }

    fn build_platform(&mut self, stage: Resource<StageHandle>) -> Result<api::types::Platform> {
        Ok(convert::platform(self.stage(&stage)?.build_platform()))
    }

    fn variable(&mut self, stage: Resource<StageHandle>, name: String) -> Result<Option<String>> {
        Ok(self.stage(&stage)?.variable(&name))
    }

    fn argument(
        &mut self,
        stage: Resource<StageHandle>,
        name: String,
        default: Option<String>,
    ) -> Result<Option<String>> {
        Ok(self.stage(&stage)?.argument(&name, default.as_deref()))
    }

    fn set_at(&mut self, stage: Resource<StageHandle>, field: String) -> Result<Option<api::types::Span>> {
        let stage = self.stage(&stage)?;
        Ok(ConfigField::named(&field).and_then(|field| stage.set_at(field)).as_ref().map(convert::span))
    }

    fn expand(&mut self, stage: Resource<StageHandle>, text: String) -> Result<Expanded> {
        Ok(Self::expand(self, &stage, &text, Expansion::Word)?.map(one))
    }

    fn expand_with(
        &mut self,
        stage: Resource<StageHandle>,
        text: String,
        variables: Vec<api::types::KeyValue>,
    ) -> Result<Expanded> {
        let variables: Vec<(String, String)> = variables.into_iter().map(|pair| (pair.key, pair.value)).collect();
        let expanded = self.stage(&stage)?.expand_with(&text, &variables);
        Ok(expanded.map(one).map_err(expand_error))
    }

    fn is_unused(&mut self, stage: Resource<StageHandle>) -> Result<bool> {
        Ok(self.stage(&stage)?.is_unused())
    }

    fn expand_raw(&mut self, stage: Resource<StageHandle>, text: String) -> Result<Expanded> {
        Ok(Self::expand(self, &stage, &text, Expansion::Raw)?.map(one))
    }

    fn split(&mut self, stage: Resource<StageHandle>, text: String) -> Result<Vec<String>> {
        Ok(self.stage(&stage)?.split(&text))
    }

    fn expand_words(&mut self, stage: Resource<StageHandle>, text: String) -> Result<ExpandedWords> {
        let expanded = Self::expand(self, &stage, &text, Expansion::Words)?;
        Ok(expanded.map(|e| api::stage_view::ExpandedWords { words: e.words, unset: e.unset }))
    }

    fn build_args(&mut self, stage: Resource<StageHandle>) -> Result<Vec<api::types::KeyValue>> {
        Ok(self.stage(&stage)?.build_args().into_iter().map(convert::key_value).collect())
    }

    fn locate(&mut self, stage: Resource<StageHandle>, start: u32, end: u32) -> Result<api::types::Span> {
        Ok(convert::span(&self.stage(&stage)?.locate(start, end)))
    }

    fn resolve_stage(&mut self, stage: Resource<StageHandle>, name: String) -> Result<Option<String>> {
        Ok(self.stage(&stage)?.resolve_stage(&name))
    }

    fn drop(&mut self, stage: Resource<StageHandle>) -> Result<()> {
        self.table.delete(stage)?;
        Ok(())
    }
}
