//! What the fuzz targets share.

pub mod glob;
pub mod language;
pub mod memory;
pub mod packed;
