//! The client: what it was told, and what it has learnt about each registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use oci::{Digest, Reference};
use tokio::sync::OnceCell;

use crate::auth::{Credentials, Session};
use crate::transport::Endpoint;

/// What the user may choose.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Registries that may speak plain HTTP or show any certificate, as `host[:port]`; `*`: all.
    pub insecure: BTreeSet<String>,
    /// Files with roots beyond the machine's, PEM.
    pub extra_roots: Vec<PathBuf>,
    /// Where images of a registry are looked for before it is asked itself, as `host[:port][/path]`, by registry.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Whether a registry that has mirrors is never asked itself for what they do not give.
    pub only_mirrors: bool,
}

/// Stands for every registry in [`Settings::insecure`].
const ALL: &str = "*";

impl Settings {
    pub(crate) fn is_insecure(&self, registry: &str) -> bool {
        self.insecure.contains(registry) || self.insecure.contains(ALL)
    }

    /// Where an image is looked for, in this order.
    pub(crate) fn places(&self, reference: &Reference) -> Vec<Reference> {
        let mirrors = self.mirrors.get(reference.registry()).map(Vec::as_slice).unwrap_or_default();
        let mut places: Vec<Reference> = mirrors.iter().filter_map(|mirror| reference.mirrored(mirror).ok()).collect();
        if places.is_empty() || !self.only_mirrors {
            places.push(reference.clone());
        }
        places
    }
}

/// A client of any number of registries; clones share what has been learnt.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: http::Client,
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) settings: Arc<Settings>,
    endpoints: Arc<Mutex<BTreeMap<String, Arc<OnceCell<Endpoint>>>>>,
    pub(crate) session: Arc<Session>,
    uploads: Arc<Mutex<Uploads>>,
}

/// Where a blob has been sent to, by registry and digest; locked while that goes on.
type Uploads = BTreeMap<(String, Digest), Arc<tokio::sync::Mutex<Option<String>>>>;

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that asks `credentials` who the user is.
    #[must_use]
    pub fn new(credentials: Arc<dyn Credentials>, settings: Settings) -> Self {
        let http = http::Client::new(http::Settings { extra_roots: settings.extra_roots.clone() });
        let (endpoints, session, uploads) = (Arc::default(), Arc::default(), Arc::default());
        Self { http, credentials, settings: Arc::new(settings), endpoints, session, uploads }
    }

    /// The client that requests go through.
    #[must_use]
    pub fn http(&self) -> &http::Client {
        &self.http
    }

    /// The repository of a registry that this client has brought a blob to.
    pub(crate) fn upload_slot(&self, registry: &str, digest: Digest) -> Arc<tokio::sync::Mutex<Option<String>>> {
        let mut uploads = self.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uploads.entry((registry.to_owned(), digest)).or_default().clone()
    }

    /// The cell that holds what is known of a registry.
    pub(crate) fn endpoint_cell(&self, registry: &str) -> Arc<OnceCell<Endpoint>> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        endpoints.entry(registry.to_owned()).or_default().clone()
    }
}
