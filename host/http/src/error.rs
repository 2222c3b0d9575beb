//! What can go wrong before there is an answer.

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made.
    #[error("HTTP client: {0}")]
    Setup(String),
    /// The server was not reached.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// Without secrets.
        url: String,
        /// The last cause.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("no answer from {url} in time")]
    Timeout {
        /// Without secrets.
        url: String,
    },
    /// The exchange broke off.
    #[error("the exchange with {url} broke off: {reason}")]
    Broken {
        /// Without secrets.
        url: String,
        /// The last cause.
        reason: String,
    },
    /// An answer is longer than it may be.
    #[error("the answer of {url} is longer than {limit} bytes")]
    TooLarge {
        /// Without secrets.
        url: String,
        /// In bytes.
        limit: usize,
    },
}

impl Error {
    pub(crate) fn exchange(url: String, error: reqwest::Error) -> Self {
        let mut cause: &dyn std::error::Error = &error.without_url();
        let (timeout, connect) = match cause.downcast_ref::<reqwest::Error>() {
            Some(error) => (error.is_timeout(), error.is_connect()),
            None => (false, false),
        };
        while let Some(source) = cause.source() {
            cause = source;
        }
        let reason = cause.to_string();
        match (timeout, connect) {
            (true, _) => Self::Timeout { url },
            (_, true) => Self::Connect { url, reason },
            _ => Self::Broken { url, reason },
        }
    }

    /// Whether another try may go better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. })
    }
}
