//! `--ssh`, `--allow`, `--add-host`, limits: what every RUN gets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use build::commands::{Commands, Entitlement, Limit, Resources, Surroundings, is_limit};
use build::ssh::Agent;
use plan::op::Network;

use crate::args::commands::{CommandArgs, LOCAL_DELETE, NetworkMode, SecurityMode};

pub(super) fn commands(args: &CommandArgs) -> Result<Commands> {
    let args = &with_resources(args)?;
    let asked = args.allow.iter().filter(|text| *text != LOCAL_DELETE);
    let mut allow: std::collections::BTreeSet<Entitlement> =
        asked.map(|text| entitlement(text)).collect::<Result<_>>()?;
    let network = args.network.map(|mode| match mode {
        NetworkMode::Default => Network::Default,
        NetworkMode::None => Network::None,
        NetworkMode::Host => Network::Host,
    });
    if network == Some(Network::Host) {
        allow.insert(Entitlement::NetworkHost);
    }
    let surroundings = Surroundings {
        hosts: args.add_host.iter().map(|text| hosts(text)).collect::<Result<Vec<_>>>()?.concat(),
        host_name: None,
        is_strict: args.security == Some(SecurityMode::Strict),
        shm_size: size("--shm-size", args.shm_size.as_deref())?,
        limits: args.ulimit.iter().map(|text| limit(text)).collect::<Result<_>>()?,
        resources: Resources {
            parent: args.cgroup_parent.clone(),
            memory: size("--memory", args.memory.as_deref())?,
            memory_swap: match args.memory_swap.as_deref() {
                Some("-1") => Some(-1),
                text => size("--memory-swap", text)?.map(i64::try_from).transpose().context("--memory-swap")?,
            },
            cpu_shares: args.cpu_shares,
            cpu_period: args.cpu_period,
            cpu_quota: args.cpu_quota,
            cpus: args.cpuset_cpus.clone(),
            memory_nodes: args.cpuset_mems.clone(),
        },
    };
    if surroundings.is_strict && allow.contains(&Entitlement::SecurityInsecure) {
        bail!("--security=strict and --allow security.insecure: one of them must go");
    }
    let ssh = args.ssh.iter().map(|text| agent(text)).collect::<Result<BTreeMap<_, _>>>()?;
    Ok(Commands { surroundings, network, allow, cache_mount_space: None, ssh })
}

/// `--resource NAME=VALUE`: the same as the option of that name, which must not say something else.
fn with_resources(args: &CommandArgs) -> Result<CommandArgs> {
    fn put<T>(field: &mut Option<T>, text: &str, value: T) -> Result<()> {
        match field.replace(value) {
            None => Ok(()),
            Some(_) => bail!("--resource {text}: this limit is given twice"),
        }
    }
    let mut all = args.clone();
    for text in args.resource.iter().flat_map(|list| list.split(',')) {
        let (name, value) =
            text.split_once('=').with_context(|| format!("--resource {text}: it must be NAME=VALUE"))?;
        let number = || value.parse::<u64>().with_context(|| format!("--resource {text}: it must be a number"));
        match name.replace('-', "").as_str() {
            "memory" => put(&mut all.memory, text, value.to_owned())?,
            "memoryswap" | "memswap" => put(&mut all.memory_swap, text, value.to_owned())?,
            "cpushares" => put(&mut all.cpu_shares, text, number()?)?,
            "cpuperiod" => put(&mut all.cpu_period, text, number()?)?,
            "cpuquota" => put(&mut all.cpu_quota, text, number()?)?,
            "cpusetcpus" => put(&mut all.cpuset_cpus, text, value.to_owned())?,
            "cpusetmems" => put(&mut all.cpuset_mems, text, value.to_owned())?,
            _ => bail!(
                "--resource {text}: there is no limit `{name}`; memory, memory-swap, cpu-shares, cpu-period, cpu-quota, \
                 cpuset-cpus and cpuset-mems are"
            ),
        }
    }
    Ok(all)
}

/// The agent that runs here, if one does, as `--ssh default` would name it.
pub(super) fn own_agent() -> Result<Option<(String, Agent)>> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from);
    let agent = socket.map(|socket| Agent::open(&[socket])).transpose().context("the ssh agent of $SSH_AUTH_SOCK")?;
    Ok(agent.map(|agent| ("default".to_owned(), agent)))
}

fn entitlement(text: &str) -> Result<Entitlement> {
    let known = Entitlement::ALL.into_iter().find(|known| known.name() == text);
    known.with_context(|| {
        let names = Entitlement::ALL.map(Entitlement::name).join(", ");
        format!("--allow {text}: what can be allowed is {names} and {LOCAL_DELETE}")
    })
}

/// `NAME:ADDRESS[,ADDRESS]` or with an equals sign; an address in brackets is one of version 6.
fn hosts(text: &str) -> Result<Vec<(String, String)>> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, addresses) = split.with_context(|| format!("--add-host {text}: it must be NAME:ADDRESS"))?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        bail!("--add-host {text}: it must be NAME:ADDRESS");
    }
    let address = |address: &str| -> Result<(String, String)> {
        if address == "host-gateway" {
            // Commands have this machine's network.
            return Ok((name.to_owned(), "127.0.0.1".to_owned()));
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let parsed: IpAddr =
            bare.parse().with_context(|| format!("--add-host {text}: `{address}` is no IP address"))?;
        Ok((name.to_owned(), parsed.to_string()))
    };
    addresses.split(',').map(address).collect()
}

fn size(flag: &str, text: Option<&str>) -> Result<Option<u64>> {
    text.map(|text| bytes(flag, text)).transpose()
}

/// Bytes, with a binary unit: `64m`, `1.5g`.
pub(crate) fn bytes(flag: &str, text: &str) -> Result<u64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number = lower[..digits].parse::<f64>().ok();
    let unit = lower[digits..].trim().trim_end_matches('b').trim_end_matches('i');
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit);
    match number.zip(power) {
        // Sizes of memory are far below where a floating-point number loses bytes.
        Some((number, power)) => Ok((number * 1024f64.powi(i32::try_from(power)?)) as u64),
        None => bail!("{flag} {text}: it must be a number of bytes, as in 512m or 2g"),
    }
}

/// Seconds, of days, hours, minutes and seconds: `7d`, `1d12h`.
pub(crate) fn age(flag: &str, text: &str) -> Result<u64> {
    let wrong = || format!("{flag} {text}: it must be an age, as in 7d or 1d12h");
    let (mut seconds, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).with_context(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let length = match unit.chars().next() {
            Some('w') => 7 * 24 * 60 * 60,
            Some('d') => 24 * 60 * 60,
            Some('h') => 60 * 60,
            Some('m') => 60,
            Some('s') => 1,
            _ => bail!(wrong()),
        };
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(length)).with_context(wrong)?;
        seconds = seconds.checked_add(part).with_context(wrong)?;
        rest = &unit[1..];
    }
    if text.is_empty() { bail!(wrong()) } else { Ok(seconds) }
}

/// `NAME=SOFT[:HARD]`.
fn limit(text: &str) -> Result<Limit> {
    let wrong = || format!("--ulimit {text}: it must be NAME=SOFT[:HARD], as in nofile=1024:2048");
    let (name, values) = text.split_once('=').with_context(wrong)?;
    if !is_limit(name) {
        bail!("--ulimit {text}: there is no limit `{name}`");
    }
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        text => text.parse::<u64>().map(Some).with_context(wrong),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        bail!("--ulimit {text}: the soft limit is above the hard one");
    }
    Ok(Limit { name: name.to_owned(), soft, hard })
}

/// `default`, `ID`, `ID=PATH[,PATH...]`.
fn agent(text: &str) -> Result<(String, Agent)> {
    let (id, paths) = match text.split_once('=') {
        Some((id, paths)) => (id, paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect()),
        None => (text, Vec::new()),
    };
    let paths = match paths.is_empty() {
        false => paths,
        true => match std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()) {
            Some(socket) => vec![PathBuf::from(socket)],
            None => bail!("--ssh {text}: no ssh agent runs here ($SSH_AUTH_SOCK is not set); give --ssh {id}=KEYFILE"),
        },
    };
    let id = if id.is_empty() { "default" } else { id };
    Ok((id.to_owned(), Agent::open(&paths).with_context(|| format!("--ssh {text}"))?))
}
