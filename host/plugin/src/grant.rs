//! What a plugin may have beyond its arguments: nothing, unless the user or the organisation grants it.
//!
//! One choke point checks, [`Grants::require`], and its refusal names the missing grant and the line to add.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// What has been granted to one plugin. Names only: values are looked up when they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grants {
    /// Reading the build context.
    pub context: bool,
    /// Environment variables.
    pub env: Vec<String>,
    /// Files, under the names by which the plugin asks for them.
    pub files: BTreeMap<String, PathBuf>,
    /// Hosts, as `host:port` or `*.domain:port`.
    pub hosts: Vec<String>,
    /// `docker-credential-*` programs, by the name behind the dash; `*` is any.
    pub native_helpers: Vec<String>,
    /// Secrets of the command line, by id.
    pub secrets: Vec<String>,
    /// Leaving inputs of a step out of its cache key.
    pub drop_inputs: bool,
    /// Keywords of other plugins that it may take over.
    #[serde(rename = "override")]
    pub takes_over: Vec<String>,
}

/// Something a plugin can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'r> {
    /// Reading the build context.
    Context,
    /// An environment variable.
    Env(&'r str),
    /// A file.
    File(&'r str),
    /// A host, as `host:port`.
    Host(&'r str),
    /// A credential program.
    NativeHelper(&'r str),
    /// A secret.
    Secret(&'r str),
    /// Leaving an input out of a cache key.
    DropInputs,
    /// Taking over a keyword.
    TakeOver(&'r str),
}

/// Something was asked for and is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plugin {plugin} may not {what}: it has not been granted")]
pub struct Refusal {
    /// Which plugin.
    pub plugin: String,
    /// What it wanted to do.
    pub what: String,
    /// The line that would grant it, and where it belongs.
    pub help: String,
}

impl Grants {
    /// What a project's own file may grant: whoever can propose a change of that file must not gain anything by it.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        Self { context: false, ..self.clone() } == Self::default()
    }

    /// Whether a grant that a plugin asks for is one that it has not got.
    #[must_use]
    pub fn lacks(&self, kind: &str, name: &str) -> bool {
        let request = match kind {
            "context" => Request::Context,
            "env" => Request::Env(name),
            "files" => Request::File(name),
            "hosts" => Request::Host(name),
            "native-helpers" => Request::NativeHelper(name),
            "secrets" => Request::Secret(name),
            "drop-inputs" => Request::DropInputs,
            "override" => Request::TakeOver(name),
            _ => return false,
        };
        self.require("", request).is_err() && !(kind == "hosts" && self.hosts.iter().any(|host| host == name))
    }

    /// Checks one request.
    ///
    /// # Errors
    /// When it is not granted.
    pub fn require(&self, plugin: &str, request: Request<'_>) -> Result<(), Refusal> {
        let listed = |list: &[String], name: &str| list.iter().any(|known| known == name);
        let (granted, what, line) = match request {
            Request::Context => (self.context, "read the build context".to_owned(), "context = true".to_owned()),
            Request::Env(name) => {
                (listed(&self.env, name), format!("read the variable {name}"), format!("env = [\"{name}\"]"))
            }
            Request::File(name) => {
                let line = format!("files = {{ \"{name}\" = \"/path/of/the/file\" }}");
                (self.files.contains_key(name), format!("read the file {name}"), line)
            }
            Request::Host(host) => (
                self.hosts.iter().any(|pattern| host_matches(pattern, host)),
                format!("talk to {host}"),
                format!("hosts = [\"{host}\"]"),
            ),
            Request::NativeHelper(name) => (
                listed(&self.native_helpers, name) || listed(&self.native_helpers, "*"),
                format!("run docker-credential-{name}"),
                format!("native-helpers = [\"{name}\"]"),
            ),
            Request::Secret(id) => {
                (listed(&self.secrets, id), format!("see the secret {id}"), format!("secrets = [\"{id}\"]"))
            }
            Request::DropInputs => (
                self.drop_inputs,
                "leave an input of a step out of its cache key".to_owned(),
                "drop-inputs = true".to_owned(),
            ),
            Request::TakeOver(keyword) => (
                listed(&self.takes_over, keyword),
                format!("take over the instruction {keyword}"),
                format!("override = [\"{keyword}\"]"),
            ),
        };
        if granted {
            return Ok(());
        }
        let file =
            if request == Request::Context { "plywood.toml or your own config.toml" } else { "your own config.toml" };
        let help = format!("to allow it, add `{line}` under [plugins.{plugin}.allow] in {file}");
        Err(Refusal { plugin: plugin.to_owned(), what, help })
    }
}

/// `host:port` exactly, or `*.domain:port` for what ends in the domain; never a part of a label.
fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_by_default() {
        let none = Grants::default();
        for request in [
            Request::Context,
            Request::Env("HOME"),
            Request::File("config"),
            Request::Host("a:443"),
            Request::NativeHelper("pass"),
            Request::Secret("npm"),
            Request::DropInputs,
            Request::TakeOver("RUN"),
        ] {
            let refusal = none.require("x", request).expect_err("refused");
            assert!(refusal.help.contains("[plugins.x.allow]"), "{refusal:?}");
        }
    }

    #[test]
    fn hosts_match_whole_labels() {
        let grants = Grants { hosts: vec!["*.aws.example:443".into(), "a.example:443".into()], ..Grants::default() };
        for (host, granted) in [
            ("ecr.aws.example:443", true),
            ("a.b.aws.example:443", true),
            ("aws.example:443", false),
            ("evilaws.example:443", false),
            ("ecr.aws.example:80", false),
            ("a.example:443", true),
            ("b.a.example:443", false),
        ] {
            assert_eq!(grants.require("x", Request::Host(host)).is_ok(), granted, "{host}");
        }
    }

    #[test]
    fn a_project_can_grant_the_context_alone() {
        assert!(Grants { context: true, ..Grants::default() }.is_harmless());
        assert!(!Grants { env: vec!["A".into()], ..Grants::default() }.is_harmless());
        assert!(!Grants { drop_inputs: true, ..Grants::default() }.is_harmless());
        assert!(!Grants { takes_over: vec!["RUN".into()], ..Grants::default() }.is_harmless());
    }
}
