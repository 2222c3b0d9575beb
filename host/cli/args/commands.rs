//! What RUN gets beyond what the Dockerfile says, in the words of `docker build`.

use clap::{Args, ValueEnum};

/// To `--allow`: an output may delete what is in a folder that is not below the working directory.
pub(crate) const LOCAL_DELETE: &str = "buildx.local.delete";

/// Options for every RUN of a build.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options for RUN")]
pub(crate) struct CommandArgs {
    /// An ssh agent, or keys, for RUN --mount=type=ssh; without PATH the agent of $SSH_AUTH_SOCK
    #[arg(long, value_name = "default|ID[=SOCKET|KEY[,KEY...]]")]
    pub(crate) ssh: Vec<String>,
    /// Allow what the Dockerfile asks for: network.host, security.insecure; and that -o type=local,mode=delete empties a
    /// folder outside the working directory: buildx.local.delete
    #[arg(long, value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
    /// How closely RUN is held: strict leaves it fewer rights, of which set-user-ID programs give none back (no sudo, no su),
    /// and filters its system calls in every isolation
    /// [default: as containers are]
    #[arg(long, value_name = "HOW")]
    pub(crate) security: Option<SecurityMode>,
    /// The network of RUNs that do not say
    #[arg(long, value_enum)]
    pub(crate) network: Option<NetworkMode>,
    /// A line for /etc/hosts; the address host-gateway is this machine
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// A limit of each process: nofile=1024:2048; -1 is no limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// The control group under which each RUN gets its own
    #[arg(long, value_name = "GROUP")]
    pub(crate) cgroup_parent: Option<String>,
    /// Limits by name, as BuildKit calls them: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus,
    /// cpuset-mems
    #[arg(long, value_name = "NAME=VALUE[,...]")]
    pub(crate) resource: Vec<String>,
    /// Memory for all processes of a RUN together
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Memory and swap for all processes of a RUN together; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Weight among others that want the processors [default: 1024]
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// Length of the period of --cpu-quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_quota: Option<u64>,
    /// Processors to run on: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use: 0,1
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
}

/// `--security`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SecurityMode {
    /// As containers are.
    Default,
    /// With fewer rights.
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// This machine's
    Default,
    /// A loopback alone
    None,
    /// This machine's; allows RUN --network=host
    Host,
}
