//! Making room in the store.

use store::{Collected, Limits, Lock, Store};

use crate::error::Error;
use crate::worker;

/// Takes from the store what `limits` does not keep, or says what would go. `alone` is the lock of whoever has the store for
/// itself.
///
/// # Errors
/// When something cannot be taken away.
pub async fn collect(store: &Store, limits: Limits, dry_run: bool, alone: &Lock) -> Result<Collected, Error> {
    let mut collected = store.collect(limits, dry_run, alone)?;
    let Some(path) = collected.scratch.as_ref().map(|scratch| scratch.path().to_owned()) else { return Ok(collected) };
    drop(collected.scratch.take());
    // Files of a user namespace are others' outside of it.
    if path.exists() {
        let failed = |reason: String| Error::Request(format!("{}: {reason}", path.display()));
        let (worker, _) = worker::start(store.root(), &worker::Wish::default())
            .await
            .map_err(|refused| failed(refused.to_string()))?;
        worker.sweep(store).await.map_err(failed)?;
    }
    Ok(collected)
}
