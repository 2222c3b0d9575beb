//! A password out of the environment, where the user has granted that.

use plywood_sdk::credential::{
    self, Credential, CredentialRequest, Grant, Guest, Need, PluginError, PluginInfo, environment,
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
            needs: vec![Need { kind: "env".into(), name: VARIABLE.into(), reason: "it is the password".into() }],
        }
    }

    fn registries() -> Vec<String> {
        vec!["*".into()]
    }

    fn get(_: CredentialRequest) -> Result<Grant, PluginError> {
        let password = environment::get(VARIABLE).ok_or(PluginError::Unsupported)?;
        let credential = Credential::basic("token", password);
        Ok(Grant { credential, valid_for_seconds: None, repositories: None })
    }
}

credential::export!(AsksEnv with_types_in credential);
