//! Runs one process in a root file system: namespaces, mounts, pivot_root, privileges given up, then the command.
//!
//! A step is this program executed once more, which has one thread and may therefore fork: it makes namespaces, and its
//! child, process 1 of the new process namespace, makes the root file system and becomes the command. When any process
//! above dies, the kernel kills what is below. Where there are no namespaces, what a step is given is put into its tree and
//! taken out again ([`cover`]), and what it leaves running is ended one by one.

pub mod cgroup;
pub mod cover;
pub mod emulation;
mod init;
pub mod limits;
mod owners;
mod rootfs;
pub mod spec;
pub mod step;
pub mod user;

pub use spec::{Limit, Mount, MountKind, Network, Outcome, Resources, Spec, Surroundings};

/// The name under which this program runs a step.
pub const STEP: &str = "plywood-step";
