//! How steps are isolated here: chosen by trying the real calls in a process that is thrown away.

use std::fmt;
use std::process::{Command, Stdio};

use store::Flavour;

/// How steps are isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As the machine's root: exact owners and devices.
    Root,
    /// As root of a user namespace that this process is in already.
    Nested(String),
    /// As root of a user namespace of its own, with a range of subordinate numbers.
    User(Mapping),
}

/// Which outer numbers stand for which inner ones: (inner, outer, count).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Of users.
    pub users: Vec<(u32, u32, u32)>,
    /// Of groups.
    pub groups: Vec<(u32, u32, u32)>,
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

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "ns-root",
            Self::Nested(_) | Self::User(_) => "ns-user",
        })
    }
}

impl Isolation {
    /// Trees made under this isolation.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        match self {
            Self::Root => Flavour::root(),
            Self::Nested(map) => Flavour::user(map),
            Self::User(mapping) => Flavour::user(&format!("{:?}", mapping.users)),
        }
    }

    pub(super) fn is_user_namespace(&self) -> bool {
        *self != Self::Root
    }
}

/// The whole range of numbers, as the first namespace has it.
const WHOLE: u64 = 4_294_967_295;

/// Finds out how steps can be isolated.
///
/// # Errors
/// With what is missing, and what to do about it.
pub fn probe() -> Result<Isolation, Refused> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<u64> = map.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    if sys::privilege::is_admin() {
        let normal = map.split_whitespace().collect::<Vec<_>>().join(" ");
        return Ok(if fields == [0, 0, WHOLE] { Isolation::Root } else { Isolation::Nested(normal) });
    }
    let uid = sys::rustix::process::geteuid().as_raw();
    let gid = sys::rustix::process::getegid().as_raw();
    if uid == 0 {
        return Err(Refused {
            missing: "this is root without CAP_SYS_ADMIN, which namespaces and mounts need".into(),
            help: "give the container CAP_SYS_ADMIN, or run as a user with a subuid range; builds without RUN need neither"
                .into(),
        });
    }
    if !can_make_user_namespace() {
        return Err(Refused {
            missing:
                "user namespaces cannot be made (they are switched off, or a seccomp or AppArmor profile forbids them)"
                    .into(),
            help: "allow them, or run as root; builds without RUN need neither".into(),
        });
    }
    let name = user_name(uid);
    let range = |file: &str| subordinate(file, uid, &name);
    let (Some(users), Some(groups)) = (range("/etc/subuid"), range("/etc/subgid")) else {
        return Err(Refused {
            missing: format!("{name} has no range of subordinate users in /etc/subuid and /etc/subgid"),
            help: format!(
                "let an administrator run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
            ),
        });
    };
    for program in ["newuidmap", "newgidmap"] {
        let found = Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err(Refused {
                missing: format!("{program} is not installed, which gives a user namespace its subuid range"),
                help: "install the package uidmap (Debian) or shadow-utils (Fedora)".into(),
            });
        }
    }
    Ok(Isolation::User(Mapping {
        users: vec![(0, uid, 1), (1, users.0, users.1)],
        groups: vec![(0, gid, 1), (1, groups.0, groups.1)],
    }))
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
    for (program, ranges) in [("newuidmap", &mapping.users), ("newgidmap", &mapping.groups)] {
        let mut command = Command::new(program);
        command.arg(pid.to_string());
        for (inner, outer, count) in ranges {
            command.args([inner.to_string(), outer.to_string(), count.to_string()]);
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}
