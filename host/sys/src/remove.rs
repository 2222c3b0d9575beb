//! Deleting folders, however deep: a step can nest them deeper than any stack or table of open files.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Deletes a folder and what is in it.
///
/// # Errors
/// As [`content`], and rmdir(2).
pub fn folder(path: &Path) -> io::Result<()> {
    content(&fs::open(path, FOLDER, Mode::empty())?)?;
    std::fs::remove_dir(path)
}

/// Deletes what is in a folder, following no link: folders that are not empty give what is in them to the folder
/// itself, until nothing is left.
///
/// # Errors
/// As openat(2), renameat(2) and unlinkat(2).
pub fn content(folder: &impl AsFd) -> io::Result<()> {
    // Names that nobody can have put in the way.
    let mut bytes = [0u8; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let (random, mut number) = (u64::from_ne_bytes(bytes), 0u64);
    loop {
        let mut again = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." || is_gone(folder, name)? {
                continue;
            }
            let inner = fs::openat(folder, name, FOLDER, Mode::empty())?;
            for entry in Dir::read_from(&inner)? {
                let entry = entry?;
                let child = entry.file_name();
                if child == c"." || child == c".." || is_gone(&inner, child)? {
                    continue;
                }
                fs::renameat(&inner, child, folder, format!(".{random:x}-{number}"))?;
                number += 1;
                again = true;
            }
            fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
        }
        if !again {
            return Ok(());
        }
    }
}

/// Deletes a file or an empty folder; tells whether that was all.
fn is_gone(folder: &impl AsFd, name: &std::ffi::CStr) -> io::Result<bool> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_everything_in_it() {
        let outer = std::env::temp_dir().join(format!("plywood-remove-{}", std::process::id()));
        let at = outer.join("in");
        for path in ["a/b/c/d/e", "a/f", "g/h"] {
            std::fs::create_dir_all(at.join(path)).expect("a folder");
            std::fs::write(at.join(path).join("file"), "x").expect("a file");
        }
        std::fs::write(outer.join("outside"), "x").expect("a file");
        std::os::unix::fs::symlink(&outer, at.join("a/b/out")).expect("a link");
        folder(&at).expect("it goes");
        assert_eq!(std::fs::read_dir(&outer).expect("a folder").count(), 1);
        folder(&outer).expect("it goes");
    }
}
