//! Keys by content: what a step takes from the layers below and from other stages counts by what is in it, whatever it was
//! made by. A step above that has changed and yet gives the same leaves what follows as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::Keys;
use context::pattern::Matcher;
use oci::tree::{Kind as EntryKind, Tree};
use oci::{ChainId, DiffId, Digest};
use plan::graph::{Origin, Vertex, VertexId, VertexOp};
use plan::key::{Component, Frame, Kind};
use plan::op::{CopySource, MountKind};

use super::{StepKeys, how};
use crate::error::Error;
use crate::op::Planned;
use crate::op::copy::{self, How, Source};
use crate::solve::Solver;

/// Something that is taken from a stage or an image.
struct Taken<'t> {
    from: VertexId,
    patterns: Vec<String>,
    exclude: &'t [String],
    parents: bool,
    /// Of a mount: the path whose own mode and owner can be seen.
    root: Option<&'t str>,
}

impl StepKeys {
    /// The components of a step whose inputs are known; none where they are what they were, or cannot be told.
    pub(crate) async fn components_by_content(
        &self,
        vertex: &Vertex,
        below: &[DiffId],
        solver: &Arc<Solver>,
    ) -> Result<Option<Vec<Component>>, Error> {
        let Some(full) = &self.full else { return Ok(None) };
        let mut taken = taken(vertex).into_iter();
        let mut components = Vec::with_capacity(full.len());
        let mut changed = false;
        for component in full {
            let digest = match component.kind {
                Kind::Parent => {
                    let chain = ChainId::of(below).map(|chain| chain.0);
                    let frame = Frame::new("chain");
                    Some(chain.map_or_else(
                        || frame.field(b"").finish(),
                        |chain| Frame::new("chain").field(chain.as_bytes()).finish(),
                    ))
                }
                Kind::Stage | Kind::Mount => match taken.next() {
                    Some(Some(taken)) => match content(solver, &taken).await? {
                        Some(digest) => Some(digest),
                        None => return Ok(None),
                    },
                    // From a context, whose content it is already.
                    _ => None,
                },
                _ => None,
            };
            changed |= digest.is_some();
            components.push(Component { digest: digest.unwrap_or(component.digest), ..component.clone() });
        }
        Ok(changed.then_some(components))
    }

    /// The keys of these components, as the policy has edited those that it has seen.
    ///
    /// # Errors
    /// In words, when the edit does not fit.
    pub(crate) fn with(&self, components: &[Component]) -> Result<Keys, String> {
        match &self.edit {
            Some((edit, policy)) => Keys::new(components, edit, *policy).map_err(|error| error.to_string()),
            None => Ok(Keys::standard(components)),
        }
    }
}

/// What the components of the kinds `stage` and `mount` are about, in their order; none where it is a context.
fn taken(vertex: &Vertex) -> Vec<Option<Taken<'_>>> {
    match &vertex.op {
        VertexOp::Copy(step) => step
            .op
            .sources
            .iter()
            .zip(&step.origins)
            .filter_map(|(source, origin)| match (source, origin) {
                (CopySource::Stage { patterns, .. }, Some(Origin::Vertex(from))) => Some(Some(Taken {
                    from: *from,
                    patterns: patterns.clone(),
                    exclude: &step.op.exclude,
                    parents: step.op.parents,
                    root: None,
                })),
                (CopySource::Stage { .. }, Some(Origin::Scratch)) => Some(None),
                _ => None,
            })
            .collect(),
        VertexOp::Run(step) => step
            .op
            .mounts
            .iter()
            .zip(&step.mount_origins)
            .filter_map(|(mount, origin)| match (&mount.kind, origin) {
                (MountKind::Bind { source, .. }, Some(Origin::Vertex(from))) => {
                    let patterns = vec![copy::literally(source)];
                    Some(Some(Taken { from: *from, patterns, exclude: &[], parents: false, root: Some(source) }))
                }
                (MountKind::Bind { .. }, Some(_)) => Some(None),
                _ => None,
            })
            .collect(),
        VertexOp::Image(_) | VertexOp::Mkdir(_) => Vec::new(),
    }
}

/// The digest of what is taken, without times; none where an index does not tell what a file holds.
async fn content(solver: &Arc<Solver>, taken: &Taken<'_>) -> Result<Option<Digest>, Error> {
    let layers = solver.solve(taken.from).await?.layers;
    let tree: Arc<Tree> = solver.tree(&layers).await?;
    let Ok(exclude) = Matcher::new(taken.exclude.iter().map(String::as_str)) else { return Ok(None) };
    let how: How = how("/", None, exclude, taken.parents);
    let mut frame = Frame::new("tree");
    if let Some(root) = taken.root {
        let Ok(path) = tree.resolve(root.as_bytes()) else { return Ok(None) };
        if let Some(entry) = tree.get(&path) {
            frame = frame.field(&entry.mode.to_le_bytes()).field(&entry.uid.to_le_bytes());
            frame = frame.field(&entry.gid.to_le_bytes());
        }
    }
    let source = Source { tree, patterns: taken.patterns.clone(), archives: BTreeMap::new(), number: 0 };
    // What is not there is told when the step is done.
    let Ok(planned) = copy::plan(&[source], &how, &Tree::default()) else { return Ok(None) };
    for Planned { path, entry, .. } in &planned {
        frame = frame.field(path).field(&entry.mode.to_le_bytes());
        frame = frame.field(&entry.uid.to_le_bytes()).field(&entry.gid.to_le_bytes());
        frame = match &entry.kind {
            EntryKind::File(file) if file.inode.path != *path => frame.field(b"link").field(&file.inode.path),
            EntryKind::File(file) => match file.digest {
                Some(digest) => frame.field(b"file").field(digest.as_bytes()),
                None if file.size == 0 => frame.field(b"empty"),
                None => return Ok(None),
            },
            EntryKind::Symlink(target) => frame.field(b"symlink").field(target),
            kind => frame.field(format!("{kind:?}").as_bytes()),
        };
        for (name, value) in &entry.xattrs {
            frame = frame.field(name.as_bytes()).field(value);
        }
    }
    Ok(Some(frame.finish()))
}
