//! Why a build has ended without an image.

use plan::{Diagnostic, Span};

use crate::worker::{Exit, Refused};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is wrong, and where.
    #[error("{}", .0.first().map_or("the build file is wrong", |d| d.message.as_str()))]
    Invalid(Vec<Diagnostic>),
    /// A command failed.
    #[error("{} did not complete successfully: {}", .command, describe(*.exit))]
    Command {
        /// The step.
        step: String,
        /// `process "/bin/sh -c ..."`.
        command: String,
        /// How it ended.
        exit: Exit,
        /// Where it stands.
        span: Option<Span>,
        /// The last lines that it printed.
        output: Vec<String>,
    },
    /// A step could not be done.
    #[error("{reason}")]
    Step {
        /// The step.
        step: String,
        /// In words.
        reason: String,
        /// Where it stands.
        span: Option<Span>,
    },
    /// A step was not found where everything must be.
    #[error("{step} is not in the cache: {reason}")]
    NotCached {
        /// The step.
        step: String,
        /// Why.
        reason: String,
        /// Where it stands.
        span: Option<Span>,
    },
    /// Commands cannot be run here.
    #[error("{refused}")]
    Isolation {
        /// What is missing.
        #[source]
        refused: Refused,
        /// The first step that needs it.
        span: Option<Span>,
    },
    /// A plugin.
    #[error("{source}")]
    Plugin {
        /// What it did.
        source: plugin::Error,
        /// The instruction.
        span: Option<Span>,
    },
    /// An image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A base image, and where it is named.
    #[error("{source}")]
    Base {
        /// What is wrong with it.
        source: image::Error,
        /// The instruction.
        span: Option<Span>,
    },
    /// The context.
    #[error(transparent)]
    Context(#[from] context::Error),
    /// A layer.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A place that an output goes to.
    #[error("{place}: {source}")]
    Output {
        /// Where.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// The request itself.
    #[error("{0}")]
    Request(String),
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code: {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
    }
}

impl Error {
    /// An error in the input at a place.
    pub(crate) fn at(code: &str, message: impl Into<String>, span: &Span) -> Self {
        Self::Invalid(vec![Diagnostic::error(code, message, Some(span.clone()))])
    }
}

impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Invalid(vec![diagnostic])
    }
}
