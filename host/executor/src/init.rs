//! Process 1 of a step: makes the root, gives up what it must not keep, becomes the command.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;

use sys::rustix::fs::{Gid, Mode, OFlags, Uid, chownat};
use sys::rustix::process::{chdir, umask};
use sys::seccomp::{Filter, single};
use sys::{Root, privilege, process};

use crate::limits;
use crate::rootfs::{self, During};
use crate::spec::Spec;
use crate::user::{self, User};

/// Nobody needs a longer file of users.
const LARGEST: u64 = 16 << 20;

/// The root, who the command runs as, and which calls it may make.
pub(crate) type Confined = (Root, User, Filter);

/// Makes the root file system; gives what was put into it only to mount on.
pub(crate) fn prepare(spec: &Spec) -> (Vec<String>, Result<Confined, String>) {
    let (stubs, root) = rootfs::enter(spec);
    (stubs, root.and_then(|root| confine(spec, root)))
}

fn confine(spec: &Spec, root: Root) -> Result<Confined, String> {
    let read = |path: &str| -> String {
        let mut text = Vec::new();
        // An image without the file has no users but numbers.
        if let Ok(file) = root.open_inside(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
            let _ = std::fs::File::from(file).take(LARGEST).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    let user = user::resolve(&spec.user, &read("etc/passwd"), &read("etc/group")).during("the user")?;
    let made = root
        .resolve(Path::new(&spec.working_dir))
        .and_then(|place| root.make_dirs_inside(&place, 0o755))
        .during(format!("making the working directory {}", spec.working_dir))?;
    for path in made {
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        chownat(&root, &path, Some(uid), Some(gid), sys::rustix::fs::AtFlags::empty())
            .during("the working directory")?;
    }
    if !spec.without_mounts {
        let host_name = rootfs::host_name(&spec.surroundings);
        sys::rustix::system::sethostname(host_name.as_bytes()).during("setting the host name")?;
    }
    if spec.network == crate::Network::None {
        sys::network::loopback_up().during("switching the loopback on")?;
    }
    let filter = Filter::container().during("the system-call filter")?;
    Ok((root, user, filter))
}

/// Becomes the command. What comes back is why that failed, with the exit code that says so.
///
/// Calls that give files away are answered at the other end of `owners`, where there is one user.
pub(crate) fn become_command(spec: &Spec, user: &User, filter: &Filter, owners: Option<UnixStream>) -> (i32, String) {
    let failed = |reason: String| (125, reason);
    let privileges = move || -> Result<(), String> {
        umask(Mode::from_raw_mode(0o022));
        process::reset_signals().during("signals")?;
        let _ = sys::rustix::process::setsid();
        // Before privilege is gone: a hard limit may have to be raised.
        limits::set(&spec.surroundings.limits)?;
        let allowed = match (spec.privileged, spec.without_mounts) {
            (true, _) => privilege::all(),
            (false, false) => privilege::CONTAINER,
            (false, true) if spec.upper == Path::new("/") => privilege::in_place(),
            (false, true) => privilege::chrooted(),
        };
        let strict = spec.surroundings.is_strict;
        let allowed = if strict { allowed & privilege::STRICT } else { allowed };
        if !spec.privileged {
            privilege::bound(allowed).during("capabilities")?;
        }
        if strict {
            privilege::no_new_privileges().during("no_new_privs")?;
        }
        // Without namespaces there is no right to load it either, unless no program can give rights; the place has its own.
        if !spec.privileged && (!spec.without_mounts || strict) {
            // Before the privilege to load it is gone. Set-user-ID programs go on working, as they do in containers.
            filter.load().during("the system-call filter")?;
        }
        for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            // So that the user may open /dev/stdout, as in other builders. With one user it is that one's already.
            let _ = sys::rustix::fs::fchown(stream, Some(Uid::from_raw(user.uid)), None);
        }
        if let Some(owners) = owners {
            single::become_nobody_else().during("the system-call filter")?;
            // Whom the image's root would not let give files away, the kernel does not.
            if user.uid != 0 {
                privilege::root_is_nobody().during("capabilities")?;
            } else {
                let listener = single::tell_of_giving().during("the system-call filter")?;
                process::send(&owners, &listener).during("the listener")?;
            }
        }
        privilege::become_user(user.uid, user.gid, &user.groups, allowed).during("becoming the user")?;
        // A change of user has made the kernel forget it (prctl(2), PR_SET_PDEATHSIG).
        let kill = Some(sys::rustix::process::Signal::KILL);
        sys::rustix::process::set_parent_process_death_signal(kill).during("the parent's death")?;
        chdir(&*spec.working_dir).during(format!("entering {}", spec.working_dir))?;
        process::close_on_exec().during("descriptors")
    };
    if let Err(reason) = privileges() {
        return failed(reason);
    }
    let mut env = spec.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), user.home.clone()));
    }
    let Some((program, arguments)) = spec.argv.split_first() else {
        return failed("there is no command".into());
    };
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path.as_str());
    let program_path = match find(program, path) {
        Ok(found) => found,
        Err(code) => {
            let reason = if code == 127 { "no such file or directory" } else { "permission denied" };
            return (code, format!("exec {program}: {reason}"));
        }
    };
    let error = std::process::Command::new(OsStr::from_bytes(program_path.as_bytes()))
        .arg0(program)
        .args(arguments)
        .env_clear()
        .envs(env)
        .exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    (code, format!("exec {program}: {error}"))
}

/// The program, looked for in the image's own search path.
fn find(program: &str, path: &str) -> Result<CString, i32> {
    let executable = |candidate: &Path| {
        candidate.is_file() && sys::rustix::fs::access(candidate, sys::rustix::fs::Access::EXEC_OK).is_ok()
    };
    let c_string = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|_| 126);
    if program.contains('/') {
        return c_string(Path::new(program));
    }
    let mut seen = false;
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(program);
        if executable(&candidate) {
            return c_string(&candidate);
        }
        seen |= candidate.exists();
    }
    Err(if seen { 126 } else { 127 })
}
