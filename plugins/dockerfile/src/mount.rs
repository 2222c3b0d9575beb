//! `RUN --mount=type=...,key=value...`

use plywood_sdk::instruction::{BindMount, CacheMount, CacheSharing, Flag, Mount, MountKind, SecretMount, SshMount};

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
    sharing: Option<CacheSharing>,
    read_only: Option<bool>,
    required: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
}

const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

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
                    "required" if fields.may_be_required() => fields.required = true,
                    "required" => return Err(error(fields.not_for(&key))),
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
            let wrong = || error(format!("invalid value for {key}: {value}"));
            // strconv.ParseBool
            let boolean = || match value.as_str() {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
                _ => Err(wrong()),
            };
            let digits = |radix: u32| match value.chars().all(|c| c.is_digit(radix)) {
                true => u32::from_str_radix(&value, radix).map_err(|_| wrong()),
                false => Err(wrong()),
            };
            match key.as_str() {
                "type" => {
                    fields.kind = value.to_lowercase();
                    if !KINDS.contains(&fields.kind.as_str()) {
                        let message = format!("unsupported mount type \"{value}\"");
                        return Err(invalid_with_help(
                            "InvalidMount",
                            message,
                            &flag.span,
                            &near(&fields.kind, &KINDS),
                        ));
                    }
                }
                "from" => fields.from = Some(value).filter(|from| !from.is_empty()),
                "source" | "src" => fields.source = Some(value),
                "target" | "dst" | "destination" => fields.target = Some(value),
                "id" => fields.id = Some(value),
                "env" => fields.env = Some(value),
                "sharing" => {
                    fields.sharing = Some(match value.to_lowercase().as_str() {
                        "shared" => CacheSharing::Shared,
                        "private" => CacheSharing::Private,
                        "locked" => CacheSharing::Locked,
                        other => {
                            let message = format!("unsupported sharing value \"{value}\"");
                            let help = near(other, &["shared", "private", "locked"]);
                            return Err(invalid_with_help("InvalidMount", message, &flag.span, &help));
                        }
                    });
                }
                "readonly" | "ro" => fields.read_only = Some(boolean()?),
                "readwrite" | "rw" => fields.read_only = Some(!boolean()?),
                "required" if fields.may_be_required() => fields.required = boolean()?,
                "size" if fields.kind == "tmpfs" => fields.size = Some(bytes(&value).ok_or_else(wrong)?),
                "required" | "size" => return Err(error(fields.not_for(&key))),
                "mode" => fields.mode = Some(digits(8)? & 0o7777),
                "uid" => fields.uid = Some(digits(10)?),
                "gid" => fields.gid = Some(digits(10)?),
                _ => {
                    let message = format!("unexpected key '{key}' in '{field}'");
                    let known = [
                        "type",
                        "from",
                        "source",
                        "target",
                        "id",
                        "env",
                        "sharing",
                        "readonly",
                        "readwrite",
                        "required",
                        "mode",
                        "uid",
                        "gid",
                        "size",
                    ];
                    return Err(invalid_with_help("InvalidMount", message, &flag.span, &near(&key, &known)));
                }
            }
        }
        Ok(fields)
    }

    /// Whether a mount of this type can be there or not.
    fn may_be_required(&self) -> bool {
        matches!(self.kind.as_str(), "secret" | "ssh")
    }

    fn not_for(&self, key: &str) -> String {
        format!("unexpected key '{key}' for mount type '{}'", self.kind)
    }

    /// The mount, once it is clear that no field contradicts its type. What a type has no use for is let be, as in
    /// BuildKit.
    fn mount(self, scope: &Scope<'_>, flag: &Flag) -> Result<Mount> {
        let error = |message: String| invalid("InvalidMount", message, &flag.span);
        let given = [
            ("from", self.from.is_some(), self.kind != "secret"),
            ("sharing", self.sharing.is_some(), self.kind == "cache"),
            ("mode", self.mode.is_some(), matches!(self.kind.as_str(), "cache" | "secret" | "ssh")),
            ("uid", self.uid.is_some(), matches!(self.kind.as_str(), "cache" | "secret" | "ssh")),
            ("gid", self.gid.is_some(), matches!(self.kind.as_str(), "cache" | "secret" | "ssh")),
        ];
        if let Some((key, ..)) = given.iter().find(|(_, given, allowed)| *given && !allowed) {
            return Err(error(self.not_for(key)));
        }
        let absolute = |target: &str| {
            let target = if target.starts_with('/') {
                clean(target)
            } else {
                clean(&format!("{}/{target}", scope.stage.config().working_dir.unwrap_or_default()))
            };
            match target.as_str() {
                "/" => {
                    let message = format!("invalid mount target \"{target}\"");
                    let help = "give target=PATH: without it, the working directory is meant";
                    Err(invalid_with_help("InvalidMountTarget", message, &flag.span, help))
                }
                _ => Ok(target),
            }
        };
        let given = self.target.as_deref().filter(|target| !target.is_empty());
        let source = clean(self.source.as_deref().unwrap_or_default());
        // Without a target it is the working directory.
        let needed = || absolute(given.unwrap_or_default());
        match self.kind.as_str() {
            "bind" => {
                let target = needed()?;
                let bind = BindMount { from: self.from, source, writable: self.read_only == Some(false) };
                Ok(Mount { target: Some(target), kind: MountKind::Bind(bind) })
            }
            "cache" => {
                let target = needed()?;
                let cache = CacheMount {
                    id: self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone()),
                    sharing: self.sharing.unwrap_or(CacheSharing::Shared),
                    from: self.from,
                    source,
                    uid: self.uid.unwrap_or(0),
                    gid: self.gid.unwrap_or(0),
                    mode: self.mode.unwrap_or(0o755),
                    read_only: self.read_only == Some(true),
                };
                Ok(Mount { target: Some(target), kind: MountKind::Cache(cache) })
            }
            "tmpfs" => Ok(Mount { target: Some(needed()?), kind: MountKind::Tmpfs(self.size) }),
            "secret" => {
                let target = given.map(absolute).transpose()?;
                self.secret(target, flag)
            }
            _ => {
                let target = given.map(absolute).transpose()?;
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

/// What may have been meant, or all that could be.
fn near(typed: &str, known: &[&str]) -> String {
    let is_near = |word: &&&str| {
        let same = word.chars().filter(|c| typed.contains(*c)).count();
        word.len().abs_diff(typed.len()) <= 2 && same + 2 >= word.len().max(typed.len())
    };
    match known.iter().find(is_near) {
        Some(word) => format!("did you mean {word}?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// The fields of a comma-separated line, those in double quotes unquoted (RFC 4180).
fn csv(line: &str) -> std::result::Result<Vec<String>, &'static str> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut closed) = (false, false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().ok_or("no field")?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => (quoted, closed) = (false, true),
            '"' if field.is_empty() && !closed => quoted = true,
            ',' if !quoted => {
                closed = false;
                fields.push(String::new());
            }
            '"' => return Err("a quote stands within a field of the mount"),
            _ if closed => return Err("something stands behind a closed quote of the mount"),
            _ => field.push(c),
        }
    }
    if quoted { Err("a quote in the mount is not closed") } else { Ok(fields) }
}

/// A number of bytes, with a binary unit: `64m`, `1.5GiB` (docker/go-units, RAMInBytes).
fn bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let number: f64 = text[..end].trim_end().parse().ok().filter(|number: &f64| *number >= 0.0)?;
    let unit = text[end..].to_lowercase();
    let mut letters = unit.chars();
    let power = match letters.next() {
        None => 0,
        Some('b') => return unit.eq("b").then_some(number as u64),
        Some(letter) => ['k', 'm', 'g', 't', 'p'].iter().position(|known| *known == letter)? + 1,
    };
    let rest = letters.as_str();
    matches!(rest, "" | "b" | "ib").then(|| (number * 1024f64.powi(i32::try_from(power).unwrap_or(0))) as u64)
}
