//! `INCLUDE FILE` reads instructions of the build context in its place; `UNSET NAME` takes a variable away; `TEST COMMAND`
//! runs one that must not be where the stage said so before.

use plywood_sdk::instruction::{
    self, Arguments, ConfigChange, Diagnostic, Guest, Included, Instruction, KeyValue, KeywordSpec, Lowered, Lowering,
    Need, Op, PluginError, PluginInfo, ReadError, RunOp, Severity, Stage, context_files, settings,
};

struct Include;

impl Guest for Include {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "include".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "INCLUDE, UNSET and TEST".into(),
            homepage: None,
            needs: vec![Need {
                kind: "context".into(),
                name: String::new(),
                reason: "what is included is there".into(),
            }],
        }
    }

    fn keywords() -> Vec<KeywordSpec> {
        let keyword = |keyword: &str, doc: &str| KeywordSpec {
            keyword: keyword.into(),
            flags: Vec::new(),
            doc: doc.into(),
            allows_heredoc: false,
            allows_exec_form: false,
            deviation: None,
        };
        vec![
            keyword("INCLUDE", "Reads instructions from a file of the build context: INCLUDE FILE"),
            keyword("UNSET", "Takes a variable of the image away: UNSET NAME"),
            keyword("TEST", "Runs a command that is told what it is given: TEST COMMAND"),
        ]
    }

    fn lower(stage: &Stage, instruction: Instruction) -> Result<Lowering, PluginError> {
        let Arguments::Text(text) = &instruction.arguments else { return Err(PluginError::Unsupported) };
        match instruction.keyword.as_str() {
            "INCLUDE" => include(text, &instruction).map(Lowering::Source),
            "UNSET" => {
                let ops = vec![Op::Config(ConfigChange::UnsetEnv(text.clone()))];
                Ok(Lowering::Ops(Lowered::new(ops, format!("UNSET {text}"))))
            }
            "TEST" => {
                let known = stage.set_at("working-dir").map(|span| span.start_line.to_string());
                let told = [
                    ("SETTINGS", settings::keys().join(" ")),
                    ("WORKDIR_AT", known.unwrap_or_default()),
                    ("COLOUR", stage.variable("COLOUR").unwrap_or_else(|| "none".into())),
                ];
                let run = RunOp {
                    stdin: Some(b"fed\n".to_vec()),
                    extra_env: told.map(|(key, value)| KeyValue { key: key.into(), value }).into(),
                    user: Some("33:44".into()),
                    working_dir: Some("/tmp".into()),
                    ..RunOp::new(vec!["/bin/sh".into(), "-c".into(), text.clone()])
                };
                let hints = vec![KeyValue { key: "kind".into(), value: "test".into() }];
                Ok(Lowering::Ops(Lowered { hints, ..Lowered::new(vec![Op::Run(run)], format!("TEST {text}")) }))
            }
            _ => Err(PluginError::Unsupported),
        }
    }
}

fn include(path: &str, instruction: &Instruction) -> Result<Included, PluginError> {
    let error =
        |message: String| PluginError::Invalid(vec![Diagnostic::error("NoInclude", message, &instruction.span)]);
    let bytes = context_files::read(path).map_err(|reason| match reason {
        ReadError::NotAllowed => PluginError::Denied("reading the build context".into()),
        ReadError::NotFound => error(format!("{path} is not in the build context")),
        ReadError::TooLarge(size) => error(format!("{path} has {size} bytes")),
        ReadError::Io(reason) => error(format!("{path}: {reason}")),
    })?;
    let told = Diagnostic { severity: Severity::Warning, ..Diagnostic::error("Included", path, &instruction.span) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Included { name: path.into(), text, escape: instruction.escape, diagnostics: vec![told] })
}

instruction::export!(Include with_types_in instruction);
