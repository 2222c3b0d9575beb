//! Steps without mounts: each runs in a tree of its own that holds the whole root, and what it has changed is found by
//! walking the tree. The tree of a step is the next one's, if that stands on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use executor::cover::Covers;
use oci::DiffId;
use oci::tree::Tree;
use snapshot::apply::Abilities;
use snapshot::walk::{self, Snapshot};
use snapshot::{LayerWriter, index, merged};
use store::{Scratch, Store};

use super::step::Places;
use super::{Server, level};
use crate::worker::protocol::{Answer, Exit, RunRequest};

/// Trees that are kept for steps to come; each is as large as its image.
const KEPT: usize = 4;

/// Trees of steps that have ended.
#[derive(Debug, Default)]
pub(super) struct Trees(Mutex<Vec<Own>>);

/// A tree.
#[derive(Debug)]
struct Own {
    stack: Vec<DiffId>,
    scratch: Scratch,
    tree: Tree,
    snapshot: Snapshot,
}

impl Own {
    fn path(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// One of these layers, by the blobs that hold them.
    fn new(store: &Store, stack: &[(DiffId, PathBuf)], abilities: Abilities) -> Result<Self, snapshot::Error> {
        let scratch = store.scratch_folder()?;
        let path = scratch.path().join("root");
        fs::create_dir(&path).map_err(|source| snapshot::Error::Io { path: path.clone(), source })?;
        merge(store, stack, &path, abilities)?;
        let layers: Vec<DiffId> = stack.iter().map(|(layer, _)| *layer).collect();
        let tree = index::tree(store, &layers, &BTreeMap::new())?;
        let snapshot = Snapshot::take(&path, &BTreeSet::new())?;
        Ok(Self { stack: layers, scratch, tree, snapshot })
    }

    /// Puts the layers on top that it lacks.
    fn extend(
        &mut self,
        store: &Store,
        stack: &[(DiffId, PathBuf)],
        abilities: Abilities,
    ) -> Result<(), snapshot::Error> {
        let missing = &stack[self.stack.len()..];
        for (layer, blob) in missing {
            let changes = index::of(store, *layer)?;
            merged::add(&changes, *layer, blob, &self.path(), abilities)?;
            self.tree.apply(&changes, *layer);
            self.stack.push(*layer);
        }
        if !missing.is_empty() {
            self.snapshot = Snapshot::take(&self.path(), &BTreeSet::new())?;
        }
        Ok(())
    }
}

/// Puts layers together to one tree in an empty folder.
pub(super) fn merge(
    store: &Store,
    stack: &[(DiffId, PathBuf)],
    target: &Path,
    abilities: Abilities,
) -> Result<(), snapshot::Error> {
    let layers: Vec<DiffId> = stack.iter().map(|(layer, _)| *layer).collect();
    for layer in &layers {
        // What no other step has needed yet is made of the blob.
        index::of(store, *layer)?;
    }
    let tree = index::tree(store, &layers, &BTreeMap::new())?;
    merged::make(&tree, &stack.iter().cloned().collect(), target, abilities)
}

impl Trees {
    /// The tree for a step that stands on these layers: the one that is nearest, or a new one.
    fn take(&self, server: &Server, stack: &[(DiffId, PathBuf)]) -> Result<Own, snapshot::Error> {
        let layers: Vec<DiffId> = stack.iter().map(|(layer, _)| *layer).collect();
        let known = {
            let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |own: &&Own| layers.starts_with(&own.stack);
            let nearest = trees.iter().filter(fits).map(|own| own.stack.len()).max();
            let at = trees.iter().position(|own| Some(own.stack.len()) == nearest && layers.starts_with(&own.stack));
            at.map(|at| trees.remove(at))
        };
        if let Some(mut own) = known
            // A layer that needs those below it to be understood is laid out with them.
            && own.extend(&server.store, stack, server.abilities).is_ok()
        {
            return Ok(own);
        }
        Own::new(&server.store, stack, server.abilities)
    }

    fn keep(&self, own: Own) {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trees.push(own);
        if trees.len() > KEPT {
            trees.remove(0);
        }
    }

    /// Runs a step and makes a layer of what it changed.
    pub(super) fn run(&self, server: &Server, id: u64, request: &RunRequest) -> Result<Answer, String> {
        let text = |error: snapshot::Error| error.to_string();
        let at = |error: std::io::Error| format!("{}: {error}", request.scratch.display());
        // One at a time, of all builds on this store: two could help each other out of their roots, by handing on a folder
        // that is open; and a cache mount can be in one tree only.
        let _alone = server.store.lock("step without namespaces").map_err(|error| error.to_string())?;
        let mut own = self.take(server, &request.stack).map_err(text)?;
        let aside = own.scratch.path().join("aside");
        fs::create_dir_all(&aside).map_err(at)?;
        let mut covers = Covers::new(&own.path(), &aside).map_err(at)?;
        let outcome = request.scratch.join("outcome");
        let ran = (|| {
            covers.system(&request.surroundings, &request.resolv_conf)?;
            request.mounts.iter().try_for_each(|mount| covers.put(mount))?;
            own.snapshot.settle();
            let none = PathBuf::new();
            let places = Places { lowers: Vec::new(), upper: own.path(), work: none.clone(), root: none, outcome };
            server.step(id, request, places)
        })();
        // Whatever has happened: a folder of the machine's may be in it.
        covers.take_away()?;
        match ran?.0 {
            Exit::Code(0) if request.argv.is_empty() => return Ok(Answer::Nothing),
            Exit::Code(0) => {}
            exit => return Ok(Answer::Failed(exit)),
        }
        let level = level(request.compression, request.fast);
        let writer = LayerWriter::new(&server.store, request.compression, level).map_err(text)?;
        let (layer, snapshot) =
            walk::write(&own.snapshot, &own.tree, &own.path(), &BTreeSet::new(), writer).map_err(text)?;
        own.tree.apply(&index::of(&server.store, layer).map_err(text)?, layer);
        own.stack.push(layer);
        own.snapshot = snapshot;
        self.keep(own);
        Ok(Answer::Layer(layer))
    }
}
