//! Credentials from Docker's configuration: `auths`, `credHelpers`, `credsStore`, and `$DOCKER_AUTH_CONFIG`.
//!
//! The formats are those of docker-login(1) and of the credential-helper protocol; the helpers themselves are programs
//! of the user's, which the host executes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plywood_sdk::credential::native_helper::HelperError;
use plywood_sdk::credential::{
    self, Credential, CredentialRequest, Grant, Guest, Need, PluginError, PluginInfo, ReadError, environment, files,
    log, native_helper,
};
use serde::Deserialize;

/// The variable that holds a whole configuration, and outranks the file.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";
/// The name under which the host grants the file.
const FILE: &str = "docker-config";
/// What helpers give is asked for again after so long; they may give tokens that live for an hour.
const HELPER_SECONDS: u64 = 15 * 60;
/// Docker Hub's key in `auths`, from the days of the first registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

struct DockerConfig;

impl Guest for DockerConfig {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "credentials-docker-config".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Credentials from ~/.docker/config.json, its helpers, and $DOCKER_AUTH_CONFIG".into(),
            homepage: None,
            needs: vec![
                need("env", VARIABLE, "a whole configuration, which outranks the file"),
                need("files", FILE, "Docker's configuration"),
                need("native-helpers", "*", "the programs that the configuration names"),
            ],
        }
    }

    fn registries() -> Vec<String> {
        vec!["*".into()]
    }

    fn get(request: CredentialRequest) -> Result<Grant, PluginError> {
        for (origin, text) in configurations() {
            let config: Config = serde_json::from_str(&text).map_err(|error| {
                PluginError::Unavailable(format!("{origin} is not Docker's configuration: {error}"))
            })?;
            if let Some(grant) = find(&config, &request)? {
                return Ok(grant);
            }
        }
        Err(PluginError::Unsupported)
    }
}

fn need(kind: &str, name: &str, reason: &str) -> Need {
    Need { kind: kind.into(), name: name.into(), reason: reason.into() }
}

/// What there is to read, the first found first.
fn configurations() -> Vec<(&'static str, String)> {
    let variable = environment::get(VARIABLE).map(|text| ("$DOCKER_AUTH_CONFIG", text));
    let file = match files::read(FILE) {
        Ok(bytes) => Some(("Docker's config.json", String::from_utf8_lossy(&bytes).into_owned())),
        Err(ReadError::NotFound | ReadError::NotAllowed) => None,
        Err(ReadError::TooLarge(size)) => {
            log::log(log::Level::Warn, &format!("Docker's config.json is passed over: it has {size} bytes"));
            None
        }
        Err(ReadError::Io(reason)) => {
            log::log(log::Level::Warn, &format!("Docker's config.json is passed over: {reason}"));
            None
        }
    };
    variable.into_iter().chain(file).collect()
}

fn find(config: &Config, request: &CredentialRequest) -> Result<Option<Grant>, PluginError> {
    let registry = request.registry.as_str();
    let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
    let helper = config
        .cred_helpers
        .iter()
        .find(|(key, _)| is_same_host(key, registry))
        .map(|(_, helper)| helper)
        .or(config.creds_store.as_ref());
    if let Some(helper) = helper {
        match native_helper::get(helper, server) {
            Ok(answer) if answer.secret.is_empty() => {}
            Ok(answer) => {
                let credential = match answer.username.as_str() {
                    // The protocol's way to say that the secret is an identity token.
                    "<token>" => Credential::IdentityToken(answer.secret),
                    _ => Credential::basic(answer.username, answer.secret),
                };
                return Ok(Some(Grant { credential, valid_for_seconds: Some(HELPER_SECONDS), repositories: None }));
            }
            // A helper that knows nothing of this registry leaves it to `auths`.
            Err(HelperError::NoCredentials) => {}
            Err(error) => {
                let reason = match error {
                    HelperError::NotInstalled => "there is no such program".into(),
                    HelperError::Timeout => "it gave no answer in time".into(),
                    HelperError::NotAllowed(reason) | HelperError::Failed(reason) => reason,
                    HelperError::NoCredentials => unreachable!("that has been dealt with"),
                };
                return Err(PluginError::Unavailable(format!("docker-credential-{helper} get {server}: {reason}")));
            }
        }
    }
    let Some((key, auth, repository)) = scoped(config, request) else {
        return Ok(None);
    };
    let credential = credential_of(auth).map_err(|reason| {
        PluginError::Unavailable(format!("the entry \"{key}\" in Docker's configuration {reason}"))
    })?;
    Ok(credential.map(|credential| Grant {
        credential,
        valid_for_seconds: Some(u64::from(u32::MAX)),
        repositories: repository.map(|repository| vec![repository]),
    }))
}

/// The entry for the first scope's repository, its parents, and last the whole registry; each by exact name, so that a
/// host never gets what is meant for one that looks like it.
fn scoped<'c>(config: &'c Config, request: &CredentialRequest) -> Option<(&'c str, &'c Auth, Option<String>)> {
    let registry = request.registry.as_str();
    if let Some(scope) = request.scopes.first() {
        let mut path = scope.repository.as_str();
        loop {
            let full = format!("{registry}/{path}");
            if let Some((key, auth)) = config.auths.iter().find(|(key, _)| strip_scheme(key) == full) {
                return Some((key, auth, Some(scope.repository.clone())));
            }
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
    }
    config.auths.iter().find(|(key, _)| is_same_host(key, registry)).map(|(key, auth)| (key.as_str(), auth, None))
}

fn strip_scheme(key: &str) -> &str {
    key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/')
}

/// Keys are a host, with a scheme and an API version in old files.
fn is_same_host(key: &str, registry: &str) -> bool {
    let key = strip_scheme(key);
    let host = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host == registry || hub(host) && hub(registry)
}

fn credential_of(auth: &Auth) -> Result<Option<Credential>, &'static str> {
    let filled = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    if let Some(token) = filled(&auth.registrytoken) {
        return Ok(Some(Credential::Bearer(token)));
    }
    if let Some(token) = filled(&auth.identitytoken) {
        return Ok(Some(Credential::IdentityToken(token)));
    }
    if let Some(encoded) = filled(&auth.auth) {
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| "has an `auth` that is not base64")?;
        let text = String::from_utf8(decoded).map_err(|_| "has an `auth` that is not text")?;
        let (user, password) = text.split_once(':').ok_or("has an `auth` without a colon")?;
        return Ok(Some(Credential::basic(user, password.trim_end_matches('\0'))));
    }
    Ok(filled(&auth.username).zip(filled(&auth.password)).map(|(user, password)| Credential::basic(user, password)))
}

credential::export!(DockerConfig with_types_in credential);
