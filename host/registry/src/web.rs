//! The web beside registries, for those who find credentials there: one exchange at a time, no redirects followed.

use std::path::PathBuf;
use std::time::Duration;

use http::{Method, Request, Url, header};

/// An exchange takes no longer, unless it asks for less.
const PATIENCE: Duration = Duration::from_secs(20);
/// A body is no longer.
const LARGEST: usize = 1 << 20;

/// Sends requests of others, with this machine's certificates and proxies.
#[derive(Clone, Debug)]
pub struct Web(http::Client);

/// What came back: status, headers, body.
pub type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the names say it")]
pub enum WebError {
    #[error("{0}")]
    Invalid(String),
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is too large")]
    TooLarge,
    #[error("{0}")]
    Connect(String),
    #[error("{0}")]
    Protocol(String),
}

impl Web {
    /// With roots beyond this machine's, PEM.
    #[must_use]
    pub fn new(extra_roots: Vec<PathBuf>) -> Self {
        Self(http::Client::new(http::Settings { extra_roots }))
    }

    /// Makes one exchange.
    ///
    /// # Errors
    /// When the request makes no sense or nothing comes back.
    pub async fn exchange(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Result<Answer, WebError> {
        let invalid = |error: &dyn std::fmt::Display| WebError::Invalid(error.to_string());
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| invalid(&error))?;
        let url = Url::parse(url).map_err(|error| invalid(&error))?;
        let mut request = Request { direct: true, ..Request::new(method, url) };
        for (name, value) in headers {
            let name = header::HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(&error))?;
            let value = header::HeaderValue::from_str(value).map_err(|error| invalid(&error))?;
            request.headers.append(name, value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let exchange = async {
            let response = self.0.send(request).await?;
            let status = response.status().as_u16();
            let headers = response.headers().iter();
            let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = headers.map(|(name, value)| (name.to_string(), text(value))).collect();
            Ok((status, headers, http::read(response, LARGEST).await?))
        };
        let answer = tokio::time::timeout(timeout.unwrap_or(PATIENCE).min(PATIENCE), exchange).await;
        answer.map_err(|_| WebError::Timeout)?.map_err(|error: http::Error| match error {
            http::Error::Timeout { .. } => WebError::Timeout,
            http::Error::TooLarge { .. } => WebError::TooLarge,
            http::Error::Connect { .. } => WebError::Connect(error.to_string()),
            other => WebError::Protocol(other.to_string()),
        })
    }
}
