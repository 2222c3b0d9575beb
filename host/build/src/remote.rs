//! What comes from elsewhere than images and this machine: repositories and files on the web, each looked up and fetched
//! once a build.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use context::Context;
use context::git::{self, Access, Commit};
use context::web::{self, Version};
use oci::Digest;
use plan::op::GitSource;
use store::Store;
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::ssh::{Agent, Relay};

pub use context::git::Reference;
pub use context::web::{Source, is_address};
pub use http::bucket::is_address as is_bucket;

/// Fetches from repositories and the web.
pub struct Remote {
    client: http::Client,
    secrets: Arc<BTreeMap<String, Vec<u8>>>,
    agent: Option<Agent>,
    relay: OnceCell<Option<(tempfile::TempDir, Relay)>>,
    store: Option<Store>,
    commits: Cells<Commit>,
    checkouts: Cells<Arc<Context>>,
    versions: Cells<Version>,
    files: Cells<Arc<Context>>,
}

/// Things that are looked up once, by what they are called.
type Cells<T> = Mutex<BTreeMap<String, Arc<OnceCell<T>>>>;

fn cell<T>(cells: &Cells<T>, name: String) -> Arc<OnceCell<T>> {
    cells.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
}

impl Remote {
    /// `roots` are certificates beyond the machine's; `agent` is who knows ssh keys; what servers have said of files is
    /// kept in `store`.
    #[must_use]
    pub fn new(
        roots: Vec<PathBuf>,
        secrets: BTreeMap<String, Vec<u8>>,
        agent: Option<Agent>,
        store: Option<Store>,
    ) -> Self {
        Self {
            client: http::Client::new(http::Settings { extra_roots: roots }),
            secrets: Arc::new(secrets),
            agent,
            relay: OnceCell::new(),
            store,
            commits: Cells::default(),
            checkouts: Cells::default(),
            versions: Cells::default(),
            files: Cells::default(),
        }
    }

    async fn access(&self) -> Result<Access, Error> {
        let start = || async {
            let Some(agent) = &self.agent else { return Ok(None) };
            let failed = |error: std::io::Error| Error::Request(format!("the socket of the ssh agent: {error}"));
            let folder = tempfile::Builder::new().prefix("plywood-ssh-").tempdir().map_err(failed)?;
            let relay = Relay::start(agent.clone(), folder.path(), "agent").map_err(failed)?;
            Ok::<_, Error>(Some((folder, relay)))
        };
        let relay = self.relay.get_or_try_init(start).await?;
        let ssh = relay.as_ref().map(|(_, relay)| relay.path.clone());
        Ok(Access { secrets: self.secrets.clone(), ssh })
    }

    /// Which commit a repository's reference means.
    ///
    /// # Errors
    /// When there is none, or it is not the one that it must be.
    pub async fn commit(&self, reference: &Reference) -> Result<Commit, Error> {
        let cell = cell(&self.commits, format!("{reference:?}"));
        let resolve = || async { Ok::<_, Error>(git::resolve(reference, &self.access().await?).await?) };
        cell.get_or_try_init(resolve).await.cloned()
    }

    /// The files of a repository.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub async fn checkout(&self, reference: &Reference) -> Result<Arc<Context>, Error> {
        let cell = cell(&self.checkouts, format!("{reference:?}"));
        let fetch = || async {
            let commit = self.commit(reference).await?;
            Ok::<_, Error>(Arc::new(git::checkout(reference, &commit, &self.access().await?).await?))
        };
        cell.get_or_try_init(fetch).await.cloned()
    }

    /// What a file on the web is now. With a checksum nobody is asked; a file that the server says has not changed is not
    /// fetched.
    ///
    /// # Errors
    /// When there is no such file.
    pub async fn version(&self, address: &str, checksum: Option<Digest>) -> Result<Version, Error> {
        if let Some(digest) = checksum {
            return Ok(Version { digest, modified: None, etag: None });
        }
        let cell = cell(&self.versions, address.to_owned());
        let look = || async {
            let note = self.store.as_ref().and_then(|store| store.read_web(address));
            let known: Option<Version> = note.and_then(|note| serde_json::from_slice(&note).ok());
            match web::fetch(&self.client, address, &self.secrets, known.as_ref(), None).await? {
                None => known.ok_or_else(|| Error::Request(format!("{address} is gone"))),
                Some(fetched) => {
                    let version = fetched.version.clone();
                    if let (Some(store), Ok(note)) = (&self.store, serde_json::to_vec(&version)) {
                        store.write_web(address, &note)?;
                    }
                    let file = Arc::new(fetched.into_file(&web::file_name(address)));
                    // The bytes are here now: whoever wants them need not fetch them again.
                    let cell = self::cell(&self.files, address.to_owned());
                    let _ = cell.set(file);
                    Ok(version)
                }
            }
        };
        cell.get_or_try_init(look).await.cloned()
    }

    /// A file on the web, as a context in which it has the name that its address gives it.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not what it must be.
    pub async fn file(&self, address: &str, checksum: Option<Digest>) -> Result<Arc<Context>, Error> {
        let name = match checksum {
            Some(digest) => format!("{address} {digest}"),
            None => address.to_owned(),
        };
        let cell = cell(&self.files, name);
        let fetch = || async {
            let fetched = web::fetch(&self.client, address, &self.secrets, None, checksum).await?;
            let fetched = fetched.ok_or_else(|| Error::Request(format!("{address} is gone")))?;
            Ok::<_, Error>(Arc::new(fetched.into_file(&web::file_name(address))))
        };
        cell.get_or_try_init(fetch).await.cloned()
    }

    /// A file on the web, as a context in which it has this name.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub(crate) async fn file_as(&self, address: &str, name: &str) -> Result<Arc<Context>, Error> {
        let fetched = web::fetch(&self.client, address, &self.secrets, None, None).await?;
        let fetched = fetched.ok_or_else(|| Error::Request(format!("{address} is gone")))?;
        Ok(Arc::new(fetched.into_file(name)))
    }

    /// A build context in a bucket: an archive, or a build file alone.
    ///
    /// # Errors
    /// When it cannot be fetched or read.
    pub async fn bucket(&self, address: &str, settings: &http::bucket::Settings) -> Result<Source, Error> {
        let fetched = web::fetch_from_bucket(&self.client, address, settings).await?;
        let read = tokio::task::spawn_blocking(move || fetched.into_context()).await;
        Ok(read.map_err(|error| Error::Request(error.to_string()))??)
    }

    /// A build context on the web: an archive, or a build file alone.
    ///
    /// # Errors
    /// When it cannot be fetched or read.
    pub async fn source(&self, address: &str) -> Result<Source, Error> {
        let fetched = web::fetch(&self.client, address, &self.secrets, None, None).await?;
        let fetched = fetched.ok_or_else(|| Error::Request(format!("{address} is gone")))?;
        let read = tokio::task::spawn_blocking(move || fetched.into_context()).await;
        Ok(read.map_err(|error| Error::Request(error.to_string()))??)
    }
}

/// A source of ADD, its options and those of its query put together.
///
/// # Errors
/// In words, when they contradict each other.
pub(crate) fn reference(source: &GitSource) -> Result<Reference, String> {
    let parsed = Reference::parse(&source.url).ok_or_else(|| format!("`{}` is no git repository", source.url))?;
    let mut reference = parsed?;
    match (source.keep_git_dir, reference.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => return Err("inconsistent keep-git-dir configuration".into()),
        (flag, query) => reference.keep_git_dir = flag.or(query),
    }
    match (&source.checksum, &reference.checksum) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(format!("checksum mismatch \"{flag}\" != \"{query}\""));
        }
        (Some(flag), _) => reference.checksum = Some(flag.clone()),
        (None, _) => {}
    }
    // Only contexts bear their commit's time.
    reference.commit_time = None;
    Ok(reference)
}
