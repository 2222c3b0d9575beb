//! HTTP for credential plugins: which hosts they may talk to has been checked before a request comes here.

use std::time::Duration;

use plugin::imports::{HttpClient, HttpError, HttpRequest, HttpResponse, Later};
use registry::{Web, WebError};

/// Sends what plugins ask for.
#[derive(Clone, Debug)]
pub struct PluginWeb(pub Web);

impl HttpClient for PluginWeb {
    fn send<'f>(&'f self, request: HttpRequest) -> Later<'f, Result<HttpResponse, HttpError>> {
        Box::pin(async move {
            let HttpRequest { method, url, headers, body, timeout_ms } = request;
            let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
            match self.0.exchange(method, &url, &headers, body, timeout).await {
                Ok((status, headers, body)) => Ok(HttpResponse { status, headers, body }),
                Err(WebError::Invalid(reason)) => Err(HttpError::InvalidRequest(reason)),
                Err(WebError::Timeout) => Err(HttpError::Timeout),
                Err(WebError::TooLarge) => Err(HttpError::TooLarge),
                Err(WebError::Connect(reason)) => Err(HttpError::Connect(reason)),
                Err(WebError::Protocol(reason)) => Err(HttpError::Protocol(reason)),
            }
        })
    }
}
