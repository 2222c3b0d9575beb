//! Ignore files: `<Dockerfile>.dockerignore`, else `.dockerignore` in the context.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::Error;
use crate::pattern::Matcher;

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
        name.into()
    });
    for path in own.into_iter().chain([folder.join(".dockerignore")]) {
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { path, source }),
        }
    }
    Ok(Matcher::default())
}
