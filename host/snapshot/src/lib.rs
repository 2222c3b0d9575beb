//! The bytes of file-system trees: layers read, indexed, unpacked, made from a step's changes or from copied files.
//!
//! A layer's *index* is made once, while its bytes pass: it is the truth for owner, mode and device numbers, whatever
//! the tree on disk can hold. Layers that this crate writes are deterministic: sorted, with fixed headers.

pub mod apply;
pub mod assemble;
pub mod compress;
pub mod diff;
mod error;
pub mod index;
pub mod read;
mod write;

pub use error::Error;
pub use write::LayerWriter;
