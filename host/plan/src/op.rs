//! Operations: what one instruction asks for, as an instruction plugin says it.

use oci::config::Healthcheck;
use oci::{Digest, Platform};
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Span};

/// One parsed instruction, as a plugin gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// In upper case.
    pub keyword: String,
    /// `--name[=value]` before the arguments.
    pub flags: Vec<Flag>,
    /// What follows the flags.
    pub arguments: Arguments,
    /// The bodies that follow the line.
    pub heredocs: Vec<Heredoc>,
    /// The escape character.
    pub escape: char,
    /// As written.
    pub source: String,
    /// Where it stands.
    pub span: Span,
}

/// A `--name[=value]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub name: String,
    /// None when there is no `=`.
    pub value: Option<String>,
    /// Where it stands.
    pub span: Span,
}

/// What follows the flags of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Text, continuation lines joined.
    Text(String),
    /// The JSON form.
    Exec(Vec<String>),
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter.
    pub name: String,
    /// The body, as written.
    pub content: String,
    /// Whether variables in it are expanded: the delimiter was not quoted.
    pub expand: bool,
    /// Whether tabs at the start of its lines do not count: `<<-`.
    pub chomp: bool,
    /// Where the body stands.
    pub span: Span,
}

/// What lowering an instruction gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// In order.
    pub ops: Vec<Op>,
    /// The line of the image's history, unless the instruction leaves none.
    pub history: Option<HistoryLine>,
    /// What the plugin has to say.
    pub diagnostics: Vec<Diagnostic>,
    /// What cache policies may want to know of the steps that come of it.
    pub hints: Vec<(String, String)>,
}

/// Instructions that stand for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    /// What the text is called, for messages.
    pub name: String,
    /// The instructions.
    pub text: String,
    /// The character that escapes in them.
    pub escape: char,
    /// What the plugin has to say.
    pub diagnostics: Vec<Diagnostic>,
}

/// A line for the history of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The instruction in normal form.
    pub created_by: String,
    /// Whether it makes no layer.
    pub empty_layer: bool,
    /// Who made it.
    pub comment: Option<String>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Execute a command.
    Run(RunOp),
    /// Put files into the image.
    Copy(CopyOp),
    /// Change the image's configuration.
    Config(ConfigChange),
    /// Make a directory.
    Mkdir(MkdirOp),
    /// Declare a build argument from here on, with its default.
    DeclareArg(String, Option<String>),
}

/// A command to execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunOp {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Fed to the first process.
    pub stdin: Option<Vec<u8>>,
    /// Beyond the configuration's and the arguments'.
    pub extra_env: Vec<(String, String)>,
    /// What is mounted meanwhile.
    pub mounts: Vec<Mount>,
    /// Devices of the machine's, by name, and whether it must be there.
    pub devices: Vec<(String, bool)>,
    /// Which network it sees.
    pub network: Network,
    /// How it is confined.
    pub security: Security,
    /// None: as the configuration says.
    pub user: Option<String>,
    /// None: as the configuration says.
    pub working_dir: Option<String>,
}

/// Which network a command sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the build gives.
    Default,
    /// Only a loopback of its own.
    None,
    /// The machine's.
    Host,
}

/// How a command is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// As containers are.
    Sandbox,
    /// Hardly.
    Insecure,
}

/// Something mounted while a command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute; none only for a secret that is an environment variable alone.
    pub target: Option<String>,
    /// What it is.
    pub kind: MountKind,
}

/// Kinds of mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind {
        /// A stage, named context or image; none: the build context.
        from: Option<String>,
        /// Path in it.
        source: String,
        /// Whether it can be written; what is written is thrown away.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// Memory, of at most so many bytes.
    Tmpfs(Option<u64>),
    /// A secret, as a file, an environment variable, or both.
    Secret(SecretMount),
    /// The user's ssh agent.
    Ssh {
        /// Which agent.
        id: String,
        /// Whether the build fails without it.
        required: bool,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
    },
    /// A read-only file with this content.
    File {
        /// The bytes.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

/// A directory that outlives the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheMount {
    /// Its name.
    pub id: String,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// What a new one is filled from: a stage, a named context or an image.
    pub from: Option<String>,
    /// Path in that.
    pub source: String,
    /// Owner of a new one.
    pub uid: u32,
    /// Group of a new one.
    pub gid: u32,
    /// Permission bits of a new one.
    pub mode: u32,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Any number of steps.
    Shared,
    /// Each step has one of its own.
    Private,
    /// Steps wait for one another.
    Locked,
}

/// A secret to be seen by a command: in a file, where the mount has a target, in a variable, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretMount {
    /// Its name on the command line.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits of the file.
    pub mode: u32,
    /// The environment variable that holds it.
    pub as_env: Option<String>,
}

/// Files to be put into the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyOp {
    /// In order.
    pub sources: Vec<CopySource>,
    /// As written; a trailing slash makes it a directory; relative to the working directory.
    pub destination: String,
    /// `user[:group]`.
    pub chown: Option<String>,
    /// Octal digits, or chmod's symbolic form.
    pub chmod: Option<String>,
    /// Patterns left out.
    pub exclude: Vec<String>,
    /// Made independently of the layers below.
    pub link: bool,
    /// Keeps the sources' parent directories.
    pub parents: bool,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopySource {
    /// The build context.
    Context {
        /// Paths and patterns.
        patterns: Vec<String>,
        /// Whether tar archives are unpacked.
        unpack: bool,
    },
    /// A stage, a named context or an image.
    Stage {
        /// Which.
        origin: String,
        /// Paths and patterns.
        patterns: Vec<String>,
    },
    /// The build file itself.
    Inline(Vec<InlineFile>),
    /// The web; under the name that the URL gives it.
    Http {
        /// Where from.
        url: String,
        /// What it must be.
        checksum: Option<Digest>,
        /// Whether tar archives are unpacked.
        unpack: bool,
    },
    /// A git repository.
    Git(GitSource),
}

/// A file whose content stands in the build file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// A git repository as a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GitSource {
    /// As people write it, with fragment and query.
    pub url: String,
    /// The commit that it must be, or its beginning.
    pub checksum: Option<String>,
    /// Whether `.git` stays; none: as the query says.
    pub keep_git_dir: Option<bool>,
}

/// A directory to be made, with the parents it lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MkdirOp {
    /// Absolute.
    pub path: String,
    /// `user[:group]` of what is made.
    pub owner: Option<String>,
    /// Permission bits of what is made.
    pub mode: u32,
}

/// A change of the image's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is named after the field that it sets")]
pub enum ConfigChange {
    SetEnv(String, String),
    SetLabel(String, String),
    SetUser(String),
    SetWorkingDir(String),
    SetEntrypoint(Option<Vec<String>>),
    SetCmd(Option<Vec<String>>),
    SetArgsEscaped(bool),
    SetShell(Vec<String>),
    SetStopSignal(String),
    SetHealthcheck(Option<Healthcheck>),
    AddExposedPort(String),
    AddVolume(String),
    AddOnBuild(String),
    SetAuthor(String),
    UnsetEnv(String),
    UnsetLabel(String),
    RemoveExposedPort(String),
    RemoveVolume(String),
}

/// What a plugin says that it handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyword {
    /// In upper case.
    pub keyword: String,
    /// The flags it takes.
    pub flags: Vec<FlagSpec>,
    /// For people.
    pub doc: String,
    /// Whether here-documents may follow.
    pub allows_heredoc: bool,
    /// Whether the arguments may be a JSON list.
    pub allows_exec_form: bool,
    /// In what it differs from the language's reference.
    pub deviation: Option<String>,
}

/// A flag that an instruction takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagSpec {
    /// Without the dashes.
    pub name: String,
    /// Whether a value must follow; a flag without may be written `--x`, `--x=true` or `--x=false`.
    pub takes_value: bool,
    /// Whether it may stand more than once.
    pub repeatable: bool,
    /// For people.
    pub doc: String,
    /// In what it differs from the language's reference.
    pub deviation: Option<String>,
}

/// What one instruction may see of the stage above it.
pub trait Stage: Send + Sync {
    /// The configuration as the instructions above left it.
    fn config(&self) -> &oci::ImageConfig;
    /// What the image will run on.
    fn target_platform(&self) -> &Platform;
    /// What the build runs on.
    fn build_platform(&self) -> &Platform;
    /// A build argument in scope, or an environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// What declaring this argument would give it.
    fn argument(&self, name: &str, default: Option<&str>) -> Option<String>;
    /// Where an instruction of this stage has set it.
    fn set_at(&self, field: ConfigField) -> Option<Span>;
    /// Expands variables.
    ///
    /// # Errors
    /// When the text is malformed or a `${x:?}` fails.
    fn expand(&self, text: &str, how: Expansion) -> Result<Expanded, ExpandError>;
    /// The same for one word, where these variables have these values.
    ///
    /// # Errors
    /// As [`Self::expand`].
    fn expand_with(&self, text: &str, variables: &[(String, String)]) -> Result<Expanded, ExpandError>;
    /// Splits text to words with quotes and escapes kept, nothing expanded.
    fn split(&self, text: &str) -> Vec<String>;
    /// Build arguments in the order of their declaration, with their values; proxies are left out.
    fn build_args(&self) -> Vec<(String, String)>;
    /// Where these bytes of the instruction's arguments stand.
    fn locate(&self, start: u32, end: u32) -> Span;
    /// The name of a stage above this one, in normal form.
    fn resolve_stage(&self, name: &str) -> Option<String>;
    /// Whether only the form of the instruction is looked at.
    fn is_unused(&self) -> bool;
}

/// What an instruction of a stage may have set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigField {
    /// By CMD.
    Cmd,
    /// By ENTRYPOINT.
    Entrypoint,
    /// By HEALTHCHECK.
    Healthcheck,
    /// By WORKDIR, here or in a stage that this one stands on.
    WorkingDir,
}

impl ConfigField {
    /// The field that plugins call so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "cmd" => Self::Cmd,
            "entrypoint" => Self::Entrypoint,
            "healthcheck" => Self::Healthcheck,
            "working-dir" => Self::WorkingDir,
            _ => return None,
        })
    }
}

/// What expansion leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// One word, quotes and escapes removed.
    Word,
    /// Several words.
    Words,
    /// The text with its quotes and escapes.
    Raw,
}

/// What expansion gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// One for [`Expansion::Word`] and [`Expansion::Raw`].
    pub words: Vec<String>,
    /// Names that were used and have no value.
    pub unset: Vec<String>,
}

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong.
    pub message: String,
    /// Byte offsets into the text.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}
