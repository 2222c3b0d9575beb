//! Caches in a registry under trouble: builds side by side of which some are killed, and registries that break.
//!
//! Whatever goes wrong with a cache, the build ends well and the image is right. Whatever goes wrong with the image
//! itself or its base, the build ends well or says why it cannot. Nothing hangs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "../support/mod.rs"]
mod support;

mod proxy;
mod scene;

mod at_once;
mod images;
mod reads;
mod writes;
