//! Programs that keep credentials, executed by the host (docker-credential-helpers' protocol).

use std::process::Stdio;
use std::time::Duration;

use plugin::imports::{HelperError, Later, NativeHelper};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// They may ask the user, but not for ever.
const PATIENCE: Duration = Duration::from_secs(25);
/// An answer is a few lines.
const LONGEST: u64 = 1 << 20;

/// Runs `docker-credential-<name>` from the search path.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeHelpers;

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl NativeHelper for NativeHelpers {
    fn get<'f>(&'f self, helper: &'f str, server: &'f str) -> Later<'f, Result<(String, String), HelperError>> {
        Box::pin(async move {
            tokio::time::timeout(PATIENCE, run(helper, server)).await.unwrap_or(Err(HelperError::Timeout))
        })
    }
}

/// What every helper of the protocol says when it knows nothing (docker-credential-helpers, credentials/error.go).
const NOT_FOUND: &str = "credentials not found";

async fn run(helper: &str, server: &str) -> Result<(String, String), HelperError> {
    let failed = |reason: String| HelperError::Failed(reason);
    // A name with a slash would be a path of the configuration's choosing.
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(failed("that is no name of a credential program".into()));
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => HelperError::NotInstalled,
            _ => failed(format!("{program}: {error}")),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input answers all the same.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LONGEST).read_to_end(&mut answer).await.map_err(|error| failed(error.to_string()))?;
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        // What it prints then is its error; it never holds a secret.
        let told: String = String::from_utf8_lossy(&answer).trim().chars().take(300).collect();
        return Err(if told.contains(NOT_FOUND) { HelperError::NoCredentials } else { failed(told) });
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|error| failed(format!("its answer is no JSON: {error}")))?;
    Ok((answer.username, answer.secret))
}
