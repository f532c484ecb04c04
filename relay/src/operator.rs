//! What whoever runs the relay may ask of it while it runs: which claims and tunnels there are, and that one of them ends. On a
//! Unix socket in the data directory, which only the relay's own user can enter; one question and one answer in JSON on each
//! connection. Holds no claim and no tunnel: those are the registry's.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::hello::UnixMillis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::tunnels::registry::Registry;

const FILE: &str = "operator.sock";

/// How long a question or an answer may take. Both are in the same machine.
const SAY: Duration = Duration::from_secs(5);

/// Longer than any question.
const QUESTION: u64 = 4 << 10;

/// Longer than any answer: 10,000 claims with matchers as long as they may be.
const ANSWER: u64 = 256 << 20;

/// People and scripts who ask at once.
const ASKERS: usize = 8;

/// After a failed accept: trying again at once would only burn the core.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Question {
    Routes,
    Kill { what: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Routes(Overview),
    Killed(Killed),
}

/// What there is at the moment. Fields are added, never renamed or removed. Texts are developers'.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// This replica.
    pub relay: String,
    pub claims: Vec<ClaimOverview>,
    pub tunnels: Vec<TunnelOverview>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimOverview {
    pub service: String,
    pub name: String,
    #[serde(rename = "match")]
    pub matcher: String,
    pub owner: String,
    pub host: String,
    pub on_unreachable: String,
    pub generation: u64,
    pub since_ms: UnixMillis,
    pub expires_ms: Option<UnixMillis>,
    /// By their ids; none while its owner is expected back.
    pub tunnels: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelOverview {
    pub id: u64,
    pub owner: String,
    pub host: String,
    pub transport: String,
    pub since_ms: UnixMillis,
    pub last_seen_ms: UnixMillis,
    pub in_doubt: bool,
    /// Exchanges under way.
    pub exchanges: u64,
}

/// What has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    pub claims: u64,
    pub tunnels: u64,
}

/// Why a running relay was not asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    #[error("asking the relay that runs with {}: none does", data.display())]
    NotRunning { data: PathBuf },
    #[error("asking the relay that runs with {}: {cause}", data.display())]
    Failed { data: PathBuf, cause: io::Error },
}

/// Asks the relay that runs with a data directory what there is.
pub async fn routes(data: &Path) -> Result<Overview, AskError> {
    match ask(data, &Question::Routes).await? {
        Answer::Routes(overview) => Ok(overview),
        Answer::Killed(_) => Err(strange(data)),
    }
}

/// Has it end a tunnel, by its id and with all of its client's, or every claim of this name.
pub async fn kill(data: &Path, what: &str) -> Result<Killed, AskError> {
    match ask(data, &Question::Kill { what: what.to_owned() }).await? {
        Answer::Killed(killed) => Ok(killed),
        Answer::Routes(_) => Err(strange(data)),
    }
}

async fn ask(data: &Path, question: &Question) -> Result<Answer, AskError> {
    let asking = async {
        let mut stream = UnixStream::connect(data.join(FILE)).await?;
        say(&mut stream, question).await?;
        hear(&mut stream, ANSWER).await
    };
    let asked = timeout(SAY, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    asked.map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning { data: data.to_owned() }
        }
        _ => AskError::Failed { data: data.to_owned(), cause },
    })
}

fn strange(data: &Path) -> AskError {
    AskError::Failed { data: data.to_owned(), cause: io::Error::other("it answers something else") }
}

impl Overview {
    /// As a person reads it.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "relay {}: {} claims, {} tunnels",
            self.relay,
            self.claims.len(),
            self.tunnels.len()
        );
        for claim in &self.claims {
            let ClaimOverview { service, name, matcher, owner, host, on_unreachable, tunnels, .. } = claim;
            let by = match tunnels.as_slice() {
                [] => "away".to_owned(),
                ids => format!("tunnel {}", ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
            };
            let line =
                format!("claim {name}: {service} {matcher} of {owner} on {host}, {on_unreachable}, {by}");
            let _ = writeln!(text, "{}", line.escape_debug());
        }
        for tunnel in &self.tunnels {
            let TunnelOverview { id, owner, host, transport, exchanges, .. } = tunnel;
            let doubt = if tunnel.in_doubt { ", in doubt" } else { "" };
            let line = format!("tunnel {id}: {owner} on {host}, {transport}, {exchanges} exchanges{doubt}");
            let _ = writeln!(text, "{}", line.escape_debug());
        }
        text
    }
}

/// The socket, until it is dropped.
#[derive(Debug)]
pub(crate) struct Desk {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Desk {
    /// Takes the place of a relay that was killed, and of one that drains while this one takes over.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let (path, new) = (data.join(FILE), data.join(format!("{FILE}.new")));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        // Nobody else gets into the directory, not even in between.
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&new)?.ino();
        fs::rename(&new, &path)?;
        Ok(Self { listener, path, inode })
    }

    /// Answers until `stop`.
    pub(crate) async fn serve(self, registry: Arc<Registry>, stop: CancellationToken) {
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept(), if asking.len() < ASKERS => match accepted {
                    Ok((stream, _)) => {
                        let registry = Arc::clone(&registry);
                        asking.spawn(async move {
                            // Who asks and does not listen has no answer.
                            let _ = timeout(SAY, answer(stream, &registry)).await;
                        });
                    }
                    Err(cause) => {
                        tracing::warn!("accepting the operator's question: {cause}");
                        sleep(AFTER_FAILURE).await;
                    }
                },
                Some(_) = asking.join_next() => {}
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // Another relay's by now, perhaps; or gone: somebody has cleaned up.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn answer(mut stream: UnixStream, registry: &Registry) -> io::Result<()> {
    let answer = match hear(&mut stream, QUESTION).await? {
        Question::Routes => Answer::Routes(registry.overview()),
        Question::Kill { what } => Answer::Killed(registry.kill(&what)),
    };
    say(&mut stream, &answer).await
}

async fn say(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

async fn hear<T: DeserializeOwned>(stream: &mut UnixStream, longest: u64) -> io::Result<T> {
    let mut text = Vec::new();
    BufReader::new(stream.take(longest)).read_until(b'\n', &mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_relay_that_takes_over_is_the_one_that_is_asked() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(FILE);
        let former = Desk::open(data.path()).unwrap();
        let next = Desk::open(data.path()).unwrap();
        drop(former);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let (_asking, asked) = tokio::join!(UnixStream::connect(&path), next.listener.accept());
        asked.unwrap();
        drop(next);
        assert!(!path.exists());
        assert!(matches!(routes(data.path()).await, Err(AskError::NotRunning { .. })));
        // What a relay that was killed has left.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(routes(data.path()).await, Err(AskError::NotRunning { .. })));
        Desk::open(data.path()).unwrap();
    }
}
