//! The build's side of the worker.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oci::media_type::Compression;
use oci::{DiffId, Digest};
use snapshot::assemble::Part;
use snapshot::pieces::Packed;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{self, Answer, Exit, InPlace, Reply, Request, RunRequest, Seed, Start, Task};
use super::setup::{self, Isolation};

/// Takes what a command prints: whether it is its standard error, and the bytes.
pub(crate) type Output = Box<dyn Fn(bool, &[u8]) + Send + Sync>;

struct Waiting {
    done: oneshot::Sender<Result<Answer, String>>,
    output: Option<Output>,
}

type Waiters = Arc<Mutex<Option<BTreeMap<u64, Waiting>>>>;

/// A worker that is set up. It ends when this is dropped.
#[derive(Clone)]
pub struct Worker {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiters: Waiters,
    next: Arc<AtomicU64>,
    _process: Arc<Process>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Worker")
    }
}

/// Shuts the connection when the last handle goes, upon which the worker ends, and with it every step.
struct Process {
    socket: UnixStream,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

/// The worker has only its own folder left to delete.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        // Should the build's process end first, the worker would be killed before it has cleaned up.
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LAST_WORDS);
    }
}

impl Worker {
    /// Starts a worker. It blocks until the worker is set up.
    ///
    /// # Errors
    /// In words, when it cannot be started or set up.
    pub(super) fn start(store: &Path, isolation: &Isolation, in_place: InPlace) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("starting the worker: {error}");
        let (own, theirs) = UnixStream::pair().map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg0(super::WORKER).env_clear().stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
        // What a terminal sends to all is the build's to take: the worker has things to put back, and ends with the socket.
        command.stdout(Stdio::null()).process_group(0);
        // The worker dies when the *thread* that started it ends, so that is one that waits for it.
        let (started, child) = std::sync::mpsc::channel();
        let (ending, ended) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let spawned = command.spawn();
            drop(command);
            match spawned {
                Ok(mut child) => {
                    let _ = started.send(Ok(child.id()));
                    let _ = Child::wait(&mut child);
                    let _ = ending.send(());
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        });
        // It ends with the worker or with this process; letting go of a thread that ends in that moment is not safe (glibc
        // bug 19951).
        std::mem::forget(waiting);
        let pid = child.recv().map_err(|_| "starting the worker".to_owned())?.map_err(failed)?;
        let mut socket = own.try_clone().map_err(failed)?;
        let start = Start {
            store: store.to_owned(),
            flavour: isolation.flavour(),
            make_user_namespace: isolation.mapping().is_some(),
            in_user_namespace: isolation.is_user_namespace(),
            one_user: isolation.has_one_user(),
            binds_proc: isolation.binds_proc,
            without_mounts: isolation.is_without_mounts(),
            in_place: isolation.is_in_place().then_some(in_place),
        };
        protocol::write(&mut socket, &start).map_err(failed)?;
        if let Some(mapping) = isolation.mapping() {
            match protocol::read(&mut socket).map_err(failed)? {
                Some(Reply::WantsMapping) => setup::map(pid, mapping)?,
                Some(Reply::Ready(Err(reason))) => return Err(reason),
                _ => return Err("the worker ended before it was set up".into()),
            }
            protocol::write(&mut socket, &()).map_err(failed)?;
        }
        match protocol::read(&mut socket).map_err(failed)? {
            Some(Reply::Ready(result)) => result?,
            _ => return Err("the worker ended before it was set up".into()),
        }
        if isolation.is_without_mounts() || isolation.binds_proc {
            // A step sees this process: secrets, credentials and the environment are in its memory.
            sys::process::keep_private().map_err(failed)?;
        }
        let waiters: Waiters = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (requests, queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let mut sending = own.try_clone().map_err(failed)?;
        std::mem::forget(std::thread::spawn(move || send(&mut sending, queue)));
        let receiving = waiters.clone();
        std::mem::forget(std::thread::spawn(move || receive(&mut socket, &receiving)));
        let process = Arc::new(Process { socket: own, ended: Mutex::new(ended) });
        Ok(Self { requests, waiters, next: Arc::default(), _process: process })
    }

    async fn ask(&self, task: Task, output: Option<Output>) -> Result<Answer, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let gone = || "the worker has died".to_owned();
        let (done, answer) = oneshot::channel();
        {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.as_mut().ok_or_else(gone)?.insert(id, Waiting { done, output });
        }
        // Told to stop when nobody waits any more: another step has failed, or the user has had enough.
        let mut guard = CancelOnDrop { worker: self, id, armed: true };
        let frame = protocol::encode(&Request { id, task }).map_err(|error| error.to_string())?;
        self.requests.send(frame).map_err(|_| gone())?;
        let result = answer.await;
        guard.armed = false;
        result.map_err(|_| gone())?
    }

    /// Makes the calls that isolate a step, and runs nothing.
    ///
    /// # Errors
    /// With the first that fails.
    pub async fn probe(&self) -> Result<(), String> {
        self.ask(Task::Probe, None).await.map(|_| ())
    }

    /// Takes possession of what only one build can have at a time: before the locks of mounts are.
    ///
    /// # Errors
    /// In words.
    pub async fn enter(&self) -> Result<(), String> {
        self.ask(Task::Enter, None).await.map(|_| ())
    }

    /// Unpacks a layer's blob to its tree.
    ///
    /// # Errors
    /// In words.
    pub async fn unpack(&self, layer: DiffId, blob: PathBuf) -> Result<(), String> {
        self.ask(Task::Unpack { layer, blob }, None).await.map(|_| ())
    }

    /// Puts layers, each with a blob that holds it, together to one tree in an empty folder.
    ///
    /// # Errors
    /// In words.
    pub async fn merge(&self, stack: Vec<(DiffId, PathBuf)>, target: PathBuf) -> Result<(), String> {
        self.ask(Task::Merge { stack, target }, None).await.map(|_| ())
    }

    /// Runs a command; gives the layer of its changes, or how it failed.
    ///
    /// # Errors
    /// In words, when it could not be run.
    pub async fn run(&self, request: RunRequest, output: Output) -> Result<Result<DiffId, Exit>, String> {
        match self.ask(Task::Run(Box::new(request)), Some(output)).await? {
            Answer::Layer(layer) => Ok(Ok(layer)),
            Answer::Failed(exit) => Ok(Err(exit)),
            Answer::Nothing | Answer::Packed(_) => Err("the worker gave no layer".into()),
        }
    }

    /// Makes a layer of parts that lie in trees.
    ///
    /// # Errors
    /// In words.
    pub async fn assemble(&self, parts: Vec<Part>, compression: Compression, fast: bool) -> Result<DiffId, String> {
        match self.ask(Task::Assemble { parts, compression, fast }, None).await? {
            Answer::Layer(layer) => Ok(layer),
            _ => Err("the worker gave no layer".into()),
        }
    }

    /// Cuts what a cache mount holds into pieces, in files of `folder` but for what is `known`, by blob and size.
    ///
    /// # Errors
    /// In words.
    pub async fn pack(
        &self,
        tree: PathBuf,
        folder: PathBuf,
        known: BTreeMap<Digest, (Digest, u64)>,
        limit: u64,
    ) -> Result<Packed, String> {
        match self.ask(Task::Pack { tree, folder, known, limit }, None).await? {
            Answer::Packed(packed) => Ok(packed),
            _ => Err("the worker gave no pieces".into()),
        }
    }

    /// Makes a directory for a cache mount, filled with what there is for it.
    ///
    /// # Errors
    /// In words.
    pub async fn make_directory(
        &self,
        path: PathBuf,
        owner: (u32, u32),
        mode: u32,
        seed: Option<Seed>,
    ) -> Result<(), String> {
        self.ask(Task::MakeDirectory { path, uid: owner.0, gid: owner.1, mode, seed }, None).await.map(|_| ())
    }

    /// Deletes what killed builds have left.
    ///
    /// # Errors
    /// In words.
    pub async fn sweep(&self, store: &store::Store) -> Result<(), String> {
        let debris = store.debris();
        match debris.is_empty() {
            true => Ok(()),
            false => self.delete(debris.iter().map(|scratch| scratch.path().to_owned()).collect()).await,
        }
    }

    async fn delete(&self, paths: Vec<PathBuf>) -> Result<(), String> {
        self.ask(Task::Delete(paths), None).await.map(|_| ())
    }
}

struct CancelOnDrop<'w> {
    worker: &'w Worker,
    id: u64,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Ok(frame) = protocol::encode(&Request { id: 0, task: Task::Cancel(self.id) })
        {
            let _ = self.worker.requests.send(frame);
        }
    }
}

fn send(socket: &mut UnixStream, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    use std::io::Write;
    while let Some(frame) = queue.blocking_recv() {
        if socket.write_all(&frame).is_err() {
            return;
        }
    }
}

fn receive(socket: &mut UnixStream, waiters: &Waiters) {
    while let Ok(Some(reply)) = protocol::read(socket) {
        let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiters) = waiters.as_mut() else { return };
        match reply {
            Reply::Output { id, is_error, bytes } => {
                if let Some(output) = waiters.get(&id).and_then(|waiting| waiting.output.as_ref()) {
                    output(is_error, &bytes);
                }
            }
            Reply::Done { id, result } => {
                if let Some(waiting) = waiters.remove(&id) {
                    // Nobody waits for a cancelled task.
                    let _ = waiting.done.send(result);
                }
            }
            Reply::WantsMapping | Reply::Ready(_) => {}
        }
    }
    // Everyone who waits learns that there will be no answer.
    *waiters.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
