//! `plywood cache`.

use clap::{Args, Subcommand};

/// `plywood cache`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List what steps have given, the last used first
    Ls(JsonArgs),
    /// Say what takes how much room
    Du(JsonArgs),
    /// Take away what is of no use any more, and what the limits do not keep
    Gc(GcArgs),
    /// Take away all that no named image needs
    Prune(PruneArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GcArgs {
    /// Keep what was used so recently: 7d, 12h
    #[arg(long, value_name = "AGE")]
    pub(crate) keep_within: Option<String>,
    /// Keep so much, of what was used last: 20g
    #[arg(long, value_name = "BYTES")]
    pub(crate) keep_bytes: Option<String>,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}
