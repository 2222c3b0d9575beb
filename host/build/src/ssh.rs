//! `RUN --mount=type=ssh`: an ssh agent for a command, for as long as it runs.
//!
//! The command gets a socket of its own behind which only listing keys and signing is answered, as BuildKit has it: a
//! build shall not add keys to the user's agent, lock it or empty it. Messages are those of
//! draft-ietf-sshm-ssh-agent, a length and a type in front.

mod keys;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use keys::Key;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// As OpenSSH's agent has it.
const LONGEST: usize = 256 << 10;

/// What `--ssh` names.
#[derive(Clone, Debug)]
pub struct Agent(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// An agent that runs already.
    Socket(PathBuf),
    /// Keys that this program answers for itself.
    Keys(Arc<Vec<Key>>),
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no key that can be used.
    #[error("{}: {reason}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Agent {
    /// The agent behind a socket, or one that has the private keys in these files.
    ///
    /// # Errors
    /// When a file cannot be read or is no key.
    pub fn open(paths: &[PathBuf]) -> Result<Self, AgentError> {
        use std::os::unix::fs::FileTypeExt;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Io { path, source }
        };
        if let [path] = paths
            && std::fs::metadata(path).map_err(failed(path))?.file_type().is_socket()
        {
            return Ok(Self(Kind::Socket(path.clone())));
        }
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).map_err(failed(path))?;
            Key::parse(&text).map_err(|reason| AgentError::Key { path: path.clone(), reason })
        };
        Ok(Self(Kind::Keys(Arc::new(paths.iter().map(read).collect::<Result<_, _>>()?))))
    }

    async fn answer(&self, request: &[u8], upstream: &mut Option<UnixStream>) -> io::Result<Vec<u8>> {
        let kind = request.first().copied().unwrap_or_default();
        if !matches!(kind, REQUEST_IDENTITIES | SIGN_REQUEST) {
            return Ok(vec![FAILURE]);
        }
        match &self.0 {
            Kind::Keys(known) => Ok(match kind {
                REQUEST_IDENTITIES => [&[IDENTITIES_ANSWER][..], &keys::list(known)].concat(),
                _ => keys::sign(known, &request[1..])
                    .map_or_else(|| vec![FAILURE], |signature| [&[SIGN_RESPONSE][..], &signature].concat()),
            }),
            Kind::Socket(path) => {
                let stream = match upstream {
                    Some(stream) => stream,
                    None => upstream.insert(UnixStream::connect(path).await?),
                };
                write(stream, request).await?;
                read(stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// A socket behind which an agent answers; it is gone with this.
pub(crate) struct Relay {
    pub(crate) path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Listens in a folder.
    pub(crate) fn start(agent: Agent, folder: &Path, name: &str) -> io::Result<Self> {
        // A socket's path is at most 108 bytes long; that of a store may be longer.
        let open: OwnedFd = std::fs::File::open(folder)?.into();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()))?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let agent = agent.clone();
                // Ends when the command closes its side, at the latest with the command.
                tokio::spawn(async move { serve(&agent, stream).await });
            }
        });
        Ok(Self { path: folder.join(name), task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(agent: &Agent, mut stream: UnixStream) {
    let mut upstream = None;
    while let Ok(Some(request)) = read(&mut stream).await {
        let answer = agent.answer(&request, &mut upstream).await.unwrap_or_else(|_| vec![FAILURE]);
        if write(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

/// The next message; none at the end.
async fn read(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length == 0 || length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}
