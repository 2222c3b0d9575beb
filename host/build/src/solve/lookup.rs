//! What is known of a step before it is done: here or in a cache, by its definition or by what it is made from; and what
//! there is to say of it.

use std::sync::{Arc, PoisonError};

use cache::{Found, Keys, Miss};
use oci::{ChainId, DiffId};
use plan::graph::{VertexId, VertexOp};
use serde::{Deserialize, Serialize};
use store::Record;

use super::causes::{self, Change};
use super::{Solver, caches};
use crate::error::Error;
use crate::key::StepKeys;

/// What `plywood plan` says of a step that would be done, and `plywood explain` of one that was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StepState {
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// The key under which it is kept; none: it is kept under none.
    pub key: Option<String>,
    /// Whether it is found.
    pub cached: bool,
    /// Where it is found, if that is not the store.
    #[serde(default)]
    pub from: Option<String>,
    /// Why it is not found.
    pub reason: Option<String>,
    /// What has changed since the step most like it was done.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// The cache policy's words.
    #[serde(default)]
    pub policy: Option<String>,
    /// Components that the policy has left out of the key.
    #[serde(default)]
    pub dropped: Vec<String>,
}

/// A step that is found.
pub(super) struct Hit {
    pub(super) record: Record,
    /// The cache that has it, if that is not the store.
    pub(super) from: Option<String>,
}

/// Why a step is not found.
pub(super) enum NotFound {
    Policy,
    NoCache,
    Miss(Miss),
}

impl Solver {
    /// What would be found, without doing anything.
    pub(crate) async fn states(self: &Arc<Self>) -> Vec<StepState> {
        // What each step would stand on, as far as everything below it is found.
        let mut stacks: Vec<Option<Vec<DiffId>>> = Vec::new();
        let mut states = Vec::new();
        for (at, (vertex, keys)) in self.graph.vertices.iter().zip(&self.keys).enumerate() {
            let below = vertex.parent.map_or(Some(Vec::new()), |parent| stacks[parent.0].clone());
            let mut state = self.state(VertexId(at));
            let stack = match (&vertex.op, below) {
                (VertexOp::Image(image), _) => {
                    state.cached = true;
                    Some(image.layers.clone())
                }
                (_, below) => {
                    let on = below.as_deref().and_then(ChainId::of);
                    match self.find(keys.keys.as_ref(), on).await {
                        Ok(hit) if below.is_some() || hit.record.below.is_none() => {
                            state = StepState { cached: true, from: hit.from, ..state };
                            below.map(|below| below.into_iter().chain([hit.record.layer]).collect())
                        }
                        Ok(_) => {
                            state.reason = Some("a step below it runs".into());
                            None
                        }
                        Err(why) => {
                            (state.reason, state.changes) = self.told(VertexId(at), why).await;
                            if below.is_none() && state.changes.is_empty() {
                                state.reason = Some("a step below it runs".into());
                            }
                            None
                        }
                    }
                }
            };
            stacks.push(stack);
            states.push(state);
        }
        states
    }

    /// What there is to say of a step before it is looked for.
    fn state(&self, id: VertexId) -> StepState {
        let StepKeys { keys, reason, .. } = &self.keys[id.0];
        StepState {
            name: self.graph[id].name.clone(),
            key: keys.as_ref().and_then(|keys| keys.write).map(|key| key.to_string()),
            policy: reason.clone(),
            dropped: keys.as_ref().map(|keys| keys.dropped.clone()).unwrap_or_default(),
            ..StepState::default()
        }
    }

    /// Notes what became of a step, for whoever asks later.
    pub(super) fn note(&self, id: VertexId, edit: impl FnOnce(StepState) -> StepState) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.insert(id.0, edit(self.state(id)));
    }

    /// What became of the steps that the build came to, in order.
    pub(crate) fn outcomes(&self) -> Vec<StepState> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Why a step is not found, in words, and what has changed since it was.
    pub(super) async fn told(self: &Arc<Self>, id: VertexId, why: NotFound) -> (Option<String>, Vec<Change>) {
        let why = match why {
            NotFound::Policy => return (Some("the cache policy says that it runs each time".into()), Vec::new()),
            NotFound::NoCache => return (Some("--no-cache".into()), Vec::new()),
            NotFound::Miss(why) => why,
        };
        let changes = match why {
            Miss::Unknown => self.changes(id).await,
            _ => None,
        };
        let Some(changes) = changes else { return (Some(why.to_string()), Vec::new()) };
        let reason = match changes.as_slice() {
            [] => "it was built in another scope, or under another policy".to_owned(),
            [one] => one.text.clone(),
            [first, rest @ ..] => format!("{}; {} more", first.text, rest.len()),
        };
        (Some(reason), changes)
    }

    /// What has changed since the step most like this one was done here; none where there was none.
    async fn changes(self: &Arc<Self>, id: VertexId) -> Option<Vec<Change>> {
        let solver = self.clone();
        let compare = move || {
            let store = &solver.tools.store;
            let records = solver.records.get_or_init(|| store.newest_records(causes::MOST_RECORDS));
            let keys = solver.keys[id.0].keys.as_ref()?;
            causes::changes(store, records, (&solver.graph, id), &keys.components, &solver.listings)
        };
        tokio::task::spawn_blocking(compare).await.ok().flatten()
    }

    /// Keeps what the components of a step stand for, so that it can be told what has changed since.
    pub(super) async fn keep_listings(self: &Arc<Self>, keys: &Keys) -> Result<(), Error> {
        let listings = keys.components.iter().filter_map(|component| {
            let listing = self.listings.get(&component.digest)?.clone();
            (!self.tools.store.has_listing(component.digest)).then_some((component.digest, listing))
        });
        let (store, listings) = (self.tools.store.clone(), listings.collect::<Vec<_>>());
        if listings.is_empty() {
            return Ok(());
        }
        let write = move || {
            for (component, listing) in listings {
                let bytes = listing.encode().map_err(|error| Error::Request(error.to_string()))?;
                store.write_listing(component, &bytes)?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(write).await.map_err(|error| Error::Request(error.to_string()))?
    }

    /// What is known under keys, here or in a cache.
    async fn find(&self, keys: Option<&Keys>, on: Option<ChainId>) -> Result<Hit, NotFound> {
        let Some(keys) = keys else { return Err(NotFound::Policy) };
        if self.no_cache {
            return Err(NotFound::NoCache);
        }
        match cache::look_up(&self.tools.store, keys, on, crate::time::now()) {
            Found::Hit(record) => Ok(Hit { record, from: None }),
            Found::Miss(why) => match self.borrow(keys, on).await {
                Some(borrowed) => {
                    self.take(&borrowed);
                    Ok(Hit { from: Some(borrowed.backend.name().to_owned()), record: borrowed.entry.record })
                }
                None => Err(NotFound::Miss(why)),
            },
        }
    }

    /// What a step gave before; caches that are written get it as well.
    pub(super) async fn found(
        self: &Arc<Self>,
        id: VertexId,
        keys: Option<&Keys>,
        on: Option<ChainId>,
    ) -> Result<Hit, NotFound> {
        let hit = self.find(keys, on).await?;
        self.tools.store.touch_layer(hit.record.layer);
        if let Some((keys, write)) = keys.and_then(|keys| Some((keys, keys.write?))) {
            self.export(id, &[write], caches::wanted_of(keys), &hit.record);
        }
        Ok(hit)
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
