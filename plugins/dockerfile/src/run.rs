//! RUN.

use plywood_sdk::instruction::{
    Arguments, Device, FileMount, Flag, Heredoc, Lowered, Mount, MountKind, NetworkMode, Op, RunOp, SecurityMode,
};

use crate::exec::with_shell;
use crate::lowering::{Result, flag, invalid, invalid_with_help, lowered};
use crate::mount;
use crate::scope::Scope;

/// `RUN [flags] command`, `RUN ["program", "argument"...]`, `RUN <<EOF`
pub(crate) fn lower(scope: &Scope<'_>) -> Result<Lowered> {
    let mut mounts = mount::parse_all(scope)?;
    let argv = match &scope.instruction.arguments {
        Arguments::Exec(argv) if argv.is_empty() => {
            return Err(invalid("MissingArgument", "RUN requires a program in its JSON form", &scope.instruction.span));
        }
        Arguments::Exec(argv) => argv.clone(),
        Arguments::Text(text) => {
            let (command, script) = command(text, &scope.instruction.heredocs);
            mounts.extend(script);
            with_shell(scope, &command)
        }
    };
    let network = match flag(scope.instruction, "network") {
        None | Some("default") => NetworkMode::Default,
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        Some(other) => {
            let message = format!("invalid network mode \"{other}\"");
            let help = "--network is default, none or host";
            return Err(invalid_with_help("InvalidFlagValue", message, &scope.instruction.span, help));
        }
    };
    let security = match flag(scope.instruction, "security") {
        None | Some("sandbox") => SecurityMode::Sandbox,
        Some("insecure") => SecurityMode::Insecure,
        Some(other) => {
            let message = format!("invalid security mode \"{other}\"");
            let help = "--security is sandbox or insecure";
            return Err(invalid_with_help("InvalidFlagValue", message, &scope.instruction.span, help));
        }
    };
    let devices = scope.instruction.flags.iter().filter(|flag| flag.name == "device");
    let devices = devices.map(|flag| device(scope, flag)).collect::<Result<_>>()?;
    let history = format!("RUN {} # buildkit", with_arguments(scope, &argv));
    let op = RunOp { mounts, devices, network, security, ..RunOp::new(argv) };
    Ok(lowered(vec![Op::Run(op)], history))
}

/// `--device=NAME[,required]`
fn device(scope: &Scope<'_>, flag: &Flag) -> Result<Device> {
    let value = scope.expand(flag.value.as_deref().unwrap_or_default())?;
    let mut device = Device { name: String::new(), required: false };
    for field in value.split(',') {
        match field.split_once('=') {
            None if field == "required" => device.required = true,
            Some(("name", name)) => device.name = name.into(),
            // The names themselves have an equals sign in them: vendor.example/class=device.
            Some((class, _)) if class.contains('/') => device.name = field.into(),
            None => device.name = field.into(),
            Some(("required", "true" | "1")) => device.required = true,
            Some(("required", "false" | "0")) => device.required = false,
            Some((key, _)) => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(invalid_with_help(
                    "InvalidDevice",
                    message,
                    &flag.span,
                    "--device takes name and required",
                ));
            }
        }
    }
    match device.name.is_empty() {
        true => Err(invalid("InvalidDevice", "a device needs a name", &flag.span)),
        false => Ok(device),
    }
}

/// The shell command that a line with here-documents stands for, and the script file that it may need.
fn command(text: &str, heredocs: &[Heredoc]) -> (String, Option<Mount>) {
    let [only] = heredocs else {
        return (joined(text, heredocs), None);
    };
    if !is_lone_heredoc(text) {
        return (joined(text, heredocs), None);
    }
    let body = chomped(only);
    if body.starts_with("#!") {
        let path = format!("/dev/pipes/{}", only.name);
        let file = FileMount { content: body.into_bytes(), mode: 0o755 };
        return (path.clone(), Some(Mount { target: Some(path), kind: MountKind::File(file) }));
    }
    (body, None)
}

/// Line and bodies put together again, for the shell to read.
fn joined(text: &str, heredocs: &[Heredoc]) -> String {
    heredocs.iter().fold(text.to_owned(), |all, heredoc| format!("{all}\n{}{}", heredoc.content, heredoc.name))
}

/// Whether the line is nothing but the word `<<NAME`, in which quotes and backslashes keep blanks together.
fn is_lone_heredoc(text: &str) -> bool {
    let text = text.trim();
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(name) = rest.strip_prefix("<<") else {
        return false;
    };
    let (mut quote, mut chars) = (None, name.trim_start().chars());
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '\\') => {
                chars.next();
            }
            (None, c) if c.is_whitespace() => return false,
            _ => {}
        }
    }
    quote.is_none()
}

/// A body without the tabs that `<<-` takes away.
pub(crate) fn chomped(heredoc: &Heredoc) -> String {
    if !heredoc.chomp {
        return heredoc.content.clone();
    }
    heredoc.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// `|2 A=x B=y /bin/sh -c ...`: the arguments in scope stand in front of the command.
fn with_arguments(scope: &Scope<'_>, argv: &[String]) -> String {
    let mut args: Vec<(String, String)> = Vec::new();
    for arg in scope.stage.build_args() {
        match args.iter_mut().find(|(name, _)| *name == arg.key) {
            Some(old) => old.1 = arg.value,
            None => args.push((arg.key, arg.value)),
        }
    }
    let mut words = Vec::new();
    if !args.is_empty() {
        words.push(format!("|{}", args.len()));
        words.extend(args.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(argv.iter().cloned());
    words.join(" ")
}
