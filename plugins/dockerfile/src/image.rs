//! USER, WORKDIR, EXPOSE, VOLUME, STOPSIGNAL, MAINTAINER and ONBUILD: the rest of the configuration.

use plywood_sdk::instruction::{ConfigChange, Lowered, MkdirOp, Op};

use crate::args::{clean, list, single};
use crate::go;
use crate::lint::{EXPOSE_CASING, EXPOSE_FORMAT, MAINTAINER, RELATIVE_WORKDIR};
use crate::lowering::{Result, invalid, invalid_with_help, lowered};
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
    // An absolute path stays as it is written, as in BuildKit; a relative one is joined to what there is.
    let path_now = match path.starts_with('/') {
        true => path,
        false => clean(&format!("{}/{path}", before.working_dir.unwrap_or_default())),
    };
    let set = Op::Config(ConfigChange::SetWorkingDir(path_now.clone()));
    let history = format!("WORKDIR {path_now}");
    if path_now == "/" {
        return Ok(lowered(vec![set], history));
    }
    let owner = before.user.filter(|user| !user.is_empty());
    let mkdir = MkdirOp { path: clean(&path_now), owner, mode: 0o755 };
    Ok(lowered(vec![set, Op::Mkdir(mkdir)], history))
}

/// `EXPOSE port[-port][/protocol]...`
pub(crate) fn expose(scope: &Scope<'_>) -> Result<Lowered> {
    let mut words = list(scope.instruction);
    if words.is_empty() {
        return Err(invalid("MissingArgument", "EXPOSE requires at least one argument", &scope.instruction.span));
    }
    words.sort();
    let mut ports = Vec::new();
    for word in words {
        for spec in scope.expand_words(&word)? {
            ports.extend(parse_ports(&spec).map_err(|reason| {
                let message = format!("invalid port: \"{spec}\"{reason}");
                invalid_with_help(
                    "InvalidPort",
                    message,
                    &scope.instruction.span,
                    "ports are written 80, 80/udp or 8000-8010",
                )
            })?);
            look_at_ports(scope, &spec);
        }
    }
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

/// `[address:][host port:]port[-port][/protocol]`; what is published where is not the image's business, and yet must be
/// what it says.
fn parse_ports(spec: &str) -> std::result::Result<Vec<String>, String> {
    let (ports, protocol) = spec.split_once('/').unwrap_or((spec, ""));
    let protocol = match protocol.to_lowercase() {
        none if none.is_empty() => "tcp".to_owned(),
        known if matches!(known.as_str(), "tcp" | "udp" | "sctp") => known,
        _ => return Err(": the protocols are tcp, udp and sctp".into()),
    };
    let (before, container) = ports.rsplit_once(':').map_or((None, ports), |(before, port)| (Some(before), port));
    let (first, last) = range(container).ok_or("")?;
    if let Some(before) = before {
        let (address, host) = match before.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
            Some((address, host)) => (Some(address), host),
            None => before.rsplit_once(':').map_or((None, before), |(address, host)| (Some(address), host)),
        };
        if address.is_some_and(|text| !text.is_empty() && text.parse::<std::net::IpAddr>().is_err()) {
            return Err(": what stands in front of the ports is no IP address".into());
        }
        let published = if host.is_empty() { Some((first, last)) } else { range(host) };
        let (low, high) = published.ok_or(": the port of the host is none")?;
        // One port of the container can be published on any of a range.
        if high - low != last - first && first != last {
            return Err(": there are not as many ports of the host as of the container".into());
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `port[-port]`
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
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
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// `STOPSIGNAL signal`
pub(crate) fn stop_signal(scope: &Scope<'_>) -> Result<Lowered> {
    let signal = scope.expand(single(scope.instruction)?)?;
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, most: u32| text.parse().is_ok_and(|offset| (1..=most).contains(&offset));
    let known = match signal.parse::<i64>() {
        Ok(number) => number != 0,
        Err(_) => match name.split_once(['+', '-']) {
            Some(("RTMIN", up)) => name.starts_with("RTMIN+") && offset(up, 15),
            Some(("RTMAX", down)) => name.starts_with("RTMAX-") && offset(down, 14),
            _ => SIGNALS.contains(&name),
        },
    };
    if !known {
        let message = format!("invalid signal: {signal}");
        let help = "signals are numbers, or names as in signal(7): SIGTERM, QUIT, RTMIN+3";
        return Err(invalid_with_help("InvalidSignal", message, &scope.instruction.span, help));
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
