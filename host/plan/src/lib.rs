//! The waist of the house: what instructions lower to, and the graph of steps that a build runs.
//!
//! Front ends produce it, the solver runs it, and neither knows the other. Pure: no input or output.

pub mod config;
pub mod diagnostic;
pub mod graph;
pub mod key;
pub mod op;

pub use diagnostic::{Diagnostic, Severity, Span};
pub use graph::{Graph, Vertex, VertexId};
