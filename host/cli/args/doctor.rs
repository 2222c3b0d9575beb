//! `plywood doctor`.

use clap::Args;

/// `plywood doctor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Registries that are to be asked whether they answer
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) registries: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
