//! Cache keys from components and a policy's edits, what is found under them in the store, and where else entries are
//! kept.

mod backend;
mod folder_cache;
mod key;
mod lookup;
mod registry_cache;

pub use backend::{Backend, Blob, Entry, Error as BackendError, Export, Kept, Mode, NewEntry, Place, Wanted, open};
pub use key::{EditError, Keys};
pub use lookup::{Found, Miss, look_up, named, record};
