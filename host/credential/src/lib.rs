//! The chain of credential plugins: asked in order, what they give is kept as long as they say it is good.

mod native;
mod web;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use plugin::{Credential, CredentialHelper, CredentialRequest};
use registry::{Access, CredentialError, Credentials, Identity, IdentityRequest, Known, Later, Scope};

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
    /// Who gave what each registry was last told.
    givers: Mutex<BTreeMap<String, String>>,
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
        Self { helpers, kept: Mutex::default(), givers: Mutex::default() }
    }

    fn kept(&self, request: &IdentityRequest) -> Option<Known> {
        let kept = lock(&self.kept);
        let good = |kept: &&Kept| {
            let covered = covers(kept.repositories.as_deref(), request);
            kept.registry == request.registry && Instant::now() < kept.until && covered
        };
        let known = kept.iter().find(good)?;
        let (identity, origin) = (known.identity.clone(), known.origin.clone());
        Some(Known { identity, origin, good_until: Some(known.until) })
    }

    async fn ask(&self, request: &IdentityRequest) -> Result<Known, CredentialError> {
        let giver = lock(&self.givers).get(&request.registry).cloned().filter(|_| request.attempt > 0);
        let mut unavailable = Vec::new();
        let helpers = self.helpers.all().await?;
        for helper in helpers.iter().filter(|helper| helper.serves(&request.registry)) {
            let origin = helper.identity().name.clone();
            let asked = CredentialRequest {
                registry: request.registry.clone(),
                scopes: request.scopes.iter().map(scope).collect(),
                challenge: request.challenge.clone(),
                attempt: request.attempt,
                refused: giver.as_ref() == Some(&origin),
            };
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
                Credential::Anonymous => Identity::Anonymous,
                Credential::Basic(user, password) => Identity::Basic(user, password),
                Credential::Bearer(token) => Identity::Bearer(token),
                Credential::Identity(token) => Identity::Refresh(token),
            };
            if !covers(grant.repositories.as_deref(), request) {
                let reason =
                    format!("the plugin {origin} gives credentials for other repositories than it was asked for");
                return Err(CredentialError(reason));
            }
            lock(&self.givers).insert(request.registry.clone(), origin.clone());
            let life = |seconds: u64| Duration::from_secs(seconds.min(LONGEST)).saturating_sub(MARGIN);
            let good_until = grant.valid_for.map(|seconds| Instant::now() + life(seconds));
            if let Some(until) = good_until {
                let mut kept = lock(&self.kept);
                kept.retain(|old| old.registry != request.registry || old.repositories != grant.repositories);
                kept.push(Kept {
                    registry: request.registry.clone(),
                    repositories: grant.repositories,
                    identity: identity.clone(),
                    origin: origin.clone(),
                    until,
                });
            }
            return Ok(Known { identity, origin, good_until });
        }
        match unavailable.is_empty() {
            true => Ok(Known { identity: Identity::Anonymous, origin: "no credentials".into(), good_until: None }),
            false => Err(CredentialError(unavailable.join("; "))),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether what is good for these repositories, or for all, is good for what is asked.
fn covers(repositories: Option<&[String]>, request: &IdentityRequest) -> bool {
    repositories.is_none_or(|known| request.scopes.iter().all(|scope| known.contains(&scope.repository)))
}

fn scope(scope: &Scope) -> plugin::Scope {
    plugin::Scope {
        repository: scope.repository.clone(),
        access: match scope.access {
            Access::Pull => plugin::Access::Pull,
            Access::Push => plugin::Access::Push,
            Access::Delete => plugin::Access::Delete,
        },
    }
}

impl Credentials for Chain {
    fn get<'f>(&'f self, request: &'f IdentityRequest) -> Later<'f, Result<Known, CredentialError>> {
        Box::pin(async move {
            // After a refusal what was kept is no good.
            match self.kept(request) {
                Some(known) if request.attempt == 0 => Ok(known),
                _ => self.ask(request).await,
            }
        })
    }
}
