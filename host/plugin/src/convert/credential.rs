//! Questions to credential plugins, and their answers.

use crate::bindings::credential::exports::plywood::plugin::credential_helper as helper;
use crate::worlds::{Access, Credential, CredentialGrant, CredentialRequest};

pub(crate) fn credential_request(request: &CredentialRequest) -> helper::CredentialRequest {
    helper::CredentialRequest {
        registry: request.registry.clone(),
        scopes: request
            .scopes
            .iter()
            .map(|scope| helper::Scope {
                repository: scope.repository.clone(),
                access: match scope.access {
                    Access::Pull => helper::Access::PULL,
                    Access::Push => helper::Access::PULL | helper::Access::PUSH,
                    Access::Delete => helper::Access::PULL | helper::Access::DELETE,
                },
            })
            .collect(),
        challenge: request.challenge.clone(),
        attempt: request.attempt,
        refused: request.refused,
    }
}

pub(crate) fn credential_grant(grant: helper::Grant) -> CredentialGrant {
    CredentialGrant {
        credential: match grant.credential {
            helper::Credential::Anonymous => Credential::Anonymous,
            helper::Credential::Basic(basic) => Credential::Basic(basic.username, basic.password),
            helper::Credential::Bearer(token) => Credential::Bearer(token),
            helper::Credential::IdentityToken(token) => Credential::Identity(token),
        },
        valid_for: grant.valid_for_seconds,
        repositories: grant.repositories,
    }
}
