//! What plugins may ask the host for, as traits that the rooms above implement.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

/// A future that a trait object can give.
pub type Later<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// The user's surroundings, as far as the door looks at them.
pub trait Surroundings: Send + Sync {
    /// An environment variable.
    fn env(&self, name: &str) -> Option<String>;
    /// A file of at most `limit` bytes.
    ///
    /// # Errors
    /// When it is not there, not readable, or longer.
    fn read_file(&self, path: &std::path::Path, limit: u64) -> Result<Vec<u8>, ReadError>;
    /// A secret of the command line.
    fn secret(&self, id: &str) -> Option<Vec<u8>>;
    /// The least that is shown of a plugin's log.
    fn log_level(&self) -> LogLevel;
    /// A line of a plugin's log.
    fn log(&self, plugin: &str, level: LogLevel, message: &str);
}

/// How much a line of a plugin's log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the usual five")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The build context, for a plugin that may read it.
pub trait ContextFiles: Send + Sync {
    /// What is at a path.
    ///
    /// # Errors
    /// When nothing is there or it is not readable.
    fn stat(&self, path: &str) -> Result<FileStat, ReadError>;
    /// A file's bytes, at most `limit`.
    ///
    /// # Errors
    /// When it is not there, not readable, or longer.
    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, ReadError>;
    /// The paths that match a pattern, sorted.
    ///
    /// # Errors
    /// When the context cannot be read.
    fn glob(&self, pattern: &str) -> Result<Vec<String>, ReadError>;
}

/// What is at a path of the build context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
}

/// Why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ReadError {
    NotFound,
    TooLarge(u64),
    Io(String),
}

/// HTTP for credential plugins.
pub trait HttpClient: Send + Sync {
    /// Sends one request, whose host has been granted, and gives status, headers and body.
    fn send<'f>(&'f self, request: HttpRequest) -> Later<'f, Result<HttpResponse, HttpError>>;
}

/// A request of a plugin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET`, ...
    pub method: &'static str,
    /// Where to.
    pub url: String,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// At most 1 MiB.
    pub body: Option<Vec<u8>>,
    /// In milliseconds.
    pub timeout_ms: Option<u32>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// 200, ...
    pub status: u16,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// At most 1 MiB.
    pub body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum HttpError {
    InvalidRequest(String),
    Timeout,
    TooLarge,
    Connect(String),
    Protocol(String),
}

/// Programs that keep credentials.
pub trait NativeHelper: Send + Sync {
    /// Runs `docker-credential-<helper> get` for a server and gives user name and secret.
    fn get<'f>(&'f self, helper: &'f str, server: &'f str) -> Later<'f, Result<(String, String), HelperError>>;
}

/// Why a credential program gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperError {
    /// There is no program of this name.
    NotInstalled,
    /// It knows nothing of the server.
    NoCredentials,
    /// It took too long.
    Timeout,
    /// In its words.
    Failed(String),
}

/// Everything that one plugin is surrounded by.
#[derive(Clone)]
pub struct Imports {
    /// The user's environment.
    pub surroundings: std::sync::Arc<dyn Surroundings>,
    /// The build context, where there is one.
    pub context: Option<std::sync::Arc<dyn ContextFiles>>,
    /// The web.
    pub http: Option<std::sync::Arc<dyn HttpClient>>,
    /// Credential programs.
    pub native_helper: Option<std::sync::Arc<dyn NativeHelper>>,
    /// What the user wrote for this plugin.
    pub settings: BTreeMap<String, String>,
}

impl std::fmt::Debug for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").field("settings", &self.settings).finish_non_exhaustive()
    }
}
