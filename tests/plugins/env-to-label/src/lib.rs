//! Takes over ENV, and makes labels of what it says.

use plywood_sdk::instruction::{
    self, Arguments, ConfigChange, Diagnostic, Guest, Instruction, KeyValue, KeywordSpec, Lowered, Lowering, Op,
    PluginError, PluginInfo, Span, Stage,
};

struct EnvToLabel;

impl Guest for EnvToLabel {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "env-to-label".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "ENV sets labels".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn keywords() -> Vec<KeywordSpec> {
        vec![KeywordSpec {
            keyword: "ENV".into(),
            flags: Vec::new(),
            doc: "Sets labels: ENV NAME=VALUE...".into(),
            allows_heredoc: false,
            allows_exec_form: false,
            deviation: None,
        }]
    }

    fn lower(stage: &Stage, instruction: Instruction) -> Result<Lowering, PluginError> {
        let Arguments::Text(text) = &instruction.arguments else {
            return Err(PluginError::Unsupported);
        };
        let error = |message: String| invalid(message, &instruction.span);
        let words = stage.expand_words(text).map_err(|failed| error(failed.message))?.words;
        let label = |word: &String| match word.split_once('=') {
            Some((key, value)) => {
                let pair = KeyValue { key: key.into(), value: value.into() };
                Ok(Op::Config(ConfigChange::SetLabel(pair)))
            }
            None => Err(error(format!("{word} is not NAME=VALUE"))),
        };
        let ops = words.iter().map(label).collect::<Result<_, _>>()?;
        Ok(Lowering::Ops(Lowered::new(ops, format!("LABEL {}", words.join(" ")))))
    }
}

fn invalid(message: String, span: &Span) -> PluginError {
    PluginError::Invalid(vec![Diagnostic::error("NoPair", message, span)])
}

instruction::export!(EnvToLabel with_types_in instruction);
