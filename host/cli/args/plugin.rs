//! `plywood plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What the plugins are and may do.
///
/// A plugin is a WebAssembly component. The project's plywood.toml may name plugins and their settings; what they may
/// have beyond their arguments, only your own config.toml can grant:
///
///   [plugins.apt]
///   source = "path:./apt.wasm"
///   settings = { mirror = "http://deb.example" }
///   [plugins.apt.allow]
///   override = ["ENV"]      # take over an instruction that another plugin handles
///   env = ["TOKEN"]         # read an environment variable
#[derive(Clone, Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    pub(crate) command: PluginCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins in use, what they handle and what they may have
    List,
    /// Compile the built-in plugins for any processor of this architecture, for packaging
    ///
    /// Build again with PLYWOOD_PRECOMPILED_DIR set to the folder, and the program starts without compiling anything.
    Precompile {
        /// The folder for the compiled code
        folder: PathBuf,
    },
}
