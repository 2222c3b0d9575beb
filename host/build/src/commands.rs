//! What the user gives to every command of a build, and what commands may ask for.

use std::collections::{BTreeMap, BTreeSet};

pub use executor::{Limit, Resources, Surroundings, limits::is_known as is_limit};
use plan::op::Network;

use crate::ssh::Agent;

/// What the user gives to every command.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Hosts, limits, the size of /dev/shm.
    pub surroundings: Surroundings,
    /// `--network`: for commands that do not say.
    pub network: Option<Network>,
    /// `--allow`.
    pub allow: BTreeSet<Entitlement>,
    /// BUILDKIT_CACHE_MOUNT_NS: cache mounts are those of this space.
    pub cache_mount_space: Option<String>,
    /// `--ssh`, by id.
    pub ssh: BTreeMap<String, Agent>,
}

/// What a build file can ask for and the user must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `RUN --network=host`.
    NetworkHost,
    /// `RUN --security=insecure`.
    SecurityInsecure,
}

impl Entitlement {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::NetworkHost, Self::SecurityInsecure];

    /// What `--allow` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }
}
