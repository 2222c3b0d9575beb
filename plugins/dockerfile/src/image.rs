//! USER, WORKDIR, EXPOSE, VOLUME, STOPSIGNAL, MAINTAINER and ONBUILD: the rest of the configuration.

use plywood_sdk::instruction::{ConfigChange, Lowered, MkdirOp, Op};

use crate::args::{clean, list, single};
use crate::go;
use crate::lint::{EXPOSE_CASING, EXPOSE_FORMAT, MAINTAINER, RELATIVE_WORKDIR};
use crate::lowering::{Result, invalid, lowered};
use crate::scope::Scope;

/// `USER user[:group]`
pub(crate) fn user(scope: &Scope<'_>) -> Result<Lowered> {
    let user = scope.expand(single(scope.instruction)?)?;
    Ok(lowered(vec![Op::Config(ConfigChange::SetUser(user.clone()))], format!("USER {user}")))
}

/// `WORKDIR path`: set, and made with the parents it lacks, for the user in force.
pub(crate) fn workdir(scope: &Scope<'_>) -> Result<Lowered> {
    let path = scope.expand(single(scope.instruction)?)?;
    if !path.starts_with('/') && scope.stage.set_at("working-dir").is_none() {
        let message =
            format!("Relative workdir {} can have unexpected results if the base image changes", go::quote(&path));
        scope.find(RELATIVE_WORKDIR.finding(message, &scope.instruction.span));
    }
    let before = scope.stage.config();
    let absolute = if path.starts_with('/') {
        path.clone()
    } else {
        format!("{}/{path}", before.working_dir.unwrap_or_default().trim_end_matches('/'))
    };
    let mut path_now = clean(&absolute);
    // A trailing slash stays, as it does in BuildKit.
    if absolute.ends_with('/') && path_now != "/" {
        path_now.push('/');
    }
    let set = Op::Config(ConfigChange::SetWorkingDir(path_now.clone()));
    let history = format!("WORKDIR {path_now}");
    if path_now == "/" {
        return Ok(lowered(vec![set], history));
    }
    let mkdir = MkdirOp { path: path_now, owner: before.user.filter(|user| !user.is_empty()), mode: 0o755 };
    Ok(lowered(vec![set, Op::Mkdir(mkdir)], history))
}

/// `EXPOSE port[-port][/protocol]...`
pub(crate) fn expose(scope: &Scope<'_>) -> Result<Lowered> {
    let mut ports = Vec::new();
    for word in list(scope.instruction) {
        for spec in scope.expand_words(&word)? {
            let parsed = parse_ports(&spec)
                .ok_or_else(|| invalid("InvalidPort", format!("invalid port: \"{spec}\""), &scope.instruction.span))?;
            look_at_ports(scope, &spec);
            ports.extend(parsed);
        }
    }
    if ports.is_empty() {
        return Err(invalid("MissingArgument", "EXPOSE requires at least one argument", &scope.instruction.span));
    }
    ports.sort();
    ports.dedup();
    let history = format!("EXPOSE [{}]", ports.join(" "));
    Ok(lowered(ports.into_iter().map(|port| Op::Config(ConfigChange::AddExposedPort(port))).collect(), history))
}

/// What the linter says of one word of EXPOSE.
fn look_at_ports(scope: &Scope<'_>, spec: &str) {
    let span = scope.locate(spec, 0, u32::try_from(spec.len()).unwrap_or(0));
    let (ports, protocol) = spec.split_once('/').unwrap_or((spec, ""));
    let lower = protocol.to_lowercase();
    if protocol != lower {
        let message = format!("Defined protocol '{spec}' in EXPOSE instruction should be lowercase");
        scope.find(EXPOSE_CASING.mended(message, &span, format!("{ports}/{lower}")));
    }
    if ports.rsplit_once(':').is_some_and(|(rest, _)| !rest.is_empty()) {
        let message =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'");
        scope.find(EXPOSE_FORMAT.finding(message, &span));
    }
}

/// `[address:][host port:]port[-port][/protocol]`; what is published where is not the image's business.
fn parse_ports(spec: &str) -> Option<Vec<String>> {
    let (ports, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let ports = ports.rsplit(':').next()?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `VOLUME path...`: a mark in the configuration; what is written there later stays.
pub(crate) fn volume(scope: &Scope<'_>) -> Result<Lowered> {
    let words = list(scope.instruction);
    if words.is_empty() {
        return Err(invalid("MissingArgument", "VOLUME requires at least one argument", &scope.instruction.span));
    }
    let mut paths = Vec::new();
    for word in words {
        let path = scope.expand(&word)?.trim().to_owned();
        if path.is_empty() {
            return Err(invalid(
                "InvalidArguments",
                "VOLUME specified can not be an empty string",
                &scope.instruction.span,
            ));
        }
        paths.push(path);
    }
    let history = format!("VOLUME [{}]", paths.join(" "));
    Ok(lowered(paths.into_iter().map(|path| Op::Config(ConfigChange::AddVolume(path))).collect(), history))
}

/// The signals of Linux by name (signal(7)).
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "UNUSED", "URG",
    "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// `STOPSIGNAL signal`
pub(crate) fn stop_signal(scope: &Scope<'_>) -> Result<Lowered> {
    let signal = scope.expand(single(scope.instruction)?)?;
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |name: &str| name.starts_with("RTMIN+") || name.starts_with("RTMAX");
    let known = match signal.parse::<u32>() {
        Ok(number) => (1..=64).contains(&number),
        Err(_) => SIGNALS.contains(&name) || realtime(name),
    };
    if !known {
        return Err(invalid("InvalidSignal", format!("invalid signal: {signal}"), &scope.instruction.span));
    }
    Ok(lowered(vec![Op::Config(ConfigChange::SetStopSignal(signal.clone()))], format!("STOPSIGNAL {signal}")))
}

/// `MAINTAINER text`, deprecated.
pub(crate) fn maintainer(scope: &Scope<'_>) -> Result<Lowered> {
    let author = single(scope.instruction)?.to_owned();
    let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
    let label = format!("LABEL org.opencontainers.image.authors={}", go::quote(&author));
    scope.find(MAINTAINER.mended(message, &scope.instruction.span, label));
    Ok(lowered(vec![Op::Config(ConfigChange::SetAuthor(author.clone()))], format!("MAINTAINER {author}")))
}

/// `ONBUILD instruction`: kept as text for the images built on this one. It leaves no history.
pub(crate) fn onbuild(scope: &Scope<'_>) -> Result<Lowered> {
    let text = single(scope.instruction)?;
    let keyword = text.split_whitespace().next().unwrap_or_default().to_uppercase();
    match keyword.as_str() {
        "ONBUILD" => {
            let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
            return Err(invalid("InvalidTrigger", message, &scope.instruction.span));
        }
        "FROM" | "MAINTAINER" => {
            let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
            return Err(invalid("InvalidTrigger", message, &scope.instruction.span));
        }
        _ => {}
    }
    let mut trigger = text.to_owned();
    for heredoc in &scope.instruction.heredocs {
        trigger.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    let ops = vec![Op::Config(ConfigChange::AddOnBuild(trigger))];
    Ok(Lowered { ops, history: None, diagnostics: Vec::new(), hints: Vec::new() })
}
