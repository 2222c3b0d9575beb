//! What a build tells while it goes on.

use plan::Diagnostic;
use plan::graph::VertexId;

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The steps are known: their names, in order.
    Planned(Vec<(VertexId, String)>),
    /// Something is said about the input.
    Diagnostic(Diagnostic),
    /// A step has begun; what is told is why it was not found in the cache.
    Started(VertexId, Option<String>),
    /// A command has printed this.
    Output {
        /// Which step.
        step: VertexId,
        /// Whether on its standard error.
        is_error: bool,
        /// As it came.
        bytes: Vec<u8>,
    },
    /// A step is done.
    Finished {
        /// Which.
        step: VertexId,
        /// Whether it was found in the cache.
        cached: bool,
    },
    /// A step has failed.
    Failed(VertexId),
    /// Something beside the steps: resolving, fetching, exporting.
    Note(String),
}

/// Takes events.
pub type Events = std::sync::Arc<dyn Fn(Event) + Send + Sync>;
