//! A password out of the environment, where the user has granted that.

use plywood_sdk::credential::{
    self, CapabilityNeeds, Credential, CredentialRequest, Grant, Guest, PluginError, PluginInfo, grants,
};

const VARIABLE: &str = "PLYWOOD_TEST_TOKEN";

struct AsksEnv;

impl Guest for AsksEnv {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "asks-env".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "The password is in $PLYWOOD_TEST_TOKEN".into(),
            homepage: None,
        }
    }

    fn needs() -> CapabilityNeeds {
        CapabilityNeeds { hosts: Vec::new(), env: vec![VARIABLE.into()], secrets: Vec::new(), files: Vec::new() }
    }

    fn registries() -> Vec<String> {
        vec!["*".into()]
    }

    fn get(_: CredentialRequest) -> Result<Grant, PluginError> {
        let credential = match grants::env(VARIABLE) {
            Some(password) => Credential::Basic(("token".into(), password)),
            None => Credential::Anonymous,
        };
        Ok(Grant { credential, valid_for_seconds: None, repositories: None })
    }
}

credential::export!(AsksEnv with_types_in credential);
