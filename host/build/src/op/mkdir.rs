//! What WORKDIR does: a folder and the parents that it lacks.

use oci::tree::{Time, Tree};
use plan::op::MkdirOp;

use super::owner::Owner;
use super::{Planned, View};

/// Plans the layer. It may be empty: the folder may be there.
///
/// # Errors
/// In words, when something else is in its place.
pub(crate) fn plan(op: &MkdirOp, owner: Owner, base: &Tree, now: Time) -> Result<Vec<Planned>, String> {
    let mut view = View::new(base);
    let path = view.resolve(op.path.as_bytes()).map_err(|error| error.to_string())?;
    view.make_dirs(&path, op.mode, owner, now)
        .map_err(|at| format!("cannot make the directory {}: /{} is no directory", op.path, super::copy::show(&at)))?;
    Ok(view.finish())
}
