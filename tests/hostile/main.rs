//! Hostile input: base images, contexts and documents made to reach outside, to crash, to hang or to fill the memory.
//!
//! Each test is one attack with real artefacts on the real program. Whatever it is, nothing outside is read or written,
//! and the program ends soon, in bounded memory, with an image that is right or an error that says what is wrong:
//! `scene` holds every build to that, so that a test says no more than what the attack is and how it must end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "../support/mod.rs"]
mod support;

mod artefacts;
mod scene;

mod archives;
mod bombs;
mod contexts;
mod documents;
mod layers;
mod outputs;
mod steps;
mod whiteouts;
