//! A password that is a secret of the command line, told to everyone who listens.

use plywood_sdk::credential::{
    self, Credential, CredentialRequest, Grant, Guest, Need, PluginError, PluginInfo, log, secrets,
};

const SECRET: &str = "registry";

struct AsksSecret;

impl Guest for AsksSecret {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "asks-secret".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "The password is the secret `registry`".into(),
            homepage: None,
            needs: vec![Need { kind: "secrets".into(), name: SECRET.into(), reason: "it is the password".into() }],
        }
    }

    fn registries() -> Vec<String> {
        vec!["127.*.0.1".into()]
    }

    fn get(request: CredentialRequest) -> Result<Grant, PluginError> {
        let secret = secrets::Secret::open(SECRET).ok_or(PluginError::Unsupported)?;
        let password = String::from_utf8_lossy(&secret.reveal()).into_owned();
        log::log(log::Level::Warn, &format!("refused {}: \u{1b}[31m{password}", request.refused));
        if request.refused {
            panic!("nobody likes {password}");
        }
        Ok(Grant { credential: Credential::basic("secret", password), valid_for_seconds: None, repositories: None })
    }
}

credential::export!(AsksSecret with_types_in credential);
