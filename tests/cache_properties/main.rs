//! What a cache must never do, and what it must not fail to do: a hit gives the image that running would have given, every
//! input counts, nothing else does, and what has gone wrong in other builders does not go wrong here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "../support/mod.rs"]
mod support;

mod recipe;
mod rows;
mod scene;

mod hits;
mod inputs;
mod replays;
