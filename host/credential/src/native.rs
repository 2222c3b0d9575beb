//! Programs that keep credentials, executed by the host (docker-credential-helpers' protocol).

use std::process::Stdio;
use std::time::Duration;

use plugin::imports::{Later, NativeHelper};
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
    fn get<'f>(&'f self, helper: &'f str, server: &'f str) -> Later<'f, Result<(String, String), String>> {
        Box::pin(async move {
            match tokio::time::timeout(PATIENCE, run(helper, server)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        })
    }
}

async fn run(helper: &str, server: &str) -> Result<(String, String), String> {
    // A name with a slash would be a path of the configuration's choosing.
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err("that is no name of a credential program".into());
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input answers all the same.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LONGEST).read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        // What it prints then is its error; it never holds a secret.
        return Err(String::from_utf8_lossy(&answer).trim().chars().take(300).collect());
    }
    let answer: Answer = serde_json::from_slice(&answer).map_err(|error| format!("its answer is no JSON: {error}"))?;
    Ok((answer.username, answer.secret))
}
