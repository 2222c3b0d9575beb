//! The host's side of one call: what the plugin imports, answered within its grants.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plan::op::{ConfigField, ExpandError, Expansion, Stage};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{Result, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::bindings::shared::plywood::plugin as api;
use crate::convert;
use crate::engine::Callee;
use crate::grant::Request;
use crate::imports::{ContextError, FileKind, HttpError, HttpRequest, LogLevel};

/// What a plugin prints is kept for an error, up to this many bytes.
const OUTPUT: usize = 64 << 10;
/// Log lines of a call, and bytes of a line.
const LOG_LINES: u32 = 1000;
const LOG_LINE: usize = 4 << 10;
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
        Self { callee: callee.clone(), table, wasi: wasi.build(), limits, output, log_lines: 0, requests: 0 }
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
    fn log(&mut self, level: api::log::Level, mut message: String) -> Result<()> {
        self.log_lines += 1;
        if self.log_lines > LOG_LINES {
            return Ok(());
        }
        let end = (0..=LOG_LINE.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        let level = match level {
            api::log::Level::Trace => LogLevel::Trace,
            api::log::Level::Debug => LogLevel::Debug,
            api::log::Level::Info => LogLevel::Info,
            api::log::Level::Warn => LogLevel::Warn,
            api::log::Level::Error => LogLevel::Error,
        };
        self.callee.imports.surroundings.log(&self.callee.identity.name, level, &message);
        Ok(())
    }

    fn enabled(&mut self, level: api::log::Level) -> Result<bool> {
        Ok(!matches!(level, api::log::Level::Trace))
    }
}

impl api::settings::Host for State {
    fn get(&mut self, key: String) -> Result<Option<String>> {
        Ok(self.callee.imports.settings.get(&key).cloned())
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
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let error = |error: ExpandError| api::stage_view::ExpandError {
            message: error.message,
            start: number(error.start),
            end: number(error.end),
        };
        Ok(self.stage(handle)?.expand(text, how).map_err(error))
    }
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

    fn is_set(&mut self, stage: Resource<StageHandle>, field: api::stage_view::ConfigField) -> Result<bool> {
        let field = match field {
            api::stage_view::ConfigField::Cmd => ConfigField::Cmd,
            api::stage_view::ConfigField::Entrypoint => ConfigField::Entrypoint,
            api::stage_view::ConfigField::Healthcheck => ConfigField::Healthcheck,
        };
        Ok(self.stage(&stage)?.is_set(field))
    }

    fn expand(&mut self, stage: Resource<StageHandle>, text: String) -> Result<Expanded> {
        Ok(Self::expand(self, &stage, &text, Expansion::Word)?.map(one))
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

type ContextResult<T> = std::result::Result<T, api::context_files::ContextError>;

impl State {
    fn context(&self) -> ContextResult<Arc<dyn crate::imports::ContextFiles>> {
        if !self.granted(Request::Context) {
            return Err(api::context_files::ContextError::NotAllowed);
        }
        self.callee.imports.context.clone().ok_or(api::context_files::ContextError::NotFound)
    }
}

fn context_error(error: ContextError) -> api::context_files::ContextError {
    match error {
        ContextError::NotFound => api::context_files::ContextError::NotFound,
        ContextError::TooLarge(size) => api::context_files::ContextError::TooLarge(size),
        ContextError::Io(reason) => api::context_files::ContextError::Io(reason),
    }
}

impl api::context_files::Host for State {
    fn stat(&mut self, path: String) -> Result<ContextResult<api::context_files::FileStat>> {
        let stat = self.context().and_then(|context| context.stat(&path).map_err(context_error));
        Ok(stat.map(|stat| api::context_files::FileStat {
            kind: match stat.kind {
                FileKind::Regular => api::context_files::FileKind::Regular,
                FileKind::Directory => api::context_files::FileKind::Directory,
                FileKind::Symlink => api::context_files::FileKind::Symlink,
            },
            size: stat.size,
            mode: stat.mode,
            digest: None,
        }))
    }

    fn read(&mut self, path: String) -> Result<ContextResult<Vec<u8>>> {
        Ok(self.context().and_then(|context| context.read(&path, LARGEST_READ).map_err(context_error)))
    }

    fn glob(&mut self, pattern: String) -> Result<ContextResult<Vec<String>>> {
        let paths = self.context().and_then(|context| context.glob(&pattern).map_err(context_error));
        Ok(paths.and_then(|paths| match paths.len() {
            length if length > MOST_PATHS => Err(api::context_files::ContextError::TooLarge(length as u64)),
            _ => Ok(paths),
        }))
    }
}

impl api::http_client::Host for State {
    async fn send(
        &mut self,
        request: api::http_client::Request,
    ) -> Result<std::result::Result<api::http_client::Response, api::http_client::HttpError>> {
        Ok(self.send_granted(request).await)
    }
}

impl State {
    async fn send_granted(
        &mut self,
        request: api::http_client::Request,
    ) -> std::result::Result<api::http_client::Response, api::http_client::HttpError> {
        use api::http_client::{HttpError as Wire, Method};
        let host = host_of(&request.url).ok_or_else(|| Wire::InvalidRequest("the URL has no host".into()))?;
        if !self.granted(Request::Host(&host)) {
            return Err(Wire::NotAllowed(host));
        }
        self.requests += 1;
        if self.requests > MOST_REQUESTS || request.body.as_ref().is_some_and(|body| body.len() as u64 > LARGEST_READ) {
            return Err(Wire::TooLarge);
        }
        let client = self.callee.imports.http.clone().ok_or_else(|| Wire::Connect("there is no network".into()))?;
        let request = HttpRequest {
            method: match request.method {
                Method::Get => "GET",
                Method::Head => "HEAD",
                Method::Post => "POST",
                Method::Put => "PUT",
                Method::Delete => "DELETE",
                Method::Patch => "PATCH",
            },
            url: request.url,
            headers: request.headers.into_iter().map(|header| (header.key, header.value)).collect(),
            body: request.body,
            timeout_ms: request.timeout_ms,
        };
        let response = client.send(request).await.map_err(|error| match error {
            HttpError::InvalidRequest(reason) => Wire::InvalidRequest(reason),
            HttpError::Timeout => Wire::Timeout,
            HttpError::TooLarge => Wire::TooLarge,
            HttpError::Connect(reason) => Wire::Connect(reason),
            HttpError::Protocol(reason) => Wire::Protocol(reason),
        })?;
        Ok(api::http_client::Response {
            status: response.status,
            headers: response.headers.into_iter().map(convert::key_value).collect(),
            body: response.body,
        })
    }
}

/// `host:port` of a URL, the scheme's port filled in. Plain http is for loopback and metadata addresses, which a grant
/// must name like any other.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.is_empty() || authority.contains(['@', '\\']) {
        return None;
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    Some(if has_port { authority.to_lowercase() } else { format!("{}:{port}", authority.to_lowercase()) })
}

impl api::grants::Host for State {
    fn env(&mut self, name: String) -> Result<Option<String>> {
        let granted = self.granted(Request::Env(&name));
        Ok(granted.then(|| self.callee.imports.surroundings.env(&name)).flatten())
    }

    fn read_file(&mut self, name: String) -> Result<std::result::Result<Vec<u8>, String>> {
        if let Err(refusal) = self.allowed(Request::File(&name)) {
            return Ok(Err(refusal.to_string()));
        }
        let path = self.callee.grants.files.get(&name).cloned().unwrap_or_default();
        Ok(self.callee.imports.surroundings.read_file(&path))
    }

    fn write_cache(&mut self, _: String, _: Vec<u8>, _: u32) -> Result<std::result::Result<(), String>> {
        // What a plugin gives is kept by the host already, as long as the plugin says that it is valid.
        Ok(Err("there is no cache across calls".into()))
    }

    fn read_cache(&mut self, _: String) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

impl api::grants::HostSecret for State {
    fn open(&mut self, name: String) -> Result<Option<Resource<SecretHandle>>> {
        if !self.granted(Request::Secret(&name)) {
            return Ok(None);
        }
        match self.callee.imports.surroundings.secret(&name) {
            Some(value) => Ok(Some(self.table.push(SecretHandle(value))?)),
            None => Ok(None),
        }
    }

    fn reveal(&mut self, secret: Resource<SecretHandle>) -> Result<Vec<u8>> {
        Ok(self.table.get(&secret)?.0.clone())
    }

    fn drop(&mut self, secret: Resource<SecretHandle>) -> Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

impl api::native_helper::Host for State {
    async fn get(
        &mut self,
        helper: String,
        server: String,
    ) -> Result<std::result::Result<api::native_helper::Answer, String>> {
        if let Err(refusal) = self.allowed(Request::NativeHelper(&helper)) {
            return Ok(Err(format!("{refusal}; {}", refusal.help)));
        }
        let Some(native) = self.callee.imports.native_helper.clone() else {
            return Ok(Err("there are no credential programs here".into()));
        };
        let answer = native.get(&helper, &server).await;
        Ok(answer.map(|(username, secret)| api::native_helper::Answer { username, secret }))
    }
}

impl api::clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}
