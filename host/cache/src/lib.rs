//! Cache keys from components and a policy's edits, and what is found under them.

mod key;
mod lookup;

pub use key::{EditError, Keys};
pub use lookup::{Found, look_up, record};
