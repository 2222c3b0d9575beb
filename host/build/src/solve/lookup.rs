//! What is known of a step before it is done: here or in a cache, by its definition or by what it is made from.

use std::sync::Arc;

use cache::{Found, Keys};
use oci::{ChainId, DiffId};
use plan::graph::{VertexId, VertexOp};
use store::Record;

use super::{Solver, caches};
use crate::error::Error;
use crate::key::StepKeys;

/// What `plywood plan` says of a step.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepState {
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// The key under which it would be kept; none: it is kept under none.
    pub key: Option<String>,
    /// Whether it would be found.
    pub cached: bool,
    /// Why not, or the policy's words.
    pub reason: Option<String>,
}

impl Solver {
    /// What would be found, without doing anything.
    pub(crate) async fn states(&self) -> Vec<StepState> {
        // What each step would stand on, as far as everything below it is found.
        let mut stacks: Vec<Option<Vec<DiffId>>> = Vec::new();
        let mut states = Vec::new();
        for (vertex, keys) in self.graph.vertices.iter().zip(&self.keys) {
            let below = vertex.parent.map_or(Some(Vec::new()), |parent| stacks[parent.0].clone());
            let (cached, why, stack) = match (&vertex.op, below) {
                (VertexOp::Image(image), _) => (true, None, Some(image.layers.clone())),
                (_, None) => (false, Some("a step below it runs".to_owned()), None),
                (_, Some(mut below)) => match self.find(keys, &below).await {
                    Ok(record) => {
                        below.push(record.layer);
                        (true, None, Some(below))
                    }
                    Err(why) => (false, Some(why), None),
                },
            };
            stacks.push(stack);
            let key = keys.keys.as_ref().and_then(|keys| keys.write).map(|key| key.to_string());
            states.push(StepState { name: vertex.name.clone(), key, cached, reason: keys.reason.clone().or(why) });
        }
        states
    }

    /// What is known of a step by its definition; `Err` with why nothing is.
    async fn find(&self, keys: &StepKeys, below: &[DiffId]) -> Result<Record, String> {
        let on = ChainId::of(below);
        match &keys.keys {
            None => Err("the cache policy says that it runs each time".into()),
            Some(_) if self.no_cache => Err("--no-cache".into()),
            Some(keys) => match cache::look_up(&self.tools.store, keys, on, crate::time::now()) {
                Found::Hit(record) => Ok(record),
                Found::Miss(why) => match self.borrow(keys, on).await {
                    Some(borrowed) => Ok(borrowed.entry.record),
                    None => Err(why.to_owned()),
                },
            },
        }
    }

    /// What a step gave before, here or in a cache; `Err` with why it is not known.
    pub(super) async fn found(
        self: &Arc<Self>,
        id: VertexId,
        keys: Option<&Keys>,
        on: Option<ChainId>,
    ) -> Result<Record, String> {
        let Some(keys) = keys else { return Err("the cache policy says that it runs each time".into()) };
        if self.no_cache {
            return Err("--no-cache".into());
        }
        let write = |keys: &Keys, record: &Record| {
            if let Some(write) = keys.write {
                self.export(id, &[write], caches::wanted_of(keys), record);
            }
        };
        match cache::look_up(&self.tools.store, keys, on, crate::time::now()) {
            Found::Hit(record) => {
                write(keys, &record);
                Ok(record)
            }
            Found::Miss(why) => match self.borrow(keys, on).await {
                Some(borrowed) => {
                    self.take(&borrowed);
                    write(keys, &borrowed.entry.record);
                    Ok(borrowed.entry.record)
                }
                None => Err(why.to_owned()),
            },
        }
    }

    /// The keys of a step whose inputs are known, by what is in them; none where they would be the same.
    pub(super) async fn keys_by_content(
        self: &Arc<Self>,
        id: VertexId,
        below: &[DiffId],
    ) -> Result<Option<Keys>, Error> {
        let vertex = &self.graph[id];
        let Some(components) = self.keys[id.0].components_by_content(vertex, below, self).await? else {
            return Ok(None);
        };
        self.keys[id.0].with(&components).map(Some).map_err(|reason| Self::failed(vertex, reason))
    }
}
