//! Git repositories as contexts and as sources of ADD, fetched by the machine's own git: shallow, by name or by commit.
//!
//! What is fetched is decided by [`resolve`], which asks the server and fetches nothing; [`checkout`] then brings exactly
//! that commit. Secrets go to git in its environment, never as arguments.

mod reference;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use sys::rustix::fs::OFlags;
use tokio::process::Command;

pub use reference::Reference;

use crate::Context;
use crate::error::Error;

/// Who the user is at git servers.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Secrets by name; `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER`, also with `.HOST` behind, are looked at.
    pub secrets: Arc<std::collections::BTreeMap<String, Vec<u8>>>,
    /// The socket of an ssh agent.
    pub ssh: Option<PathBuf>,
}

/// A commit on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number.
    pub id: String,
    /// The full name that led there, if one did.
    pub name: Option<String>,
}

/// Variables of the user's that would make git do something else.
const FOREIGN: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_CONFIG_PARAMETERS",
    "GIT_SSH",
    "SSH_AUTH_SOCK",
];

/// Git, with the user's own settings kept out of it.
struct Git<'g> {
    reference: &'g Reference,
    access: &'g Access,
}

impl Git<'_> {
    fn command(&self, folder: Option<&Path>, words: &[&str]) -> Command {
        let mut command = Command::new("git");
        FOREIGN.iter().for_each(|name| {
            command.env_remove(name);
        });
        command
            .args(words)
            .envs([
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("HOME", "/dev/null"),
                ("LC_ALL", "C"),
                ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
                ("GIT_SSH_COMMAND", "ssh -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(socket) = &self.access.ssh {
            command.env("SSH_AUTH_SOCK", socket);
        }
        let mut settings = vec![("advice.detachedHead".to_owned(), "false".to_owned())];
        settings.extend(self.header());
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        command
    }

    /// The header that says who the user is, for this server alone.
    fn header(&self) -> Option<(String, String)> {
        let host = self.reference.host()?;
        let text =
            |name: String| self.access.secrets.get(&name).map(|value| String::from_utf8_lossy(value).trim().to_owned());
        let basic = |token: String| {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
            format!("basic {pair}")
        };
        let value = text(format!("GIT_AUTH_HEADER.{host}"))
            .or_else(|| text(format!("GIT_AUTH_TOKEN.{host}")).map(basic))
            .or_else(|| text("GIT_AUTH_HEADER".into()))
            .or_else(|| text("GIT_AUTH_TOKEN".into()).map(basic))?;
        let remote = url::Url::parse(&self.reference.remote).ok()?;
        if !matches!(remote.scheme(), "http" | "https") {
            return None;
        }
        let scope = format!("{}://{host}/", remote.scheme());
        Some((format!("http.{scope}.extraheader"), format!("Authorization: {value}")))
    }

    async fn run(&self, folder: Option<&Path>, words: &[&str]) -> Result<String, Error> {
        let failed = |reason: String| Error::Git { remote: redacted(&self.reference.remote), reason };
        let output = self.command(folder, words).output().await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => failed("this machine has no git".into()),
            _ => failed(error.to_string()),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Err(failed(redact_all(&lines[lines.len().saturating_sub(3)..].join("; "), &self.reference.remote)))
    }
}

/// A remote without user and password.
fn redacted(remote: &str) -> String {
    match url::Url::parse(remote) {
        Ok(url) if url.has_host() => http::redact(&url),
        _ => remote.to_owned(),
    }
}

fn redact_all(text: &str, remote: &str) -> String {
    text.replace(remote, &redacted(remote))
}

fn is_full(id: &str) -> bool {
    matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Asks the server which commit a reference means.
///
/// # Errors
/// When there is no such name, or it is not the commit that it must be.
pub async fn resolve(reference: &Reference, access: &Access) -> Result<Commit, Error> {
    let git = Git { reference, access };
    let failed = |reason: String| Error::Git { remote: redacted(&reference.remote), reason };
    let checksum = reference.checksum.as_deref();
    if let Some(checksum) = checksum.filter(|text| text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err(failed(format!("invalid checksum {checksum} for Git URL, expected hex commit hash")));
    }
    let fits = |id: &str| checksum.is_none_or(|checksum| id.starts_with(&checksum.to_lowercase()));
    let mismatch = |id: &str| failed(format!("expected checksum to match {}, got {id}", checksum.unwrap_or_default()));
    if let Some(name) = reference.name.as_deref().filter(|name| is_full(name)) {
        return if fits(name) { Ok(Commit { id: name.to_owned(), name: None }) } else { Err(mismatch(name)) };
    }
    if let Some(name) = reference.name.as_deref().filter(|name| name.starts_with('-')) {
        return Err(failed(format!("invalid git ref \"{name}\"")));
    }
    if reference.by_commit {
        return match checksum {
            Some(checksum) if is_full(checksum) => Ok(Commit { id: checksum.to_owned(), name: None }),
            Some(checksum) => {
                Err(failed(format!("fetch-by-commit requires a full commit SHA checksum, got \"{checksum}\"")))
            }
            None => Err(failed("fetch-by-commit requires a checksum or a commit SHA ref".into())),
        };
    }
    let name = match &reference.name {
        Some(name) => name.clone(),
        None => {
            let listed = git.run(None, &["ls-remote", "--symref", "--", &reference.remote, "HEAD"]).await?;
            let head = listed.lines().find_map(|line| line.strip_prefix("ref: ")?.split_whitespace().next());
            head.ok_or_else(|| failed("could not find default branch".into()))?.to_owned()
        }
    };
    let peeled = format!("{name}^{{}}");
    let listed = git.run(None, &["ls-remote", "--", &reference.remote, &name, &peeled]).await?;
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let find = |wanted: &str| lines.iter().find(|(_, name)| *name == wanted).map(|(id, _)| (*id).to_owned());
    let short = name.strip_prefix("refs/").unwrap_or(&name);
    let candidates = [format!("refs/{short}"), format!("refs/heads/{name}"), format!("refs/tags/{name}")];
    let full = candidates.into_iter().find(|candidate| find(candidate).is_some());
    let full = full.ok_or_else(|| failed(format!("repository does not contain ref {name}")))?;
    let object = find(&full).unwrap_or_default();
    let commit = find(&format!("{full}^{{}}")).unwrap_or_else(|| object.clone());
    if !is_full(&commit) {
        return Err(failed(format!("invalid commit sha \"{commit}\"")));
    }
    if !fits(&commit) && !fits(&object) {
        return Err(mismatch(&commit));
    }
    Ok(Commit { id: commit, name: Some(full) })
}

/// Fetches a commit and lays out its files.
///
/// # Errors
/// When git fails, or the folder that is meant is none.
pub async fn checkout(reference: &Reference, commit: &Commit, access: &Access) -> Result<Context, Error> {
    let git = Git { reference, access };
    let failed = |reason: String| Error::Git { remote: redacted(&reference.remote), reason };
    let scratch = tempfile::Builder::new().prefix("plywood-git-").tempdir().map_err(|e| failed(e.to_string()))?;
    let folder = scratch.path();
    let format = if commit.id.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    git.run(Some(folder), &["init", "-q", "-b", "master", format]).await?;
    git.run(Some(folder), &["remote", "add", "origin", &reference.remote]).await?;
    let target =
        commit.name.as_deref().filter(|name| name.starts_with("refs/tags/")).map(|name| format!("{name}:{name}"));
    let what = target.as_deref().or(commit.name.as_deref()).unwrap_or(&commit.id);
    let fetched = git.run(Some(folder), &["fetch", "-q", "--depth=1", "--no-tags", "origin", what]).await;
    if fetched.is_err() {
        // Servers that know neither shallow clones nor commits by their number.
        git.run(Some(folder), &["fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]).await?;
    }
    if git.run(Some(folder), &["cat-file", "-e", &format!("{}^{{commit}}", commit.id)]).await.is_err() {
        // The name has moved since it was looked up.
        git.run(Some(folder), &["fetch", "-q", "--depth=1", "--no-tags", "origin", &commit.id]).await?;
    }
    git.run(Some(folder), &["checkout", "-q", "--detach", &commit.id]).await?;
    if !reference.without_submodules && folder.join(".gitmodules").exists() {
        let words = ["submodule", "update", "-q", "--init", "--recursive", "--depth=1"];
        git.run(Some(folder), &words).await?;
    }
    let time = git.run(Some(folder), &["log", "-1", "--format=%ct"]).await?;
    let time: i64 = time.trim().parse().map_err(|_| failed("failed to get commit time".into()))?;
    let keep = reference.keep_git_dir == Some(true) && reference.folder.is_none();
    if keep {
        // What is kept must not hold what the fetch needed to know.
        git.run(Some(folder), &["remote", "set-url", "origin", &redacted(&reference.remote)]).await?;
        git.run(Some(folder), &["reflog", "expire", "--all", "--expire=now"]).await?;
        let _ = std::fs::remove_file(folder.join(".git/FETCH_HEAD"));
    }
    let root = match &reference.folder {
        None => folder.to_owned(),
        Some(inner) => {
            let opened = sys::Root::open(folder)
                .and_then(|root| root.open_plain(Path::new(inner), OFlags::PATH | OFlags::DIRECTORY));
            opened.map_err(|error| failed(format!("invalid subdir {inner}: {error}")))?;
            folder.join(inner)
        }
    };
    let walk = move || -> Result<Context, Error> {
        let mut context = crate::local(&root, &crate::pattern::Matcher::default())?;
        if !keep {
            Arc::make_mut(&mut context.tree).remove(b".git");
        }
        Ok(context)
    };
    let mut context = tokio::task::spawn_blocking(walk).await.map_err(|error| failed(error.to_string()))??;
    if reference.commit_time == Some(true) {
        Arc::make_mut(&mut context.tree).set_times(oci::tree::Time { seconds: time, nanoseconds: 0 });
    }
    context.made = Some(time);
    context.unpacked = Some(scratch);
    Ok(context)
}
