//! A step's process: started by the worker, parent of process 1 of the step.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use sys::process::{self, Fork, UnshareFlags};

use crate::init;
use crate::owners::Owners;
use crate::rootfs::During;
use crate::spec::{Exit, Network, Outcome, Spec};

/// Runs the step whose specification stands on standard input, length first; what follows it is the command's input.
/// Gives the exit code of this process.
#[must_use]
pub fn main() -> i32 {
    match read_spec() {
        Ok(spec) => {
            let worker = i32::try_from(spec.worker).ok().and_then(sys::rustix::process::Pid::from_raw);
            if worker.is_none_or(|worker| process::die_with_parent(worker).is_err()) {
                return 1;
            }
            // Opened before process 1, which shares this mount namespace, changes the root of both.
            let Ok(mut file) = fs::File::create(&spec.outcome) else {
                return 1;
            };
            let outcome = run(&spec);
            i32::from(std::io::Write::write_all(&mut file, &encode(&outcome)).is_err())
        }
        Err(_) => 1,
    }
}

/// The outcome as text: a line for who the command ran as, one for the end, one for each stub.
fn encode(outcome: &Outcome) -> Vec<u8> {
    let first = match &outcome.result {
        Ok(Exit::Code(code)) => format!("code {code}"),
        Ok(Exit::Signal(signal)) => format!("signal {signal}"),
        Err(reason) => format!("error {}", reason.replace('\n', " ")),
    };
    let user = format!("{} {}", outcome.user.0, outcome.user.1);
    let lines = [user, first].into_iter().chain(outcome.stubs.iter().filter(|stub| !stub.contains('\n')).cloned());
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// Reads what a step has written of its end; none when it was killed before it could.
#[must_use]
pub fn read_outcome(path: &std::path::Path) -> Option<Outcome> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let (uid, gid) = lines.next()?.split_once(' ')?;
    let user = (uid.parse().ok()?, gid.parse().ok()?);
    let (kind, rest) = lines.next()?.split_once(' ')?;
    let result = match kind {
        "code" => Ok(Exit::Code(rest.parse().ok()?)),
        "signal" => Ok(Exit::Signal(rest.parse().ok()?)),
        "error" => Err(rest.to_owned()),
        _ => return None,
    };
    Some(Outcome { result, stubs: lines.map(str::to_owned).collect(), user })
}

fn read_spec() -> Result<Spec, String> {
    // Not through the library's buffer: what follows is the command's.
    let mut stdin = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().during("the specification")?);
    let mut length = [0; 8];
    stdin.read_exact(&mut length).during("the specification")?;
    let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).during("the specification")?];
    stdin.read_exact(&mut bytes).during("the specification")?;
    postcard::from_bytes(&bytes).during("the specification")
}

fn run(spec: &Spec) -> Outcome {
    let failed = |reason: String| Outcome { result: Err(reason), stubs: Vec::new(), user: (0, 0) };
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if spec.without_mounts {
        flags = UnshareFlags::empty();
        if spec.network == Network::None {
            return failed("a network of its own is not to be had without namespaces".into());
        }
    }
    let no_process_namespace = spec.binds_proc || spec.without_mounts;
    if no_process_namespace {
        // What the command leaves behind is to be found; no namespace ends with it. Nor does one hide this process.
        if let Err(error) = process::adopt_orphans().and_then(|()| process::keep_private()) {
            return failed(format!("taking in orphans: {error}"));
        }
    } else {
        flags |= UnshareFlags::NEWPID;
    }
    if spec.network == Network::None && !spec.without_mounts {
        flags |= UnshareFlags::NEWNET;
    }
    if !flags.is_empty()
        && let Err(error) = process::unshare(flags)
    {
        return failed(format!("making namespaces: {error}"));
    }
    // Before the root is another.
    let one_user = spec.one_user.then(|| Ok::<_, std::io::Error>((Owners::open()?, UnixStream::pair()?)));
    let (owners, theirs) = match one_user.transpose() {
        Ok(None) => (None, None),
        Ok(Some((owners, (ours, theirs)))) => (Some((owners, ours)), Some(theirs)),
        Err(error) => return failed(format!("owners: {error}")),
    };
    let own = sys::rustix::process::getpid();
    let (reader, writer) = match sys::rustix::pipe::pipe_with(sys::rustix::pipe::PipeFlags::CLOEXEC) {
        Ok(pipe) => pipe,
        Err(error) => return failed(format!("a pipe: {error}")),
    };
    match process::fork() {
        Err(error) => failed(format!("fork: {error}")),
        Ok(Fork::Child) => {
            drop((reader, owners));
            child(spec, own, writer, theirs)
        }
        Ok(Fork::Parent(pid)) => {
            drop((writer, theirs));
            let mut told = String::new();
            // Ends when the command is executed, or the child has failed before.
            let _ = fs::File::from(reader).read_to_string(&mut told);
            let answered = owners.map_or(Ok(()), |(owners, socket)| answer(&owners, &socket, pid));
            let exit = process::wait(pid);
            if no_process_namespace && let Err(error) = process::kill_children(&[]) {
                return failed(format!("ending what the command has left: {error}"));
            }
            let mut stubs = Vec::new();
            let (mut reason, mut user) = (None, (0, 0));
            if let Err(error) = answered {
                reason = Some(format!("writing down owners: {error}"));
            }
            for line in told.lines() {
                match line.split_once(' ') {
                    Some(("stub", stub)) => stubs.push(stub.to_owned()),
                    Some(("user", text)) => {
                        let numbers: Vec<u32> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
                        user = (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0));
                    }
                    Some(("error", text)) => reason = Some(text.to_owned()),
                    _ => {}
                }
            }
            let result = match (reason, exit) {
                (Some(reason), _) => Err(reason),
                (None, Ok(process::Exit::Code(code))) => Ok(Exit::Code(code)),
                (None, Ok(process::Exit::Signal(signal))) => Ok(Exit::Signal(signal)),
                (None, Err(error)) => Err(format!("waiting: {error}")),
            };
            Outcome { result, stubs, user }
        }
    }
}

/// Answers what a command asks for, until it has ended.
fn answer(owners: &Owners, socket: &UnixStream, command: sys::rustix::process::Pid) -> std::io::Result<()> {
    let flags = sys::rustix::process::PidfdFlags::empty();
    match process::receive(socket)? {
        Some(listener) => owners.serve(&listener.into(), &sys::rustix::process::pidfd_open(command, flags)?),
        None => Ok(()),
    }
}

/// Never returns: it becomes the command, or ends.
fn child(
    spec: &Spec,
    parent: sys::rustix::process::Pid,
    writer: std::os::fd::OwnedFd,
    owners: Option<UnixStream>,
) -> ! {
    use std::io::Write;
    let mut told = fs::File::from(writer);
    if process::die_with_parent(parent).is_err() {
        process::exit_now(125);
    }
    let (stubs, prepared) = init::prepare(spec);
    for stub in stubs.iter().filter(|stub| !stub.contains('\n')) {
        let _ = writeln!(told, "stub {stub}");
    }
    if let Ok((_, user, _)) = &prepared {
        let _ = writeln!(told, "user {} {}", user.uid, user.gid);
    }
    let (code, reason) = match prepared {
        Ok(_) if spec.argv.is_empty() => process::exit_now(0),
        Ok((_root, user, filter)) => init::become_command(spec, &user, &filter, owners),
        Err(reason) => (125, reason),
    };
    if code == 125 {
        let _ = writeln!(told, "error {}", reason.replace('\n', " "));
    } else {
        // The command's own trouble: told where its output goes.
        let _ = writeln!(std::io::stderr(), "{reason}");
    }
    process::exit_now(code)
}
