//! Forking, waiting and namespaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid};
pub use rustix::thread::UnshareFlags;

/// Which of the two processes one is after [`fork`].
#[derive(Debug)]
pub enum Fork {
    /// The old one, and the new one's number.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a copy of this process.
///
/// # Errors
/// As fork(2); `EINVAL` when the process has more than one thread, since the copy would hold locks of threads that it
/// does not have.
pub fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(rustix::io::Errno::INVAL.into());
    }
    // SAFETY: the process has one thread, so the child finds no lock taken and may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| rustix::io::Errno::INVAL.into()),
    }
}

/// Gives this process, which must have one thread, namespaces of its own.
///
/// # Errors
/// As unshare(2).
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors stay shared between threads");
    // SAFETY: only CLONE_FILES could make a safe program unsound, and the assertion above keeps it out.
    let done = unsafe { rustix::thread::unshare_unsafe(flags) };
    Ok(done?)
}

/// Asks the kernel to kill this process when its parent ends; `parent` is who that was, for the race at the start.
///
/// # Errors
/// As prctl(2); `ESRCH` when the parent is gone already.
pub fn die_with_parent(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match rustix::process::getppid() {
        Some(now) if now == parent => Ok(()),
        // Zero: the parent lives in an outer process namespace.
        None => Ok(()),
        Some(_) => Err(rustix::io::Errno::SRCH.into()),
    }
}

/// Keeps processes of the same user from reading what this one has in memory, its environment and its descriptors included
/// (prctl(2), PR_SET_DUMPABLE). It lasts until another program is executed.
///
/// # Errors
/// As prctl(2).
pub fn keep_private() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Makes processes below this one that lose their parent this one's children (prctl(2), PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// As prctl(2).
pub fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills every child but those that are `spared`, and the orphans that this makes, until there are none.
///
/// # Errors
/// When /proc cannot be read or a process not be killed.
pub fn kill_children(spared: &[Pid]) -> io::Result<()> {
    let own = rustix::process::getpid();
    loop {
        let mut left = false;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            if spared.contains(&pid) || parent_of(&entry.path()) != Some(own.as_raw_nonzero().get()) {
                continue;
            }
            left = true;
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            // Somebody else may have waited for it.
            match waitpid(Some(pid), WaitOptions::empty()) {
                Ok(_) | Err(rustix::io::Errno::CHILD | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !left {
            return Ok(());
        }
    }
}

/// The parent of a process, by its folder in /proc (proc_pid_stat(5): behind the name, which may hold anything).
fn parent_of(process: &std::path::Path) -> Option<i32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Waits for a child to end.
///
/// # Errors
/// As waitpid(2).
pub fn wait(pid: Pid) -> io::Result<Exit> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(code) = status.exit_status() {
                    return Ok(Exit::Code(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Exit::Signal(signal));
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends this process without running destructors or exit handlers, as a forked child must.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor above standard error when the next program is executed.
///
/// # Errors
/// As close_range(2).
pub fn close_on_exec() -> io::Result<()> {
    // SAFETY: plain numbers; it marks descriptors and closes none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `file` descriptor number `number` of this process, kept over execution.
///
/// # Errors
/// As dup2(2).
pub fn install(file: &impl AsFd, number: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: dup2 replaces descriptor `number`; callers install 0, 1 and 2 in a process about to execute another
    // program, where no Rust object owns those.
    let result = unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a soft and hard limit of this process (setrlimit(2)); `resource` is the kernel's number.
///
/// # Errors
/// As setrlimit(2).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives through the call.
    let result = unsafe { libc::setrlimit(resource, &raw const limit) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts every signal back to what a new program expects: default actions, nothing blocked.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset; SIG_DFL is no function pointer into our code; signal() fails
    // harmlessly for KILL and STOP.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in 1..=31 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    Ok(())
}

/// Adopts a descriptor number that a parent process has passed on to this one.
///
/// # Errors
/// `EBADF` when nothing is open there.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: F_GETFD only asks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and our parent passed it for us alone to own; callers take each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Hands a descriptor to whoever is at the other end of a socket (unix(7), SCM_RIGHTS).
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: &impl AsFd, file: &impl AsFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !message.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(rustix::io::Errno::NOBUFS.into());
    }
    sendmsg(socket, &[io::IoSlice::new(&[0])], &mut message, SendFlags::empty())?;
    Ok(())
}

/// Takes a descriptor that the other end of a socket hands over; none when it closes the socket instead.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(socket: &impl AsFd) -> io::Result<Option<OwnedFd>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut message, RecvFlags::CMSG_CLOEXEC)?;
    Ok(message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }))
}

/// Keeps `file` open in the program that is executed next.
///
/// # Errors
/// As fcntl(2).
pub fn keep_on_exec(file: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
}
