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
