//! A cache policy for monorepos in CI: what only tells one build from another is no input of a step that does not use it.

use plywood_sdk::cache_policy::{
    self, Decision, Diagnostic, Guest, KeyEdit, MountKind, Need, Op, PluginError, PluginInfo, Severity, Step, Verdict,
    settings,
};

mod names;

use names::Patterns;

const ARGUMENTS: &str = "arguments";
const EVEN_IF_USED: &str = "even-if-used";

struct MonorepoCi;

impl Guest for MonorepoCi {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "monorepo-ci".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "A step is reused although build arguments that it does not use have changed".into(),
            homepage: None,
            needs: vec![Need {
                kind: "drop-inputs".into(),
                name: String::new(),
                reason: "the arguments of the setting `arguments` are left out of the keys".into(),
            }],
        }
    }

    fn decide(step: Step) -> Result<Verdict, PluginError> {
        let patterns = settings::get(ARGUMENTS).unwrap_or_default();
        let patterns = Patterns::parse(&patterns).map_err(|reason| wrong(ARGUMENTS, &reason))?;
        let even_if_used = match settings::get(EVEN_IF_USED).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(wrong(EVEN_IF_USED, &format!("`{other}` is neither true nor false"))),
        };
        Ok(verdict(&step, &patterns, even_if_used))
    }
}

fn wrong(setting: &str, reason: &str) -> PluginError {
    PluginError::Invalid(vec![Diagnostic {
        severity: Severity::Error,
        code: "InvalidSetting".into(),
        message: format!("the setting `{setting}` of the cache policy is wrong: {reason}"),
        span: None,
        help: None,
        description: None,
        url: None,
        fixes: Vec::new(),
    }])
}

fn verdict(step: &Step, patterns: &Patterns, even_if_used: bool) -> Verdict {
    let texts = texts(step);
    let (mut drop, mut dropped, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for component in step.components.iter().filter(|component| component.kind == "arg") {
        let Some(name) = component.subject.as_deref().filter(|name| patterns.match_name(name)) else { continue };
        if !even_if_used && texts.iter().any(|text| names::mentions(text, name)) {
            used.push(name);
        } else {
            drop.push(component.name.clone());
            dropped.push(name);
        }
    }
    let mut reasons = Vec::new();
    if !dropped.is_empty() {
        reasons.push(format!("whatever {} is", dropped.join(", ")));
    }
    if !used.is_empty() {
        reasons.push(format!("it uses {}", used.join(", ")));
    }
    let decision = match drop.is_empty() {
        true => Decision::Standard,
        false => Decision::Keyed(KeyEdit { drop, ..KeyEdit::default() }),
    };
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    Verdict { decision, reason, diagnostics: Vec::new() }
}

/// Everything of a step in which the name of a variable can stand.
fn texts(step: &Step) -> Vec<String> {
    let mut texts: Vec<String> = step.instruction.iter().map(|instruction| instruction.source.clone()).collect();
    if let Op::Run(run) = &step.op {
        // The source alone does not do: it is without the bodies of here-documents, and an instruction plugin may make
        // a command of anything.
        texts.extend(run.argv.iter().cloned());
        texts.extend(run.extra_env.iter().map(|pair| pair.value.clone()));
        let bytes = run.stdin.iter().chain(run.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::File(file) => Some(&file.content),
            _ => None,
        }));
        texts.extend(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    }
    texts
}

cache_policy::export!(MonorepoCi with_types_in cache_policy);

#[cfg(test)]
mod tests {
    use super::*;
    use plywood_sdk::cache_policy::{
        Component, FileMount, Mount, NetworkMode, Platform, Provenance, RunOp, SecurityMode, Span,
    };

    /// A step with the arguments GIT_SHA, BUILD_ID and VERSION that runs this.
    fn step(source: &str, argv: &[&str]) -> Step {
        let component = |kind: &str, name: &str| Component {
            name: format!("{kind}:{name}"),
            kind: kind.into(),
            subject: Some(name.into()),
            digest: String::new(),
            value: None,
        };
        let span = Span { file: "Dockerfile".into(), start_line: 1, start_column: 1, end_line: 1, end_column: 1 };
        Step {
            stage_name: None,
            stage_index: 0,
            index: 0,
            instruction: Some(Provenance { keyword: "RUN".into(), source: source.into(), span }),
            in_image: true,
            op: Op::Run(RunOp {
                argv: argv.iter().map(|&word| word.into()).collect(),
                stdin: None,
                extra_env: Vec::new(),
                mounts: Vec::new(),
                devices: Vec::new(),
                network: NetworkMode::Default,
                security: SecurityMode::Sandbox,
                user: None,
                working_dir: None,
            }),
            platform: Platform {
                os: "linux".into(),
                architecture: "amd64".into(),
                variant: None,
                os_version: None,
                os_features: Vec::new(),
            },
            components: vec![
                component("arg", "GIT_SHA"),
                component("arg", "BUILD_ID"),
                component("arg", "VERSION"),
                component("env", "BUILD_ENV"),
            ],
            hints: Vec::new(),
            base_reference: None,
            base_digest: None,
            source_date_epoch: None,
        }
    }

    fn dropped(step: &Step, even_if_used: bool) -> (Vec<String>, Option<String>) {
        let patterns = Patterns::parse("GIT_SHA, BUILD_*").expect("patterns");
        let verdict = verdict(step, &patterns, even_if_used);
        match verdict.decision {
            Decision::Keyed(edit) => {
                assert_eq!((edit.read_scopes, edit.write_scope.as_deref()), (vec![String::new()], Some("")));
                (edit.drop, verdict.reason)
            }
            _ => (Vec::new(), verdict.reason),
        }
    }

    #[test]
    fn arguments_are_dropped_and_variables_are_not() {
        let (drop, reason) = dropped(&step("RUN make", &["make"]), false);
        assert_eq!(drop, ["arg:GIT_SHA", "arg:BUILD_ID"]);
        assert_eq!(reason.as_deref(), Some("whatever GIT_SHA, BUILD_ID is"));
    }

    #[test]
    fn what_is_used_counts() {
        let uses = step("RUN make V=$GIT_SHA", &["/bin/sh", "-c", "make V=$GIT_SHA"]);
        let (drop, reason) = dropped(&uses, false);
        assert_eq!(drop, ["arg:BUILD_ID"]);
        assert_eq!(reason.as_deref(), Some("whatever BUILD_ID is; it uses GIT_SHA"));
        assert_eq!(dropped(&uses, true).0.len(), 2);
        let all = step("RUN echo $GIT_SHA $BUILD_ID", &[]);
        assert_eq!(dropped(&all, false), (vec![], Some("it uses GIT_SHA, BUILD_ID".into())));
    }

    #[test]
    fn scripts_are_looked_through() {
        let mut script = step("RUN <<EOF", &["/dev/pipes/EOF"]);
        let Op::Run(run) = &mut script.op else { panic!("a command") };
        let content = b"#!/bin/python\nprint(environ['GIT_SHA'])\n".to_vec();
        let kind = MountKind::File(FileMount { content, mode: 0o755 });
        run.mounts.push(Mount { target: Some("/dev/pipes/EOF".into()), kind });
        run.stdin = Some(b"echo ${BUILD_ID:-none}".to_vec());
        assert_eq!(dropped(&script, false).0, Vec::<String>::new());
    }

    #[test]
    fn nothing_to_drop_is_nothing_to_say() {
        let mut none = step("RUN make", &["make"]);
        none.components.retain(|component| component.kind != "arg");
        assert_eq!(dropped(&none, false), (vec![], None));
    }
}
