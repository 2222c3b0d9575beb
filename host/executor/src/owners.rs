//! Owners where a user namespace has one user: a call that gives a file away leaves the new owner in an attribute of the file,
//! from where the layer has it. Whoever asks the file itself is told that it is root's.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sys::rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, openat, openat2};
use sys::rustix::io::Errno;
use sys::seccomp::single::{Giving, Listener, Target};

/// The longest path, with its zero (path_resolution(7)).
const LONGEST: usize = 4096;

/// Answers calls that give files away.
pub(crate) struct Owners {
    /// This place's /proc, which the step's root hides.
    proc: OwnedFd,
}

impl Owners {
    /// Opens what is needed, before the root is changed.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { proc: sys::rustix::fs::open("/proc", flags, Mode::empty())? })
    }

    /// Answers until the command has ended. By then this process has the step's root, and may do no more in it than the step
    /// itself; none of its threads may have another.
    pub(crate) fn serve(&self, listener: &Listener, command: &impl AsFd) -> io::Result<()> {
        while let Some(giving) = listener.next(command)? {
            let file = self.file(&giving);
            // Its memory was another's if it has ended meanwhile.
            if listener.waits(&giving) {
                let given = match file {
                    // One of the step's own streams, by way of /proc: no file of the image.
                    Err(Errno::LOOP) => Ok(()),
                    file => file.and_then(|file| self.give(&file, &giving)),
                };
                listener.answer(&giving, given);
            }
        }
        Ok(())
    }

    /// Opens what a call names, as far as that is possible without reading it.
    fn file(&self, giving: &Giving) -> Result<OwnedFd, Errno> {
        let process = PathBuf::from(giving.process.to_string());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match giving.file {
            Target::Descriptor(number) => {
                let number = u32::try_from(number).map_err(|_| Errno::BADF)?;
                let path = process.join("fd").join(number.to_string());
                openat(&self.proc, path, flags, Mode::empty()).map_err(|_| Errno::BADF)
            }
            Target::Path { directory, address, follow, may_be_empty } => {
                let memory = openat(&self.proc, process.join("mem"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                let path = read_path(&File::from(memory), address)?;
                let start = match directory {
                    _ if path.as_bytes().starts_with(b"/") => process.join("root"),
                    None => process.join("cwd"),
                    Some(number) => {
                        process.join("fd").join(u32::try_from(number).map_err(|_| Errno::BADF)?.to_string())
                    }
                };
                let rest = path.as_bytes();
                let rest = &rest[rest.iter().take_while(|byte| **byte == b'/').count()..];
                if rest.is_empty() {
                    let names_itself = may_be_empty || path.as_bytes().starts_with(b"/");
                    return match names_itself {
                        true => openat(&self.proc, start, flags, Mode::empty()),
                        false => Err(Errno::NOENT),
                    };
                }
                let flags = if follow { flags } else { flags | OFlags::NOFOLLOW };
                let start = openat(&self.proc, start, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                // What a link of /proc's says is meant for whoever asks, and that is this process, not the step's.
                let mut resolve = ResolveFlags::NO_MAGICLINKS;
                if path.as_bytes().starts_with(b"/") {
                    resolve |= ResolveFlags::IN_ROOT;
                }
                openat2(&start, std::ffi::OsStr::from_bytes(rest), flags, Mode::empty(), resolve)
            }
        }
    }

    fn give(&self, file: &OwnedFd, giving: &Giving) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(fstat(file)?.st_mode);
        // Links, pipes and devices have no such attributes: they stay root's.
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(());
        }
        let path = format!("self/fd/{}", file.as_raw_fd());
        let file = openat(&self.proc, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let (uid, gid) = sys::owner::recorded(&file)?.unwrap_or_default();
        let (uid, gid) = (giving.uid.unwrap_or(uid), giving.gid.unwrap_or(gid));
        // As any change of owner does, it takes set-user-ID away.
        fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
        sys::owner::record(&file, uid, gid)
    }
}

/// A path in a process's memory. It is read in pieces that end where pages do: what follows may not be there.
fn read_path(memory: &File, address: u64) -> Result<CString, Errno> {
    let (mut bytes, mut at) = (Vec::new(), address);
    while bytes.len() < LONGEST {
        let mut piece = vec![0; 4096 - (at % 4096) as usize];
        let length = memory.read_at(&mut piece, at).map_err(|_| Errno::FAULT)?;
        if length == 0 {
            return Err(Errno::FAULT);
        }
        if let Some(end) = piece[..length].iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(&piece[..end]);
            return CString::new(bytes).map_err(|_| Errno::INVAL);
        }
        bytes.extend_from_slice(&piece[..length]);
        at += length as u64;
    }
    Err(Errno::NAMETOOLONG)
}
