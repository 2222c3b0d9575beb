//! What can be typed: one file a command. What it means is `request`'s business.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod commands;
pub(crate) mod doctor;
pub(crate) mod executor;
pub(crate) mod image;
pub(crate) mod plugin;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Builds container images without a daemon; what instructions, cache keys and credentials mean is up to plugins.
#[derive(Debug, Parser)]
#[command(name = "plywood", version, arg_required_else_help = true, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0      it is done
  1      it failed
  2      the command line is wrong
  1-100  the exit code of the RUN that failed, where it is one of these
  130    interrupted (SIGINT); 143 terminated (SIGTERM)";

/// For every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Where images, layers and the cache are kept [default: $PLYWOOD_ROOT, else ~/.local/share/plywood]
    #[arg(long, global = true, value_name = "DIR", env = "PLYWOOD_ROOT")]
    pub(crate) root: Option<PathBuf>,
    /// Your own configuration, which may grant things to plugins [default: ~/.config/plywood/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A registry that may speak plain HTTP or show any certificate (localhost may anyway)
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    pub(crate) insecure_registry: Vec<String>,
    /// Where images of a registry, Docker Hub's if none is named, are looked for before it is asked itself; may be given
    /// more than once
    #[arg(long, global = true, value_name = "[HOST=]MIRROR[/PATH]")]
    pub(crate) registry_mirror: Vec<String>,
    /// Never ask a registry itself that has mirrors
    #[arg(long, global = true)]
    pub(crate) only_mirrors: bool,
    /// Certificates, PEM, that registries may be signed by, beyond this machine's
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) registry_ca: Vec<PathBuf>,
    /// A plugin's component: it takes the place of the built-in of its kind, or stands before it
    #[arg(long = "plugin", global = true, value_name = "FILE.wasm")]
    pub(crate) plugins: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Print what a build would run, with cache keys and what would be found
    Plan(Box<build::PlanArgs>),
    /// Say of each step of the latest build whether it was found, and what had changed if not
    Explain(build::ExplainArgs),
    /// What steps have given and the store keeps: list it, measure it, make room
    Cache(cache::CacheArgs),
    /// List the images of the store
    Images,
    /// Give an image of the store another name
    Tag(image::TagArgs),
    /// Take a name from an image of the store
    Rmi(image::RmiArgs),
    /// Copy an image between docker://, store:, oci-layout://, oci-archive: and docker-archive:
    Copy(image::CopyArgs),
    /// Copy an image from a registry into the store
    Pull(image::PullArgs),
    /// Copy an image, from the store if nothing else is said, to a registry
    Push(image::PushArgs),
    /// Print an image's manifest and configuration
    Inspect(image::InspectArgs),
    /// Build as kaniko's executor would, from its command line
    Executor(Box<executor::ExecutorArgs>),
    /// Fetch base images, as kaniko's warmer would
    Warmer(executor::WarmerArgs),
    /// Print what another builder's command line is here
    Migrate(executor::MigrateArgs),
    /// Say what this place allows, and what would be needed for the rest
    Doctor(doctor::DoctorArgs),
    /// What the plugins are and may do
    Plugin(plugin::PluginArgs),
    /// Help on a command, or on the language: `plywood help dockerfile`
    Help(HelpArgs),
}

/// `plywood help`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HelpArgs {
    /// A command, or `dockerfile`
    pub(crate) topic: Vec<String>,
}
