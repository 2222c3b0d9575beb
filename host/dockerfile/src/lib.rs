//! The syntax of build files: text to directives, stages, instructions and here-documents, with a span for each.
//!
//! It knows no keyword but FROM, ARG and ONBUILD: which others there are, and whether here-documents or the JSON form
//! may follow one, is what the instruction plugins say. Pure. The grammar is BuildKit's (`frontend/dockerfile/parser`).

pub mod directive;
pub mod expand;
mod flags;
mod heredoc;
mod instruction;
mod line;
pub mod lint;
pub mod parse;
mod words;

pub use directive::Directives;
pub use instruction::Line;
pub use parse::{File, Stage, directives, parse, parse_included, parse_trigger};
pub use words::split as split_words;
