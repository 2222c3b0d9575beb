//! Commands for images that exist.

use clap::Args;

/// `plywood tag`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TagArgs {
    /// An image of the store
    pub(crate) source: String,
    /// Its new name
    pub(crate) target: String,
}

/// `plywood rmi`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RmiArgs {
    /// Images of the store
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// `plywood copy`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CopyArgs {
    /// Where the image is: docker://REF, store:REF, oci-layout://DIR[:TAG], oci-archive:FILE, docker-archive:FILE
    pub(crate) source: String,
    /// Where it is to be
    pub(crate) destination: String,
}

/// `plywood pull`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PullArgs {
    /// The image's name
    pub(crate) name: String,
}

/// `plywood push`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PushArgs {
    /// An image of the store, or any place that `copy` takes
    pub(crate) source: String,
    /// The name in a registry [default: the source's]
    pub(crate) name: Option<String>,
}

/// `plywood inspect`.
#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// Any place that `copy` takes; a name alone is looked for in the store, then in its registry
    pub(crate) image: String,
}
