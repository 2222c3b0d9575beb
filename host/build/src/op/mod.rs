//! What each kind of step does: one file a kind.

pub(crate) mod copy;
pub(crate) mod mkdir;
pub(crate) mod mode;
pub(crate) mod owner;
mod view;

pub(crate) use view::{Planned, View};
