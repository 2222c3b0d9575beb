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
    /// List what steps have given: of the store the last used first, of a cache the newest
    Ls(LookArgs),
    /// Say what takes how much room
    Du(LookArgs),
    /// Take away what is of no use any more, and what the limits do not keep
    Gc(GcArgs),
    /// Take away all: of the store what no named image needs, of a cache everything that builds have kept there
    Prune(PruneArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    /// A cache, as --cache-from names it: type=registry,ref=REPOSITORY[:PREFIX], type=local,src=FOLDER, type=s3,bucket=NAME;
    /// a repository alone is the first [default: the store]
    #[arg(value_name = "CACHE")]
    pub(crate) cache: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Keep what was used, or in a cache made, so recently: 7d, 12h
    #[arg(long, value_name = "AGE")]
    pub(crate) keep_within: Option<String>,
    /// Keep so much, of what was used or made last: 20g
    #[arg(long, value_name = "BYTES")]
    pub(crate) keep_bytes: Option<String>,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}
