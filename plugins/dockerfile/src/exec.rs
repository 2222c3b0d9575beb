//! CMD, ENTRYPOINT and SHELL: what is executed.

use plywood_sdk::instruction::{Arguments, ConfigChange, Lowered, Op};

use crate::go;
use crate::lint;
use crate::lowering::{Result, invalid, lowered};
use crate::scope::Scope;

/// The shell of an image that sets none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A command in shell form, as the shell is to be started with it.
pub(crate) fn with_shell(scope: &Scope<'_>, command: &str) -> Vec<String> {
    let mut argv = scope.stage.config().shell;
    if argv.is_empty() {
        argv = DEFAULT_SHELL.map(str::to_owned).to_vec();
    }
    argv.push(command.to_owned());
    argv
}

/// What a container is to execute, in either form.
fn command(scope: &Scope<'_>, field: &str) -> Vec<String> {
    lint::several(scope, field);
    match &scope.instruction.arguments {
        Arguments::Exec(argv) => argv.clone(),
        Arguments::Text(text) => {
            if !text.is_empty() {
                lint::shell_form(scope);
            }
            with_shell(scope, text)
        }
    }
}

/// `CMD command`, `CMD ["program", "argument"...]`
pub(crate) fn cmd(scope: &Scope<'_>) -> Result<Lowered> {
    let argv = command(scope, "cmd");
    let history = format!("CMD {}", go::quote_list(&argv));
    let set = ConfigChange::SetCmd(Some(argv));
    Ok(lowered(vec![Op::Config(set), Op::Config(ConfigChange::SetArgsEscaped(true))], history))
}

/// `ENTRYPOINT command`, `ENTRYPOINT ["program", "argument"...]`; it takes an inherited CMD away.
pub(crate) fn entrypoint(scope: &Scope<'_>) -> Result<Lowered> {
    let argv = command(scope, "entrypoint");
    let history = format!("ENTRYPOINT {}", go::quote_list(&argv));
    let mut ops = vec![Op::Config(ConfigChange::SetEntrypoint(Some(argv)))];
    if scope.stage.set_at("cmd").is_none() {
        ops.push(Op::Config(ConfigChange::SetCmd(None)));
    }
    Ok(lowered(ops, history))
}

/// `SHELL ["program", "argument"...]`
pub(crate) fn shell(scope: &Scope<'_>) -> Result<Lowered> {
    match &scope.instruction.arguments {
        Arguments::Exec(argv) if !argv.is_empty() => {
            let history = format!("SHELL [{}]", argv.join(" "));
            Ok(lowered(vec![Op::Config(ConfigChange::SetShell(argv.clone()))], history))
        }
        Arguments::Exec(_) => {
            Err(invalid("MissingArgument", "SHELL requires at least one argument", &scope.instruction.span))
        }
        Arguments::Text(_) => {
            let message = "SHELL requires the arguments to be in JSON form";
            Err(invalid("InvalidArguments", message, &scope.instruction.span))
        }
    }
}
