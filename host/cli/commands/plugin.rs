//! `plywood plugin`.

use std::sync::Arc;

use anyhow::{Context, Result};
use credential::Helpers;
use plugin::Engine;

use crate::args::Global;
use crate::args::plugin::{PluginArgs, PluginCommand};
use crate::builtins::BUILTINS;
use crate::commands::print;
use crate::session::Session;
use crate::surroundings::Process;

pub(crate) async fn run(global: &Global, args: &PluginArgs) -> Result<()> {
    match &args.command {
        PluginCommand::List => list(global).await,
        PluginCommand::Precompile { folder } => {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            for builtin in &BUILTINS {
                let path = folder.join(format!("{}.cwasm", builtin.name));
                let code = Engine::precompile(builtin.wasm)?;
                std::fs::write(&path, code).with_context(|| path.display().to_string())?;
                print(&path.display().to_string());
            }
            Ok(())
        }
    }
}

async fn list(global: &Global) -> Result<()> {
    let session = Session::open(global, Some(std::path::Path::new(".")))?;
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    for plugin in &plugins.instructions {
        let keywords: Vec<&str> = plugin.keywords().iter().map(|keyword| keyword.keyword.as_str()).collect();
        print_identity("instructions", plugin.identity());
        print(&format!("  handles {}", keywords.join(" ")));
        print_grants(plugin.identity(), plugin.grants());
    }
    print_identity("cache policy", plugins.policy.identity());
    print_grants(plugins.policy.identity(), plugins.policy.grants());
    for plugin in plugins.credentials.all().await? {
        print_identity("credentials", plugin.identity());
        print_grants(plugin.identity(), plugin.grants());
    }
    Ok(())
}

fn print_identity(kind: &str, identity: &plugin::Identity) {
    print(&format!("{kind:13} {identity}"));
    if !identity.description.is_empty() {
        print(&format!("  {}", identity.description));
    }
}

fn print_grants(identity: &plugin::Identity, grants: &plugin::Grants) {
    let mut lines = Vec::new();
    let mut list = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            lines.push(format!("{name} {}", values.join(" ")));
        }
    };
    list("env", grants.env.clone());
    list("files", grants.files.iter().map(|(name, path)| format!("{name}={}", path.display())).collect());
    list("hosts", grants.hosts.clone());
    list("native-helpers", grants.native_helpers.clone());
    list("secrets", grants.secrets.clone());
    list("override", grants.takes_over.clone());
    list("context", grants.context.then(|| "true".to_owned()).into_iter().collect());
    list("drop-inputs", grants.drop_inputs.then(|| "true".to_owned()).into_iter().collect());
    match lines.is_empty() {
        true => print("  may have nothing"),
        false => lines.iter().for_each(|line| print(&format!("  may have {line}"))),
    }
    for need in identity.needs.iter().filter(|need| grants.lacks(&need.kind, &need.name)) {
        print(&format!("  asks for {} {}: {}", need.kind, need.name, need.reason));
    }
}
