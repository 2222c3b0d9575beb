//! Owners of files where a user namespace has one user: an attribute of the file says whose it is. Whoever asks the file itself
//! is told that it is root's.

use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

/// The attribute: `uid:gid`.
pub const ATTRIBUTE: &str = "user.plywood.owner";

/// Writes down whose a file is.
///
/// # Errors
/// As fsetxattr(2).
pub fn record(file: &impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    fsetxattr(file, ATTRIBUTE, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())
}

/// Whose an open file is; none: root's.
///
/// # Errors
/// As fgetxattr(2).
pub fn recorded(file: &impl AsFd) -> Result<Option<(u32, u32)>, Errno> {
    let mut value = [0u8; 32];
    match fgetxattr(file, ATTRIBUTE, &mut value) {
        Ok(length) => Ok(parse(&value[..length])),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a file's attributes say of its owner; none: it is root's.
#[must_use]
pub fn of(attributes: &[(String, Vec<u8>)]) -> Option<(u32, u32)> {
    attributes.iter().find(|(name, _)| name == ATTRIBUTE).and_then(|(_, value)| parse(value))
}

fn parse(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}
