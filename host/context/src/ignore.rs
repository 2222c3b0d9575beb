//! Ignore files: `<Dockerfile>.dockerignore`, else `.dockerignore` in the context.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::file;
use crate::pattern::Matcher;

/// Each file is matched with each pattern.
const LONGEST: u64 = 1 << 20;

/// The patterns of an ignore file's text. A line that starts with `#` says nothing.
///
/// # Errors
/// When one is malformed.
pub fn parse(text: &str) -> Result<Matcher, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Matcher::new(text.lines().filter(|line| !line.starts_with('#')))
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
        let text = String::from_utf8(bytes).map_err(io::Error::other);
        return parse(&text.map_err(|source| Error::Io { path, source })?);
    }
    Ok(Matcher::default())
}
