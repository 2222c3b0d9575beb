//! Cache keys from components and a policy's edits, what is found under them in the store, and where else entries are
//! kept.

mod backend;
mod bucket;
mod collect;
mod entry;
mod image_cache;
mod key;
mod layer_index;
mod lookup;
mod mount;
mod object_cache;
mod registry_cache;
mod store_cache;

pub use backend::{Backend, Blob, Document, Error as BackendError, Named, NewBlob, NewDocument, Place, name, open};
pub use bucket::Bucket;
pub use collect::{Freed, Held, Holding, Keep, collect, holding};
pub use entry::{Entry, Kept, NewEntry, Wanted, find, put};
pub use image_cache::{INLINE, InlineEntry};
pub use key::{EditError, Keys};
pub use layer_index::{find_index, put_index};
pub use lookup::{Found, Miss, look_up, named, record};
pub use mount::{Head as MountHead, MountKey, Saved as SavedMount, latest_mount, put_mount};
