//! `RUN --mount=type=...,key=value...`

use plywood_sdk::instruction::{
    BindMount, CacheMount, CacheSharing, Flag, Mount, MountKind, PluginError, SecretMount, SshMount,
};

use crate::args::clean;
use crate::lowering::{Result, invalid, invalid_with_help};
use crate::scope::Scope;

/// Every mount of an scope.instruction.
pub(crate) fn parse_all(scope: &Scope<'_>) -> Result<Vec<Mount>> {
    let flags = scope.instruction.flags.iter().filter(|flag| flag.name == "mount");
    let mut mounts: Vec<Mount> =
        flags.map(|flag| Fields::read(scope, flag)?.mount(scope, flag)).collect::<Result<_>>()?;
    let agents = mounts.iter_mut().filter(|mount| matches!(mount.kind, MountKind::Ssh(_)));
    for (number, agent) in agents.enumerate() {
        agent.target.get_or_insert_with(|| format!("/run/buildkit/ssh_agent.{number}"));
    }
    Ok(mounts)
}

/// The fields of one `--mount`, as written.
#[derive(Default)]
struct Fields {
    kind: String,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    sharing: Option<String>,
    read_only: Option<bool>,
    required: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
}

const KINDS: &str = "the types are bind, cache, tmpfs, secret and ssh";

impl Fields {
    fn read(scope: &Scope<'_>, flag: &Flag) -> Result<Self> {
        let mut fields = Self { kind: "bind".into(), ..Self::default() };
        let error = |message: String| invalid("InvalidMount", message, &flag.span);
        for field in csv(flag.value.as_deref().unwrap_or_default()).map_err(|message| error(message.into()))? {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
            let key = key.to_lowercase();
            let Some(value) = value else {
                match key.as_str() {
                    "readonly" | "ro" => fields.read_only = Some(true),
                    "readwrite" | "rw" => fields.read_only = Some(false),
                    "required" => fields.required = true,
                    _ => return Err(error(format!("invalid field '{field}' must be a key=value pair"))),
                }
                continue;
            };
            // What `from` names must be known before anything is expanded.
            let value = match key.as_str() {
                "from" if value.contains('$') => {
                    let message = format!("'{key}' doesn't support variable expansion, define alias stage instead");
                    return Err(error(message));
                }
                "from" => value.to_owned(),
                _ => scope.expand(value)?,
            };
            let boolean = || match value.to_lowercase().as_str() {
                "true" | "1" | "t" => Ok(true),
                "false" | "0" | "f" => Ok(false),
                _ => Err(error(format!("invalid value for {key}: {value}"))),
            };
            let number = || value.parse::<u32>().map_err(|_| error(format!("invalid value for {key}: {value}")));
            match key.as_str() {
                "type" => fields.kind = value.to_lowercase(),
                "from" => fields.from = Some(value),
                "source" | "src" => fields.source = Some(value),
                "target" | "dst" | "destination" => fields.target = Some(value),
                "id" => fields.id = Some(value),
                "env" => fields.env = Some(value),
                "sharing" => fields.sharing = Some(value.to_lowercase()),
                "readonly" | "ro" => fields.read_only = Some(boolean()?),
                "readwrite" | "rw" => fields.read_only = Some(!boolean()?),
                "required" => fields.required = boolean()?,
                "mode" => {
                    let mode = u32::from_str_radix(&value, 8).ok().filter(|mode| *mode <= 0o7777);
                    fields.mode = Some(mode.ok_or_else(|| error(format!("invalid value for mode: {value}")))?);
                }
                "uid" => fields.uid = Some(number()?),
                "gid" => fields.gid = Some(number()?),
                "size" => {
                    let size = bytes(&value).ok_or_else(|| error(format!("invalid value for size: {value}")))?;
                    fields.size = Some(size);
                }
                _ => {
                    let message = format!("unexpected key '{key}' in '{field}'");
                    let help = "mounts take type, from, source, target, id, env, sharing, readonly, readwrite, \
                                required, mode, uid, gid and size";
                    return Err(invalid_with_help("InvalidMount", message, &flag.span, help));
                }
            }
        }
        Ok(fields)
    }

    /// The mount, once it is clear that each field belongs to its type.
    fn mount(self, scope: &Scope<'_>, flag: &Flag) -> Result<Mount> {
        let error = |message: String| invalid("InvalidMount", message, &flag.span);
        let allowed: &[&str] = match self.kind.as_str() {
            "bind" => &["from", "source", "readonly"],
            "cache" => &["from", "source", "id", "sharing", "readonly", "mode", "uid", "gid"],
            "tmpfs" => &["size"],
            "secret" => &["source", "id", "env", "required", "mode", "uid", "gid"],
            "ssh" => &["id", "required", "mode", "uid", "gid"],
            kind => {
                let message = format!("unsupported mount type \"{kind}\"");
                return Err(invalid_with_help("InvalidMount", message, &flag.span, KINDS));
            }
        };
        let given = [
            ("from", self.from.is_some()),
            ("source", self.source.is_some()),
            ("id", self.id.is_some()),
            ("env", self.env.is_some()),
            ("sharing", self.sharing.is_some()),
            ("readonly", self.read_only.is_some()),
            ("required", self.required),
            ("mode", self.mode.is_some()),
            ("uid", self.uid.is_some()),
            ("gid", self.gid.is_some()),
            ("size", self.size.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !allowed.contains(key)) {
            return Err(error(format!("unexpected key '{key}' for mount type '{}'", self.kind)));
        }
        let absolute = |target: &str| {
            let target = if target.starts_with('/') {
                clean(target)
            } else {
                clean(&format!("{}/{target}", scope.stage.config().working_dir.unwrap_or_default()))
            };
            if target == "/" { Err(error(format!("invalid mount target \"{target}\""))) } else { Ok(target) }
        };
        let target = self.target.as_deref().filter(|target| !target.is_empty()).map(absolute).transpose()?;
        let needed = || target.clone().ok_or_else(|| error(format!("target is required for {} mount", self.kind)));
        let path_in_source = self.source.clone().unwrap_or_default();
        match self.kind.as_str() {
            "bind" => {
                let bind = BindMount {
                    from: self.from,
                    source: clean(&path_in_source),
                    writable: self.read_only == Some(false),
                };
                Ok(Mount {
                    target: target.map(Ok).unwrap_or_else(|| Err(missing(&flag.span, "bind")))?.into(),
                    kind: MountKind::Bind(bind),
                })
            }
            "cache" => {
                let target = needed()?;
                let sharing = match self.sharing.as_deref() {
                    None | Some("" | "shared") => CacheSharing::Shared,
                    Some("private") => CacheSharing::Private,
                    Some("locked") => CacheSharing::Locked,
                    Some(other) => return Err(error(format!("unsupported sharing value \"{other}\""))),
                };
                let cache = CacheMount {
                    id: self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone()),
                    sharing,
                    from: self.from,
                    source: clean(&path_in_source),
                    uid: self.uid.unwrap_or(0),
                    gid: self.gid.unwrap_or(0),
                    mode: self.mode.unwrap_or(0o755),
                    read_only: self.read_only == Some(true),
                };
                Ok(Mount { target: Some(target), kind: MountKind::Cache(cache) })
            }
            "tmpfs" => Ok(Mount { target: Some(needed()?), kind: MountKind::Tmpfs(self.size) }),
            "secret" => self.secret(target, flag),
            _ => {
                let id = self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".into());
                let ssh = SshMount {
                    id,
                    required: self.required,
                    uid: self.uid.unwrap_or(0),
                    gid: self.gid.unwrap_or(0),
                    mode: self.mode.unwrap_or(0o600),
                };
                Ok(Mount { target, kind: MountKind::Ssh(ssh) })
            }
        }
    }

    fn secret(self, target: Option<String>, flag: &Flag) -> Result<Mount> {
        let error = |message: &str| invalid("InvalidMount", message, &flag.span);
        if self.source.is_some() && self.id.is_some() {
            return Err(error("both source and id can't be set"));
        }
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let id = match self.id.or(self.source).filter(|id| !id.is_empty()) {
            Some(id) => id,
            None => match &target {
                Some(target) => base(target),
                None => return Err(error("invalid secret mount. one of source, target required")),
            },
        };
        // A secret that is a variable is a file as well only where a target says so.
        let as_file = target.is_some() || self.env.is_none();
        let target = as_file.then(|| target.unwrap_or_else(|| format!("/run/secrets/{}", base(&id))));
        let secret = SecretMount {
            id,
            required: self.required,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            mode: self.mode.unwrap_or(0o400),
            as_env: self.env,
        };
        Ok(Mount { target, kind: MountKind::Secret(secret) })
    }
}

fn missing(span: &plywood_sdk::instruction::Span, kind: &str) -> PluginError {
    invalid("InvalidMount", format!("target is required for {kind} mount"), span)
}

/// The fields of a comma-separated line, those in double quotes unquoted (RFC 4180).
fn csv(line: &str) -> std::result::Result<Vec<String>, &'static str> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().ok_or("no field")?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    if quoted { Err("a quote in the mount is not closed") } else { Ok(fields) }
}

/// A number of bytes, with a binary unit: `64m`, `1.5GiB`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().ok()?;
    let unit = lower[digits..].trim().trim_end_matches('b').trim_end_matches('i');
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit)?;
    Some((number * 1024f64.powi(i32::try_from(power).ok()?)) as u64)
}
