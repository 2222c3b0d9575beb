//! This client for `object_store`, which brings its own protocols but no way to send a request.

use std::error::Error as _;
use std::io;

use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::{Body, Url};

use crate::{Client, Error, Request};

/// Gives object stores this machine's certificates and proxies.
#[derive(Clone, Debug)]
pub struct Connector(Client);

impl Connector {
    /// Requests go through `client`.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self(client.clone())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

fn kind(error: &Error) -> HttpErrorKind {
    match error {
        Error::Connect { .. } => HttpErrorKind::Connect,
        Error::Timeout { .. } => HttpErrorKind::Timeout,
        Error::Broken { .. } => HttpErrorKind::Interrupted,
        Error::Setup(_) | Error::TooLarge { .. } => HttpErrorKind::Unknown,
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut sent = Request::new(parts.method, url);
        sent.headers = parts.headers;
        // A whole body has a length, which some stores insist on.
        sent.body = Some(body.as_bytes().map_or_else(|| Body::wrap(body.clone()), |bytes| Body::from(bytes.clone())));
        let answer = self.0.send(sent).await.map_err(|error| HttpError::new(kind(&error), error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = Body::from(answer).map_err(|error| {
            let broken = error.source().is_some_and(|source| source.downcast_ref::<io::Error>().is_some());
            let kind = if error.is_timeout() {
                HttpErrorKind::Timeout
            } else if broken || error.is_body() {
                HttpErrorKind::Interrupted
            } else {
                HttpErrorKind::Unknown
            };
            HttpError::new(kind, error.without_url())
        });
        let mut response = HttpResponse::new(HttpResponseBody::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}
