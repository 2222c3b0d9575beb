//! A step's process: started, listened to, waited for.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use executor::Spec;
use executor::cgroup::Group;
use sys::rustix::process::Pid;

use super::Server;
use crate::worker::protocol::{self, Exit, Reply, RunRequest};

/// Where a step's trees and files are, as [`Spec`] has them.
pub(super) struct Places {
    pub(super) lowers: Vec<PathBuf>,
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    pub(super) root: PathBuf,
    pub(super) outcome: PathBuf,
}

/// What a step has come to.
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// What was made only to mount on.
    pub(super) stubs: Vec<String>,
    /// Who it ran as, by number and group.
    pub(super) user: (u32, u32),
}

impl Server {
    /// Runs a step to its end.
    pub(super) fn step(&self, id: u64, request: &RunRequest, places: Places) -> Result<Ended, String> {
        let Places { lowers, upper, work, root, outcome } = places;
        let spec = Spec {
            lowers,
            upper,
            work,
            root,
            outcome: outcome.clone(),
            worker: std::process::id(),
            argv: request.argv.clone(),
            env: request.env.clone(),
            user: request.user.clone(),
            working_dir: request.working_dir.clone(),
            mounts: request.mounts.clone(),
            network: request.network,
            user_namespace: self.abilities.user_xattrs,
            without_mounts: self.own.is_some(),
            binds_proc: self.binds_proc,
            one_user: self.abilities.one_user,
            privileged: request.privileged,
            resolv_conf: request.resolv_conf.clone(),
            surroundings: request.surroundings.clone(),
        };
        let name = format!("plywood-{}-{id}", std::process::id());
        let group = Group::create(&request.surroundings.resources, &name)?;
        let killed = self.execute(id, &spec, request.stdin.as_deref(), group.as_ref());
        let killed = killed.map_err(|error| format!("{}: {error}", request.scratch.display()))?;
        let Some(outcome) = executor::step::read_outcome(&outcome) else {
            return Err(if killed { "cancelled".into() } else { "the step's process was killed".into() });
        };
        Ok(Ended { exit: outcome.result?, stubs: outcome.stubs, user: outcome.user })
    }

    /// Runs a step's process to its end, passing on what it prints; gives whether it was cancelled.
    fn execute(&self, id: u64, spec: &Spec, input: Option<&[u8]>, group: Option<&Group>) -> io::Result<bool> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(executor::STEP).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = {
            // Whoever looks for processes that nobody waits for must know this one.
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closing.load(Ordering::Acquire) {
                return Err(io::Error::other("the build has ended"));
            }
            let mut child = command.spawn()?;
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            if steps.insert(id, pid).is_some_and(|cancelled| cancelled.is_none()) {
                child.kill()?;
            }
            child
        };
        // It waits for its specification, so nothing of the command runs outside.
        if let Some(Err(reason)) = group.map(|group| group.enter(child.id())) {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other(reason));
        }
        let frame = protocol::encode(spec)?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // A command that does not read its input is none the worse for it.
                    let _ = stdin.write_all(&frame).and_then(|()| stdin.write_all(input.unwrap_or_default()));
                }
            });
            if let Some(stdout) = stdout {
                scope.spawn(move || self.forward(id, false, stdout.into()));
            }
            if let Some(stderr) = stderr {
                scope.spawn(move || self.forward(id, true, stderr.into()));
            }
            let ended = match child.wait() {
                // Whoever ended what another step had left has waited for it.
                Err(error) if error.raw_os_error() == Some(sys::rustix::io::Errno::CHILD.raw_os_error()) => Ok(()),
                result => result.map(|_| ()),
            };
            let cancelled = {
                let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
                let cancelled = steps.remove(&id) == Some(None);
                if self.has_no_process_namespace() {
                    // What a step that was killed has left is this process's now, and holds the pipes that are read here.
                    let steps: Vec<Pid> = steps.values().copied().flatten().collect();
                    sys::process::kill_children(&steps)?;
                }
                cancelled
            };
            ended.map(|()| cancelled)
        })
    }

    fn forward(&self, id: u64, is_error: bool, pipe: OwnedFd) {
        let mut pipe = fs::File::from(pipe);
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            self.reply(&Reply::Output { id, is_error, bytes: buffer[..length].to_vec() });
        }
    }
}
