//! The worker itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oci::DiffId;
use oci::media_type::Compression;
use snapshot::LayerWriter;
use snapshot::apply::Abilities;
use snapshot::compress::Level;
use store::{Flavour, Store};
use sys::process::UnshareFlags;
use sys::rustix::fs::{AtFlags, FileType, statat, unlinkat};
use sys::rustix::process::{Pid, Signal, kill_process};

use super::protocol::{self, Answer, Exit, Reply, Request, RunRequest, Seed, Start, Task};

mod own;
mod place;
mod step;

use own::Trees;
use step::{Ended, Places};

/// Runs the worker on the socket that is its standard input. Gives the exit code of the process.
#[must_use]
pub fn main(arguments: &[String]) -> i32 {
    if arguments.first().is_some_and(|word| word == "probe") {
        return i32::from(sys::process::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).is_err());
    }
    let Ok(socket) = sys::process::inherited(0).map(UnixStream::from) else {
        return 1;
    };
    i32::from(serve(socket).is_err())
}

fn serve(mut socket: UnixStream) -> io::Result<()> {
    // The build's process, while it is still our parent.
    let parent = sys::rustix::process::getppid();
    if let Some(parent) = parent {
        sys::process::die_with_parent(parent)?;
    }
    let Some(start) = protocol::read::<Start>(&mut socket)? else {
        return Ok(());
    };
    let ready = set_up(&mut socket, &start).and_then(|()| Store::open(&start.store).map_err(|error| error.to_string()));
    let store = match ready {
        Ok(store) => store,
        Err(reason) => return protocol::write(&mut socket, &Reply::Ready(Err(reason))),
    };
    protocol::write(&mut socket, &Reply::Ready(Ok(())))?;
    let server = Arc::new(Server {
        store,
        flavour: start.flavour,
        binds_proc: start.binds_proc,
        own: start.without_mounts.then(|| Trees::new(start.in_place)),
        // Without mounts nothing keeps a step from opening a device that its image brings.
        abilities: Abilities {
            devices: !start.in_user_namespace && !start.without_mounts,
            user_xattrs: start.in_user_namespace,
            one_user: start.one_user,
        },
        replies: Mutex::new(socket.try_clone()?),
        steps: Mutex::default(),
        closing: AtomicBool::new(false),
    });
    // Waited for rather than let go of, which is not safe for a thread that ends in that moment (glibc bug 19951).
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    // A connection that is reset is at its end as well.
    while let Ok(Some(Request { id, task })) = protocol::read(&mut socket) {
        let ended = threads.extract_if(.., |thread| thread.is_finished());
        ended.for_each(|thread| drop(thread.join()));
        if let Task::Cancel(id) = task {
            server.cancel(id);
            continue;
        }
        // A step is started by this thread and dies with it, so it lives as long as the step. Trees are walked folder by
        // folder, and a path has up to two thousand.
        let started = std::thread::Builder::new().stack_size(16 << 20).spawn({
            let server = server.clone();
            move || {
                let result = server.perform(id, task);
                server.reply(&Reply::Done { id, result });
            }
        });
        match started {
            Ok(thread) => threads.push(thread),
            Err(error) => server.reply(&Reply::Done { id, result: Err(error.to_string()) }),
        }
    }
    // The build has ended: whatever still runs ends with this process, but where no namespace does.
    let closed = server.close(&threads);
    // A container ends with its first process, and its root goes with it.
    let is_over = matches!(closed, Ok(true)) && parent.is_none_or(|parent| !parent.is_init());
    if let Some(own) = server.own.as_ref().filter(|_| is_over) {
        own.leave();
    }
    std::mem::forget(threads);
    closed.map(|_| ())
}

fn set_up(socket: &mut UnixStream, start: &Start) -> Result<(), String> {
    let during = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    if start.make_user_namespace {
        sys::process::unshare(UnshareFlags::NEWUSER).map_err(during("making a user namespace"))?;
        protocol::write(socket, &Reply::WantsMapping).map_err(during("the build"))?;
        protocol::read::<()>(socket).map_err(during("the build"))?;
        sys::privilege::become_root().map_err(during("becoming root of the user namespace"))?;
        // Changing numbers has made the kernel forget it (prctl(2), PR_SET_PDEATHSIG).
        sys::rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| format!("the parent's death: {error}"))?;
    }
    if !start.without_mounts {
        sys::process::unshare(UnshareFlags::NEWNS).map_err(during("making a mount namespace"))?;
        sys::mount::make_private().map_err(during("making mounts private"))?;
    }
    sys::rustix::process::umask(sys::rustix::fs::Mode::from_raw_mode(0o022));
    if start.binds_proc || start.without_mounts {
        // A step that sees this process reads nothing in it: what its socket and its environment hold is the build's.
        sys::process::keep_private().map_err(during("keeping to itself"))?;
        sys::process::adopt_orphans().map_err(during("taking in orphans"))?;
        // No namespace ends with this process: it must live to end what steps have left, when the socket tells that the
        // build has ended.
        sys::rustix::process::set_parent_process_death_signal(None)
            .map_err(|error| format!("the parent's death: {error}"))?;
    }
    Ok(())
}

struct Server {
    store: Store,
    flavour: Flavour,
    abilities: Abilities,
    binds_proc: bool,
    /// Trees of steps that change their root; none: steps have overlays.
    own: Option<Trees>,
    replies: Mutex<UnixStream>,
    /// Steps that run, by the task's number.
    steps: Mutex<BTreeMap<u64, Option<Pid>>>,
    /// Nothing is started any more.
    closing: AtomicBool,
}

/// So long steps may take to put back what they were given.
const LAST: Duration = Duration::from_millis(1500);

impl Server {
    fn reply(&self, reply: &Reply) {
        let mut socket = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        // A build that is gone needs no answer.
        let _ = protocol::write(&mut *socket, reply);
    }

    /// Whether processes of a step outlive it, unless they are ended one by one.
    fn has_no_process_namespace(&self) -> bool {
        self.binds_proc || self.own.is_some()
    }

    /// Ends what steps still run, and lets them put back what is not theirs; gives whether all have.
    fn close(&self, threads: &[JoinHandle<()>]) -> io::Result<bool> {
        if !self.has_no_process_namespace() {
            return Ok(true);
        }
        {
            let _steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            self.closing.store(true, Ordering::Release);
        }
        let start = Instant::now();
        loop {
            sys::process::kill_children(&[])?;
            let have_ended = threads.iter().all(JoinHandle::is_finished);
            if have_ended || start.elapsed() > LAST {
                return Ok(have_ended);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn cancel(&self, id: u64) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        // Noted even if it has not started yet.
        if let Some(Some(pid)) = steps.insert(id, None) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn perform(&self, id: u64, task: Task) -> Result<Answer, String> {
        let text = |error: snapshot::Error| error.to_string();
        match task {
            Task::Merge { stack, target } => {
                own::merge(&self.store, &stack, &target, self.abilities).map(|()| Answer::Nothing).map_err(text)
            }
            Task::Enter => self.own.as_ref().map_or(Ok(()), Trees::enter).map(|()| Answer::Nothing),
            Task::Probe => self.probe(id).map(|()| Answer::Nothing),
            Task::Unpack { layer, blob } => self.unpack(layer, &blob).map(|()| Answer::Nothing),
            Task::Run(request) => {
                let result = self.run(id, &request);
                // As this user: what a step wrote may belong to numbers that the build has no right to.
                let _ = remove(&request.scratch);
                result
            }
            Task::Assemble { parts, compression, fast } => {
                let level = level(compression, fast);
                snapshot::assemble::layer(&self.store, parts, compression, level).map(Answer::Layer).map_err(text)
            }
            Task::MakeDirectory { path, uid, gid, mode, seed } => {
                self.make_directory(&path, uid, gid, mode, seed).map(|()| Answer::Nothing)
            }
            Task::Pack { tree, folder, known, limit } => {
                snapshot::pieces::pack(&tree, &folder, &known, limit).map(Answer::Packed).map_err(text)
            }
            Task::Delete(paths) => {
                for path in paths {
                    let _ = remove(&path);
                    let _ = fs::remove_dir(&path);
                }
                Ok(Answer::Nothing)
            }
            Task::Cancel(_) => Ok(Answer::Nothing),
        }
    }

    fn unpack(&self, layer: DiffId, blob: &Path) -> Result<(), String> {
        if self.store.tree(&self.flavour, layer).is_some() {
            return Ok(());
        }
        let text = |error: store::Error| error.to_string();
        let at = |error: io::Error| format!("{}: {error}", blob.display());
        // Two builds that need the same layer unpack it once.
        let _lock = self.store.lock(&format!("tree {layer}")).map_err(text)?;
        if self.store.tree(&self.flavour, layer).is_some() {
            return Ok(());
        }
        let scratch = self.store.scratch_folder().map_err(text)?;
        let made = scratch.path().join("tree");
        let target = made.join("fs");
        fs::create_dir_all(&target).map_err(at)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(at)?;
        let source = fs::File::open(blob).map_err(at)?;
        let index = snapshot::apply::unpack(source, layer, &target, self.abilities).map_err(|e| e.to_string())?;
        if self.store.read_index(layer).is_none() {
            self.store.write_index(layer, &snapshot::index::encode(&index)).map_err(text)?;
        }
        self.store.commit_tree(&self.flavour, layer, &made).map_err(text)?;
        Ok(())
    }

    /// Goes all the way to where a step's command would be executed.
    fn probe(&self, id: u64) -> Result<(), String> {
        let scratch = self.store.scratch_folder().map_err(|error| error.to_string())?;
        let request = RunRequest::probe(scratch.path());
        let made = self.run(id, &request);
        let _ = remove(&request.scratch);
        match made? {
            Answer::Failed(exit) => Err(format!("a step's process ended with {exit:?}")),
            _ => Ok(()),
        }
    }

    fn run(&self, id: u64, request: &RunRequest) -> Result<Answer, String> {
        if let Some(own) = &self.own {
            return own.run(self, id, request);
        }
        let at = |error: io::Error| format!("{}: {error}", request.scratch.display());
        let tree = request.scratch.join("tree");
        let (upper, work, root) = (tree.join("fs"), request.scratch.join("work"), request.scratch.join("root"));
        for folder in [&tree, &upper, &work, &root] {
            fs::create_dir(folder).map_err(at)?;
        }
        // The upper directory is the image's root directory: it starts as what it covers.
        let lowest = request.lowers.first().and_then(|lower| fs::metadata(lower).ok());
        let mode = lowest.map_or(0o755, |meta| meta.permissions().mode() & 0o7777);
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode)).map_err(at)?;
        let mut lowers = request.lowers.clone();
        if lowers.is_empty() {
            // Overlayfs wants something below.
            let empty = request.scratch.join("empty");
            fs::create_dir(&empty).map_err(at)?;
            lowers.push(empty);
        }
        let outcome = request.scratch.join("outcome");
        let places = Places { lowers: lowers.clone(), upper: upper.clone(), work, root, outcome };
        let Ended { exit, stubs, user } = self.step(id, request, places)?;
        match exit {
            Exit::Code(0) => {}
            exit => return Ok(Answer::Failed(exit)),
        }
        if request.argv.is_empty() {
            return Ok(Answer::Nothing);
        }
        remove_stubs(&upper, &stubs);
        let level = level(request.compression, request.fast);
        let writer = LayerWriter::new(&self.store, request.compression, level).map_err(|e| e.to_string())?;
        let one_user = self.abilities.one_user.then_some(user);
        let changes = snapshot::diff::Changes { upper: &upper, lowers: &lowers, one_user };
        let layer = snapshot::diff::write(&changes, writer).map_err(|e| e.to_string())?;
        // What was written is the layer's tree already.
        self.store.commit_tree(&self.flavour, layer, &tree).map_err(|e| e.to_string())?;
        Ok(Answer::Layer(layer))
    }

    fn make_directory(&self, path: &Path, uid: u32, gid: u32, mode: u32, seed: Option<Seed>) -> Result<(), String> {
        let at = |error: io::Error| format!("{}: {error}", path.display());
        if path.exists() {
            return Ok(());
        }
        let scratch = self.store.scratch_folder().map_err(|error| error.to_string())?;
        let made = scratch.path().join("mount");
        fs::create_dir(&made).map_err(at)?;
        match seed {
            Some(Seed::Layer(layer, blob)) => {
                let source = fs::File::open(blob).map_err(at)?;
                snapshot::apply::unpack(source, layer, &made, self.abilities).map_err(|error| error.to_string())?;
            }
            Some(Seed::Pieces { layer, files, limit }) => {
                let unpacked = snapshot::pieces::unpack(files, layer, limit, &made, self.abilities);
                unpacked.map_err(|error| error.to_string())?;
            }
            None => {}
        }
        if !self.abilities.one_user {
            std::os::unix::fs::chown(&made, Some(uid), Some(gid)).map_err(at)?;
        }
        fs::set_permissions(&made, fs::Permissions::from_mode(mode)).map_err(at)?;
        match fs::rename(&made, path) {
            // Another build was faster.
            Err(_) if path.exists() => Ok(()),
            result => result.map_err(at),
        }
    }
}

fn level(compression: Compression, fast: bool) -> Level {
    if fast { Level::fast() } else { Level::default_of(compression) }
}

/// Takes away what was made only to mount on, if the step has left it as it was.
fn remove_stubs(upper: &Path, stubs: &[String]) {
    let Ok(root) = sys::Root::open(upper) else { return };
    for stub in stubs.iter().rev() {
        let path = Path::new(stub);
        let Ok((parent, name)) = root.parent(path) else {
            continue;
        };
        let Ok(meta) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let flags = match FileType::from_raw_mode(meta.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ if meta.st_size == 0 => AtFlags::empty(),
            _ => continue,
        };
        // A directory that is no longer empty stays.
        let _ = unlinkat(&parent, name, flags);
    }
}

/// Deletes what is in a folder. Mounts in it are in the step's own namespace, which has ended; should one be there all
/// the same, nothing behind it is touched.
fn remove(folder: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let below = format!("{}/", folder.display());
    if mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| point.starts_with(&below)) {
        return Err(io::Error::other("something is mounted in it"));
    }
    sys::remove::content(&fs::File::open(folder)?)
}
