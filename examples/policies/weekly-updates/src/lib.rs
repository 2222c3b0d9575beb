//! A cache policy that runs package managers' updates again after a week, and never takes one of another base image.

use plywood_sdk::cache_policy::{
    self, Addition, Decision, Diagnostic, Guest, KeyEdit, KeyValue, MountKind, Op, PluginError, PluginInfo, Severity,
    Step, Verdict, settings,
};

mod age;
mod managers;
mod shell;

const MAX_AGE: &str = "max-age";
const DEFAULT: &str = "7d";
/// What an instruction plugin says of a step whose command is a package manager's in disguise.
const HINT: &str = "package-manager";

struct WeeklyUpdates;

impl Guest for WeeklyUpdates {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "weekly-updates".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "A step that updates packages is run again after some days, and on each new base image".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn decide(step: Step) -> Result<Verdict, PluginError> {
        let text = settings::get(MAX_AGE).unwrap_or_else(|| DEFAULT.into());
        let max_age = age::parse(&text).map_err(|reason| {
            PluginError::Invalid(vec![Diagnostic {
                severity: Severity::Error,
                code: "InvalidSetting".into(),
                message: format!("the setting `{MAX_AGE}` of the cache policy is `{text}`: {reason}"),
                span: None,
                help: None,
                description: None,
                url: None,
                fixes: Vec::new(),
            }])
        })?;
        Ok(match update(&step.op, &step.hints) {
            Some(update) => kept_for(&update, max_age, text.trim(), step.base_digest),
            None => Decision::Standard.into(),
        })
    }
}

fn kept_for(update: &str, max_age: u64, text: &str, base: Option<String>) -> Verdict {
    let on = if base.is_some() { ", on this base image" } else { "" };
    let reason = format!("{update} is good for {text}{on}");
    // The layers below are in the key anyway. An image may be made anew with the same layers, which says that somebody
    // has looked after it: so should this step be.
    let base = base.map(|digest| Addition { name: "base-digest".into(), value: digest.into_bytes() });
    let edit = KeyEdit { add: base.into_iter().collect(), max_age: Some(max_age), ..KeyEdit::default() };
    Verdict { decision: Decision::Keyed(edit), reason: Some(reason), diagnostics: Vec::new() }
}

/// What a step updates with, if it does. Only commands fetch: a step of the same instruction that copies does not.
fn update(op: &Op, hints: &[KeyValue]) -> Option<String> {
    let Op::Run(run) = op else { return None };
    let is_text = |bytes: &&Vec<u8>| bytes.starts_with(b"#!") && bytes.iter().take(64).any(|&byte| byte == b'\n');
    let scripts = run.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::File(file) => Some(&file.content).filter(is_text),
        _ => None,
    });
    let mut scripts = scripts.chain(&run.stdin).map(|bytes| String::from_utf8_lossy(bytes));
    let found = managers::update(&run.argv).or_else(|| scripts.find_map(|script| managers::update_of_script(&script)));
    let hinted = || hints.iter().find(|hint| hint.key == HINT && !hint.value.is_empty()).map(|hint| hint.value.clone());
    found.or_else(hinted)
}

cache_policy::export!(WeeklyUpdates with_types_in cache_policy);

#[cfg(test)]
mod tests {
    use super::*;
    use plywood_sdk::cache_policy::{FileMount, MkdirOp, Mount, NetworkMode, RunOp, SecurityMode};

    fn run(argv: &[&str]) -> RunOp {
        RunOp {
            argv: argv.iter().map(|&word| word.into()).collect(),
            stdin: None,
            extra_env: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            user: None,
            working_dir: None,
        }
    }

    #[test]
    fn commands_and_scripts_are_read() {
        let update = |run: RunOp| update(&Op::Run(run), &[]);
        assert_eq!(update(run(&["apk", "upgrade"])).as_deref(), Some("apk upgrade"));
        let text = "set -e; apt-get update && apt-get install -y curl";
        assert_eq!(update(run(&["/bin/sh", "-c", text])).as_deref(), Some("apt-get update"));
        assert_eq!(update(run(&["make"])), None);
        let fed = RunOp { stdin: Some(b"dnf -y update\n".to_vec()), ..run(&["sh"]) };
        assert_eq!(update(fed).as_deref(), Some("dnf update"));
        let file = |content: &str| {
            let kind = MountKind::File(FileMount { content: content.into(), mode: 0o755 });
            RunOp { mounts: vec![Mount { target: Some("/dev/pipes/E".into()), kind }], ..run(&["/dev/pipes/E"]) }
        };
        assert_eq!(update(file("#!/bin/sh\napk update\n")).as_deref(), Some("apk update"));
        assert_eq!(update(file("apk update\n")), None);
    }

    #[test]
    fn hints_count_for_commands() {
        let hints = [KeyValue { key: HINT.into(), value: "apt".into() }];
        assert_eq!(update(&Op::Run(run(&["/usr/libexec/install"])), &hints).as_deref(), Some("apt"));
        let folder = Op::Mkdir(MkdirOp { path: "/x".into(), owner: None, mode: 0o755 });
        assert_eq!(update(&folder, &hints), None);
        let other = [KeyValue { key: "kind".into(), value: "apt".into() }];
        assert_eq!(update(&Op::Run(run(&["true"])), &other), None);
    }

    #[test]
    fn the_base_is_part_of_the_key() {
        let edit = |base: Option<&str>| {
            let verdict = kept_for("apk add", 60, "1m", base.map(Into::into));
            let Decision::Keyed(edit) = verdict.decision else { panic!("an edit") };
            assert_eq!((edit.max_age, edit.drop.len(), edit.write_scope.as_deref()), (Some(60), 0, Some("")));
            (edit.add, verdict.reason.expect("a reason"))
        };
        let (add, reason) = edit(Some("sha256:x"));
        assert_eq!((add[0].value.as_slice(), add.len()), (&b"sha256:x"[..], 1));
        assert_eq!(reason, "apk add is good for 1m, on this base image");
        let (add, reason) = edit(None);
        assert_eq!((add.len(), reason.as_str()), (0, "apk add is good for 1m"));
    }
}
