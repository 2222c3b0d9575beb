//! The worker: the process in which trees are unpacked, mounted, changed and read.
//!
//! It is this program executed once more, before any thread exists, since a process with threads can enter no user
//! namespace. It is started on the first step that needs it, and dies with the build.

mod client;
mod mode;
mod protocol;
mod server;
mod setup;

pub use client::Worker;
pub use executor::STEP;
pub use executor::step::main as step;
pub use mode::Mode;
pub use protocol::{Exit, RunRequest, Seed};
pub use server::main;
pub use setup::{Isolation, Refused};

use std::path::{Path, PathBuf};

use protocol::InPlace;

/// What a worker is started for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// How its steps are isolated, where that is for the user to say.
    pub mode: Option<Mode>,
    /// What must stay as it is should they run in this place's root: what the build reads and keeps.
    pub kept: Vec<PathBuf>,
    /// What of that no step may change: the folders of its contexts.
    pub read: Vec<PathBuf>,
}

/// What came of trying one way to isolate steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The way.
    pub mode: Mode,
    /// Why it cannot be gone; none: it can.
    pub refused: Option<Refused>,
}

/// Tries every way to isolate steps, by the calls that a step makes.
pub async fn survey(store: &Path) -> Vec<Tried> {
    let mut tried = Vec::new();
    start_each(store, &Wish::default(), &mut tried, false).await;
    tried
}

/// Starts a worker whose steps are isolated in the first way that works here.
///
/// # Errors
/// With what is missing, and what to do about it.
pub async fn start(store: &Path, wish: &Wish) -> Result<(Worker, Isolation), Refused> {
    let mut tried = Vec::new();
    match start_each(store, wish, &mut tried, true).await {
        Some(started) => Ok(started),
        None => Err(setup::refusal(wish.mode, &tried)),
    }
}

async fn start_each(store: &Path, wish: &Wish, tried: &mut Vec<Tried>, first: bool) -> Option<(Worker, Isolation)> {
    let (candidates, refused) = setup::candidates();
    tried.extend(refused.into_iter().map(|(mode, refused)| Tried { mode, refused: Some(refused) }));
    let mut started = None;
    for isolation in candidates {
        let mode = isolation.mode();
        let is_known = tried.iter().any(|tried| tried.mode == mode && tried.refused.is_none());
        if wish.mode.is_some_and(|wish| wish != mode) || is_known {
            continue;
        }
        // What no one has asked for.
        let only_in = match mode {
            Mode::Chroot if !setup::is_container() => Some("containers, which are thrown away"),
            Mode::InPlace if !setup::is_own_image() => Some("Plywood's own image"),
            _ => None,
        };
        if let Some(only_in) = only_in.filter(|_| first && wish.mode.is_none()) {
            let missing = format!("it is chosen by itself only in {only_in}");
            tried.push(Tried { mode, refused: Some(Refused { missing, help: format!("give --isolation={mode}") }) });
            continue;
        }
        match start_one(store, &isolation, wish).await {
            Ok(worker) => {
                tried.retain(|tried| tried.mode != mode);
                tried.push(Tried { mode, refused: None });
                started = started.or(Some((worker, isolation)));
                if first {
                    break;
                }
            }
            Err(missing) => {
                let help = setup::advice(&missing);
                // Of one way with two forms the later one asks for less.
                tried.retain(|tried| tried.mode != mode);
                tried.push(Tried { mode, refused: Some(Refused { missing, help }) });
            }
        }
    }
    started
}

async fn start_one(store: &Path, isolation: &Isolation, wish: &Wish) -> Result<Worker, String> {
    let (store, isolation, mut kept) = (store.to_owned(), isolation.clone(), wish.kept.clone());
    kept.push(store.clone());
    kept.extend(std::env::current_exe());
    if setup::is_own_image() {
        kept.push(setup::OWN_IMAGE.into());
    }
    let in_place = InPlace { kept, read: wish.read.clone(), may_step_aside: wish.mode.is_none() };
    let started = tokio::task::spawn_blocking(move || Worker::start(&store, &isolation, in_place)).await;
    let worker = started.map_err(|error| error.to_string())??;
    worker.probe().await?;
    Ok(worker)
}

/// The name under which this program is a worker.
pub const WORKER: &str = "plywood-worker";
