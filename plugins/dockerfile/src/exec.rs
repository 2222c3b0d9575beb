//! CMD, ENTRYPOINT and SHELL: what is executed.

use plywood_sdk::instruction::{Arguments, ConfigChange, ConfigField, Instruction, Lowered, Op, Stage};

use crate::go;
use crate::lowering::{Result, config, invalid};

/// The shell of an image that sets none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A command in shell form, as the shell is to be started with it.
pub(crate) fn with_shell(stage: &Stage, command: &str) -> Vec<String> {
    let mut argv = stage.config().shell;
    if argv.is_empty() {
        argv = DEFAULT_SHELL.map(str::to_owned).to_vec();
    }
    argv.push(command.to_owned());
    argv
}

fn argv(stage: &Stage, instruction: &Instruction) -> Vec<String> {
    match &instruction.arguments {
        Arguments::Exec(argv) => argv.clone(),
        Arguments::Text(text) if text.is_empty() => Vec::new(),
        Arguments::Text(text) => with_shell(stage, text),
    }
}

/// `CMD command`, `CMD ["program", "argument"...]`
pub(crate) fn cmd(stage: &Stage, instruction: &Instruction) -> Result<Lowered> {
    let argv = argv(stage, instruction);
    let history = format!("CMD {}", go::quote_list(&argv));
    let set = ConfigChange::SetCmd(Some(argv));
    Ok(config(vec![Op::Config(set), Op::Config(ConfigChange::SetArgsEscaped(true))], history))
}

/// `ENTRYPOINT command`, `ENTRYPOINT ["program", "argument"...]`; it takes an inherited CMD away.
pub(crate) fn entrypoint(stage: &Stage, instruction: &Instruction) -> Result<Lowered> {
    let argv = argv(stage, instruction);
    let history = format!("ENTRYPOINT {}", go::quote_list(&argv));
    let mut ops = vec![Op::Config(ConfigChange::SetEntrypoint(Some(argv)))];
    if !stage.is_set(ConfigField::Cmd) {
        ops.push(Op::Config(ConfigChange::SetCmd(None)));
    }
    Ok(config(ops, history))
}

/// `SHELL ["program", "argument"...]`
pub(crate) fn shell(instruction: &Instruction) -> Result<Lowered> {
    match &instruction.arguments {
        Arguments::Exec(argv) if !argv.is_empty() => {
            let history = format!("SHELL [{}]", argv.join(" "));
            Ok(config(vec![Op::Config(ConfigChange::SetShell(argv.clone()))], history))
        }
        Arguments::Exec(_) => {
            Err(invalid("MissingArgument", "SHELL requires at least one argument", &instruction.span))
        }
        Arguments::Text(_) => {
            let message = "SHELL requires the arguments to be in JSON form";
            Err(invalid("InvalidArguments", message, &instruction.span))
        }
    }
}
