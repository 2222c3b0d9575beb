//! What build and worker say to each other: frames of a length and a message, on a socket pair.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use executor::{Mount, Network, Surroundings};
use oci::media_type::Compression;
use oci::{DiffId, Digest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use snapshot::assemble::Part;
use snapshot::pieces::Packed;
use store::Flavour;

pub use executor::spec::Exit;

/// A frame may not be longer; files that are copied from the build file are what it is for.
const LONGEST: usize = 1 << 30;

/// What the build asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) task: Task,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// Make the calls that isolate a step, and run nothing.
    Probe,
    /// Unpack a layer's blob to its tree.
    Unpack { layer: DiffId, blob: PathBuf },
    /// Take possession of what only one build can have at a time.
    Enter,
    /// Run a command and make a layer of what it changed.
    Run(Box<RunRequest>),
    /// Make a layer of parts that lie in trees.
    Assemble { parts: Vec<Part>, compression: Compression, fast: bool },
    /// Put layers together to one tree in an empty folder, to be copied from.
    Merge { stack: Vec<(DiffId, PathBuf)>, target: PathBuf },
    /// Make an empty directory, for a new cache mount.
    MakeDirectory { path: PathBuf, uid: u32, gid: u32, mode: u32, seed: Option<Seed> },
    /// Cut what a cache mount holds into pieces; those that are known by content need not be written.
    Pack { tree: PathBuf, folder: PathBuf, known: BTreeMap<Digest, (Digest, u64)>, limit: u64 },
    /// Delete what killed builds have left.
    Delete(Vec<PathBuf>),
    /// Stop what a task is doing.
    Cancel(u64),
}

/// What a new cache mount is filled with.
#[derive(Debug, Serialize, Deserialize)]
pub enum Seed {
    /// A layer, and a blob that holds it.
    Layer(DiffId, PathBuf),
    /// A tar in pieces.
    Pieces {
        /// The whole tar's.
        layer: DiffId,
        /// In order.
        files: Vec<PathBuf>,
        /// So many bytes it has at most.
        limit: u64,
    },
}

/// A command, and what becomes of its changes.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// Folder for the step's own trees; the worker empties it.
    pub scratch: PathBuf,
    /// Trees of the root, topmost first; without mounts none.
    pub lowers: Vec<PathBuf>,
    /// The layers of the root with blobs that hold them, bottom first; only without mounts.
    pub stack: Vec<(DiffId, PathBuf)>,
    /// Program and arguments; none: the step goes as far as to where they would be executed.
    pub argv: Vec<String>,
    /// The command's input.
    pub stdin: Option<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// `user[:group]`.
    pub user: String,
    /// Made if it is not there.
    pub working_dir: String,
    /// Mounted in this order.
    pub mounts: Vec<Mount>,
    /// Which network it sees.
    pub network: Network,
    /// Whether it is hardly confined.
    pub privileged: bool,
    /// For /etc/resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// What the user asks for, for every command.
    pub surroundings: Surroundings,
    /// How its layer is compressed.
    pub compression: Compression,
    /// Whether the layer stays on this machine.
    pub fast: bool,
}

impl RunRequest {
    /// A step without a command, in `scratch`.
    pub(super) fn probe(scratch: &Path) -> Self {
        Self {
            scratch: scratch.to_owned(),
            lowers: Vec::new(),
            stack: Vec::new(),
            argv: Vec::new(),
            stdin: None,
            env: Vec::new(),
            user: String::new(),
            working_dir: "/".into(),
            mounts: Vec::new(),
            network: Network::Host,
            privileged: false,
            resolv_conf: Vec::new(),
            surroundings: Surroundings::default(),
            compression: Compression::None,
            fast: true,
        }
    }
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It has its namespaces and waits for its user mapping.
    WantsMapping,
    /// It is set up.
    Ready(Result<(), String>),
    /// A command printed something.
    Output { id: u64, is_error: bool, bytes: Vec<u8> },
    /// A task is done.
    Done { id: u64, result: Result<Answer, String> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Nothing,
    Layer(DiffId),
    Packed(Packed),
    /// The command ended otherwise than with 0.
    Failed(Exit),
}

/// What the worker is told first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) store: PathBuf,
    pub(super) flavour: Flavour,
    /// Enter a user namespace and wait for its mapping.
    pub(super) make_user_namespace: bool,
    /// Be careful about devices and overlay attributes.
    pub(super) in_user_namespace: bool,
    /// The user namespace has root alone.
    pub(super) one_user: bool,
    /// Give steps this place's /proc.
    pub(super) binds_proc: bool,
    /// Nothing is mounted: steps change their root to trees of their own, or run in this place's.
    pub(super) without_mounts: bool,
    /// They run in this place's root.
    pub(super) in_place: Option<InPlace>,
}

/// How steps run in this place's root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InPlace {
    /// Absolute paths that must stay as they are.
    pub(super) kept: Vec<PathBuf>,
    /// Those of them that are folders of the build's contexts.
    pub(super) read: Vec<PathBuf>,
    /// Whether a step may have a tree of its own instead, where its image has files that something of the place is in the way of.
    pub(super) may_step_aside: bool,
}

/// An encoded frame.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 8];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = (frame.len() - 8) as u64;
    frame[..8].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

pub(super) fn write<T: Serialize>(out: &mut impl Write, message: &T) -> io::Result<()> {
    out.write_all(&encode(message)?)
}

/// The next message; none at the end.
pub(super) fn read<T: DeserializeOwned>(source: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 8];
    match source.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > LONGEST {
        return Err(io::Error::other("a message of the worker is too long"));
    }
    let mut bytes = vec![0; length];
    source.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other)
}
