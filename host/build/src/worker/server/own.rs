//! Steps without mounts: each runs in a tree of its own that holds the whole root, and what it has changed is found by
//! walking the tree. The tree of a step is the next one's, if that stands on it. In place, the one tree is this place's root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use executor::cover::Covers;
use oci::DiffId;
use oci::tree::Tree;
use snapshot::apply::Abilities;
use snapshot::walk::{self, Snapshot};
use snapshot::{LayerWriter, index, merged};
use store::{Scratch, Store};

use super::place::Place;
use super::step::Places;
use super::{Server, level};
use crate::worker::protocol::{Answer, Exit, InPlace, Reply, RunRequest};

/// Trees that are kept for steps to come; each is as large as its image.
const KEPT: usize = 4;

/// Trees of steps that have ended.
#[derive(Debug)]
pub(super) struct Trees {
    ended: Mutex<Vec<Own>>,
    /// This place's root, where steps run in it.
    place: Option<Root>,
}

/// What must stay in this place's root; taken possession of by the first step.
#[derive(Debug)]
struct Root {
    wish: InPlace,
    place: OnceLock<Place>,
    opening: Mutex<()>,
}

/// Why a tree could not be had.
enum Trouble {
    /// In this place's root something must stay where the image has something else.
    InTheWay(String),
    /// Anything else.
    Other(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::InTheWay(reason) | Trouble::Other(reason) => reason,
        }
    }
}

/// A tree.
#[derive(Debug)]
struct Own {
    stack: Vec<DiffId>,
    /// None: it is this place's root.
    scratch: Option<Scratch>,
    tree: Tree,
    snapshot: Snapshot,
}

impl Own {
    fn path(&self) -> PathBuf {
        self.scratch.as_ref().map_or(PathBuf::from("/"), |scratch| scratch.path().join("root"))
    }

    /// One without anything in it.
    fn new(store: &Store) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let scratch = store.scratch_folder().map_err(|error| text(&error))?;
        let own =
            Self { stack: Vec::new(), scratch: Some(scratch), tree: Tree::default(), snapshot: Snapshot::default() };
        fs::create_dir(own.path()).map_err(|error| text(&error))?;
        Ok(own)
    }

    /// This place's root, when nothing of an image is in it.
    fn in_place() -> Self {
        Self { stack: Vec::new(), scratch: None, tree: Tree::default(), snapshot: Snapshot::default() }
    }

    /// Makes these layers of it, by the blobs that hold them.
    fn become_stack(
        &mut self,
        place: Option<&Place>,
        store: &Store,
        stack: &[(DiffId, PathBuf)],
        abilities: Abilities,
    ) -> Result<(), Trouble> {
        let text = |error: snapshot::Error| error.to_string();
        let layers: Vec<DiffId> = stack.iter().map(|(layer, _)| *layer).collect();
        // A tree without layers may be of none, or new.
        if self.stack == layers && !self.snapshot.is_empty() {
            return Ok(());
        }
        let tree = self.grown(store, &layers).map_err(text)?;
        let blobs = stack.iter().cloned().collect();
        let path = self.path();
        match place {
            Some(place) => {
                let (from, to) = (place.laid_out(&self.tree), place.visible(&tree).map_err(Trouble::InTheWay)?);
                if self.stack.is_empty() {
                    place.clear().map_err(|error| format!("making room in /: {error}"))?;
                }
                let stays = |path: &[u8]| place.stays(path);
                merged::change(&from, &to, &blobs, &path, &stays, abilities).map_err(text)?;
                place.give_back(&to).map_err(|error| format!("the container's own folders: {error}"))?;
            }
            None => merged::change(&self.tree, &tree, &blobs, &path, &|_| false, abilities).map_err(text)?,
        }
        (self.stack, self.tree) = (layers, tree);
        Ok(self.look(place).map_err(text)?)
    }

    /// What these layers give: this tree with what is to come on top, if it stands on the same.
    fn grown(&self, store: &Store, layers: &[DiffId]) -> Result<Tree, snapshot::Error> {
        let Some(more) = layers.strip_prefix(&self.stack[..]).filter(|_| !self.stack.is_empty()) else {
            return merged_tree(store, layers);
        };
        let mut tree = self.tree.clone();
        for layer in more {
            tree.apply(&index::of(store, *layer)?, *layer);
        }
        Ok(tree)
    }

    fn look(&mut self, place: Option<&Place>) -> Result<(), snapshot::Error> {
        self.snapshot = Snapshot::take(&self.path(), place.map_or(&BTreeSet::new(), Place::kept))?;
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
    let tree = merged_tree(store, &layers)?;
    merged::change(&Tree::default(), &tree, &stack.iter().cloned().collect(), target, &|_| false, abilities)
}

fn merged_tree(store: &Store, layers: &[DiffId]) -> Result<Tree, snapshot::Error> {
    for layer in layers {
        // What no other step has needed yet is made of the blob.
        index::of(store, *layer)?;
    }
    index::tree(store, layers, &BTreeMap::new())
}

impl Trees {
    /// For steps that change their root; with what must stay in it, for steps in this place's root.
    pub(super) fn new(in_place: Option<InPlace>) -> Self {
        let place = in_place.map(|wish| Root { wish, place: OnceLock::new(), opening: Mutex::default() });
        Self { ended: Mutex::default(), place }
    }

    pub(super) fn are_in_place(&self) -> bool {
        self.place.is_some()
    }

    /// Takes possession of this place's root, if steps run in it: before any lock that another build may wait for meanwhile.
    pub(super) fn enter(&self) -> Result<(), String> {
        self.place().map(|_| ())
    }

    /// This place's root, if steps run in it. It waits until no other build does.
    fn place(&self) -> Result<Option<&Place>, String> {
        let Some(root) = &self.place else { return Ok(None) };
        let _opening = root.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = root.place.get() {
            return Ok(Some(place));
        }
        let place = Place::open(&root.wish.kept, &root.wish.read)
            .map_err(|error| format!("the root of this place: {error}"))?;
        Ok(Some(root.place.get_or_init(|| place)))
    }

    /// The tree for a step that stands on these layers: what is nearest to it becomes it.
    fn take(&self, place: Option<&Place>, server: &Server, stack: &[(DiffId, PathBuf)]) -> Result<Own, Trouble> {
        let nearest = {
            let mut trees = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            trees.retain(|own| own.scratch.is_none() == place.is_some());
            let shared = |own: &Own| own.stack.iter().zip(stack).take_while(|(one, (other, _))| *one == other).count();
            // In place there is one tree. Else one is not taken back: another step may come to stand on what it is.
            let fits = |own: &&Own| place.is_some() || shared(own) == own.stack.len();
            let best = trees.iter().filter(fits).map(shared).max();
            let at = trees.iter().position(|own| fits(&own) && Some(shared(own)) == best);
            at.map(|at| trees.remove(at))
        };
        let mut own = match (nearest, place) {
            (Some(own), _) => own,
            (None, Some(_)) => Own::in_place(),
            (None, None) => Own::new(&server.store)?,
        };
        match own.become_stack(place, &server.store, stack, server.abilities) {
            Ok(()) => return Ok(own),
            Err(reason) if place.is_some() => return Err(reason),
            // A layer that needs those below it to be understood is laid out with them.
            Err(_) => own = Own::new(&server.store)?,
        }
        own.become_stack(place, &server.store, stack, server.abilities)?;
        Ok(own)
    }

    /// The same; a tree of its own where this place's root has something that must stay in the image's way, unless that root
    /// was asked for.
    fn take_or_step_aside(
        &self,
        place: Option<&Place>,
        server: &Server,
        id: u64,
        request: &RunRequest,
    ) -> Result<Own, String> {
        let refused = match (self.take(place, server, &request.stack), place.and(self.place.as_ref())) {
            (Err(Trouble::InTheWay(reason)), Some(root))
                if root.wish.may_step_aside && sys::privilege::may_chroot() =>
            {
                reason
            }
            (taken, _) => return Ok(taken?),
        };
        let reason = refused.split(';').next().unwrap_or_default();
        let told = format!("{reason}; this command runs in a directory of its own instead (chroot)\n");
        server.reply(&Reply::Output { id, is_error: true, bytes: told.into_bytes() });
        let mut own = Own::new(&server.store)?;
        own.become_stack(None, &server.store, &request.stack, server.abilities)?;
        Ok(own)
    }

    /// Leaves this place's root as it was found, where somebody is there to find it.
    pub(super) fn leave(&self) {
        let Some(place) = self.place.as_ref().and_then(|root| root.place.get()) else { return };
        let mut trees = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let known = trees.drain(..).find(|own| own.scratch.is_none());
        let left = match known.map(|own| place.laid_out(&own.tree)) {
            Some(tree) => {
                let (nothing, stays) = (Tree::default(), |path: &[u8]| place.stays(path));
                let root = Path::new("/");
                let abilities = Abilities { devices: false, user_xattrs: false, one_user: false };
                merged::change(&tree, &nothing, &BTreeMap::new(), root, &stays, abilities).is_ok()
                    && place.give_back(&nothing).is_ok()
            }
            // A step has failed: what it has left nobody knows.
            None => place.clear().and_then(|()| place.give_back(&Tree::default())).is_ok(),
        };
        // Else the next build takes away what is left, by the record.
        if left {
            place.forget();
        }
    }

    fn keep(&self, own: Own) {
        let mut trees = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        trees.push(own);
        if trees.len() > if self.are_in_place() { 1 } else { KEPT } {
            trees.remove(0);
        }
    }

    /// Runs a step and makes a layer of what it changed.
    pub(super) fn run(&self, server: &Server, id: u64, request: &RunRequest) -> Result<Answer, String> {
        let text = |error: snapshot::Error| error.to_string();
        let at = |error: std::io::Error| format!("{}: {error}", request.scratch.display());
        if request.argv.is_empty() && self.are_in_place() {
            // To see whether a step could be run, the root is left alone.
            Place::probe().map_err(|error| format!("changing the root file system: {error}"))?;
            return match self.execute(server, id, request, Path::new("/"))? {
                Exit::Code(0) => Ok(Answer::Nothing),
                exit => Ok(Answer::Failed(exit)),
            };
        }
        // Before the lock that other builds give back after each step: this one they keep.
        let place = self.place()?;
        // One at a time, of all builds on this store: two could help each other out of their roots, by handing on a folder
        // that is open; and a cache mount can be in one tree only.
        let _alone = server.store.lock("step without namespaces").map_err(|error| error.to_string())?;
        let mut own = self.take_or_step_aside(place, server, id, request)?;
        let path = own.path();
        let place = place.filter(|_| own.scratch.is_none());
        if let Some(place) = place {
            request.mounts.iter().try_for_each(|mount| place.can_cover(&mount.target))?;
        }
        let aside = match place {
            Some(place) => place.aside().map_err(at)?,
            None => path.with_file_name("aside"),
        };
        fs::create_dir_all(&aside).map_err(at)?;
        let mut covers = Covers::new(&path, &aside).map_err(at)?;
        let ran = (|| {
            covers.system(&request.surroundings, &request.resolv_conf)?;
            request.mounts.iter().try_for_each(|mount| covers.put(mount))?;
            own.snapshot.settle();
            let watched = place.map(Place::watch).transpose().map_err(text)?.unwrap_or_default();
            let exit = self.execute(server, id, request, &path)?;
            place.map_or(Ok(()), |place| place.is_as(&watched)).map(|()| exit)
        })();
        // Whatever has happened: a folder of the machine's may be in it.
        covers.take_away()?;
        if let Some(place) = place {
            place.take_root().map_err(|error| format!("/: {error}"))?;
        }
        match ran? {
            Exit::Code(0) if request.argv.is_empty() => return Ok(Answer::Nothing),
            Exit::Code(0) => {}
            exit => return Ok(Answer::Failed(exit)),
        }
        let level = level(request.compression, request.fast);
        let writer = LayerWriter::new(&server.store, request.compression, level).map_err(text)?;
        let nothing = BTreeSet::new();
        let left_out = place.map_or(&nothing, Place::kept);
        let (layer, snapshot) = walk::write(&own.snapshot, &own.tree, &path, left_out, writer).map_err(text)?;
        own.tree.apply(&index::of(&server.store, layer).map_err(text)?, layer);
        own.stack.push(layer);
        own.snapshot = snapshot;
        self.keep(own);
        Ok(Answer::Layer(layer))
    }

    fn execute(&self, server: &Server, id: u64, request: &RunRequest, path: &Path) -> Result<Exit, String> {
        let (none, outcome) = (PathBuf::new(), request.scratch.join("outcome"));
        let places = Places { lowers: Vec::new(), upper: path.to_owned(), work: none.clone(), root: none, outcome };
        Ok(server.step(id, request, places)?.exit)
    }
}
