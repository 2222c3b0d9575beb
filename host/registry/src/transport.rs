//! Requests to a registry: where it is, with whose authority, and again when that may help.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Url, header, retry};

use crate::auth::{Access, Challenge, Scope};
use crate::client::Client;
use crate::error::Error;
use crate::push::BlobSource;

/// What is known of a registry.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `https://host:port/v2/`.
    pub(crate) base: Url,
    pub(crate) verify: bool,
    /// What it wants of anyone who comes without authority.
    challenge: Option<(Challenge, String)>,
}

/// How a registry answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Over https.
    pub is_encrypted: bool,
    /// It wants to know who comes.
    pub wants_credentials: bool,
}

/// A request to a repository, by its path below `/v2/`.
pub(crate) struct Call<'c> {
    pub(crate) registry: &'c str,
    pub(crate) method: Method,
    /// Below `/v2/`, or a whole URL that the registry gave.
    pub(crate) path: String,
    pub(crate) accept: &'c [&'c str],
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) scopes: Vec<Scope>,
    /// For errors: `pull team/app`.
    pub(crate) what: String,
}

/// What a call sends, made anew for each try.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'p> {
    Empty,
    Bytes(&'p http::Bytes),
    Blob(&'p dyn BlobSource),
}

/// A loopback host needs no encryption.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.starts_with("127.") && host.parse::<std::net::Ipv4Addr>().is_ok()
}

/// The words in a registry's error document, else the start of what it said.
pub(crate) fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    match serde_json::from_slice::<Document>(body) {
        Ok(document) => {
            let item = |item: Item| match (item.message.filter(|m| !m.is_empty()), item.code) {
                (Some(message), _) => message,
                (None, code) => code.unwrap_or_default(),
            };
            document.errors.into_iter().map(item).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect::<String>().trim().to_owned(),
    }
}

impl Client {
    /// What is known of a registry, asking it once.
    pub(crate) async fn endpoint_of(&self, registry: &str) -> Result<Endpoint, Error> {
        let cell = self.endpoint_cell(registry);
        cell.get_or_try_init(|| self.discover(registry)).await.cloned()
    }

    /// Whether a registry answers, and how.
    ///
    /// # Errors
    /// When it does not.
    pub async fn reach(&self, registry: &str) -> Result<Reached, Error> {
        let endpoint = self.endpoint_of(registry).await?;
        Ok(Reached { is_encrypted: endpoint.base.scheme() == "https", wants_credentials: endpoint.challenge.is_some() })
    }

    /// `GET /v2/`: over https, and where the user or the host allows it, over http.
    async fn discover(&self, registry: &str) -> Result<Endpoint, Error> {
        // Docker Hub's API has a host of its own.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let insecure = self.settings.is_insecure(registry);
        let mut ways = vec![("https", !insecure)];
        if insecure || is_loopback(registry) {
            ways.push(("http", true));
        }
        let mut refused = None;
        for (scheme, verify) in ways {
            let url = format!("{scheme}://{host}/v2/");
            let base = Url::parse(&url).map_err(|error| Error::Malformed(url, error.to_string()))?;
            let request = || Request { verify, ..Request::new(Method::GET, base.clone()) };
            let answer = match self.http.send(request()).await {
                // A plain-http server's answer to a TLS greeting is not worth trying again.
                Err(error) if error.is_transient() && !(insecure || is_loopback(registry)) => {
                    self.again(error, request).await
                }
                other => other,
            };
            match answer {
                Ok(response) => {
                    let challenge = (response.status() == StatusCode::UNAUTHORIZED)
                        .then(|| Challenge::parse(response.headers()))
                        .flatten();
                    return Ok(Endpoint { base, verify, challenge });
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.map_or_else(|| Error::NotFound(registry.to_owned()), Error::Http))
    }

    async fn again(&self, first: http::Error, request: impl Fn() -> Request) -> Result<Response, http::Error> {
        let mut last = first;
        for next in 1.. {
            let Some(pause) = retry::pause(next, None) else { break };
            tokio::time::sleep(pause).await;
            match self.http.send(request()).await {
                Ok(response) => return Ok(response),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Makes a call with an empty body.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Response, Error> {
        self.call_with(call, Payload::Empty).await
    }

    /// Makes a call, its body made anew for each try: again after trouble on the way or the server's side, and with new
    /// authority after a refusal.
    pub(crate) async fn call_with(&self, call: &Call<'_>, payload: Payload<'_>) -> Result<Response, Error> {
        let endpoint = self.endpoint_of(call.registry).await?;
        let url = endpoint.base.join(&call.path).map_err(|e| Error::Malformed(call.path.clone(), e.to_string()))?;
        // Authority is for the registry itself: not for the storage that it sends uploads or downloads to.
        let own = url.host_str() == endpoint.base.host_str()
            && url.port_or_known_default() == endpoint.base.port_or_known_default();
        let mut challenge = endpoint.challenge.clone();
        let (mut tries, mut refusals) = (0, 0);
        loop {
            let authorization = match own {
                true => Some(self.authorize(call.registry, challenge.as_ref(), &call.scopes, refusals).await?),
                false => None,
            };
            let mut request = Request { verify: endpoint.verify, ..Request::new(call.method.clone(), url.clone()) };
            for accept in call.accept {
                request = request.header(header::ACCEPT, accept);
            }
            for (name, value) in &call.headers {
                request = request.header(name.clone(), value);
            }
            if let Some(value) = authorization.as_ref().and_then(|a| a.value.as_deref()) {
                request = request.header(header::AUTHORIZATION, value);
            }
            request.body = match payload {
                Payload::Empty => None,
                Payload::Bytes(bytes) => Some(bytes.clone().into()),
                Payload::Blob(source) => Some(http::stream(source.open().await.map_err(Error::Source)?)),
            };
            let answer = self.http.send(request).await;
            tries += 1;
            match answer {
                Err(error) if error.is_transient() => match retry::pause(tries, None) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
                Ok(response) if retry::is_transient(response.status()) => match retry::pause(tries, Some(&response)) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Ok(response),
                },
                // A token may have run out, or may not cover this: one fresh one.
                Ok(response)
                    if own
                        && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                        && refusals == 0
                        && (challenge.is_some() || response.status() == StatusCode::UNAUTHORIZED) =>
                {
                    refusals += 1;
                    challenge = Challenge::parse(response.headers()).or(challenge);
                    if challenge.is_none() {
                        return Err(self.failure(call, response, authorization.map(|a| a.who)).await);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(response) if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    return Err(self.failure(call, response, authorization.map(|a| a.who)).await);
                }
                Ok(response) => return Ok(response),
            }
        }
    }

    /// An error made of an answer that is none of those that were wanted.
    pub(crate) async fn failure(&self, call: &Call<'_>, response: Response, who: Option<String>) -> Error {
        let status = response.status();
        let message = message(&http::read(response, 1 << 16).await.unwrap_or_default());
        let (registry, what) = (call.registry.to_owned(), call.what.clone());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let who = who.unwrap_or_else(|| "the user".into());
                Error::Denied { registry, who, what, message }
            }
            _ => Error::Status { registry, status: status.as_u16(), what, message },
        }
    }
}

/// A scope of one repository.
pub(crate) fn scope(repository: &str, access: Access) -> Vec<Scope> {
    vec![Scope { repository: repository.to_owned(), access }]
}
