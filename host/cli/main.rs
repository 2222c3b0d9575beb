//! The door: what was typed becomes a request, what happens becomes lines, what goes wrong becomes words and an exit code.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    reason = "the documentation of an argument is its help text, and is written for a terminal"
)]

mod args;
mod builtins;
mod commands;
mod config;
mod plugins;
mod render;
mod report;
mod request;
mod session;
mod surroundings;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before any thread exists: the worker enters namespaces, and the step forks.
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let name = words.next().unwrap_or_default();
    if name == build::worker::WORKER {
        return exit(build::worker::main(&words.collect::<Vec<_>>()));
    }
    if name == build::worker::STEP {
        return exit(build::worker::step());
    }
    let args = args::Args::parse_from(called_by(&name, std::env::args_os()));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Trees are walked folder by folder, and a path has up to two thousand.
    let runtime = match builder.enable_all().thread_stack_size(16 << 20).build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&anyhow::anyhow!("starting: {error}"), None),
    };
    let code = runtime.block_on(async {
        tokio::select! {
            code = commands::run(args) => code,
            signal = interrupted() => report::interrupted(signal),
        }
    });
    // Nothing waits for what is still under way: it was told to stop when its future was dropped. Its threads end with the
    // process; to let go of them one by one is not safe where they end in that moment (glibc bug 19951).
    std::mem::forget(runtime);
    code
}

/// The command line with the command that the program's name stands for, as pipelines made for kaniko call it.
fn called_by(name: &str, words: std::env::ArgsOs) -> Vec<std::ffi::OsString> {
    let command = match std::path::Path::new(name).file_name().and_then(|name| name.to_str()) {
        Some(command @ ("executor" | "warmer")) => command,
        _ => return words.collect(),
    };
    ["plywood", command].into_iter().map(Into::into).chain(words.skip(1)).collect()
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Waits for the user, or the machine, to have had enough; gives the signal's number.
async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    }
}
