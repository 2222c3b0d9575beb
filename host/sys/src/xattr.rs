//! Extended attributes of open files and of links themselves.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

/// A value is at most this long (xattr(7), VFS limit).
const LONGEST: usize = 64 << 10;

/// The attributes of `path`, not following a link, sorted by name. None on a file system without them.
///
/// # Errors
/// As llistxattr(2) and lgetxattr(2).
pub fn list(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0u8; 1024];
    let length = loop {
        match llistxattr(path, &mut names[..]) {
            Ok(length) => break length,
            Err(rustix::io::Errno::RANGE) if names.len() < LONGEST => names.resize(LONGEST, 0),
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        if let Some(value) = get(path, text)? {
            attributes.push((text.to_owned(), value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// One attribute of `path`, not following a link.
///
/// # Errors
/// As lgetxattr(2).
pub fn get(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 256];
    loop {
        match lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(rustix::io::Errno::RANGE) if value.len() < LONGEST => value.resize(LONGEST, 0),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets one attribute of `path`, not following a link.
///
/// # Errors
/// As lsetxattr(2).
pub fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(lsetxattr(path, OsStr::from_bytes(name.as_bytes()), value, XattrFlags::empty())?)
}
