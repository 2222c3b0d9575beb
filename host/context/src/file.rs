//! Files that whoever wrote the project has chosen: a pipe would block, a device never end, a link lead anywhere.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;

/// Reads a regular file of at most `limit` bytes, which must lie in the folder `within` if there is one; none where
/// nothing is.
///
/// # Errors
/// When it is none such, or cannot be read.
pub fn read(path: &Path, within: Option<&Path>, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        real => real.map_err(failed)?,
    };
    if let Some(folder) = within
        && !real.starts_with(fs::canonicalize(folder).map_err(failed)?)
    {
        return Err(Error::LeadsOut(path.to_owned()));
    }
    if !fs::metadata(&real).map_err(failed)?.is_file() {
        return Err(Error::NoFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    fs::File::open(&real).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > limit { Err(Error::TooLong { path: path.to_owned(), limit }) } else { Ok(Some(bytes)) }
}

/// Text that people have written; the number of the first line that is none. In a comment anything goes, in whatever
/// encoding its writer had.
///
/// # Errors
/// With the number of a line that is not UTF-8, from 1.
pub fn text(bytes: Vec<u8>) -> Result<String, usize> {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error.into_bytes(),
    };
    let mut text = String::with_capacity(bytes.len());
    for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match std::str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(_) if line.trim_ascii_start().starts_with(b"#") => text.push_str(&String::from_utf8_lossy(line)),
            Err(_) => return Err(at + 1),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn comments_may_be_in_any_encoding() {
        assert_eq!(text(b"FROM a\n  # caf\xe9\nRUN x\n".to_vec()), Ok("FROM a\n  # caf\u{fffd}\nRUN x\n".into()));
        assert_eq!(text(b"FROM a\nRUN caf\xe9\n".to_vec()), Err(2));
    }
}
