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
        Argument, Arguments, BindMount, CacheMount, CacheSharing, ConfigChange, CopyOp, CopySource, Device, FileMount,
        Flag, GitSource, Heredoc, HttpSource, InlineFile, Instruction, MkdirOp, Mount, MountKind, NetworkMode, Op,
        OriginSource, PathSource, RunOp, SecretMount, SecurityMode, SshMount, Unpack,
    };
    pub use plywood::plugin::context_files;
    pub use plywood::plugin::log;
    pub use plywood::plugin::settings;
    pub use plywood::plugin::stage_view::{ExpandError, Expanded};
    pub use plywood::plugin::types::{
        Diagnostic, Healthcheck, ImageConfig, KeyValue, Need, Platform, PluginError, PluginInfo, ReadError, Severity,
        Span, TextEdit,
    };

    impl RunOp {
        /// A command and nothing else.
        #[must_use]
        pub fn new(argv: Vec<String>) -> Self {
            Self {
                argv,
                stdin: None,
                extra_env: Vec::new(),
                mounts: Vec::new(),
                devices: Vec::new(),
                network: NetworkMode::Default,
                security: SecurityMode::Sandbox,
                user: None,
                working_dir: None,
            }
        }
    }

    impl Lowered {
        /// Operations and their line in the history.
        #[must_use]
        pub fn new(ops: Vec<Op>, created_by: impl Into<String>) -> Self {
            let history = Some(History { created_by: created_by.into(), comment: None });
            Self { ops, history, diagnostics: Vec::new(), hints: Vec::new() }
        }
    }

    impl Diagnostic {
        /// An error in the user's input.
        #[must_use]
        pub fn error(code: impl Into<String>, message: impl Into<String>, span: &Span) -> Self {
            Self {
                severity: Severity::Error,
                code: code.into(),
                message: message.into(),
                span: Some(span.clone()),
                help: None,
                description: None,
                url: None,
                fixes: Vec::new(),
            }
        }
    }
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
        Addition, Component, Decision, Guest, KeyEdit, Provenance, Step, Verdict,
    };
    pub use plywood::plugin::build_ir::{
        BindMount, CacheMount, CacheSharing, CopyOp, CopySource, Device, FileMount, GitSource, HttpSource, InlineFile,
        MkdirOp, Mount, MountKind, NetworkMode, Op, OriginSource, PathSource, RunOp, SecretMount, SecurityMode,
        SshMount, Unpack,
    };
    pub use plywood::plugin::environment;
    pub use plywood::plugin::log;
    pub use plywood::plugin::settings;
    pub use plywood::plugin::types::{Diagnostic, KeyValue, Need, Platform, PluginError, PluginInfo, Severity, Span};

    /// What is done without a policy: to be changed from there.
    impl Default for KeyEdit {
        fn default() -> Self {
            Self {
                drop: Vec::new(),
                add: Vec::new(),
                max_age: None,
                read_scopes: vec![String::new()],
                write_scope: Some(String::new()),
            }
        }
    }

    /// A decision about which there is nothing to say.
    impl From<Decision> for Verdict {
        fn from(decision: Decision) -> Self {
            Self { decision, reason: None, diagnostics: Vec::new() }
        }
    }
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
        Access, Basic, Credential, CredentialRequest, Grant, Guest, Scope,
    };
    pub use plywood::plugin::clock;
    pub use plywood::plugin::environment;
    pub use plywood::plugin::files;
    pub use plywood::plugin::http_client;
    pub use plywood::plugin::log;
    pub use plywood::plugin::native_helper;
    pub use plywood::plugin::secrets;
    pub use plywood::plugin::settings;
    pub use plywood::plugin::types::{Diagnostic, KeyValue, Need, PluginError, PluginInfo, ReadError, Severity};

    impl Credential {
        /// A name and a password.
        #[must_use]
        pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
            Self::Basic(Basic { username: username.into(), password: password.into() })
        }
    }
}
