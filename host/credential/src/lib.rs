//! The chain of credential plugins: asked in order, what they give is kept as long as they say it is good.

mod native;
mod web;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plugin::{Credential, CredentialHelper, CredentialRequest};
use registry::{Access, CredentialError, Credentials, Identity, IdentityRequest, Later, Scope};

pub use native::NativeHelpers;
pub use web::PluginWeb;

/// Who can be asked, in order. A build that needs no registry asks for nobody.
pub trait Helpers: Send + Sync {
    /// All of them, loaded when this is first called.
    fn all(&self) -> Later<'_, Result<&[CredentialHelper], CredentialError>>;
}

/// Plugins that know who the user is, the first that knows wins.
pub struct Chain {
    helpers: Arc<dyn Helpers>,
    kept: Mutex<Vec<Kept>>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").finish_non_exhaustive()
    }
}

/// What a plugin gave.
#[derive(Debug)]
struct Kept {
    registry: String,
    repositories: Option<Vec<String>>,
    identity: Identity,
    origin: String,
    until: Instant,
}

/// Given credentials are asked for again so much before they expire.
const MARGIN: Duration = Duration::from_secs(30);
/// The longest that anything is kept, whatever a plugin says.
const LONGEST: u64 = 24 * 60 * 60;

impl Chain {
    /// A chain of these plugins.
    #[must_use]
    pub fn new(helpers: Arc<dyn Helpers>) -> Self {
        Self { helpers, kept: Mutex::default() }
    }

    fn kept(&self, request: &IdentityRequest) -> Option<(Identity, String)> {
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let covers = |kept: &&Kept| {
            let covered = |scope: &Scope| match &kept.repositories {
                Some(repositories) => repositories.contains(&scope.repository),
                None => true,
            };
            kept.registry == request.registry && Instant::now() < kept.until && request.scopes.iter().all(covered)
        };
        kept.iter().find(covers).map(|kept| (kept.identity.clone(), kept.origin.clone()))
    }

    async fn ask(&self, request: &IdentityRequest) -> Result<(Identity, String), CredentialError> {
        let asked = CredentialRequest {
            registry: request.registry.clone(),
            scopes: request.scopes.iter().map(scope).collect(),
            challenge: request.challenge.clone(),
            attempt: request.attempt,
        };
        let mut unavailable = Vec::new();
        let helpers = self.helpers.all().await?;
        for helper in helpers.iter().filter(|helper| helper.serves(&request.registry)) {
            let grant = match helper.get(&asked).await {
                Ok(grant) => grant,
                // One that cannot be reached leaves it to the next; what it said is told if nobody knows.
                Err(plugin::Error::Unavailable { reason, .. }) => {
                    unavailable.push(reason);
                    continue;
                }
                Err(plugin::Error::Unsupported(_)) => continue,
                Err(plugin::Error::Failed(failure)) if !failure.output.is_empty() => {
                    return Err(CredentialError(format!("{failure}\n  it printed: {}", failure.output)));
                }
                Err(error) => return Err(CredentialError(error.to_string())),
            };
            let identity = match grant.credential {
                Credential::Anonymous => continue,
                Credential::Basic(user, password) => Identity::Basic(user, password),
                Credential::Bearer(token) => Identity::Bearer(token),
                Credential::Identity(token) => Identity::Refresh(token),
            };
            let origin = helper.identity().name.clone();
            if let Some(seconds) = grant.valid_for {
                let life = Duration::from_secs(seconds.min(LONGEST)).saturating_sub(MARGIN);
                let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                kept.retain(|old| old.registry != request.registry || old.repositories != grant.repositories);
                kept.push(Kept {
                    registry: request.registry.clone(),
                    repositories: grant.repositories,
                    identity: identity.clone(),
                    origin: origin.clone(),
                    until: Instant::now() + life,
                });
            }
            return Ok((identity, origin));
        }
        match unavailable.is_empty() {
            true => Ok((Identity::Anonymous, "no credentials".into())),
            false => Err(CredentialError(unavailable.join("; "))),
        }
    }
}

fn scope(scope: &Scope) -> plugin::Scope {
    plugin::Scope {
        repository: scope.repository.clone(),
        access: match scope.access {
            Access::Pull => plugin::Access::Pull,
            Access::Push => plugin::Access::Push,
        },
    }
}

impl Credentials for Chain {
    fn get<'f>(&'f self, request: &'f IdentityRequest) -> Later<'f, Result<(Identity, String), CredentialError>> {
        Box::pin(async move {
            // After a refusal what was kept is no good.
            match self.kept(request) {
                Some(known) if request.attempt == 0 => Ok(known),
                _ => self.ask(request).await,
            }
        })
    }
}
