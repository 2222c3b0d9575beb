//! Linux, as the rooms above need it: opening paths beneath a root, mounting, forking, giving up privilege.
//!
//! The only crate with `unsafe` in it; each site says why it is sound. It imports nothing of ours.

#![expect(unsafe_code, reason = "this is where the system calls without a safe wrapper are made")]

pub mod mount;
pub mod names;
pub mod network;
pub mod owner;
pub mod privilege;
pub mod process;
pub mod remove;
pub mod root;
pub mod seccomp;
pub mod xattr;

pub use root::Root;
pub use rustix;
