//! The host of plugins: loads components, calls them within limits, and answers what they ask for as far as it is
//! granted. No type of the component runtime leaves this room.
//!
//! Each call gets a fresh store, so no call sees what another left behind and a trap spoils nothing else. What a plugin
//! may ask for beyond its arguments are the traits in [`imports`], which rooms above implement.

mod bindings;
mod compiled;
mod convert;
mod engine;
mod failure;
pub mod grant;
pub mod imports;
mod state;
mod worlds;

pub use engine::{Engine, Limits, Loaded};
pub use failure::{Error, Failure, Identity};
pub use grant::{Grants, Refusal};
pub use worlds::{
    Access, CachePolicy, Credential, CredentialGrant, CredentialHelper, CredentialRequest, Instructions, Kind,
    Lowering, Scope,
};
