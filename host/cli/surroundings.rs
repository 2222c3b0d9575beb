//! The user's environment, for plugins: the only place that looks at it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use plugin::imports::{LogLevel, ReadError, Surroundings};

/// What the process was started with.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    /// Lines of plugins that matter, for whoever shows them.
    pub(crate) lines: Mutex<Vec<String>>,
}

impl Surroundings for Process {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::NotFound,
            _ => ReadError::Io(format!("{}: {error}", path.display())),
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limit { Err(ReadError::TooLarge(size)) } else { Ok(bytes) }
    }

    fn secret(&self, id: &str) -> Option<Vec<u8>> {
        self.secrets.get(id).cloned()
    }

    fn log_level(&self) -> LogLevel {
        if std::env::var_os("PLYWOOD_DEBUG").is_some() { LogLevel::Trace } else { LogLevel::Warn }
    }

    fn log(&self, plugin: &str, level: LogLevel, message: &str) {
        if level >= self.log_level() {
            let mut lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            lines.push(format!("{plugin}: {message}"));
        }
    }
}

/// A folder of the XDG base directory specification: `variable`, else `fallback` in the home folder.
pub(crate) fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| home().map(|home| home.join(fallback)))
}

/// A variable that holds something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The user's home folder.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Docker's configuration file, wherever the user has put it.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    Some(folder.or_else(|| home().map(|home| home.join(".docker")))?.join("config.json"))
}
