//! Steps for cache policies, and what these say of them.

use plan::key::{Decision, KeyEdit, Step, Verdict};
use plan::op::{CopyOp, CopySource, Mount, MountKind, Network, Op, RunOp, Security, Sharing};

use super::{diagnostic, key_value, platform, span};
use crate::bindings::cache_policy::exports::plywood::plugin::cache_policy as policy;
use crate::bindings::shared::plywood::plugin::build_ir as ir;
use crate::failure::line;

pub(crate) fn step(step: &Step) -> policy::Step {
    policy::Step {
        stage_name: step.stage_name.clone(),
        stage_index: step.stage_index,
        index: step.index,
        instruction: step.instruction.as_ref().map(|instruction| policy::Provenance {
            keyword: instruction.keyword.clone(),
            source: instruction.source.clone(),
            span: span(&instruction.span),
        }),
        in_image: step.in_image,
        op: op_out(&step.op),
        platform: platform(&step.platform),
        components: step
            .components
            .iter()
            .map(|component| policy::Component {
                name: component.name.clone(),
                kind: component.kind.name().to_owned(),
                subject: component.subject.clone(),
                digest: component.digest.to_string(),
                value: component.value.clone(),
            })
            .collect(),
        hints: step.hints.iter().cloned().map(key_value).collect(),
        base_reference: step.base.as_ref().map(|(reference, _)| reference.clone()),
        base_digest: step.base.as_ref().and_then(|(_, digest)| digest.map(|digest| digest.to_string())),
        source_date_epoch: step.source_date_epoch,
    }
}

fn op_out(op: &Op) -> ir::Op {
    match op {
        Op::Run(run) => ir::Op::Run(run_out(run)),
        Op::Copy(copy) => ir::Op::Copy(copy_out(copy)),
        Op::Mkdir(mkdir) => {
            ir::Op::Mkdir(ir::MkdirOp { path: mkdir.path.clone(), owner: mkdir.owner.clone(), mode: mkdir.mode })
        }
        // What makes no layer is no step, so no policy is ever asked about it.
        Op::DeclareArg(..) | Op::Config(_) => ir::Op::DeclareArg(ir::Argument { name: String::new(), default: None }),
    }
}

fn run_out(run: &RunOp) -> ir::RunOp {
    ir::RunOp {
        argv: run.argv.clone(),
        stdin: run.stdin.clone(),
        extra_env: run.extra_env.iter().cloned().map(key_value).collect(),
        mounts: run.mounts.iter().map(mount_out).collect(),
        devices: run
            .devices
            .iter()
            .map(|(name, required)| ir::Device { name: name.clone(), required: *required })
            .collect(),
        network: match run.network {
            Network::Default => ir::NetworkMode::Default,
            Network::None => ir::NetworkMode::None,
            Network::Host => ir::NetworkMode::Host,
        },
        security: match run.security {
            Security::Sandbox => ir::SecurityMode::Sandbox,
            Security::Insecure => ir::SecurityMode::Insecure,
        },
        user: run.user.clone(),
        working_dir: run.working_dir.clone(),
    }
}

fn mount_out(mount: &Mount) -> ir::Mount {
    let kind = match &mount.kind {
        MountKind::Bind { from, source, writable } => {
            ir::MountKind::Bind(ir::BindMount { from: from.clone(), source: source.clone(), writable: *writable })
        }
        MountKind::Cache(cache) => ir::MountKind::Cache(ir::CacheMount {
            id: cache.id.clone(),
            sharing: match cache.sharing {
                Sharing::Shared => ir::CacheSharing::Shared,
                Sharing::Private => ir::CacheSharing::Private,
                Sharing::Locked => ir::CacheSharing::Locked,
            },
            from: cache.from.clone(),
            source: cache.source.clone(),
            uid: cache.uid,
            gid: cache.gid,
            mode: cache.mode,
            read_only: cache.read_only,
        }),
        MountKind::Tmpfs(size) => ir::MountKind::Tmpfs(*size),
        MountKind::Secret(secret) => ir::MountKind::Secret(ir::SecretMount {
            id: secret.id.clone(),
            required: secret.required,
            uid: secret.uid,
            gid: secret.gid,
            mode: secret.mode,
            as_env: secret.as_env.clone(),
        }),
        MountKind::Ssh { id, required, uid, gid, mode } => {
            ir::MountKind::Ssh(ir::SshMount { id: id.clone(), required: *required, uid: *uid, gid: *gid, mode: *mode })
        }
        MountKind::File { content, mode } => {
            ir::MountKind::File(ir::FileMount { content: content.clone(), mode: *mode })
        }
    };
    ir::Mount { target: mount.target.clone(), kind }
}

fn copy_out(copy: &CopyOp) -> ir::CopyOp {
    let unpack = |unpack: bool| {
        if unpack { ir::Unpack::Archives } else { ir::Unpack::Never }
    };
    let source = |source: &CopySource| match source {
        CopySource::Context { patterns, unpack: archives } => {
            ir::CopySource::Context(ir::PathSource { patterns: patterns.clone(), unpack: unpack(*archives) })
        }
        CopySource::Stage { origin, patterns } => {
            ir::CopySource::Stage(ir::OriginSource { origin: origin.clone(), patterns: patterns.clone() })
        }
        CopySource::Inline(files) => ir::CopySource::Inline(
            files.iter().map(|f| ir::InlineFile { name: f.name.clone(), content: f.content.clone() }).collect(),
        ),
        CopySource::Http { url, checksum, unpack: archives } => ir::CopySource::Http(ir::HttpSource {
            url: url.clone(),
            checksum: checksum.map(|digest| digest.to_string()),
            unpack: unpack(*archives),
        }),
        CopySource::Git(git) => ir::CopySource::Git(ir::GitSource {
            url: git.url.clone(),
            checksum: git.checksum.clone(),
            keep_git_dir: git.keep_git_dir,
        }),
    };
    ir::CopyOp {
        sources: copy.sources.iter().map(source).collect(),
        destination: copy.destination.clone(),
        chown: copy.chown.clone(),
        chmod: copy.chmod.clone(),
        exclude: copy.exclude.clone(),
        link: copy.link,
        parents: copy.parents,
    }
}

pub(crate) fn verdict(verdict: policy::Verdict, plugin: &str) -> Verdict {
    Verdict {
        decision: match verdict.decision {
            policy::Decision::Never => Decision::Never,
            policy::Decision::Standard => Decision::Standard,
            policy::Decision::Keyed(edit) => Decision::Keyed(KeyEdit {
                drop: edit.drop,
                add: edit.add.into_iter().map(|addition| (addition.name, addition.value)).collect(),
                max_age: edit.max_age,
                read_scopes: edit.read_scopes,
                write_scope: edit.write_scope,
            }),
        },
        reason: verdict.reason.map(|reason| line(&reason)),
        diagnostics: verdict.diagnostics.into_iter().map(|d| diagnostic(d, plugin)).collect(),
    }
}
