//! For a user namespace with one user: calls that change to another user succeed and change nothing, and those that give
//! files away are told to a listener, which answers them (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

use super::{FilterError, load_with};

/// Calls that become somebody else.
const BECOMING: [i64; 9] = [
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];

/// Calls that give files away.
const GIVING: &[i64] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// A call of chown(2)'s family that waits for its answer.
#[derive(Debug)]
pub struct Giving {
    id: u64,
    /// Whose.
    pub process: u32,
    /// Where the file is.
    pub file: Target,
    /// The new owner; none: the old one.
    pub uid: Option<u32>,
    /// The new group; none: the old one.
    pub gid: Option<u32>,
}

/// How a call names its file.
#[derive(Debug)]
pub enum Target {
    /// By an open descriptor of the process.
    Descriptor(i32),
    /// By a path, which is at this address of the process's memory.
    Path {
        /// The directory that it starts from; none: the working directory.
        directory: Option<i32>,
        /// The address.
        address: u64,
        /// Whether a link at its end is followed.
        follow: bool,
        /// Whether an empty path names the directory itself.
        may_be_empty: bool,
    },
}

/// Where calls arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// struct seccomp_notif, struct seccomp_notif_resp (linux/seccomp.h).
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

#[repr(C)]
#[derive(Default)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp), _IOW('!', 2, __u64).
const RECEIVE: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const IS_VALID: u64 = 0x4008_2102;

/// Makes calls that become another user succeed without an effect.
///
/// # Errors
/// As seccomp(2).
pub fn become_nobody_else() -> io::Result<()> {
    let rules = BECOMING.iter().map(|call| (*call, vec![])).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(FilterError::from)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch);
    let program = filter.and_then(TryInto::try_into).map_err(FilterError::from)?;
    load_with(&program, 0).map(|_| ())
}

/// Has calls that give files away wait for the listener, from now on. Whoever listens must not be under the filter.
///
/// # Errors
/// As seccomp(2); `EBUSY` where another listener is there already.
pub fn tell_of_giving() -> io::Result<OwnedFd> {
    // The compiler has no word for it: another one is put in its place.
    const STAND_IN: u32 = 0x7ff0_0000 | 1;
    const RETURN: u16 = 0x06;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    let rules = GIVING.iter().map(|call| (*call, vec![])).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(FilterError::from)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(1), arch);
    let mut program: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).map_err(FilterError::from)?;
    for instruction in &mut program {
        if instruction.code == RETURN && instruction.k == STAND_IN {
            instruction.k = USER_NOTIF;
        }
    }
    let number = load_with(&program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

impl Listener {
    /// Waits for a call; none when nobody is under the filter any more, or `end` can be read.
    ///
    /// # Errors
    /// As ioctl(2) and poll(2).
    pub fn next(&self, end: &impl AsFd) -> io::Result<Option<Giving>> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            let mut both = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !both[0].revents().contains(PollFlags::IN) {
                return Ok(None);
            }
            let mut notification = Notification::default();
            // SAFETY: the structure is as long as the request's number says, and zeroed as it must be.
            if unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE as _, &raw mut notification) } < 0 {
                match io::Error::last_os_error() {
                    // The process has been killed before it was asked for.
                    error if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => continue,
                    error => return Err(error),
                }
            }
            return Ok(Some(giving(&notification)));
        }
    }

    /// Whether the process still waits: its number means nobody else.
    #[must_use]
    pub fn waits(&self, giving: &Giving) -> bool {
        // SAFETY: the request reads eight bytes.
        unsafe { libc::ioctl(self.0.as_raw_fd(), IS_VALID as _, &raw const giving.id) == 0 }
    }

    /// Lets the call return.
    pub fn answer(&self, giving: &Giving, result: Result<(), rustix::io::Errno>) {
        let error = result.err().map_or(0, |error| -error.raw_os_error());
        let mut response = Response { id: giving.id, error, ..Response::default() };
        // A process that is gone needs no answer. SAFETY: as above.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), SEND as _, &raw mut response) };
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the kernel passes 32-bit arguments in 64-bit registers")]
fn giving(call: &Notification) -> Giving {
    let argument = |at: usize| call.arguments[at];
    let directory = |at: usize| Some(argument(at) as i32).filter(|number| *number != libc::AT_FDCWD);
    let path = |directory, at: usize, follow, may_be_empty| Target::Path {
        directory,
        address: argument(at),
        follow,
        may_be_empty,
    };
    let (file, first) = match i64::from(call.number) {
        libc::SYS_fchown => (Target::Descriptor(argument(0) as i32), 1),
        libc::SYS_fchownat => {
            let flags = argument(4) as i32;
            let (follow, may_be_empty) = (flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0);
            (path(directory(0), 1, follow, may_be_empty), 2)
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => (path(None, 0, false, false), 1),
        _ => (path(None, 0, true, false), 1),
    };
    let number = |at: usize| Some(argument(at) as u32).filter(|number| *number != u32::MAX);
    Giving { id: call.id, process: call.pid, file, uid: number(first), gid: number(first + 1) }
}
