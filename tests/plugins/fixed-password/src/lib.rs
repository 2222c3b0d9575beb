//! The same user and password for every registry.

use plywood_sdk::credential::{self, Credential, CredentialRequest, Grant, Guest, PluginError, PluginInfo};

struct FixedPassword;

impl Guest for FixedPassword {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "fixed-password".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "One password for every registry".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn registries() -> Vec<String> {
        vec!["*".into()]
    }

    fn get(_: CredentialRequest) -> Result<Grant, PluginError> {
        let credential = Credential::basic("swapped", "secret-of-the-plugin");
        Ok(Grant { credential, valid_for_seconds: None, repositories: None })
    }
}

credential::export!(FixedPassword with_types_in credential);
