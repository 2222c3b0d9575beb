//! What AWS's tools would find in the environment and in the user's files (AWS SDKs and Tools Reference Guide,
//! "Configuration and credential files").

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::surroundings;

/// The environment's variables that are text.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Settings by the names that they have in the environment, those of a profile first.
pub(super) fn settings() -> Result<Vec<(String, String)>> {
    let environment: Vec<(String, String)> = variables().filter(|(name, _)| name.starts_with("AWS_")).collect();
    let of = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let profile = of("AWS_PROFILE").or_else(|| of("AWS_DEFAULT_PROFILE"));
    let name = profile.as_deref().unwrap_or("default");
    let read = |variable: &str, file: &str| {
        let path = of(variable).map(PathBuf::from).or_else(|| Some(surroundings::home()?.join(".aws").join(file)));
        path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    };
    let (credentials, config) = (read("AWS_SHARED_CREDENTIALS_FILE", "credentials"), read("AWS_CONFIG_FILE", "config"));
    let section = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    // What is in both counts where it is secret.
    let mut found = section_of(&config, &section);
    found.extend(section_of(&credentials, name));
    if let Some(profile) = profile.as_deref().filter(|_| found.is_empty()) {
        bail!("the profile {profile} that AWS_PROFILE names is in none of AWS's files");
    }
    let has_keys = found.iter().any(|(key, _)| key == "aws_secret_access_key");
    let foreign = ["sso_session", "sso_start_url", "role_arn", "credential_process"];
    if let Some((key, _)) = found.iter().find(|(key, _)| !has_keys && foreign.contains(&key.as_str()))
        && of("AWS_ACCESS_KEY_ID").is_none()
    {
        bail!(
            "the profile {name} gets its keys by {key}, which is not supported: \
             `aws configure export-credentials --format env` prints them for the environment"
        );
    }
    let named = found.into_iter().filter_map(|(key, value)| {
        let name = match key.as_str() {
            "region" => "AWS_REGION",
            "endpoint_url" => "AWS_ENDPOINT_URL",
            "aws_access_key_id" => "AWS_ACCESS_KEY_ID",
            "aws_secret_access_key" => "AWS_SECRET_ACCESS_KEY",
            "aws_session_token" => "AWS_SESSION_TOKEN",
            _ => return None,
        };
        Some((name.to_owned(), value))
    });
    // Keys of the environment are whole by themselves: a token of a file belongs to other keys.
    let own_keys = of("AWS_ACCESS_KEY_ID").is_some();
    let named = named.filter(|(name, _)| !own_keys || matches!(name.as_str(), "AWS_REGION" | "AWS_ENDPOINT_URL"));
    Ok(named.chain(environment.iter().cloned()).collect())
}

/// What the environment and the user's files say of object stores of any maker.
pub(super) fn of_buckets() -> Result<Vec<(String, String)>> {
    let mut all = settings()?;
    let others = |name: &str| name.starts_with("GOOGLE_") || name.starts_with("AZURE_");
    all.extend(variables().filter(|(name, _)| others(name)));
    // As kaniko's users name it.
    if let Some(endpoint) = surroundings::variable("S3_ENDPOINT") {
        all.push(("AWS_ENDPOINT_URL_S3".into(), endpoint));
    }
    Ok(all)
}

/// The settings of a section of a file: `name = value` below `[section]`.
fn section_of(text: &str, section: &str) -> Vec<(String, String)> {
    let mut inside = false;
    let mut settings = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(title) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            inside = title.0.split_whitespace().eq(section.split_whitespace());
            continue;
        }
        // An indented line is part of the setting above it.
        if !inside || trimmed.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some((name, value)) = trimmed.split_once('=') {
            settings.push((name.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_its_own_settings() {
        let text = "[default]\nregion = a\n# note\n[profile  ci]\nregion=b\ns3 =\n  region = nested\n[profile other]\nregion=c\n";
        assert_eq!(section_of(text, "default"), [("region".into(), "a".into())]);
        assert_eq!(section_of(text, "profile ci"), [("region".into(), "b".into()), ("s3".into(), String::new())]);
        assert!(section_of(text, "profile none").is_empty());
    }
}
