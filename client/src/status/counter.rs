//! Where running clients are asked: a Unix socket for each in a private directory, one question and one answer in JSON on each
//! connection.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Status;
use crate::session::Desk;

/// How long a question or an answer may take. Both are in the same machine.
const SAY: Duration = Duration::from_secs(2);

/// Longer than any answer: 64 replicas, and the claims of one client.
const LINE: u64 = 1 << 20;

/// Who asks at the same time: a person, and whatever watches.
const ASKERS: usize = 16;

/// Running clients that one user has: more files are not looked at.
const CLIENTS: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Question {
    Status,
    Leave { name: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Status(Box<Status>),
    /// It gives its claims back and ends.
    Leaving,
    NotMine,
    Ended,
}

/// The directory of one user's running clients.
#[derive(Clone, Debug)]
pub struct Counter {
    directory: PathBuf,
}

/// Answers for one session, until it is dropped.
#[derive(Debug)]
pub struct Clerk {
    path: PathBuf,
    #[expect(dead_code, reason = "it ends with this")]
    answering: JoinSet<()>,
}

impl Counter {
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Answers what is asked about a session from now on.
    pub fn open(&self, desk: Desk) -> io::Result<Clerk> {
        culvert_certs::private_file::directory(&self.directory).map_err(io::Error::other)?;
        // Two sessions of one process are two clients.
        let path = self.directory.join(format!("{}-{:08x}.sock", std::process::id(), rand::random::<u32>()));
        let listener = UnixListener::bind(&path)?;
        // Nobody else gets into the directory, not even in between.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let mut answering = JoinSet::new();
        answering.spawn(answer_all(listener, desk));
        Ok(Clerk { path, answering })
    }

    /// What every running client says. Those that do not answer are left out.
    pub async fn status(&self) -> io::Result<Vec<Status>> {
        let mut clients = Vec::new();
        for path in self.sockets()? {
            if let Some(Answer::Status(status)) = ask(&path, &Question::Status).await {
                clients.push(*status);
            }
        }
        clients.sort_by_key(|client| (client.since_ms, client.process));
        Ok(clients)
    }

    /// Asks whoever holds this claim to give it back and to end. Returns how many did: 0 where nobody holds it.
    pub async fn leave(&self, name: &str) -> io::Result<usize> {
        let mut left = 0;
        for path in self.sockets()? {
            let question = Question::Leave { name: name.to_owned() };
            if let Some(Answer::Leaving) = ask(&path, &question).await {
                left += 1;
            }
        }
        Ok(left)
    }

    fn sockets(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        Ok(paths.filter(|path| path.extension().is_some_and(|kind| kind == "sock")).take(CLIENTS).collect())
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        // Gone already: somebody has cleaned up.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer_all(listener: UnixListener, desk: Desk) {
    let mut asking = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if asking.len() < ASKERS => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let desk = desk.clone();
                asking.spawn(async move {
                    // Who asks and does not listen has no answer.
                    let _ = timeout(SAY, answer(stream, &desk)).await;
                });
            }
            Some(_) = asking.join_next() => {}
        }
    }
}

async fn answer(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let question: Question = line(&mut stream).await?;
    let answer = match question {
        Question::Status => {
            desk.status().await.map_or(Answer::Ended, |status| Answer::Status(Box::new(status)))
        }
        Question::Leave { name } => match desk.status().await {
            Some(status) if status.claims.iter().any(|claim| claim.name == name) => {
                desk.stop();
                Answer::Leaving
            }
            Some(_) => Answer::NotMine,
            None => Answer::Ended,
        },
    };
    say(&mut stream, &answer).await
}

/// None: nobody is there, or somebody who does not answer. A socket that nobody listens on is removed: its client was killed.
async fn ask(path: &Path, question: &Question) -> Option<Answer> {
    let asking = async {
        let mut stream = UnixStream::connect(path).await?;
        say(&mut stream, question).await?;
        line(&mut stream).await
    };
    match timeout(SAY, asking).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                let _ = std::fs::remove_file(path);
            }
            None
        }
        Err(_) => None,
    }
}

async fn say(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

async fn line<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut text = Vec::new();
    BufReader::new(stream.take(LINE)).read_until(b'\n', &mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}
