//! How steps are isolated here: what may be possible, most wanted first. Whether it is, only the real calls tell
//! ([`super::start`]).

use std::process::{Command, Stdio};

use store::Flavour;

use super::mode::Mode;

/// How steps are isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    numbers: Numbers,
    /// Whether a step sees the processes of this place, which lets nobody mount a /proc anew.
    pub(super) binds_proc: bool,
}

/// Whose users and groups steps have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Numbers {
    /// The machine's: exact owners and devices.
    Machine,
    /// Those of the user namespace that this process is in already.
    Nested(String),
    /// Those of a user namespace of its own.
    Own(Mapping),
    /// Root alone, which is this process's user outside: in a user namespace of its own.
    One(Mapping),
    /// The machine's, without namespaces and mounts.
    Chroot,
    /// The same, in the root directory of this place.
    InPlace,
}

/// Which outer numbers stand for which inner ones: (inner, outer, count).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    users: Vec<(u32, u32, u32)>,
    groups: Vec<(u32, u32, u32)>,
    /// Whether this process may write them itself; else newuidmap and newgidmap do.
    may_write: bool,
    /// Whether this process has no right to groups, and must forbid them first (user_namespaces(7), setgroups).
    forbids_groups: bool,
}

/// Why commands cannot be run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("commands cannot be run here: {missing}")]
pub struct Refused {
    /// What is not there.
    pub missing: String,
    /// What to do about it.
    pub help: String,
}

impl Refused {
    fn new(missing: impl Into<String>, help: impl Into<String>) -> Self {
        Self { missing: missing.into(), help: help.into() }
    }
}

impl Isolation {
    /// What it is called.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (&self.numbers, self.binds_proc) {
            (Numbers::Machine, _) => Mode::Root,
            (Numbers::Chroot, _) => Mode::Chroot,
            (Numbers::InPlace, _) => Mode::InPlace,
            (Numbers::One(_), _) => Mode::UserSingle,
            (_, false) => Mode::User,
            (_, true) => Mode::UserBindProc,
        }
    }

    /// Trees made under this isolation.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        match &self.numbers {
            Numbers::Machine | Numbers::Chroot | Numbers::InPlace => Flavour::root(),
            Numbers::Nested(map) => Flavour::user(map),
            Numbers::Own(mapping) => Flavour::user(&format!("{:?}", mapping.users)),
            Numbers::One(mapping) => Flavour::user(&format!("one {:?}", mapping.users)),
        }
    }

    /// Whether steps are in a user namespace.
    pub(crate) fn is_user_namespace(&self) -> bool {
        matches!(self.numbers, Numbers::Nested(_) | Numbers::Own(_) | Numbers::One(_))
    }

    /// Whether that has root alone.
    pub(super) fn has_one_user(&self) -> bool {
        matches!(self.numbers, Numbers::One(_))
    }

    /// Whether nothing is mounted for steps: each is in a tree that holds everything.
    pub(crate) fn is_without_mounts(&self) -> bool {
        matches!(self.numbers, Numbers::Chroot | Numbers::InPlace)
    }

    /// Whether that tree is this place's root.
    pub(super) fn is_in_place(&self) -> bool {
        self.numbers == Numbers::InPlace
    }

    /// What a new user namespace is given, where there is to be one.
    pub(super) fn mapping(&self) -> Option<&Mapping> {
        match &self.numbers {
            Numbers::Own(mapping) | Numbers::One(mapping) => Some(mapping),
            Numbers::Machine | Numbers::Nested(_) | Numbers::Chroot | Numbers::InPlace => None,
        }
    }
}

/// The whole range of numbers, as the first namespace has it.
const WHOLE: u32 = u32::MAX;

/// What may be possible here, most wanted first, and what stands in the way of the rest.
pub(super) fn candidates() -> (Vec<Isolation>, Vec<(Mode, Refused)>) {
    let own = ranges("/proc/self/uid_map");
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    let mut offer = |numbers: Numbers| {
        let isolation = Isolation { numbers: numbers.clone(), binds_proc: false };
        let in_user_namespace = isolation.is_user_namespace();
        found.push(isolation);
        if in_user_namespace {
            found.push(Isolation { numbers, binds_proc: true });
        }
    };
    let is_first = own == [(0, 0, WHOLE)];
    if sys::privilege::is_admin() {
        match is_first {
            true => offer(Numbers::Machine),
            false => offer(Numbers::Nested(format!("{own:?}"))),
        }
    }
    if !sys::privilege::is_admin() || !is_first {
        let missing = "CAP_SYS_ADMIN is not among the capabilities of this process, or it is in a user namespace";
        let help =
            "run as root on the machine, or give the container `securityContext: {capabilities: {add: [SYS_ADMIN]}}`";
        refused.push((Mode::Root, Refused::new(missing, help)));
    }
    match can_make_user_namespace() {
        true => {
            match mapping(&own) {
                Ok(mapping) => offer(Numbers::Own(mapping)),
                Err(why) => refused.push((Mode::User, why)),
            }
            offer(Numbers::One(one()));
        }
        false => {
            let why = Refused::new(
                "user namespaces cannot be made: they are switched off, or a seccomp or AppArmor profile forbids them",
                "allow them (`securityContext: {seccompProfile: {type: Unconfined}}` for a pod, `--security-opt \
                 seccomp=unconfined` for docker), or run as root; builds without RUN need neither",
            );
            refused.push((Mode::User, why));
        }
    }
    match in_place() {
        Ok(()) => offer(Numbers::InPlace),
        Err(why) => refused.push((Mode::InPlace, why)),
    }
    match sys::privilege::may_chroot() {
        true => offer(Numbers::Chroot),
        false => refused.push((
            Mode::Chroot,
            Refused::new(
                "this is no root that may change the root, make devices and own files (CAP_SYS_CHROOT, MKNOD, CHOWN, \
                 DAC_OVERRIDE, FOWNER, SETUID, SETGID, SETPCAP and KILL)",
                "run the container as root with Docker's own capabilities: no `drop: [ALL]`, no `runAsNonRoot`; where the \
                 engine gives fewer, add those",
            ),
        )),
    }
    (found, refused)
}

/// Whether the root of this place may be changed.
fn in_place() -> Result<(), Refused> {
    if !is_container() {
        let missing = "it changes the root directory of the place it is in, and this is no container";
        return Err(Refused::new(missing, "run Plywood in a container that is thrown away"));
    }
    match sys::privilege::may_own() {
        true => Ok(()),
        false => Err(Refused::new(
            "this is no root that may own files and become other users (CAP_CHOWN, DAC_OVERRIDE, FOWNER, SETUID, SETGID, \
             SETPCAP and KILL)",
            "run the container as root with Docker's own capabilities: no `drop: [ALL]`, no `runAsNonRoot`",
        )),
    }
}

/// Whether this is Plywood's own image, whose root directory is for builds to change.
pub(super) fn is_own_image() -> bool {
    std::path::Path::new(MARKER).exists()
}

/// In Plywood's own image alone (host/cli/image/Dockerfile).
const MARKER: &str = "/kaniko/.plywood";

/// What is kept in Plywood's own image.
pub(super) const OWN_IMAGE: &str = "/kaniko";

/// The numbers that a user namespace of this process's can have.
fn mapping(own: &[(u32, u32, u32)]) -> Result<Mapping, Refused> {
    if sys::privilege::may_map() {
        // Those of this process's own namespace, each as itself.
        let same =
            |ranges: &[(u32, u32, u32)]| ranges.iter().map(|(inner, _, count)| (*inner, *inner, *count)).collect();
        let groups = ranges("/proc/self/gid_map");
        return Ok(Mapping { users: same(own), groups: same(&groups), may_write: true, forbids_groups: false });
    }
    let uid = sys::rustix::process::geteuid().as_raw();
    let gid = sys::rustix::process::getegid().as_raw();
    let name = user_name(uid);
    let range = |file: &str| subordinate(file, uid, &name);
    let (Some(users), Some(groups)) = (range("/etc/subuid"), range("/etc/subgid")) else {
        return Err(Refused::new(
            format!("{name} has no range of subordinate users in /etc/subuid and /etc/subgid"),
            format!(
                "let an administrator run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
            ),
        ));
    };
    for program in ["newuidmap", "newgidmap"] {
        let found = Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err(Refused::new(
                format!("{program} is not installed, which gives a user namespace its subuid range"),
                "install the package uidmap (Debian) or shadow-utils (Fedora)",
            ));
        }
    }
    Ok(Mapping {
        users: vec![(0, uid, 1), (1, users.0, users.1)],
        groups: vec![(0, gid, 1), (1, groups.0, groups.1)],
        may_write: false,
        forbids_groups: false,
    })
}

/// This process's user as the only one.
fn one() -> Mapping {
    let uid = sys::rustix::process::geteuid().as_raw();
    let gid = sys::rustix::process::getegid().as_raw();
    Mapping { users: vec![(0, uid, 1)], groups: vec![(0, gid, 1)], may_write: true, forbids_groups: true }
}

/// Whether this place is a container: its root is an overlay, or an engine has left its mark.
pub(super) fn is_container() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the fifth field is where, the first behind the dash what.
    let is_root = |line: &&str| line.split(' ').nth(4) == Some("/");
    let root = mounts.lines().rfind(is_root).and_then(|line| line.split_once(" - "));
    let is_overlay = root.is_some_and(|(_, what)| what.starts_with("overlay ") || what.starts_with("fuse"));
    is_overlay || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| std::path::Path::new(mark).exists())
}

/// The ranges of a file like /proc/self/uid_map (user_namespaces(7)).
fn ranges(path: &str) -> Vec<(u32, u32, u32)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let range = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?))
    };
    text.lines().filter_map(range).collect()
}

/// Tries it, by this program's own call in a process of its own.
fn can_make_user_namespace() -> bool {
    let Ok(own) = std::env::current_exe() else { return false };
    let mut command = Command::new(own);
    std::os::unix::process::CommandExt::arg0(&mut command, super::WORKER);
    command.arg("probe").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let row = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = row.into_iter().find(|row| row.get(2).and_then(|field| field.parse().ok()) == Some(uid));
    own.and_then(|row| row.first().map(|name| (*name).to_owned())).unwrap_or_else(|| uid.to_string())
}

/// The first range of a user in a file like /etc/subuid (subuid(5)).
fn subordinate(file: &str, uid: u32, name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (owner == name || owner == uid.to_string()).then_some((start, count))
    })
}

/// Gives a process in a new user namespace its numbers.
pub(super) fn map(pid: u32, mapping: &Mapping) -> Result<(), String> {
    if mapping.forbids_groups {
        let path = format!("/proc/{pid}/setgroups");
        std::fs::write(&path, "deny").map_err(|error| format!("{path}: {error}"))?;
    }
    for (file, program, ranges) in [("uid_map", "newuidmap", &mapping.users), ("gid_map", "newgidmap", &mapping.groups)]
    {
        let fields: Vec<[String; 3]> =
            ranges.iter().map(|(inner, outer, count)| [inner, outer, count].map(u32::to_string)).collect();
        if mapping.may_write {
            let lines: String = fields.iter().map(|fields| fields.join(" ") + "\n").collect();
            let path = format!("/proc/{pid}/{file}");
            // In one write (user_namespaces(7)).
            std::fs::write(&path, lines).map_err(|error| format!("{path}: {error}"))?;
            continue;
        }
        let mut command = Command::new(program);
        command.arg(pid.to_string()).args(fields.iter().flatten()).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("{program}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

/// Why no way works, in the words of the one that is most worth having.
pub(super) fn refusal(wish: Option<Mode>, tried: &[super::Tried]) -> Refused {
    let of = |tried: &super::Tried| tried.refused.clone().map(|refused| (tried.mode, refused));
    let mut refusals: Vec<(Mode, Refused)> = tried.iter().filter_map(of).collect();
    if let Some(wish) = wish {
        let is_of_user = |mode| matches!(mode, Mode::User | Mode::UserBindProc | Mode::UserSingle);
        // What stands in the way of all user namespaces is told once.
        let is_told = refusals.iter().any(|(mode, _)| *mode == wish);
        refusals.retain(|(mode, _)| *mode == wish || !is_told && is_of_user(wish) && *mode == Mode::User);
    }
    // What a user namespace lacks is mended more easily than that this is not the machine's root.
    let Some((_, Refused { help, .. })) = refusals.last().cloned() else {
        return Refused::new("no way to isolate them is known here", "`plywood doctor` says what this place allows");
    };
    let told: Vec<String> = refusals.iter().map(|(mode, refused)| format!("{mode}: {}", refused.missing)).collect();
    Refused::new(told.join("; "), help)
}

/// What to do about a way of isolation that has not gone well, by what the step's process said.
pub(super) fn advice(reason: &str) -> String {
    let says = |words: &str| reason.contains(words);
    if says("mounting /proc") {
        "let the container see all of /proc (`procMount: Unmasked` with `hostUsers: false` for a pod, `--security-opt \
         systempaths=unconfined` for docker)"
    } else if says("Read-only file system") {
        "let the container write its root file system: no `readOnlyRootFilesystem: true`, no `--read-only`"
    } else if says("changing the root: ") {
        "a seccomp profile forbids pivot_root(2): run the container without one (`seccompProfile: {type: Unconfined}` for a \
         pod, `--security-opt seccomp=unconfined` for docker)"
    } else if says("mounting the root file system") {
        "put the store on a volume (`--root`, an emptyDir of a pod): an overlay cannot stand on an overlay; or an AppArmor \
         profile forbids mounting"
    } else {
        "a security module of this machine may forbid it; `plywood doctor` shows what else works here"
    }
    .to_owned()
}
