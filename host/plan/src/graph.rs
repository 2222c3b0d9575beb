//! The graph of steps: each vertex is one layer on top of its parent, made from its inputs.

use oci::{DiffId, Digest, Platform, Reference};
use serde::Serialize;

use crate::diagnostic::Span;
use crate::key::Provenance;
use crate::op::{CopyOp, MkdirOp, RunOp};

/// A vertex's place in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VertexId(pub usize);

/// All steps that a build needs, each after what it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// In an order in which they can run.
    pub vertices: Vec<Vertex>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vertex {
    /// For people: `[builder 2/5] RUN make`.
    pub name: String,
    /// The stage's name, where it has one.
    pub stage_name: Option<String>,
    /// From 0 in the build file.
    pub stage_index: usize,
    /// From 0 in its stage.
    pub index: usize,
    /// What the stage is for.
    pub platform: Platform,
    /// The instruction that asks for it.
    pub instruction: Option<Provenance>,
    /// What the instruction plugin says of it.
    pub hints: Vec<(String, String)>,
    /// What the layer is put on; none: nothing.
    pub parent: Option<VertexId>,
    /// What is done.
    pub op: VertexOp,
    /// The reference in the FROM of its stage, and the digest found there.
    pub base: Option<(String, Option<Digest>)>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VertexOp {
    /// The layers of an image that exists.
    Image(ImageSource),
    /// Runs a command.
    Run(RunStep),
    /// Copies files.
    Copy(CopyStep),
    /// Makes a directory.
    Mkdir(MkdirOp),
}

/// An image that exists, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSource {
    /// How the user calls it.
    pub name: String,
    /// Where it is; none for an image of a layout or of the store.
    pub reference: Option<Reference>,
    /// Its manifest's digest.
    pub digest: Digest,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
    /// What it runs on.
    pub platform: Platform,
}

/// A command with everything it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunStep {
    /// The command.
    pub op: RunOp,
    /// Its environment, configuration and arguments merged.
    pub env: Vec<(String, String)>,
    /// Which of it are arguments.
    pub arguments: std::collections::BTreeSet<String>,
    /// Proxies: seen by the command, no part of its key.
    #[serde(skip)]
    pub proxies: Vec<(String, String)>,
    /// Lines of /etc/hosts beyond the usual: names and addresses.
    pub hosts: Vec<(String, String)>,
    /// What else is set for every command and can be seen by it, in words: limits, the size of /dev/shm, the control group.
    pub surroundings: Vec<String>,
    /// As whom.
    pub user: String,
    /// Where.
    pub working_dir: String,
    /// What each of the operation's mounts comes from, where it comes from somewhere.
    pub mount_origins: Vec<Option<Origin>>,
}

/// A copy with everything it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyStep {
    /// The operation.
    pub op: CopyOp,
    /// The destination, absolute, its trailing slash kept.
    pub destination: String,
    /// Where each source comes from; none for what the operation itself holds.
    pub origins: Vec<Option<Origin>>,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A stage or an image.
    Vertex(VertexId),
    /// An empty root.
    Scratch,
    /// The build context, or a named one.
    Context(Option<String>),
}

impl Vertex {
    /// Where the instruction stands in the file.
    #[must_use]
    pub fn span(&self) -> Option<&Span> {
        self.instruction.as_ref().map(|instruction| &instruction.span)
    }
}

impl Graph {
    /// Adds a vertex.
    pub fn push(&mut self, vertex: Vertex) -> VertexId {
        self.vertices.push(vertex);
        VertexId(self.vertices.len() - 1)
    }

    /// What the vertex needs to be done before it.
    pub fn inputs(&self, id: VertexId) -> impl Iterator<Item = VertexId> {
        let vertex = &self.vertices[id.0];
        let origins: &[Option<Origin>] = match &vertex.op {
            VertexOp::Run(step) => &step.mount_origins,
            VertexOp::Copy(step) => &step.origins,
            VertexOp::Image(_) | VertexOp::Mkdir(_) => &[],
        };
        let from_origins = origins.iter().filter_map(|origin| match origin {
            Some(Origin::Vertex(id)) => Some(*id),
            _ => None,
        });
        vertex.parent.into_iter().chain(from_origins)
    }
}

impl std::ops::Index<VertexId> for Graph {
    type Output = Vertex;

    fn index(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }
}
