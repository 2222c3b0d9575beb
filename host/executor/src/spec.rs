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
    /// Program and arguments; none: it is only tried whether everything can be made for them.
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
    /// Every capability, every system call, nothing masked.
    pub privileged: bool,
    /// Whether this is a user namespace: devices and /sys are the outer ones, overlay attributes `user.`.
    pub user_namespace: bool,
    /// Whether `upper` is the whole root file system, entered by chroot(2) if it is not this place's, and there are no
    /// namespaces.
    pub without_mounts: bool,
    /// Whether /proc is this place's, with its processes, which lets nobody mount another.
    pub binds_proc: bool,
    /// Whether the user namespace has root alone: owners are written down, and who becomes another user stays root.
    pub one_user: bool,
    /// For /etc/resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// What the user has asked for, for every command of the build.
    pub surroundings: Surroundings,
}

/// What the user asks for, for every command of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// Names and addresses for /etc/hosts, beyond the usual.
    pub hosts: Vec<(String, String)>,
    /// Whether commands have fewer rights than containers give, and get none back by set-user-ID programs.
    pub is_strict: bool,
    /// The host name; none: `plywood`.
    pub host_name: Option<String>,
    /// Size of /dev/shm in bytes; none: 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits of each process.
    pub limits: Vec<Limit>,
    /// Limits of all processes together.
    pub resources: Resources,
}

/// A limit of setrlimit(2); none is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// As the shell's and Docker's `--ulimit` call it: `nofile`.
    pub name: String,
    /// What is in force.
    pub soft: Option<u64>,
    /// Up to which a process may raise it.
    pub hard: Option<u64>,
}

/// What a control group limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// The group in which the step's own is made; none: this process's.
    pub parent: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// Relative weight, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of each period.
    pub cpu_quota: Option<u64>,
    /// Processors: `0-2,4`.
    pub cpus: Option<String>,
    /// Memory nodes: `0`.
    pub memory_nodes: Option<String>,
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
    /// A socket of the machine's, given an owner; for the step alone.
    Socket {
        /// Where it is.
        path: PathBuf,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
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
    /// Who the command ran as, by number and group; root if it came to none.
    pub user: (u32, u32),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}
