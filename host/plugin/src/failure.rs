//! How a call to a plugin can fail, and which plugin that was.

use std::fmt;
use std::sync::Arc;

use oci::Digest;
use plan::Diagnostic;

use crate::grant::Refusal;

/// Something that a plugin wants to be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The grant's name in the configuration.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// What it is for.
    pub reason: String,
}

/// Which plugin it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What the user calls it.
    pub name: String,
    /// What it calls its version.
    pub version: String,
    /// Of the component's bytes.
    pub digest: Digest,
    /// Where it came from: `builtin`, a path.
    pub source: String,
    /// What it is for, in its words.
    pub description: String,
    /// What it would like to be granted.
    pub needs: Vec<Need>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (sha256:{}, {})", self.name, self.version, self.digest.short(), self.source)
    }
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's input is wrong.
    #[error("{}", .0.first().map_or("the input is wrong", |d| d.message.as_str()))]
    Invalid(Vec<Diagnostic>),
    /// The plugin does not handle this.
    #[error("{0} does not handle this")]
    Unsupported(Arc<Identity>),
    /// Something that the plugin needs was refused.
    #[error("{plugin} was denied what it needs: {reason}")]
    Denied {
        /// Which plugin.
        plugin: Arc<Identity>,
        /// In its words.
        reason: String,
    },
    /// Something is needed that has not been granted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Worth trying later.
    #[error("{plugin}: {reason}")]
    Unavailable {
        /// Which plugin.
        plugin: Arc<Identity>,
        /// In its words.
        reason: String,
    },
    /// The plugin is broken.
    #[error(transparent)]
    Failed(Box<Failure>),
    /// The file is no plugin that this program can use.
    #[error("{origin} is not a plugin for this program: {reason}")]
    NotAPlugin {
        /// The file.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A plugin broke while it was called.
#[derive(Debug, thiserror::Error)]
#[error("the plugin {plugin} failed in `{call}`: {reason}")]
pub struct Failure {
    /// Which plugin.
    pub plugin: Arc<Identity>,
    /// The function of the contract.
    pub call: &'static str,
    /// What happened.
    pub reason: String,
    /// The plugin's own functions, innermost first.
    pub frames: Vec<String>,
    /// What it printed: a panic's text.
    pub output: String,
}

/// How many of the innermost frames tell where it was.
const FRAMES: usize = 8;
/// How many of the last lines that it printed are shown.
const LINES: usize = 20;

impl Failure {
    /// Makes words of what the runtime says.
    pub(crate) fn new(
        plugin: Arc<Identity>,
        call: &'static str,
        error: &wasmtime::Error,
        output: &str,
        limits: &crate::Limits,
    ) -> Self {
        let frames: Vec<String> = error.downcast_ref::<wasmtime::WasmBacktrace>().map(frames).unwrap_or_default();
        let recursing =
            frames.len() > FRAMES && frames.iter().take(64).collect::<std::collections::BTreeSet<_>>().len() <= 4;
        let reason = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt) => {
                format!("it ran longer than the {} ms that a call may take", limits.time.as_millis())
            }
            Some(wasmtime::Trap::StackOverflow) => "it called itself too deeply".into(),
            Some(wasmtime::Trap::MemoryOutOfBounds) if recursing => "it probably called itself too deeply".into(),
            Some(wasmtime::Trap::UnreachableCodeReached) if output.contains("memory allocation of") => {
                format!("it wanted more than the {} MiB of memory that a plugin may have", limits.memory >> 20)
            }
            Some(wasmtime::Trap::UnreachableCodeReached) if output.contains("panicked at") => "it panicked".into(),
            Some(wasmtime::Trap::UnreachableCodeReached) => "it stopped itself".into(),
            Some(trap) => trap.to_string(),
            None if error.to_string().contains("fuel allocated for hostcalls") => {
                format!("its answer is larger than the {} MiB that an answer may be", limits.answer >> 20)
            }
            None => format!("{:#}", error.root_cause()),
        };
        // A panic's text is the last that is printed.
        let printed: Vec<&str> = output.lines().collect();
        let output = plain(&printed[printed.len().saturating_sub(LINES)..].join("\n"));
        let frames = frames.into_iter().take(FRAMES).collect();
        Self { plugin, call, reason: line(&reason), frames, output }
    }
}

/// The plugin's own functions, by the names that the runtime demangles; how a panic gets to its end is left out.
fn frames(trace: &wasmtime::WasmBacktrace) -> Vec<String> {
    let machinery = |name: &str| {
        let inner = name.trim_start_matches('<');
        let std = ["std::", "core::", "alloc::", "rust_", "__rust", "__rg", "panic_", "wasi::", "wasip2::"];
        std.iter().any(|prefix| inner.starts_with(prefix)) || matches!(name, "abort" | "exit" | "_Exit")
    };
    let text = trace.to_string();
    let names = text.lines().filter_map(|line| line.split_once('!')).map(|(_, name)| name.trim().to_owned());
    names.filter(|name| !machinery(name)).map(|name| plain(&name)).collect()
}

/// Text of a plugin's is data: what would move a terminal's cursor is left out, and so is what is more than anyone reads.
#[must_use]
pub(crate) fn plain(text: &str) -> String {
    const LONGEST: usize = 4 << 10;
    let clean: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let end = (0..=clean.len().min(LONGEST)).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
    clean[..end].to_owned()
}

/// The same on one line.
#[must_use]
pub(crate) fn line(text: &str) -> String {
    plain(text).split_whitespace().collect::<Vec<_>>().join(" ")
}
