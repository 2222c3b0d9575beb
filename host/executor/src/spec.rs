//! What is to be run, as the worker tells the step's process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A command and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Trees that make the root file system, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// Overlayfs's own; fresh for each step.
    pub work: PathBuf,
    /// An empty folder on which everything is mounted.
    pub root: PathBuf,
    /// Where the outcome is written.
    pub outcome: PathBuf,
    /// The worker's process, with which the step dies.
    pub worker: u32,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Made if it is not there.
    pub working_dir: String,
    /// Mounted in this order.
    pub mounts: Vec<Mount>,
    /// Which network it sees.
    pub network: Network,
    /// Whether this is a user namespace: devices and /sys are the outer ones, overlay attributes `user.`.
    pub user_namespace: bool,
    /// Lines for /etc/hosts beyond the usual.
    pub hosts: String,
    /// For /etc/resolv.conf.
    pub resolv_conf: Vec<u8>,
}

/// Something mounted for the command.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, in the new root.
    pub target: String,
    /// What it is.
    pub kind: MountKind,
}

/// Kinds of mounts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path in a stack of trees, topmost first; what is written to it is thrown away, or it is read-only.
    Trees {
        /// The trees.
        lowers: Vec<PathBuf>,
        /// The path in them.
        source: String,
        /// Upper and work folders, if it can be written.
        writable: Option<(PathBuf, PathBuf)>,
    },
    /// A folder of the machine's.
    Folder {
        /// Which.
        path: PathBuf,
        /// Whether it cannot be written.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// In bytes.
        size: Option<u64>,
    },
    /// A file that is nowhere on disk.
    File {
        /// The bytes.
        content: Vec<u8>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
    },
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content of a file may be a secret.
        write!(f, "Mount({})", self.target)
    }
}

/// Which network a command sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The machine's.
    Host,
    /// A loopback of its own.
    None,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What happened.
    pub result: Result<Exit, String>,
    /// Paths in the root that were made to mount on and were not there before, deepest last.
    pub stubs: Vec<String>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}
