//! The distribution client: pull, push, mount, and who the user is (distribution-spec 1.1).
//!
//! A registry is asked once how it wants to be talked to; tokens are kept by scope; what credentials there are is the
//! business of a [`Credentials`] from above. Every blob is checked against its digest while it passes.

mod auth;
mod catalog;
mod client;
mod error;
mod pull;
mod push;
mod transport;
mod web;

pub use auth::{Access, CredentialError, Credentials, Identity, IdentityRequest, Known, Later, Scope};
pub use client::{Client, Settings};
pub use error::Error;
pub use pull::{BlobStream, Resolved};
pub use push::{BlobSource, Bytes, Pushed};
pub use transport::Reached;
pub use web::{Answer, Web, WebError};
