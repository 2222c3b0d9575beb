//! Ignore files: `<Dockerfile>.dockerignore`, else `.dockerignore` in the context.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::file;
use crate::pattern::{self, Matcher};

/// Each file is matched with each pattern.
const LONGEST: u64 = 1 << 20;

/// The patterns of an ignore file's text. A line that starts with `#` says nothing; paths are those of the context,
/// whether they start with a slash or not.
///
/// # Errors
/// When one is malformed.
pub fn parse(text: &str) -> Result<Matcher, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rule = |line: &str| {
        let line = line.trim();
        let (mark, path) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
        let clean = if path.is_empty() { Vec::new() } else { pattern::clean(path.as_bytes()) };
        let inside = clean.strip_prefix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(&clean);
        format!("{mark}{}", String::from_utf8_lossy(inside))
    };
    let rules: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(rule).collect();
    Matcher::new(rules.iter().map(String::as_str))
}

/// The rules for the context in `folder`, when it is built with `build_file`.
///
/// # Errors
/// When the file that holds them cannot be read.
pub fn rules(folder: &Path, build_file: Option<&Path>) -> Result<Matcher, Error> {
    let own = build_file.map(|file| {
        let mut name = file.as_os_str().to_owned();
        name.push(".dockerignore");
        // Beside a build file that is elsewhere, it is elsewhere as well.
        (PathBuf::from(name), Some(folder).filter(|_| file.starts_with(folder)))
    });
    for (path, within) in own.into_iter().chain([(folder.join(".dockerignore"), Some(folder))]) {
        let Some(bytes) = file::read(&path, within, LONGEST)? else { continue };
        let text = file::text(bytes).map_err(|line| {
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"));
            Error::Io { path, source }
        });
        return parse(&text?);
    }
    Ok(Matcher::default())
}
