//! Opening paths beneath a directory, whatever symbolic links and `..` hostile input has put there (openat2(2)).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};

/// As many links as Linux follows in one path (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// A directory that its users cannot leave.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens `path`, which is trusted.
    ///
    /// # Errors
    /// As open(2); also when it is not a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// A second handle of the same directory.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Opens a path that goes through no symbolic link at all, its last component included.
    ///
    /// # Errors
    /// `ELOOP` at a symbolic link, `EXDEV` where `..` would leave the root, else as openat2(2).
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.open_with(path, flags | OFlags::NOFOLLOW, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
    }

    /// Opens a path as a process would whose root directory this is: absolute links and `..` stay inside.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open_inside(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.open_with(path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Opens a file for reading; no symbolic link on the way.
    ///
    /// # Errors
    /// As [`Self::open_plain`].
    pub fn read(&self, path: &Path) -> io::Result<File> {
        // Without O_NONBLOCK opening a fifo would wait for its writer.
        Ok(File::from(self.open_plain(path, OFlags::RDONLY | OFlags::NONBLOCK)?))
    }

    /// Creates a file that must not exist yet; no symbolic link on the way.
    ///
    /// # Errors
    /// As [`Self::open_plain`].
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        Ok(File::from(self.open_with(path, flags, Mode::from_raw_mode(mode), resolve)?))
    }

    /// The directory that holds `path`, and the last component; no symbolic link on the way.
    ///
    /// # Errors
    /// As [`Self::open_plain`]; `EINVAL` for a path without a last component.
    pub fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let name = path.file_name().ok_or(rustix::io::Errno::INVAL)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((self.open_plain(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// Where a path leads for a process whose root directory this is, whether something is there or not: a path
    /// through no link.
    ///
    /// # Errors
    /// `ELOOP` for links in a circle, else as openat2(2) and readlinkat(2).
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut done = PathBuf::new();
        let mut rest: Vec<OsString> = components(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let is_link = match self.open_plain(&next, OFlags::PATH) {
                Ok(file) => FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::Symlink,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if !is_link {
                done = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let (parent, name) = self.parent(&next)?;
            let target = fs::readlinkat(parent, name, Vec::new())?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            if target.is_absolute() {
                done.clear();
            }
            rest.extend(components(target));
        }
        Ok(done)
    }

    /// Makes a directory and the parents it lacks as a process with this root would, following links inside it.
    ///
    /// # Errors
    /// As mkdirat(2) and openat2(2).
    pub fn make_dirs_inside(&self, path: &Path, mode: u32) -> io::Result<Vec<std::path::PathBuf>> {
        let mut made = Vec::new();
        let mut at = std::path::PathBuf::new();
        for component in path.components() {
            let std::path::Component::Normal(name) = component else {
                continue;
            };
            let parent = if at.as_os_str().is_empty() { Path::new(".") } else { &at };
            let parent = self.open_inside(parent, OFlags::PATH | OFlags::DIRECTORY)?;
            at.push(name);
            match fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
                Ok(()) => made.push(at.clone()),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(made)
    }

    fn open_with(&self, path: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            match fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Ok(fd) => return Ok(fd),
                // The kernel asks for another try when a rename raced with `..` (openat2(2), EAGAIN).
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The parts of a path that move, last first.
fn components(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn nothing_outside_is_opened() {
        let dir = std::env::temp_dir().join(format!("plywood-root-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("in")).expect("a directory");
        std::fs::write(dir.join("outside"), "secret").expect("a file");
        std::fs::write(dir.join("in/file"), "inside").expect("a file");
        for (link, target) in [("abs", "/etc/passwd"), ("up", "../outside"), ("self", "file")] {
            let _ = std::fs::remove_file(dir.join("in").join(link));
            std::os::unix::fs::symlink(target, dir.join("in").join(link)).expect("a link");
        }
        let root = Root::open(&dir.join("in")).expect("a root");
        for path in ["abs", "up", "self", "../outside", "/etc/passwd"] {
            assert!(root.read(Path::new(path)).is_err(), "{path}");
        }
        let mut text = String::new();
        File::from(root.open_inside(Path::new("self"), OFlags::RDONLY).expect("the file"))
            .read_to_string(&mut text)
            .expect("its text");
        assert_eq!(text, "inside");
        assert!(root.open_inside(Path::new("up"), OFlags::RDONLY).is_err());
        for (path, led) in [("abs", "etc/passwd"), ("up/new", "outside/new"), ("a/../../self", "file"), ("/", "")] {
            assert_eq!(root.resolve(Path::new(path)).expect(path), Path::new(led), "{path}");
        }
        std::fs::remove_dir_all(&dir).expect("clean");
    }
}
