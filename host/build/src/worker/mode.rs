//! The ways to isolate steps: what they are called, and what a step can and cannot do.

use std::fmt;
use std::str::FromStr;

/// The name of a way to isolate steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In namespaces, as the machine's root.
    Root,
    /// In namespaces, as root of a user namespace.
    User,
    /// The same, with this place's /proc and processes in sight.
    UserBindProc,
    /// In namespaces, as root of a user namespace that has no other user.
    UserSingle,
    /// Without namespaces and mounts: the root is changed to a tree that holds everything.
    Chroot,
    /// In the root directory of a container that is thrown away, as kaniko does it.
    InPlace,
}

impl Mode {
    /// All, most wanted first.
    pub const ALL: [Self; 6] =
        [Self::Root, Self::User, Self::UserBindProc, Self::UserSingle, Self::Chroot, Self::InPlace];

    /// What a step can and cannot do.
    #[must_use]
    pub fn guarantee(self) -> &'static str {
        match self {
            Self::Root => "files, processes and devices of its own; owners are exact",
            Self::User => "files and processes of its own; owners are exact; device nodes are in the image alone",
            Self::UserBindProc => {
                "files of its own; owners are exact; it sees the processes of this place, and can end those of its user"
            }
            Self::UserSingle => {
                "files of its own; owners are only written down, for the image: a command sees root's files alone, and who \
                 becomes another user stays root; it may see the processes of this place, and end those of its user"
            }
            Self::Chroot => {
                "a root directory of its own, without /proc and /sys; owners are exact; nothing else keeps it from this \
                 place's processes and network"
            }
            Self::InPlace => {
                "the container's own root directory, with its /proc and devices; owners are exact; a command run as root can \
                 read and change all that the container has, credentials that are mounted there included"
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "ns-root",
            Self::User => "ns-user",
            Self::UserBindProc => "ns-user-bindproc",
            Self::UserSingle => "ns-user-single",
            Self::Chroot => "chroot",
            Self::InPlace => "inplace",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|mode| mode.to_string() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(|mode| mode.to_string()).join(", ");
            format!("`{text}` is none of {names}")
        })
    }
}
