//! Running a command: its root, its mounts, its surroundings.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use executor::{Mount, MountKind as Kind, Network};
use oci::DiffId;
use oci::media_type::Compression;
use plan::graph::{Origin, RunStep, Vertex, VertexId};
use plan::op::{CacheMount, MountKind, SecretMount, Security, Sharing};
use snapshot::assemble;
use snapshot::compress::Level;
use store::Scratch;

use super::{Solver, files};
use crate::error::Error;
use crate::event::Event;
use crate::key;
use crate::op;
use crate::ssh::{Agent, Relay};
use crate::worker::{RunRequest, Seed};

/// Lines of a failed command that an error repeats.
const LAST_LINES: usize = 20;
/// Where certificates are put for a command, and the variables by which tools look for them.
const CA_BUNDLE: &str = "/run/plywood/ca.pem";
const CA_VARIABLES: [&str; 6] =
    ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "PIP_CERT"];

/// Locks that are held while a command runs.
#[derive(Default)]
struct Held {
    _in_process: Vec<tokio::sync::OwnedMutexGuard<()>>,
    _between: Vec<store::Lock>,
    _scratch: Vec<Scratch>,
    agents: Vec<Relay>,
}

impl Solver {
    pub(super) async fn run(
        self: &Arc<Self>,
        id: VertexId,
        vertex: &Vertex,
        step: &RunStep,
        below: &[DiffId],
    ) -> Result<DiffId, Error> {
        let host = oci::Platform::host();
        if host.rank(&vertex.platform).is_none() && !executor::emulation::runs(&vertex.platform.architecture) {
            let reason = format!(
                "a command for {} cannot run on {host}: this machine has no emulator for it that images can use; \
                 Debian's package qemu-user-static registers one (with binfmt_misc's flag F)",
                vertex.platform
            );
            return Err(Self::failed(vertex, reason));
        }
        let lowers = self.unpacked(vertex, below).await?;
        let mut env = step.env.clone();
        for (name, value) in &step.proxies {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.clone(), value.clone()));
            }
        }
        let mut held = Held::default();
        let mut mounts = Vec::new();
        for (mount, origin) in step.op.mounts.iter().zip(&step.mount_origins) {
            if let MountKind::Secret(secret) = &mount.kind {
                self.secret(vertex, secret, mount.target.as_deref(), &mut env, &mut mounts)?;
                continue;
            }
            let Some(target) = mount.target.clone() else { continue };
            let kind = match &mount.kind {
                MountKind::Bind { source, writable, .. } => {
                    self.bind(vertex, origin.as_ref(), source, *writable, &mut held).await?
                }
                MountKind::Cache(cache) => self.cache_mount(vertex, cache, origin.as_ref(), &mut held).await?,
                MountKind::Tmpfs(size) => Kind::Tmpfs { size: *size },
                MountKind::File { content, mode } => {
                    Kind::File { content: content.clone(), uid: 0, gid: 0, mode: *mode }
                }
                MountKind::Ssh { id, required, uid, gid, mode } => {
                    if !env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
                        env.push(("SSH_AUTH_SOCK".into(), target.clone()));
                    }
                    let Some(agent) = self.commands.ssh.get(id) else {
                        if !required {
                            continue;
                        }
                        let advice = format!("ssh agent {id}: not found; give it with --ssh {id}");
                        return Err(Self::failed(vertex, advice));
                    };
                    let path = self.ssh_agent(vertex, agent, &mut held)?;
                    Kind::Socket { path, uid: *uid, gid: *gid, mode: *mode }
                }
                MountKind::Secret(_) => continue,
            };
            mounts.push(Mount { target, kind });
        }
        if let Some(bundle) = &self.ca_bundle {
            let kind = Kind::File { content: bundle.clone(), uid: 0, gid: 0, mode: 0o644 };
            mounts.push(Mount { target: CA_BUNDLE.into(), kind });
            for name in CA_VARIABLES {
                if !env.iter().any(|(known, _)| known == name) {
                    env.push((name.to_owned(), CA_BUNDLE.to_owned()));
                }
            }
        }
        let scratch = self.tools.store.scratch_folder()?;
        let (compression, fast) = self.compression(id);
        let request = RunRequest {
            scratch: scratch.path().to_owned(),
            lowers,
            argv: step.op.argv.clone(),
            stdin: step.op.stdin.clone(),
            env,
            user: step.user.clone(),
            working_dir: step.working_dir.clone(),
            mounts,
            network: match step.op.network {
                plan::op::Network::None => Network::None,
                plan::op::Network::Default | plan::op::Network::Host => Network::Host,
            },
            privileged: step.op.security == Security::Insecure,
            surroundings: self.commands.surroundings.clone(),
            resolv_conf: std::fs::read("/etc/resolv.conf").unwrap_or_default(),
            compression,
            fast,
        };
        let tail = Arc::new(Mutex::new(Tail::default()));
        let (events, keep) = (self.tools.events.clone(), tail.clone());
        let output = Box::new(move |is_error: bool, bytes: &[u8]| {
            keep.lock().unwrap_or_else(PoisonError::into_inner).add(bytes);
            events(Event::Output { step: id, is_error, bytes: bytes.to_vec() });
        });
        let worker = self.worker(vertex).await?;
        let ended = worker.run(request, output).await.map_err(|reason| Self::failed(vertex, reason))?;
        drop(held);
        ended.map_err(|exit| Error::Command {
            step: vertex.name.clone(),
            command: format!("process \"{}\"", step.op.argv.join(" ")),
            exit,
            span: vertex.span().cloned(),
            output: tail.lock().unwrap_or_else(PoisonError::into_inner).lines(),
        })
    }

    fn secret(
        &self,
        vertex: &Vertex,
        secret: &SecretMount,
        target: Option<&str>,
        env: &mut Vec<(String, String)>,
        mounts: &mut Vec<Mount>,
    ) -> Result<(), Error> {
        let Some(value) = self.secrets.get(&secret.id) else {
            if !secret.required {
                return Ok(());
            }
            let id = &secret.id;
            return Err(Self::failed(
                vertex,
                format!("secret {id}: not found; give it with --secret id={id},src=FILE"),
            ));
        };
        if let Some(name) = &secret.as_env {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), String::from_utf8_lossy(value).into_owned()));
        }
        if let Some(target) = target {
            let kind = Kind::File { content: value.clone(), uid: secret.uid, gid: secret.gid, mode: secret.mode };
            mounts.push(Mount { target: target.to_owned(), kind });
        }
        Ok(())
    }

    async fn bind(
        self: &Arc<Self>,
        vertex: &Vertex,
        origin: Option<&Origin>,
        source: &str,
        writable: bool,
        held: &mut Held,
    ) -> Result<Kind, Error> {
        let (layers, source) = match origin {
            Some(Origin::Vertex(id)) => (self.solve(*id).await?.layers.to_vec(), source.to_owned()),
            Some(Origin::Context(name)) => {
                let (layer, source) = self.context_layer(vertex, name.as_deref(), source).await?;
                (vec![layer], source)
            }
            Some(Origin::Scratch) | None => (vec![self.nothing().await?], source.to_owned()),
        };
        let lowers = self.unpacked(vertex, &layers).await?;
        let writable = match writable {
            true => Some(self.throw_away(held)?),
            false => None,
        };
        Ok(Kind::Trees { lowers, source, writable })
    }

    /// A layer without entries.
    async fn nothing(&self) -> Result<DiffId, Error> {
        let store = self.tools.store.clone();
        let work = move || assemble::layer(&store, Vec::new(), Compression::Zstd, Level::fast());
        Ok(tokio::task::spawn_blocking(work).await.map_err(|error| Error::Request(error.to_string()))??)
    }

    /// A socket for this command alone, behind which an agent answers.
    fn ssh_agent(&self, vertex: &Vertex, agent: &Agent, held: &mut Held) -> Result<PathBuf, Error> {
        let scratch = self.tools.store.scratch_folder()?;
        let relay = Relay::start(agent.clone(), scratch.path(), "agent");
        let relay = relay.map_err(|error| Self::failed(vertex, format!("the socket of the ssh agent: {error}")))?;
        let path = relay.path.clone();
        held._scratch.push(scratch);
        held.agents.push(relay);
        Ok(path)
    }

    /// Folders for writes that nobody will see.
    fn throw_away(&self, held: &mut Held) -> Result<(PathBuf, PathBuf), Error> {
        let scratch = self.tools.store.scratch_folder()?;
        let (upper, work) = (scratch.path().join("upper"), scratch.path().join("work"));
        for folder in [&upper, &work] {
            std::fs::create_dir(folder)
                .map_err(|source| Error::Output { place: folder.display().to_string(), source })?;
        }
        held._scratch.push(scratch);
        Ok((upper, work))
    }

    /// Files of a context as a layer, since a mount must show no more of the context than a copy would take.
    async fn context_layer(
        self: &Arc<Self>,
        vertex: &Vertex,
        name: Option<&str>,
        source: &str,
    ) -> Result<(DiffId, String), Error> {
        let context = self.lookups.context(name).await?;
        let is_file = context.tree.resolve(source.as_bytes()).is_ok_and(|path| !context.tree.is_dir(&path));
        let destination = if is_file { "/file" } else { "/" };
        let sources = [key::bind_source(&context, source)];
        let how = key::how(destination, None, context::pattern::Matcher::default(), false);
        let planned = op::copy::plan(&sources, &how, &oci::tree::Tree::default());
        let planned = planned.map_err(|reason| Self::failed(vertex, reason))?;
        let bodies = std::collections::BTreeMap::from([(0, files::Bodies::Context(context))]);
        let (parts, _) = files::parts(self, vertex, planned, &bodies, None).await?;
        let store = self.tools.store.clone();
        let write = move || assemble::layer(&store, parts, oci::media_type::Compression::Zstd, Level::fast());
        let layer = tokio::task::spawn_blocking(write).await.map_err(|e| Self::failed(vertex, e.to_string()))??;
        Ok((layer, if is_file { "/file".into() } else { "/".into() }))
    }

    async fn cache_mount(
        self: &Arc<Self>,
        vertex: &Vertex,
        cache: &CacheMount,
        origin: Option<&Origin>,
        held: &mut Held,
    ) -> Result<Kind, Error> {
        let flavour = self.isolation(vertex).await?.flavour();
        let store = &self.tools.store;
        // As in BuildKit, a mount that starts otherwise (another owner, mode or seed) is another mount.
        let start = match origin {
            Some(Origin::Vertex(id)) => self.keys[id.0].definition.to_string(),
            Some(Origin::Context(name)) => format!("context {}", name.as_deref().unwrap_or_default()),
            Some(Origin::Scratch) | None => String::new(),
        };
        // Builds that are given a space of their own share no mount with others.
        let space = self.commands.cache_mount_space.as_deref().unwrap_or_default();
        let name =
            format!("{space}\0{}\0{}:{}\0{:o}\0{start}\0{}", cache.id, cache.uid, cache.gid, cache.mode, cache.source);
        let base = store.mount(&flavour, &name);
        let path = match cache.sharing {
            Sharing::Shared => base,
            Sharing::Locked => {
                let name = format!("mount {}", base.display());
                let mutex = {
                    let mut locks = self.locked_mounts.lock().unwrap_or_else(PoisonError::into_inner);
                    locks.entry(name.clone()).or_default().clone()
                };
                held._in_process.push(mutex.lock_owned().await);
                let (store, lock) = (store.clone(), name);
                let lock = tokio::task::spawn_blocking(move || store.lock(&lock)).await;
                held._between.push(lock.map_err(|error| Self::failed(vertex, error.to_string()))??);
                base
            }
            // The first that nobody uses.
            Sharing::Private => {
                let mut number = 0;
                loop {
                    let path = base.with_extension(format!("private-{number}"));
                    if let Some(lock) = store.try_lock(&format!("mount {}", path.display()))? {
                        held._between.push(lock);
                        break path;
                    }
                    number += 1;
                }
            }
        };
        store.touch(&path);
        let key = self.mount_key(vertex, &name).await;
        if !path.exists() {
            self.make_mount(vertex, cache, origin, &path, key.as_ref()).await?;
        }
        // What steps use side by side is saved as the first of them leaves it.
        if let Some(key) = key.filter(|_| !cache.read_only && path.extension().is_none()) {
            let lock = (cache.sharing == Sharing::Locked).then(|| format!("mount {}", path.display()));
            self.mount_is_used(&path, &cache.id, key, lock);
        }
        Ok(Kind::Folder { path, read_only: cache.read_only })
    }

    /// Makes a cache mount that is not there: as it last was somewhere else, or as it starts.
    async fn make_mount(
        self: &Arc<Self>,
        vertex: &Vertex,
        cache: &CacheMount,
        origin: Option<&Origin>,
        path: &Path,
        key: Option<&cache::MountKey>,
    ) -> Result<(), Error> {
        let worker = self.worker(vertex).await?;
        let make = |seed| worker.make_directory(path.to_owned(), (cache.uid, cache.gid), cache.mode, seed);
        let restored = match key {
            Some(key) => self.restored(&cache.id, key).await,
            None => None,
        };
        if let Some(restored) = restored {
            match make(Some(restored.seed())).await {
                Ok(()) => {
                    self.mount_note(&cache.id, &restored.told());
                    return Ok(());
                }
                Err(reason) => self.mount_note(&cache.id, &format!("warning: not restored: {reason}")),
            }
        }
        let seed = match origin {
            Some(origin) => Some(self.seed(vertex, origin, &cache.source).await?),
            None => None,
        };
        make(seed).await.map_err(|reason| Self::failed(vertex, reason))
    }

    /// What a new cache mount is filled with, as a layer.
    async fn seed(self: &Arc<Self>, vertex: &Vertex, origin: &Origin, source: &str) -> Result<Seed, Error> {
        let layer = match origin {
            Origin::Context(name) => self.context_layer(vertex, name.as_deref(), source).await?.0,
            Origin::Vertex(id) => {
                let layers = self.solve(*id).await?.layers;
                let tree = self.tree(&layers).await?;
                let escaped = op::copy::literally(source);
                let source = op::copy::Source {
                    tree,
                    patterns: vec![escaped],
                    archives: std::collections::BTreeMap::new(),
                    number: 0,
                };
                let how = key::how("/", None, context::pattern::Matcher::default(), false);
                let planned = op::copy::plan(&[source], &how, &oci::tree::Tree::default());
                let planned = planned.map_err(|reason| Self::failed(vertex, reason))?;
                let bodies = std::collections::BTreeMap::from([(0, files::Bodies::Layers)]);
                let scratch = self.tools.store.scratch_folder()?;
                self.write(*id, vertex, planned, &bodies, Some(&scratch)).await?
            }
            Origin::Scratch => self.nothing().await?,
        };
        let store = &self.tools.store;
        let variant = store.variants(layer).into_iter().next();
        let variant = variant.ok_or_else(|| Self::failed(vertex, format!("the layer {layer} is gone")))?;
        Ok(Seed::Layer(layer, store.blob(variant.digest)))
    }
}

/// The last lines that a command printed.
#[derive(Default)]
struct Tail {
    text: Vec<u8>,
}

impl Tail {
    /// Bytes that are kept; more than the lines that are shown have.
    const KEPT: usize = 16 << 10;

    fn add(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        let surplus = self.text.len().saturating_sub(Self::KEPT);
        self.text.drain(..surplus);
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }
}
