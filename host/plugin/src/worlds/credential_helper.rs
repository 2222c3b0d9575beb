//! Plugins that know who the user is at a registry.

use std::sync::Arc;

use super::{Kind, Plugin, Setup, prepare};
use crate::bindings::credential;
use crate::convert;
use crate::engine::{Engine, Limits, Loaded};
use crate::failure::{Error, Identity};
use crate::grant::Grants;
use crate::imports::Imports;
use crate::state::State;

/// What is to be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
    /// Removing manifests and tags.
    Delete,
}

/// A repository and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Path below the registry.
    pub repository: String,
    /// What is to be done with it.
    pub access: Access,
}

/// What a registry wants to know of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRequest {
    /// Host, and port where it is not the scheme's own.
    pub registry: String,
    /// Empty for the registry as a whole; two for a mount.
    pub scopes: Vec<Scope>,
    /// The `WWW-Authenticate` line of a refusal.
    pub challenge: Option<String>,
    /// Refusals of what was given before.
    pub attempt: u32,
    /// Whether what was refused last came from this very plugin.
    pub refused: bool,
}

/// Who the user is at a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// No one, and nobody else is to be asked.
    Anonymous,
    /// A user name and a password.
    Basic(String, String),
    /// A token, used as it is.
    Bearer(String),
    /// A refresh token for the registry's token service.
    Identity(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic(..) => "Basic(..)",
            Self::Bearer(_) => "Bearer(..)",
            Self::Identity(_) => "Identity(..)",
        })
    }
}

/// A credential, how long it is good, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialGrant {
    /// Who the user is.
    pub credential: Credential,
    /// Seconds; none: for this request alone.
    pub valid_for: Option<u64>,
    /// Which repositories; none: all of the registry.
    pub repositories: Option<Vec<String>>,
}

/// A credential plugin.
#[derive(Clone)]
pub struct CredentialHelper {
    plugin: Plugin<credential::CredentialPluginPre<State>>,
    registries: Arc<[String]>,
}

/// Credential plugins wait for the network and for programs that may ask the user.
const CREDENTIAL_TIME: std::time::Duration = std::time::Duration::from_secs(30);

impl CredentialHelper {
    /// Prepares a plugin that is known to the user as `name`.
    ///
    /// # Errors
    /// When it is of another kind, imports what it must not, or fails.
    pub async fn new(
        engine: &Arc<Engine>,
        loaded: &Loaded,
        name: &str,
        grants: Grants,
        imports: Imports,
    ) -> Result<Self, Error> {
        let limits = Limits { time: CREDENTIAL_TIME, ..Limits::default() };
        let setup = Setup { name: name.to_owned(), grants, imports };
        let plugin = prepare(
            engine,
            loaded,
            Kind::Credential,
            limits,
            setup,
            credential::CredentialPluginPre::new,
            async |pre, store| {
                let instance = pre.instantiate_async(&mut *store).await?;
                instance.plywood_plugin_credential_helper().call_info(store).await
            },
        )
        .await?;
        let registries = plugin
            .call("registries", async |store| {
                let instance = plugin.pre.instantiate_async(&mut *store).await?;
                instance.plywood_plugin_credential_helper().call_registries(store).await
            })
            .await?;
        Ok(Self { plugin, registries: registries.into() })
    }

    /// Which plugin it is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.plugin.callee.identity
    }

    /// What it has been granted.
    #[must_use]
    pub fn grants(&self) -> &Grants {
        &self.plugin.callee.grants
    }

    /// Whether it says that it can serve a registry.
    #[must_use]
    pub fn serves(&self, registry: &str) -> bool {
        self.registries.iter().any(|pattern| is_served(pattern, registry))
    }

    /// Asks who the user is.
    ///
    /// # Errors
    /// When the plugin fails, is denied something, or its source is not available.
    pub async fn get(&self, request: &CredentialRequest) -> Result<CredentialGrant, Error> {
        let grant = self
            .plugin
            .call("get", async |store| {
                let instance = self.plugin.pre.instantiate_async(&mut *store).await?;
                let helper = instance.plywood_plugin_credential_helper();
                helper.call_get(store, &convert::credential_request(request)).await
            })
            .await?
            .map_err(|error| self.plugin.error("get", error))?;
        Ok(convert::credential_grant(grant))
    }
}

/// `*`, or a host in which `*` stands for one label, and at the beginning for any number of them; with a port, that port.
fn is_served(pattern: &str, registry: &str) -> bool {
    let split = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (host.to_lowercase(), Some(port.to_owned()))
        }
        _ => (text.to_lowercase(), None),
    };
    let ((pattern, wanted), (host, port)) = (split(pattern), split(registry));
    if pattern == "*" {
        return wanted.is_none() || wanted == port;
    }
    let (mut labels, mut names) = (pattern.split('.').rev(), host.split('.').rev());
    let mut same = wanted.is_none() || wanted == port;
    loop {
        match (labels.next(), names.next()) {
            (None, None) => return same,
            (Some("*"), Some(_)) if labels.clone().next().is_none() => return same,
            (Some(label), Some(name)) => same &= label == "*" || label == name,
            _ => return false,
        }
    }
}

impl std::fmt::Debug for CredentialHelper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.identity())
    }
}

#[cfg(test)]
mod tests {
    use super::is_served;

    #[test]
    fn patterns_of_registries() {
        for (pattern, registry, served) in [
            ("*", "a.example:5000", true),
            ("*:443", "a.example:5000", false),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com", true),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.amazonaws.com", false),
            ("*.example", "a.b.example:5000", true),
            ("*.example", "example", false),
            ("*.example", "a.example.evil", false),
            ("a.example", "A.example", true),
            ("a.example:80", "a.example", false),
            ("a.*", "a.b.c", false),
        ] {
            assert_eq!(is_served(pattern, registry), served, "{pattern} {registry}");
        }
    }
}
