//! `plywood build` and `plywood plan`, in the habits of `docker buildx build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::commands::CommandArgs;

/// What both building and planning need.
#[derive(Clone, Debug, Args)]
pub(crate) struct Input {
    /// The build context: a folder, a tar file (compressed or not), - for a tar on standard input, a git repository, or the
    /// address of a tar: https://, s3://, gs:// or Azure's
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,
    /// The Dockerfile, or - for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// The stage to build, by name [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// What the image shall run on; several make an index [default: this machine's platform]
    #[arg(long, value_name = "OS/ARCH[/VARIANT][,...]")]
    pub(crate) platform: Vec<String>,
    /// A build argument; a name alone takes the value of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// A folder or image for a name: in FROM, COPY --from and RUN --mount=from
    #[arg(long, value_name = "NAME=PATH|oci-layout://DIR[:TAG]|docker-image://REF")]
    pub(crate) build_context: Vec<String>,
    /// Run every step, whatever the store and caches have; an entry that a cache has stays as it is
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Where to look for results beside the store: type=registry,ref=REPOSITORY[:TAG], TAG beginning the tags of a cache
    /// or naming an image with an inline one; type=local,src=FOLDER; type=s3,bucket=NAME[,prefix=PATH][,region=NAME]
    /// [,endpoint_url=URL], with AWS's variables, profiles and roles; type=store,src=FOLDER, another store, read-only;
    /// each with [,max-age=AGE]. A repository alone is the first
    #[arg(long, value_name = "type=TYPE,...", verbatim_doc_comment)]
    pub(crate) cache_from: Vec<String>,
    /// Ask registries for base images, even for those that the store has
    #[arg(long)]
    pub(crate) pull: bool,
}

/// `plywood build`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) input: Input,
    /// A name for the image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Text that is put into the image's configuration
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Text that is put on the image's manifest
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Where the image goes; without it the image stays in the store:
    /// type=oci|docker|local|tar|registry[,dest=PATH][,name=REF][,compression=gzip|zstd|none][,oci-mediatypes=BOOL];
    /// local and tar: [,platform-split=BOOL], local: [,mode=copy|delete], what was in the folder goes with delete;
    /// images: [,rewrite-timestamp=BOOL], no file is younger than SOURCE_DATE_EPOCH;
    /// PATH alone is type=local, - is a tar on standard output
    #[arg(short, long, value_name = "type=TYPE[,dest=PATH]", verbatim_doc_comment)]
    pub(crate) output: Vec<String>,
    /// Push the image under its names: -o type=registry
    #[arg(long)]
    pub(crate) push: bool,
    /// Hand the image to `docker load`
    #[arg(long)]
    pub(crate) load: bool,
    /// A secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub(crate) secret: Vec<String>,
    #[command(flatten)]
    pub(crate) commands: CommandArgs,
    /// How commands are isolated: ns-root, ns-user, ns-user-bindproc, ns-user-single, chroot or inplace; `plywood doctor`
    /// says which of them work here
    /// [default: the first that does]
    #[arg(long, value_name = "MODE", env = "PLYWOOD_ISOLATION")]
    pub(crate) isolation: Option<String>,
    /// Let commands trust this machine's certificates; the image does not get them
    #[arg(long)]
    pub(crate) ca_inject: bool,
    /// Look at the Dockerfile instead of building: --call=check
    #[arg(long)]
    pub(crate) check: bool,
    /// Where to keep results beside the store: type=registry, local (dest=FOLDER) or s3 as in --cache-from, and
    /// [,mode=max|min], all steps or only those whose layers are in the image, [,ignore-error=BOOL], [,max-age=AGE], older
    /// ones are superseded; or type=inline: the image itself says of what its layers are
    #[arg(long, value_name = "type=TYPE,...", verbatim_doc_comment)]
    pub(crate) cache_to: Vec<String>,
    /// Keep what cache mounts hold for machines that have none of it: type=registry, local (dest=FOLDER) or s3 as in
    /// --cache-to, and [,scope=NAME], [,key-files=PATH;PATH], what was kept with the same files of the context is wanted
    /// most, [,max-size=BYTES], 2g where it is not given
    #[arg(long, value_name = "type=TYPE,...", verbatim_doc_comment)]
    pub(crate) cache_mount_store: Option<String>,
    /// Fail at the first step that is not found in the store or a cache
    #[arg(long)]
    pub(crate) require_cached: bool,
    /// Keep the store below this size, 20g: what was used least recently goes after the build
    #[arg(long, value_name = "BYTES", env = "PLYWOOD_STORE_MAX")]
    pub(crate) store_max: Option<String>,
    /// What to do: build; check: say what BuildKit's rules find; outline: what the target takes; targets: what can be
    /// built. Each but build in text or JSON
    #[arg(
        long,
        value_name = "build|check|outline|targets[,format=json]",
        default_value = "build",
        hide_default_value = true
    )]
    pub(crate) call: String,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
    /// Show nothing but the image's digest: --progress=quiet
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write NAME@DIGEST of each of the image's names to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) image_name_with_digest_file: Option<PathBuf>,
    /// Write NAME:TAG@DIGEST of each of the image's names to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) image_name_tag_with_digest_file: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Steps that run at the same time [default: the number of processors]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Whose media types the image has
    #[arg(long, value_enum, default_value_t = ImageFormat::Oci)]
    pub(crate) format: ImageFormat,
    /// How layers are compressed
    #[arg(long, value_enum, default_value_t = LayerCompression::Gzip)]
    pub(crate) compression: LayerCompression,
    /// Base images that a warmer has fetched, and the layouts that they are in.
    #[arg(skip)]
    pub(crate) fetched_images: Vec<(oci::Reference, PathBuf)>,
    /// Only `false` is supported yet: no provenance is made
    #[arg(long, value_name = "BOOL", default_value = "false")]
    pub(crate) provenance: String,
    /// Only `false` is supported yet: no SBOM is made
    #[arg(long, value_name = "BOOL", default_value = "false")]
    pub(crate) sbom: String,
}

/// `plywood plan`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) input: Input,
    /// A secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub(crate) secret: Vec<String>,
    #[command(flatten)]
    pub(crate) commands: CommandArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// Live on a terminal, plain elsewhere
    Auto,
    /// One line after another
    Plain,
    /// A live view of the steps
    Tty,
    /// One JSON object a line
    Json,
    /// Nothing
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormat {
    Oci,
    Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayerCompression {
    Gzip,
    Zstd,
    None,
}

/// `plywood explain`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Only this step, with everything that is known of it: its place (2/5, builder 2/5) or a part of its text
    pub(crate) step: Option<String>,
    /// The context of the build, as it was given
    #[arg(long, value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
