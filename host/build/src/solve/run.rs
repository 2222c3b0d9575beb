//! Running a command: its root, its mounts, its surroundings.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use executor::{Mount, MountKind as Kind, Network};
use oci::DiffId;
use oci::media_type::Compression;
use plan::graph::{Origin, RunStep, Vertex, VertexId};
use plan::op::{MountKind, SecretMount, Security};
use snapshot::assemble;
use snapshot::compress::Level;
use store::Scratch;

use super::{Solver, files};
use crate::error::Error;
use crate::event::Event;
use crate::key;
use crate::op;
use crate::ssh::{Agent, Relay};
use crate::worker::RunRequest;

/// Lines of a failed command that an error repeats.
const LAST_LINES: usize = 20;
/// Where certificates are put for a command, and the variables by which tools look for them.
const CA_BUNDLE: &str = "/run/plywood/ca.pem";
const CA_VARIABLES: [&str; 6] =
    ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "PIP_CERT"];

/// Locks that are held while a command runs.
#[derive(Default)]
pub(super) struct Held {
    /// Names of locks.
    pub(super) locked: std::collections::BTreeSet<String>,
    pub(super) in_process: Vec<tokio::sync::OwnedMutexGuard<()>>,
    pub(super) between: Vec<store::Lock>,
    pub(super) scratch: Vec<Scratch>,
    pub(super) agents: Vec<Relay>,
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
        let (lowers, stack) = match self.isolation(vertex).await?.is_without_mounts() {
            false => (self.unpacked(vertex, below).await?, Vec::new()),
            true => (Vec::new(), self.stack(below).await?),
        };
        let mut env = step.env.clone();
        for (name, value) in &step.proxies {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.clone(), value.clone()));
            }
        }
        let entered = self.worker(vertex).await?.enter().await;
        entered.map_err(|reason| Self::failed(vertex, reason))?;
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
            stack,
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
        if self.isolation(vertex).await?.is_without_mounts() {
            // A copy of it is put into the step's tree, which may be written and goes afterwards.
            let scratch = self.tools.store.scratch_folder()?;
            let worker = self.worker(vertex).await?;
            let merged = worker.merge(self.stack(&layers).await?, scratch.path().to_owned()).await;
            merged.map_err(|reason| Self::failed(vertex, reason))?;
            let lowers = vec![scratch.path().to_owned()];
            held.scratch.push(scratch);
            return Ok(Kind::Trees { lowers, source, writable: None });
        }
        let lowers = self.unpacked(vertex, &layers).await?;
        let writable = match writable {
            true => Some(self.throw_away(held)?),
            false => None,
        };
        Ok(Kind::Trees { lowers, source, writable })
    }

    /// A layer without entries.
    pub(super) async fn nothing(&self) -> Result<DiffId, Error> {
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
        held.scratch.push(scratch);
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
        held.scratch.push(scratch);
        Ok((upper, work))
    }

    /// Files of a context as a layer, since a mount must show no more of the context than a copy would take.
    pub(super) async fn context_layer(
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
