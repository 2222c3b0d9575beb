//! What is kept on disk: blobs and the images they make, layer indexes and trees, cache records, cache mounts.
//!
//! ```text
//! <root>/                      mode 0700
//!   blobs/                     an OCI image layout: oci-layout, index.json (tags), blobs/sha256/<hex>
//!   indexes/<diff ID>.layer    what a layer changes, encoded by `snapshot`
//!   indexes/<diff ID>.json     the blobs that hold it, by compression
//!   layers/<flavour>/<diff ID>/fs   a layer unpacked, whiteouts converted; `boot` beside it names the boot
//!   cache/<key>.json           what a step gave
//!   builds/<project>.json      what the latest build of a project did
//!   listings/<component>       which files a key component stands for
//!   mounts/<id>/               cache mounts
//!   web/<address>.json         what a server has said of a file
//!   locks/                     one file a lock
//!   tmp/<process>-<n>/         half-made things; a folder without its lock is debris
//! ```
//!
//! State changes by writing aside, syncing where loss would corrupt, and renaming: several processes may use one store,
//! and one killed at any point leaves nothing half-made in its place.

mod blob;
mod build;
mod collect;
mod error;
mod image;
mod layer;
mod layout;
mod lock;
mod record;
mod scratch;
mod stamps;
mod usage;
mod web;

pub use blob::BlobWriter;
pub use collect::{Collected, Limits};
pub use error::Error;
pub use image::Tagged;
pub use layer::Variant;
pub use layout::{Flavour, Store};
pub use lock::Lock;
pub use record::Record;
pub use scratch::Scratch;
pub use usage::{Disk, Item, Kind, Usage};
