//! What a registry, or the way to it, can do wrong.

use oci::{Digest, Reference};

use crate::auth::CredentialError;

/// Why a registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The way there.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The registry refuses, and says so.
    #[error("{registry} answered {status} to {what}{}", detail(.message))]
    Status {
        /// Host and port.
        registry: String,
        /// `404 Not Found`.
        status: u16,
        /// What was asked.
        what: String,
        /// Its own words.
        message: String,
    },
    /// No such manifest or blob.
    #[error("{0} is not there")]
    NotFound(String),
    /// The user is not who may do this.
    #[error("{registry} does not let {who} {what}{}", detail(.message))]
    Denied {
        /// Host and port.
        registry: String,
        /// `an anonymous user`, or `the user that ... gave`.
        who: String,
        /// `pull team/app`.
        what: String,
        /// Its own words.
        message: String,
    },
    /// Credentials could not be had.
    #[error("credentials for {registry}: {source}")]
    Credentials {
        /// Host and port.
        registry: String,
        /// Why.
        source: CredentialError,
    },
    /// What came is not what was asked for.
    #[error("{registry} sent {got} where {expected} was asked for")]
    Mismatch {
        /// Host and port.
        registry: String,
        /// What should have come.
        expected: Digest,
        /// What came: a digest, or a size.
        got: String,
    },
    /// A document that makes no sense.
    #[error("{0} is no manifest or index that can be read: {1}")]
    Malformed(String, String),
    /// Nothing in an index fits.
    #[error("{reference} has no image for {wanted}; it has {available}")]
    NoPlatform {
        /// The index.
        reference: Box<Reference>,
        /// What was wanted.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The source of an upload failed.
    #[error("reading what is to be pushed: {0}")]
    Source(#[source] std::io::Error),
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
