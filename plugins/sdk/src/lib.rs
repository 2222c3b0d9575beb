//! What a Plywood plugin is written with: one module for each kind, each with its types, its trait and its `export!`.
//!
//! ```ignore
//! use plywood_sdk::cache_policy::{self, Guest, Step, Verdict};
//!
//! struct Never;
//! impl Guest for Never { /* info, decide */ }
//! cache_policy::export!(Never with_types_in cache_policy);
//! ```
//!
//! Build with `cargo build --release --target wasm32-wasip2`, `crate-type = ["cdylib"]`, and hand the file to
//! `plywood build --plugin target/wasm32-wasip2/release/name.wasm`. A panic is shown to the user as an error of the
//! plugin; the text that it prints is part of it.

/// Plugins that give instructions their meaning.
#[allow(unsafe_code, clippy::all, reason = "generated from wit/")]
pub mod instruction {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "instruction-plugin",
        pub_export_macro: true,
        default_bindings_module: "plywood_sdk::instruction",
    });
    pub use exports::plywood::plugin::instruction_handler::{
        FlagSpec, Guest, History, Included, KeywordSpec, Lowered, Lowering, Stage,
    };
    pub use plywood::plugin::build_ir::{
        Arguments, BindMount, CacheMount, CacheSharing, ConfigChange, CopyOp, CopySource, FileMount, Flag, GitSource,
        Heredoc, HttpSource, InlineFile, Instruction, MkdirOp, Mount, MountKind, NetworkMode, Op, OriginSource,
        PathSource, RunOp, SecretMount, SecurityMode, SshMount, Unpack,
    };
    pub use plywood::plugin::context_files;
    pub use plywood::plugin::log;
    pub use plywood::plugin::settings;
    pub use plywood::plugin::stage_view::{ConfigField, ExpandError, Expanded};
    pub use plywood::plugin::types::{
        Diagnostic, Healthcheck, ImageConfig, KeyValue, Platform, PluginError, PluginInfo, Severity, Span, TextEdit,
    };
}

/// Plugins that decide what a cache key is made of.
#[allow(unsafe_code, clippy::all, reason = "generated from wit/")]
pub mod cache_policy {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "cache-policy-plugin",
        pub_export_macro: true,
        default_bindings_module: "plywood_sdk::cache_policy",
    });
    pub use exports::plywood::plugin::cache_policy::{
        Addition, Component, Decision, Guest, KeyEdit, Phase, Step, Verdict,
    };
    pub use plywood::plugin::build_ir::{
        Arguments, BindMount, CacheMount, CacheSharing, ConfigChange, CopyOp, CopySource, FileMount, Flag, GitSource,
        Heredoc, HttpSource, InlineFile, Instruction, MkdirOp, Mount, MountKind, NetworkMode, Op, OriginSource,
        PathSource, RunOp, SecretMount, SecurityMode, SshMount, Unpack,
    };
    pub use plywood::plugin::log;
    pub use plywood::plugin::settings;
    pub use plywood::plugin::types::{Diagnostic, Platform, PluginError, PluginInfo, Severity};
}

/// Plugins that know who the user is at a registry.
#[allow(unsafe_code, clippy::all, reason = "generated from wit/")]
pub mod credential {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "credential-plugin",
        pub_export_macro: true,
        default_bindings_module: "plywood_sdk::credential",
    });
    pub use exports::plywood::plugin::credential_helper::{
        Access, CapabilityNeeds, Credential, CredentialRequest, Grant, Guest, Scope,
    };
    pub use plywood::plugin::clock;
    pub use plywood::plugin::grants;
    pub use plywood::plugin::http_client;
    pub use plywood::plugin::log;
    pub use plywood::plugin::native_helper;
    pub use plywood::plugin::settings;
    pub use plywood::plugin::types::{Diagnostic, Platform, PluginError, PluginInfo, Severity};
}
