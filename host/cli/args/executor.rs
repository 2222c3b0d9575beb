//! The command line of kaniko's executor and warmer, as their users have it in their pipelines.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Subcommand};

/// `plywood executor`.
#[derive(Clone, Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Builds as kaniko's executor would, on Plywood's engine; `plywood migrate kaniko ARGUMENTS` prints the \
                  `plywood build` line that does the same. Also started by the names executor and /kaniko/executor."
)]
pub(crate) struct ExecutorArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ExecutorCommand>,
    #[command(flatten)]
    pub(crate) build: KanikoArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ExecutorCommand {
    /// Write credentials for a registry to Docker's configuration file
    Login(LoginArgs),
    /// Push an archive or an OCI layout
    Push(KanikoPushArgs),
    /// Print the version
    Version,
}

/// `plywood executor login`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry
    #[arg(value_name = "REGISTRY")]
    pub(crate) registry: String,
    /// Who you are there
    #[arg(short, long)]
    pub(crate) username: String,
    /// The password; --password-stdin keeps it out of the list of processes
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// `plywood executor push`.
#[derive(Clone, Debug, Args)]
pub(crate) struct KanikoPushArgs {
    /// A tar that kaniko, plywood or `docker save` wrote, or the folder of an OCI layout
    #[arg(value_name = "TAR|OCI-DIR")]
    pub(crate) source: PathBuf,
    /// The image's name; may be given more than once
    #[arg(short, long, required = true, value_name = "NAME[:TAG]")]
    pub(crate) destination: Vec<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// A flag that may be given without a value, and with one only behind `=`.
macro_rules! switches {
    ($(#[$outer:meta])* $name:ident { $($(#[$meta:meta])* $field:ident = $default:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Args)]
        pub(crate) struct $name {
            $(
                $(#[$meta])*
                #[arg(
                    long,
                    value_name = "BOOL",
                    num_args = 0..=1,
                    require_equals = true,
                    default_value = $default,
                    default_missing_value = "true",
                    hide_default_value = true,
                    hide_possible_values = true,
                    value_parser = BoolishValueParser::new(),
                    action = ArgAction::Set,
                )]
                pub(crate) $field: bool,
            )*
        }
    };
}

/// What is built, and where it goes.
#[derive(Clone, Debug, Args)]
pub(crate) struct KanikoArgs {
    /// The build context: a folder, dir://, tar://FILE, tar://stdin, git://HOST/REPO#REF#COMMIT, or an archive: https://,
    /// s3://, gs://
    #[arg(short, long, value_name = "DIR|URL", default_value = "/workspace/")]
    pub(crate) context: String,
    /// The Dockerfile: a path here or in the context, or an address
    #[arg(short = 'f', long, value_name = "FILE", default_value = "Dockerfile")]
    pub(crate) dockerfile: String,
    /// A folder of the context that is the context
    #[arg(long, value_name = "PATH")]
    pub(crate) context_sub_path: Option<String>,
    /// Plywood's own: how commands are isolated, as for `plywood build`
    #[arg(long, value_name = "MODE")]
    pub(crate) isolation: Option<String>,
    /// A bucket with the context, where --context names only what is in it
    #[arg(short, long, hide = true)]
    pub(crate) bucket: Option<String>,
    /// A name for the image, which is pushed there
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) destination: Vec<String>,
    /// A build argument; a name alone takes the value of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Vec<String>,
    /// What the image shall run on
    #[arg(long, value_name = "OS/ARCH", aliases = ["customPlatform"])]
    pub(crate) custom_platform: Option<String>,
    /// Text that is put into the image's configuration
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Text that is put on the image's manifest
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// How a git context is fetched: branch=, recurse-submodules=; single-branch=, depth= and insecure-skip-tls= change nothing
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) git: Vec<String>,
    /// A secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub(crate) secret: Vec<String>,
    /// Write the image as an archive for `docker load`
    #[arg(long, value_name = "FILE", aliases = ["tarPath"])]
    pub(crate) tar_path: Option<PathBuf>,
    /// Write the image as an OCI layout
    #[arg(long, value_name = "DIR")]
    pub(crate) oci_layout_path: Option<PathBuf>,
    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) digest_file: Option<PathBuf>,
    /// Write NAME@DIGEST of each name to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) image_name_with_digest_file: Option<PathBuf>,
    /// Write NAME:TAG@DIGEST of each name to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) image_name_tag_with_digest_file: Option<PathBuf>,
    /// How layers are compressed: gzip or zstd
    #[arg(long, value_name = "gzip|zstd", default_value = "gzip")]
    pub(crate) compression: String,
    /// Whose media types the image has: docker or oci
    #[arg(long, value_name = "docker|oci")]
    pub(crate) image_format: Option<String>,
    /// The repository of the cache, or oci:FOLDER [default: the first destination's, and /cache]
    #[arg(long, value_name = "REPOSITORY|oci:FOLDER")]
    pub(crate) cache_repo: Option<String>,
    /// How long entries of the cache count
    #[arg(long, value_name = "AGE", default_value = "336h")]
    pub(crate) cache_ttl: String,
    /// Base images that the warmer has fetched
    #[arg(long, value_name = "DIR", default_value = "/cache")]
    pub(crate) cache_dir: PathBuf,
    /// How much is said: panic, fatal, error, warn, info, debug or trace
    #[arg(short, long, value_name = "LEVEL", default_value = "info")]
    pub(crate) verbosity: String,
    /// How it is said: text, color or json
    #[arg(long, value_name = "FORMAT", default_value = "color")]
    pub(crate) log_format: String,
    #[command(flatten)]
    pub(crate) switches: Switches,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) moot: MootArgs,
}

switches! {
    /// What is on or off.
    Switches {
        /// Keep the results of steps in a repository, and find them there
        cache = "false",
        /// Do not write to the cache
        no_push_cache = "false",
        /// Do not push the image
        #[arg(env = "KANIKO_NO_PUSH")]
        no_push = "false",
        /// Nothing in the image is of the time of its making
        reproducible = "false",
        /// Say what would be built
        dryrun = "false",
        /// A registry that does not let a tag be written again has the image
        push_ignore_immutable_tag_errors = "false",
    }
}

/// How registries are talked to.
#[derive(Clone, Debug, Args)]
pub(crate) struct RegistryArgs {
    #[command(flatten)]
    pub(crate) switches: RegistrySwitches,
    /// A registry that may speak plain HTTP
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) insecure_registry: Vec<String>,
    /// A registry whose certificate may be any
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) skip_tls_verify_registry: Vec<String>,
    /// Certificates that a registry may be signed by
    #[arg(long, value_name = "HOST=FILE")]
    pub(crate) registry_certificate: Vec<String>,
    /// Not supported: plywood has no certificate of its own
    #[arg(long, value_name = "HOST=CERTIFICATE,KEY", hide = true)]
    pub(crate) registry_client_cert: Vec<String>,
    /// Where to look for Docker Hub's images first
    #[arg(long, value_name = "HOST[/PATH]", env = "KANIKO_REGISTRY_MIRROR", value_delimiter = ',')]
    pub(crate) registry_mirror: Vec<String>,
    /// Where to look for a registry's images first: HOST=MIRROR;HOST=MIRROR
    #[arg(long, value_name = "HOST=MIRROR", env = "KANIKO_REGISTRY_MAP", value_delimiter = ';')]
    pub(crate) registry_map: Vec<String>,
    /// Which credentials are looked for; which are is up to plugins
    #[arg(long, value_name = "NAME")]
    pub(crate) credential_helpers: Vec<String>,
    /// Tries of a push; transfers are tried again in any case
    #[arg(long, value_name = "N")]
    pub(crate) push_retry: Option<u32>,
    /// Tries of a download; transfers are tried again in any case
    #[arg(long, value_name = "N")]
    pub(crate) image_download_retry: Option<u32>,
}

switches! {
    /// What is on or off about registries.
    RegistrySwitches {
        /// The registries of the destinations may speak plain HTTP
        insecure = "false",
        /// Registries that are read may speak plain HTTP
        insecure_pull = "false",
        /// The registries of the destinations may show any certificate
        skip_tls_verify = "false",
        /// Registries that are read may show any certificate
        skip_tls_verify_pull = "false",
        /// Ask mirrors alone
        skip_default_registry_fallback = "false",
        /// Whether a push is allowed is seen when it is done
        skip_push_permission_check = "false",
    }
}

/// What served kaniko's way of building and has nothing to say here.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options without a meaning here")]
pub(crate) struct MootArgs {
    #[command(flatten)]
    pub(crate) switches: MootSwitches,
    /// Changes are always seen in full
    #[arg(long, value_name = "full|redo|time", alias = "snapshotMode")]
    pub(crate) snapshot_mode: Option<String>,
    /// Nothing of the builder's is in the image
    #[arg(long, value_name = "PATH")]
    pub(crate) ignore_path: Vec<String>,
    /// Layers are fetched again where that fails
    #[arg(long, value_name = "N")]
    pub(crate) image_fs_extract_retry: Option<u32>,
    /// Plywood keeps its files in --root
    #[arg(long, value_name = "DIR", env = "KANIKO_DIR")]
    pub(crate) kaniko_dir: Option<PathBuf>,
    /// Layers have the level that is best for their compression
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) compression_level: Option<i32>,
}

switches! {
    /// What was on or off.
    MootSwitches {
        /// Each step has a layer of its own: that is what the cache is made of
        single_snapshot = "false",
        use_new_run = "false",
        #[arg(alias = "whitelist-var-run")]
        ignore_var_run = "true",
        materialize = "false",
        #[arg(env = "KANIKO_PRESERVE_CONTEXT")]
        preserve_context = "false",
        #[arg(env = "KANIKO_PRE_CLEANUP")]
        pre_cleanup = "false",
        #[arg(env = "KANIKO_CLEANUP")]
        cleanup = "false",
        /// The root of a machine is never changed, and a container's not without being asked for
        force = "false",
        force_build_metadata = "false",
        /// Stages that nothing needs are always skipped
        skip_unused_stages = "false",
        /// Copies are always kept
        cache_copy_layers = "false",
        /// Commands are always kept
        cache_run_layers = "true",
        compressed_caching = "true",
        log_timestamp = "false",
    }
}

/// `plywood warmer`.
#[derive(Clone, Debug, Args)]
pub(crate) struct WarmerArgs {
    /// A base image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) image: Vec<String>,
    /// A Dockerfile whose base images are meant
    #[arg(short, long, value_name = "FILE")]
    pub(crate) dockerfile: Option<PathBuf>,
    /// An argument for the Dockerfile
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Where they are kept
    #[arg(short, long, value_name = "DIR", default_value = "/cache")]
    pub(crate) cache_dir: PathBuf,
    /// What was fetched longer ago is fetched again
    #[arg(long, value_name = "AGE", default_value = "336h")]
    pub(crate) cache_ttl: String,
    /// Fetch what is there as well
    #[arg(short, long)]
    pub(crate) force: bool,
    /// What the images shall run on
    #[arg(long, value_name = "OS/ARCH", alias = "customPlatform")]
    pub(crate) custom_platform: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[arg(short, long, value_name = "LEVEL", default_value = "info", hide = true)]
    pub(crate) verbosity: String,
    #[arg(long, value_name = "FORMAT", default_value = "color", hide = true)]
    pub(crate) log_format: String,
    #[arg(long, hide = true)]
    pub(crate) log_timestamp: bool,
}

/// `plywood migrate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    pub(crate) from: Foreign,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Foreign {
    /// A command line of kaniko's executor
    Kaniko {
        /// As it is in the pipeline, with or without the program's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
}
