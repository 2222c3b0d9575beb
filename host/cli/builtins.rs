//! The plugins that are part of the program.

/// A plugin that is part of the program.
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) kind: plugin::Kind,
    pub(crate) wasm: &'static [u8],
    /// Compiled when the program was built, where the packager did that.
    pub(crate) code: Option<&'static [u8]>,
}

/// All of them.
pub(crate) static BUILTINS: [Builtin; 3] = include!(concat!(env!("OUT_DIR"), "/builtins.rs"));
