//! The worker: the process in which trees are unpacked, mounted, changed and read.
//!
//! It is this program executed once more, before any thread exists, since a process with threads can enter no user
//! namespace. It is started on the first step that needs it, and dies with the build.

mod client;
mod protocol;
mod server;
mod setup;

pub use client::Worker;
pub use executor::STEP;
pub use executor::step::main as step;
pub use protocol::{Exit, RunRequest, Seed};
pub use server::main;
pub use setup::{Isolation, Refused, probe};

/// The name under which this program is a worker.
pub const WORKER: &str = "plywood-worker";
