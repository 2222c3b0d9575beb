//! Configuration files: the project's `plywood.toml`, and the user's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use plugin::Grants;
use serde::Deserialize;

/// What either file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) plugins: BTreeMap<String, PluginConfig>,
}

/// One plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct PluginConfig {
    /// `path:FILE`, relative to the file that says so.
    pub(crate) source: Option<String>,
    /// What the file must be: `sha256:...`.
    pub(crate) digest: Option<oci::Digest>,
    /// What build files may call it in `# syntax=`.
    pub(crate) syntax: Vec<String>,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) allow: Option<Grants>,
    /// The folder of the file that named the source.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

/// Nobody writes a longer one.
const LONGEST: u64 = 1 << 20;

/// The project's file must lie in the project's folder.
fn read(path: &Path, project: Option<&Path>) -> Result<Option<Config>> {
    let Some(bytes) = build::read_file(path, project, LONGEST)? else { return Ok(None) };
    let text = String::from_utf8(bytes).with_context(|| path.display().to_string())?;
    let mut config: Config = toml::from_str(&text).with_context(|| path.display().to_string())?;
    for plugin in config.plugins.values_mut() {
        plugin.folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    }
    Ok(Some(config))
}

/// Reads the user's file and the project's, and puts them together: the user's word counts more.
pub(crate) fn load(user: Option<&Path>, project: Option<&Path>) -> Result<Config> {
    let user = match user {
        Some(path) => Some(read(path, None)?.with_context(|| format!("{} is not there", path.display()))?),
        None => match crate::surroundings::xdg("XDG_CONFIG_HOME", ".config") {
            Some(folder) => read(&folder.join("plywood/config.toml"), None)?,
            None => None,
        },
    };
    let mut config = user.unwrap_or_default();
    let Some(project_path) = project.map(|folder| folder.join("plywood.toml")) else {
        return Ok(config);
    };
    let Some(project) = read(&project_path, project)? else {
        return Ok(config);
    };
    for (name, theirs) in project.plugins {
        // Whoever can propose a change of the project must not gain anything by it.
        if theirs.allow.as_ref().is_some_and(|allow| !allow.is_harmless()) {
            bail!(
                "{}: the project's file cannot grant the plugin {name} more than reading the build context; \
                 what you want to allow belongs under [plugins.{name}.allow] in your own config.toml",
                project_path.display()
            );
        }
        let own = config.plugins.entry(name.clone()).or_default();
        let is_trusted = own.allow.as_ref().is_some_and(|allow| !allow.is_harmless());
        if own.source.is_none() && theirs.source.is_some() && is_trusted && own.digest.is_none() {
            bail!(
                "{}: the project says which file the plugin {name} is, and your own config.toml allows it things: \
                 say there which file you mean, with digest = \"sha256:...\" or a source of your own",
                project_path.display()
            );
        }
        own.digest = own.digest.or(theirs.digest);
        own.syntax.extend(theirs.syntax);
        if own.source.is_none() {
            own.source = theirs.source;
            own.folder = theirs.folder;
        }
        for (key, value) in theirs.settings {
            own.settings.entry(key).or_insert(value);
        }
        own.allow = own.allow.take().or(theirs.allow);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_cannot_grant_itself_anything_but_the_context() {
        let folder = tempfile::tempdir().expect("a folder");
        let user = folder.path().join("config.toml");
        std::fs::write(&user, "").expect("a file");
        let load_with = |text: &str| {
            std::fs::write(folder.path().join("plywood.toml"), text).expect("a file");
            load(Some(&user), Some(folder.path()))
        };
        for grant in [
            "env = [\"A\"]",
            "hosts = [\"a:443\"]",
            "secrets = [\"s\"]",
            "drop-inputs = true",
            "override = [\"RUN\"]",
            "files = { a = \"/b\" }",
        ] {
            let error = load_with(&format!("[plugins.x.allow]\n{grant}\n")).expect_err(grant).to_string();
            assert!(error.contains("your own config.toml"), "{error}");
        }
        let config =
            load_with("[plugins.x]\nsource = \"path:x.wasm\"\n[plugins.x.allow]\ncontext = true\n").expect("it may");
        assert!(config.plugins["x"].allow.as_ref().is_some_and(|allow| allow.context));
    }

    #[test]
    fn the_users_word_counts_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let user = folder.path().join("config.toml");
        let trusted = "settings = { a = \"mine\" }\n[plugins.x.allow]\nenv = [\"A\"]\n";
        std::fs::write(&user, format!("[plugins.x]\n{trusted}")).expect("a file");
        let project = "[plugins.x]\nsource = \"path:x.wasm\"\nsettings = { a = \"theirs\", b = \"theirs\" }\n";
        std::fs::write(folder.path().join("plywood.toml"), project).expect("a file");
        // The project could name any file, and that file would have what the user allows.
        let refused = load(Some(&user), Some(folder.path())).expect_err("whose file is it?").to_string();
        assert!(refused.contains("say there which file you mean"), "{refused}");
        let pinned = format!("[plugins.x]\ndigest = \"sha256:{}\"\n{trusted}", "0".repeat(64));
        std::fs::write(&user, pinned).expect("a file");
        let config = load(Some(&user), Some(folder.path())).expect("a configuration");
        let x = &config.plugins["x"];
        assert_eq!((x.settings["a"].as_str(), x.settings["b"].as_str()), ("mine", "theirs"));
        assert_eq!(x.allow.as_ref().map(|allow| allow.env.clone()), Some(vec!["A".to_owned()]));
    }
}
