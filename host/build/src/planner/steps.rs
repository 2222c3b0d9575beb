//! From an operation that a plugin has asked for to a step of the plan: what it takes from where is resolved, what the
//! user must allow is asked for.

use context::pattern::Matched;
use dockerfile::lint::{COPY_IGNORED, Finding};
use plan::graph::{CopyStep, RunStep};
use plan::op::{CopyOp, CopySource, MountKind, Network, RunOp, Security};
use plan::{Diagnostic, Span};

use super::lower::Lowerer;
use super::{Ref, StepOp};
use crate::commands::{Entitlement, Limit, Surroundings};
use crate::error::Error;

impl Lowerer<'_> {
    pub(super) async fn copy(&mut self, op: CopyOp, span: &Span) -> Result<StepOp, Error> {
        let mut refs = Vec::new();
        for source in &op.sources {
            refs.push(match source {
                CopySource::Context { patterns, .. } => {
                    self.look_for_ignored(patterns, span).await;
                    Some(Ref::Context(None))
                }
                CopySource::Stage { origin, .. } => Some(self.origin(origin, span).await?),
                CopySource::Git(git) => {
                    crate::remote::reference(git).map_err(|reason| Error::at("InvalidSource", reason, span))?;
                    None
                }
                CopySource::Inline(_) | CopySource::Http { .. } => None,
            });
        }
        let full = if op.destination.starts_with('/') {
            op.destination.clone()
        } else {
            format!("{}/{}", self.view.config.config.working_dir, op.destination)
        };
        // Cleaned as text, before any link in the image is followed; what says "a directory" stays.
        let mut destination = format!("/{}", String::from_utf8_lossy(&oci::tree::clean(full.as_bytes())));
        let is_directory = full.ends_with('/') || full.ends_with("/.");
        if is_directory && destination != "/" {
            destination.push('/');
        }
        Ok(StepOp::Copy(CopyStep { op, destination, origins: Vec::new() }, refs))
    }

    /// Sources that the ignore file keeps out, where it brings nothing back.
    async fn look_for_ignored(&self, patterns: &[String], span: &Span) {
        let Some(rules) = self.planner.resolver.ignored().await.filter(|rules| !rules.brings_back()) else {
            return;
        };
        let keyword = &self.view.line.instruction.keyword;
        let word = format!("{}{}", &keyword[..1], keyword[1..].to_lowercase());
        for pattern in patterns {
            let path = oci::tree::clean(pattern.as_bytes());
            // Linux takes no longer path, so there is nothing to ignore.
            if path.len() > 4096 {
                continue;
            }
            // The whole context is left out only by a rule that would leave out anything.
            let parts: Vec<&[u8]> = match path.is_empty() {
                true => vec![b"\x01"],
                false => path.split(|byte| *byte == b'/').collect(),
            };
            let (mut state, mut left_out) = (Matched::default(), false);
            for end in 1..=parts.len() {
                let (matched, next) = rules.matches(&parts[..end].join(&b'/'), &state);
                (state, left_out) = (next, left_out || matched);
            }
            if left_out {
                let shown = if path.is_empty() { ".".into() } else { String::from_utf8_lossy(&path) };
                let message = format!("Attempting to {word} file \"{shown}\" that is excluded by .dockerignore");
                let diagnostic = COPY_IGNORED.finding(message, span);
                self.planner.linter.add(Finding { diagnostic, comments: &self.view.line.comments });
            }
        }
    }

    pub(super) async fn run(&mut self, mut op: RunOp, span: &Span) -> Result<StepOp, Error> {
        if let Some((device, _)) = op.devices.first() {
            let message = format!("device {device}: devices of the machine are not supported");
            let help = "what a command can see of /dev is what containers see: null, zero, full, random, urandom, tty";
            return Err(Diagnostic::error("NotSupported", message, Some(span.clone())).with_help(help).into());
        }
        if op.network == Network::Host {
            self.require(Entitlement::NetworkHost, span)?;
        }
        if op.security == Security::Insecure {
            self.require(Entitlement::SecurityInsecure, span)?;
        }
        if let (Network::Default, Some(network)) = (op.network, self.planner.commands.network) {
            op.network = network;
        }
        let mut refs = Vec::new();
        for mount in &op.mounts {
            refs.push(match &mount.kind {
                MountKind::Bind { from: None, .. } => Some(Ref::Context(None)),
                MountKind::Bind { from: Some(from), .. } => Some(self.origin(from, span).await?),
                MountKind::Cache(cache) => match &cache.from {
                    Some(from) => Some(self.origin(from, span).await?),
                    None => None,
                },
                MountKind::Tmpfs(_) | MountKind::Secret(_) | MountKind::Ssh { .. } | MountKind::File { .. } => None,
            });
        }
        let config = &self.view.config.config;
        let mut env = self.view.variables.clone();
        for (name, value) in &op.extra_env {
            env.set(name, value);
        }
        let step = RunStep {
            env: env.as_pairs().to_vec(),
            arguments: env.arguments().clone(),
            proxies: self.planner.proxies.clone(),
            hosts: self.planner.commands.surroundings.hosts.clone(),
            surroundings: surroundings(&self.planner.commands.surroundings),
            user: op.user.clone().unwrap_or_else(|| config.user.clone()),
            // As text, before any link in the image is followed: it was made so.
            working_dir: {
                let path = op.working_dir.as_ref().unwrap_or(&config.working_dir);
                format!("/{}", String::from_utf8_lossy(&oci::tree::clean(path.as_bytes())))
            },
            mount_origins: Vec::new(),
            op,
        };
        Ok(StepOp::Run(step, refs))
    }

    fn require(&self, entitlement: Entitlement, span: &Span) -> Result<(), Error> {
        if self.planner.commands.allow.contains(&entitlement) {
            return Ok(());
        }
        let name = entitlement.name();
        let diagnostic = Diagnostic::error("NotAllowed", format!("{name} is not allowed"), Some(span.clone()));
        Err(diagnostic.with_help(format!("allow it with --allow {name}")).into())
    }
}

/// What a command can see of its limits.
fn surroundings(given: &Surroundings) -> Vec<String> {
    let limit = |limit: &Limit| format!("{} {:?} {:?}", limit.name, limit.soft, limit.hard);
    let mut all: Vec<String> = given.limits.iter().map(limit).collect();
    all.extend(given.shm_size.map(|bytes| format!("shm {bytes}")));
    all.extend(given.resources.parent.iter().map(|parent| format!("group {parent}")));
    all
}
