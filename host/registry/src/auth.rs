//! Who the user is: challenges, credentials, tokens (distribution "token authentication", RFC 7235, RFC 6749).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::{Method, Request, Url, header};

use crate::client::Client;
use crate::error::Error;

/// A future that a trait object can give.
pub type Later<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// What is to be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
    /// Reading, and removing manifests and tags.
    Delete,
}

/// A repository and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Path below the registry.
    pub repository: String,
    /// What is to be done with it.
    pub access: Access,
}

/// What is asked of a [`Credentials`].
#[derive(Clone, Debug)]
pub struct IdentityRequest {
    /// Host, and port where one is given.
    pub registry: String,
    /// What it is for; a mount needs two.
    pub scopes: Vec<Scope>,
    /// The refusal that led here.
    pub challenge: Option<String>,
    /// Refusals of what was given before.
    pub attempt: u32,
}

/// Who the user is at a registry.
#[derive(Clone)]
pub enum Identity {
    /// No one.
    Anonymous,
    /// A user name and a password.
    Basic(String, String),
    /// A token, used as it is.
    Bearer(String),
    /// A refresh token for the token service.
    Refresh(String),
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic(..) => "Basic(..)",
            Self::Bearer(_) => "Bearer(..)",
            Self::Refresh(_) => "Refresh(..)",
        })
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CredentialError(pub String);

/// An identity, and what is known of it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who the user is.
    pub identity: Identity,
    /// Where that came from, for people.
    pub origin: String,
    /// When it is to be asked for again; none: once it is refused.
    pub good_until: Option<Instant>,
}

/// Knows who the user is. It keeps what it gives as long as that is good: it is asked for every new token.
pub trait Credentials: Send + Sync {
    /// Gives an identity.
    fn get<'f>(&'f self, request: &'f IdentityRequest) -> Later<'f, Result<Known, CredentialError>>;
}

/// What a registry wants, from its `WWW-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// What is sent along with a request.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) value: Option<String>,
    pub(crate) who: String,
    good_until: Option<Instant>,
}

/// Tokens, by registry and scopes.
#[derive(Default)]
pub(crate) struct Session {
    tokens: Mutex<BTreeMap<(String, Vec<Scope>), Authorization>>,
}

/// A token without an expiry is good for so long (distribution token spec).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Tokens are renewed so much before they expire.
const MARGIN: Duration = Duration::from_secs(10);

impl Challenge {
    /// The first challenge that is understood.
    pub(crate) fn parse(headers: &header::HeaderMap) -> Option<(Self, String)> {
        let lines = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut basic = None;
        for line in lines {
            let (scheme, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let parameters = parameters(rest);
                let find = |name: &str| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                if let Some((_, realm)) = find("realm") {
                    let service = find("service").map(|(_, service)| service.clone());
                    return Some((Self::Bearer { realm: realm.clone(), service }, line.to_owned()));
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some((Self::Basic, line.to_owned()));
            }
        }
        basic
    }
}

/// `name="value", name=value` (RFC 7235, section 2.1).
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([',', ' ']).to_owned();
        let after = after.trim_start();
        let value = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(chars.next().map(|(_, c)| c)),
                        _ => value.push(c),
                    }
                }
                rest = &quoted[end..];
                value
            }
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                rest = &after[end..];
                after[..end].to_owned()
            }
        };
        found.push((name, value));
    }
    found
}

impl Client {
    /// What to send to a registry for these scopes: what is still good, else something new.
    pub(crate) async fn authorize(
        &self,
        registry: &str,
        challenge: Option<&(Challenge, String)>,
        scopes: &[Scope],
        attempt: u32,
    ) -> Result<Authorization, Error> {
        let anonymous = Authorization { value: None, who: "an anonymous user".into(), good_until: None };
        let Some((challenge, line)) = challenge else {
            return Ok(anonymous);
        };
        let mut scopes = scopes.to_vec();
        scopes.sort();
        scopes.dedup();
        let slot = (registry.to_owned(), scopes);
        if attempt == 0
            && let Some(known) =
                self.session.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&slot)
            && known.good_until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(known.clone());
        }
        let request = IdentityRequest {
            registry: registry.to_owned(),
            scopes: slot.1.clone(),
            challenge: Some(line.clone()),
            attempt,
        };
        let failed = |source| Error::Credentials { registry: registry.to_owned(), source };
        let Known { identity, origin, good_until } = self.credentials.get(&request).await.map_err(failed)?;
        let who = match &identity {
            Identity::Anonymous => anonymous.who.clone(),
            Identity::Basic(user, _) => format!("the user {user} ({origin})"),
            _ => format!("the token of {origin}"),
        };
        let authorization = match (challenge, identity) {
            (_, Identity::Bearer(token)) => Authorization { value: Some(format!("Bearer {token}")), who, good_until },
            (Challenge::Basic, Identity::Basic(user, password)) => {
                Authorization { value: Some(basic(&user, &password)), who, good_until }
            }
            (Challenge::Basic, Identity::Refresh(_)) => {
                let reason = format!("{origin} gives an identity token, and this registry takes a name and a password");
                return Err(failed(CredentialError(reason)));
            }
            (Challenge::Basic, Identity::Anonymous) => anonymous,
            (Challenge::Bearer { realm, service }, identity) => {
                let (token, life) = self.token(registry, realm, service.as_deref(), &slot.1, &identity).await?;
                let good_until = Some(Instant::now() + life.saturating_sub(MARGIN));
                Authorization { value: Some(format!("Bearer {token}")), who, good_until }
            }
        };
        let mut tokens = self.session.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tokens.insert(slot, authorization.clone());
        Ok(authorization)
    }

    /// Asks the token service: by GET with basic credentials or none, by POST with a refresh token.
    async fn token(
        &self,
        registry: &str,
        realm: &str,
        service: Option<&str>,
        scopes: &[Scope],
        identity: &Identity,
    ) -> Result<(String, Duration), Error> {
        let malformed = |reason: String| Error::Malformed(format!("the token service of {registry}"), reason);
        let mut url = Url::parse(realm).map_err(|error| malformed(error.to_string()))?;
        let endpoint = self.endpoint_of(registry).await?;
        // A challenge must not make us send a password in the clear where the registry itself is not spoken to so.
        if url.scheme() != "https" && endpoint.base.scheme() == "https" {
            return Err(malformed(format!("it is not https: {}", http::redact(&url))));
        }
        let scope = |scope: &Scope| {
            let actions = match scope.access {
                Access::Pull => "pull",
                Access::Push => "pull,push",
                Access::Delete => "pull,delete",
            };
            format!("repository:{}:{actions}", scope.repository)
        };
        let scopes: Vec<String> = scopes.iter().map(scope).collect();
        let request = match identity {
            Identity::Refresh(token) => {
                let mut form = Url::parse("form:").map_err(|error| malformed(error.to_string()))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "plywood")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("scope", &scopes.join(" "))
                    .append_pair("refresh_token", token);
                Request::new(Method::POST, url)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            _ => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                    scopes.iter().for_each(|scope| {
                        query.append_pair("scope", scope);
                    });
                }
                let request = Request::new(Method::GET, url);
                match identity {
                    Identity::Basic(user, password) => request.header(header::AUTHORIZATION, &basic(user, password)),
                    _ => request,
                }
            }
        };
        let request = Request { verify: endpoint.verify, ..request };
        let response = self.http.send(request).await?;
        let status = response.status();
        let body = http::read(response, 1 << 20).await?;
        if !status.is_success() {
            let what = "being asked for a token".to_owned();
            let message = crate::transport::message(&body);
            return Err(Error::Status { registry: registry.to_owned(), status: status.as_u16(), what, message });
        }
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let token = answer.token.or(answer.access_token).ok_or_else(|| malformed("it gave no token".into()))?;
        Ok((token, answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs)))
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(line: &str) -> Option<Challenge> {
        let mut headers = header::HeaderMap::new();
        headers.insert(header::WWW_AUTHENTICATE, line.parse().expect("a header"));
        Challenge::parse(&headers).map(|(challenge, _)| challenge)
    }

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        assert_eq!(
            challenge(
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a:pull,push""#
            ),
            bearer("https://auth.example/token", Some("r.example"))
        );
        assert_eq!(challenge(r#"bearer realm=https://a/t"#), bearer("https://a/t", None));
        assert_eq!(challenge(r#"Bearer realm="a\"b", service=x"#), bearer("a\"b", Some("x")));
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(challenge("Negotiate"), None);
        assert_eq!(challenge("Bearer realm=\"unclosed"), bearer("unclosed", None));
    }
}
