//! Between the contract's types and the house's: here and nowhere else.

use oci::config::Healthcheck;
use oci::{ImageConfig, Platform};
use plan::diagnostic::{Position, TextEdit};
use plan::op::{
    Arguments, CacheMount, ConfigChange, CopyOp, CopySource, FlagSpec, GitSource, HistoryLine, Included, InlineFile,
    Instruction, Keyword, Lowered, MkdirOp, Mount, MountKind, Network, Op, RunOp, SecretMount, Security, Sharing,
};
use plan::{Diagnostic, Severity, Span};

use crate::bindings::instruction::exports::plywood::plugin::instruction_handler as handler;
use crate::bindings::shared::plywood::plugin::build_ir as ir;
use crate::bindings::shared::plywood::plugin::types;
use crate::failure::{Need, line};
use crate::worlds::Lowering;

mod credential;
mod policy;

pub(crate) use credential::{credential_grant, credential_request};
pub(crate) use policy::{step, verdict};

/// Operations and diagnostics of one call.
const MOST_OPS: usize = 10_000;
const MOST_DIAGNOSTICS: usize = 1_000;

pub(crate) fn key_value((key, value): (String, String)) -> types::KeyValue {
    types::KeyValue { key, value }
}

pub(crate) fn platform(platform: &Platform) -> types::Platform {
    types::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

pub(crate) fn span(span: &Span) -> types::Span {
    types::Span {
        file: span.file.to_string(),
        start_line: span.start.line,
        start_column: span.start.column,
        end_line: span.end.line,
        end_column: span.end.column,
    }
}

fn span_back(span: types::Span) -> Span {
    Span {
        file: span.file.into(),
        start: Position { line: span.start_line.max(1), column: span.start_column.max(1) },
        end: Position { line: span.end_line.max(1), column: span.end_column.max(1) },
    }
}

fn fix(edit: types::TextEdit) -> TextEdit {
    TextEdit { span: span_back(edit.span), replacement: edit.replacement }
}

/// A code of another plugin than the language's own bears that plugin's name.
pub(crate) fn diagnostic(diagnostic: types::Diagnostic, plugin: &str) -> Diagnostic {
    let code = match plugin {
        "dockerfile" => diagnostic.code,
        _ => format!("{plugin}/{}", diagnostic.code),
    };
    Diagnostic {
        severity: match diagnostic.severity {
            types::Severity::Error => Severity::Error,
            types::Severity::Warning => Severity::Warning,
            types::Severity::Info => Severity::Info,
        },
        code,
        message: line(&diagnostic.message),
        span: diagnostic.span.map(span_back),
        help: diagnostic.help.map(|help| line(&help)),
        description: diagnostic.description.map(|description| line(&description)),
        url: diagnostic.url,
        fixes: diagnostic.fixes.into_iter().map(fix).collect(),
    }
}

pub(crate) fn image_config(config: &ImageConfig) -> types::ImageConfig {
    let run = &config.config;
    let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    types::ImageConfig {
        user: filled(&run.user),
        exposed_ports: run.exposed_ports.keys().cloned().collect(),
        env: run
            .env
            .iter()
            .map(|line| line.split_once('=').unwrap_or((line, "")))
            .map(|(key, value)| key_value((key.into(), value.into())))
            .collect(),
        entrypoint: run.entrypoint.clone(),
        cmd: run.cmd.clone(),
        volumes: run.volumes.keys().cloned().collect(),
        working_dir: filled(&run.working_dir),
        labels: run.labels.iter().map(|(key, value)| key_value((key.clone(), value.clone()))).collect(),
        stop_signal: filled(&run.stop_signal),
        healthcheck: run.healthcheck.as_ref().map(healthcheck),
        shell: run.shell.clone(),
        on_build: run.on_build.clone(),
        args_escaped: run.args_escaped,
        author: config.author.clone(),
    }
}

fn healthcheck(check: &Healthcheck) -> types::Healthcheck {
    let filled = |time: u64| Some(time).filter(|time| *time != 0);
    types::Healthcheck {
        test: check.test.clone(),
        interval_ns: filled(check.interval),
        timeout_ns: filled(check.timeout),
        start_period_ns: filled(check.start_period),
        start_interval_ns: filled(check.start_interval),
        retries: Some(check.retries).filter(|retries| *retries != 0),
    }
}

fn healthcheck_back(check: types::Healthcheck) -> Healthcheck {
    Healthcheck {
        test: check.test,
        interval: check.interval_ns.unwrap_or(0),
        timeout: check.timeout_ns.unwrap_or(0),
        start_period: check.start_period_ns.unwrap_or(0),
        start_interval: check.start_interval_ns.unwrap_or(0),
        retries: check.retries.unwrap_or(0),
    }
}

pub(crate) fn instruction(instruction: &Instruction) -> ir::Instruction {
    ir::Instruction {
        keyword: instruction.keyword.clone(),
        flags: instruction
            .flags
            .iter()
            .map(|flag| ir::Flag { name: flag.name.clone(), value: flag.value.clone(), span: span(&flag.span) })
            .collect(),
        arguments: match &instruction.arguments {
            Arguments::Text(text) => ir::Arguments::Text(text.clone()),
            Arguments::Exec(argv) => ir::Arguments::Exec(argv.clone()),
        },
        heredocs: instruction
            .heredocs
            .iter()
            .map(|heredoc| ir::Heredoc {
                name: heredoc.name.clone(),
                content: heredoc.content.clone(),
                expand: heredoc.expand,
                chomp: heredoc.chomp,
                span: span(&heredoc.span),
            })
            .collect(),
        escape: instruction.escape,
        source: instruction.source.clone(),
        span: span(&instruction.span),
    }
}

pub(crate) fn keyword(spec: handler::KeywordSpec) -> Keyword {
    let flag = |flag: handler::FlagSpec| FlagSpec {
        name: flag.name,
        takes_value: flag.takes_value,
        repeatable: flag.repeatable,
        doc: flag.doc,
        deviation: flag.deviation,
    };
    Keyword {
        keyword: spec.keyword.to_uppercase(),
        flags: spec.flags.into_iter().map(flag).collect(),
        doc: spec.doc,
        allows_heredoc: spec.allows_heredoc,
        allows_exec_form: spec.allows_exec_form,
        deviation: spec.deviation,
    }
}

pub(crate) fn lowering(lowering: handler::Lowering, plugin: &str) -> Result<Lowering, String> {
    let too_much = || format!("it gave more than {MOST_OPS} operations or {MOST_DIAGNOSTICS} diagnostics");
    let diagnostics = |told: Vec<types::Diagnostic>| match told.len() {
        length if length > MOST_DIAGNOSTICS => Err(too_much()),
        _ => Ok(told.into_iter().map(|d| diagnostic(d, plugin)).collect()),
    };
    let lowered = match lowering {
        handler::Lowering::Source(included) => {
            let handler::Included { name, text, escape, diagnostics: told } = included;
            if !matches!(escape, '\\' | '`') {
                return Err(format!("`{escape}` cannot be what escapes: it is \\ or `"));
            }
            let (name, diagnostics) = (line(&name), diagnostics(told)?);
            return Ok(Lowering::Source(Included { name, text, escape, diagnostics }));
        }
        handler::Lowering::Ops(lowered) => lowered,
    };
    if lowered.ops.len() > MOST_OPS {
        return Err(too_much());
    }
    Ok(Lowering::Ops(Lowered {
        ops: lowered.ops.into_iter().map(op).collect::<Result<_, _>>()?,
        // Whether there is a layer is seen from the operations.
        history: lowered.history.map(|line| HistoryLine {
            created_by: line.created_by,
            empty_layer: true,
            comment: line.comment,
        }),
        diagnostics: diagnostics(lowered.diagnostics)?,
        hints: lowered.hints.into_iter().map(|hint| (hint.key, hint.value)).collect(),
    }))
}

fn op(op: ir::Op) -> Result<Op, String> {
    Ok(match op {
        ir::Op::Run(run) => Op::Run(run_op(run)?),
        ir::Op::Copy(copy) => Op::Copy(copy_op(copy)?),
        ir::Op::Config(change) => Op::Config(config_change(change)?),
        ir::Op::Mkdir(mkdir) => Op::Mkdir(MkdirOp {
            path: absolute(mkdir.path)?,
            owner: mkdir.owner.map(no_nul).transpose()?,
            mode: mkdir.mode & 0o7777,
        }),
        ir::Op::DeclareArg(ir::Argument { name, default }) => {
            Op::DeclareArg(variable(name)?, default.map(no_nul).transpose()?)
        }
    })
}

/// Text that a system call will see must not hold its terminator.
fn no_nul(text: String) -> Result<String, String> {
    if text.contains('\0') { Err("a NUL character stands in an operation".into()) } else { Ok(text) }
}

fn absolute(path: String) -> Result<String, String> {
    if path.starts_with('/') { no_nul(path) } else { Err(format!("`{path}` is not an absolute path")) }
}

fn run_op(run: ir::RunOp) -> Result<RunOp, String> {
    if run.argv.is_empty() {
        return Err("a run operation has no command".into());
    }
    Ok(RunOp {
        argv: run.argv.into_iter().map(no_nul).collect::<Result<_, _>>()?,
        stdin: run.stdin,
        extra_env: run
            .extra_env
            .into_iter()
            .map(|p| Ok((variable(p.key)?, no_nul(p.value)?)))
            .collect::<Result<_, String>>()?,
        mounts: run.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: run.devices.into_iter().map(|device| (device.name, device.required)).collect(),
        network: match run.network {
            ir::NetworkMode::Default => Network::Default,
            ir::NetworkMode::None => Network::None,
            ir::NetworkMode::Host => Network::Host,
        },
        security: match run.security {
            ir::SecurityMode::Sandbox => Security::Sandbox,
            ir::SecurityMode::Insecure => Security::Insecure,
        },
        user: run.user.map(no_nul).transpose()?,
        working_dir: run.working_dir.map(absolute).transpose()?,
    })
}

fn mount(mount: ir::Mount) -> Result<Mount, String> {
    let kind = match mount.kind {
        ir::MountKind::Bind(bind) => {
            MountKind::Bind { from: bind.from, source: no_nul(bind.source)?, writable: bind.writable }
        }
        ir::MountKind::Cache(cache) => MountKind::Cache(CacheMount {
            id: cache.id,
            sharing: match cache.sharing {
                ir::CacheSharing::Shared => Sharing::Shared,
                ir::CacheSharing::Private => Sharing::Private,
                ir::CacheSharing::Locked => Sharing::Locked,
            },
            from: cache.from,
            source: no_nul(cache.source)?,
            uid: cache.uid,
            gid: cache.gid,
            mode: cache.mode & 0o7777,
            read_only: cache.read_only,
        }),
        ir::MountKind::Tmpfs(size) => MountKind::Tmpfs(size),
        ir::MountKind::Secret(secret) => MountKind::Secret(SecretMount {
            id: secret.id,
            required: secret.required,
            uid: secret.uid,
            gid: secret.gid,
            mode: secret.mode & 0o777,
            as_env: secret.as_env.map(no_nul).transpose()?,
        }),
        ir::MountKind::Ssh(ssh) => {
            MountKind::Ssh { id: ssh.id, required: ssh.required, uid: ssh.uid, gid: ssh.gid, mode: ssh.mode & 0o777 }
        }
        ir::MountKind::File(file) => MountKind::File { content: file.content, mode: file.mode & 0o777 },
    };
    let target = mount.target.map(no_nul).transpose()?;
    let may_lack_target = matches!(&kind, MountKind::Secret(secret) if secret.as_env.is_some());
    match &target {
        Some(target) if !target.starts_with('/') || target == "/" => {
            Err(format!("the mount target `{target}` is not an absolute path below the root"))
        }
        None if !may_lack_target => Err("a mount has no target".into()),
        _ => Ok(Mount { target, kind }),
    }
}

fn copy_op(copy: ir::CopyOp) -> Result<CopyOp, String> {
    let mut sources = Vec::new();
    for source in copy.sources {
        match source {
            ir::CopySource::Context(paths) => sources.push(CopySource::Context {
                patterns: paths.patterns.into_iter().map(no_nul).collect::<Result<_, _>>()?,
                unpack: paths.unpack == ir::Unpack::Archives,
            }),
            ir::CopySource::Stage(from) => sources.push(CopySource::Stage {
                origin: from.origin,
                patterns: from.patterns.into_iter().map(no_nul).collect::<Result<_, _>>()?,
            }),
            ir::CopySource::Inline(files) => {
                let file = |file: ir::InlineFile| {
                    let name = no_nul(file.name)?;
                    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
                        return Err(format!("`{name}` is no name for a file"));
                    }
                    Ok(InlineFile { name, content: file.content })
                };
                sources.push(CopySource::Inline(files.into_iter().map(file).collect::<Result<_, _>>()?));
            }
            ir::CopySource::Http(file) => sources.push(CopySource::Http {
                url: file.url,
                checksum: file.checksum.map(|text| text.parse()).transpose().map_err(|e| format!("{e}"))?,
                unpack: file.unpack == ir::Unpack::Archives,
            }),
            ir::CopySource::Git(git) => {
                let (checksum, keep_git_dir) = (git.checksum, git.keep_git_dir);
                sources.push(CopySource::Git(GitSource { url: no_nul(git.url)?, checksum, keep_git_dir }));
            }
        }
    }
    Ok(CopyOp {
        sources,
        destination: no_nul(copy.destination)?,
        chown: copy.chown.map(no_nul).transpose()?,
        chmod: copy.chmod,
        exclude: copy.exclude.into_iter().map(no_nul).collect::<Result<_, _>>()?,
        link: copy.link,
        parents: copy.parents,
    })
}

/// A name of the environment: what stands before the first `=`.
fn variable(name: String) -> Result<String, String> {
    if name.is_empty() || name.contains('=') {
        return Err(format!("`{name}` is no name for a variable"));
    }
    no_nul(name)
}

fn config_change(change: ir::ConfigChange) -> Result<ConfigChange, String> {
    let words = |argv: Vec<String>| argv.into_iter().map(no_nul).collect::<Result<Vec<_>, _>>();
    Ok(match change {
        ir::ConfigChange::SetEnv(p) => ConfigChange::SetEnv(variable(p.key)?, no_nul(p.value)?),
        ir::ConfigChange::SetLabel(p) => ConfigChange::SetLabel(no_nul(p.key)?, no_nul(p.value)?),
        ir::ConfigChange::SetUser(user) => ConfigChange::SetUser(no_nul(user)?),
        ir::ConfigChange::SetWorkingDir(path) => ConfigChange::SetWorkingDir(no_nul(path)?),
        ir::ConfigChange::SetEntrypoint(argv) => ConfigChange::SetEntrypoint(argv.map(words).transpose()?),
        ir::ConfigChange::SetCmd(argv) => ConfigChange::SetCmd(argv.map(words).transpose()?),
        ir::ConfigChange::SetArgsEscaped(escaped) => ConfigChange::SetArgsEscaped(escaped),
        ir::ConfigChange::SetShell(argv) => ConfigChange::SetShell(words(argv)?),
        ir::ConfigChange::SetStopSignal(signal) => ConfigChange::SetStopSignal(no_nul(signal)?),
        ir::ConfigChange::SetHealthcheck(check) => ConfigChange::SetHealthcheck(check.map(healthcheck_back)),
        ir::ConfigChange::AddExposedPort(port) => ConfigChange::AddExposedPort(no_nul(port)?),
        ir::ConfigChange::AddVolume(path) => ConfigChange::AddVolume(no_nul(path)?),
        ir::ConfigChange::AddOnBuild(trigger) => ConfigChange::AddOnBuild(no_nul(trigger)?),
        ir::ConfigChange::SetAuthor(author) => ConfigChange::SetAuthor(no_nul(author)?),
        ir::ConfigChange::UnsetEnv(name) => ConfigChange::UnsetEnv(variable(name)?),
        ir::ConfigChange::UnsetLabel(name) => ConfigChange::UnsetLabel(name),
        ir::ConfigChange::RemoveExposedPort(port) => ConfigChange::RemoveExposedPort(port),
        ir::ConfigChange::RemoveVolume(path) => ConfigChange::RemoveVolume(path),
    })
}

pub(crate) fn need(need: &types::Need) -> Need {
    Need { kind: line(&need.kind), name: line(&need.name), reason: line(&need.reason) }
}
