//! An app that is as far with every request as the request's path says, and notes what it saw. It can stop listening, and stop
//! running, while its process cannot: it is a part of the test.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// For what must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const HALF: &str = "half";
pub(super) const REST: &str = "rest";

pub(super) struct App {
    pub(super) address: SocketAddr,
    /// What thinks goes on once this is cancelled.
    pub(super) gate: CancellationToken,
    noted: Arc<watch::Sender<BTreeMap<(Note, String), usize>>>,
    frozen: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What it saw of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    Head,
    /// Half the body.
    Half,
    /// The connection closed while it thought.
    Gone,
}

impl App {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut app = Self {
            address: listener.local_addr().unwrap(),
            gate: CancellationToken::new(),
            noted: Arc::default(),
            frozen: watch::Sender::new(false),
            tasks: JoinSet::new(),
        };
        app.listen(listener);
        app
    }

    fn listen(&mut self, listener: TcpListener) {
        let each = Serving {
            gate: self.gate.clone(),
            noted: Arc::clone(&self.noted),
            frozen: self.frozen.subscribe(),
        };
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let mut each = each.clone();
                each.runs().await;
                let Ok((stream, _)) = listener.accept().await else { return };
                connections.spawn(async move {
                    // What goes wrong is the test's doing.
                    let _ = each.converse(stream).await;
                });
            }
        });
    }

    /// Refuses connections from now on, and cuts those that are open.
    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    pub(super) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.listen(listener);
    }

    /// Reads, accepts and says nothing; the system goes on accepting for it.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    pub(super) fn noted(&self, note: Note, path: &str) -> usize {
        self.noted.borrow().get(&(note, path.to_owned())).copied().unwrap_or_default()
    }

    pub(super) async fn notes(&self, note: Note, path: &str) {
        let mut noted = self.noted.subscribe();
        let noting = noted.wait_for(|noted| noted.contains_key(&(note, path.to_owned())));
        timeout(PATIENCE, noting)
            .await
            .unwrap_or_else(|_| panic!("the app never sees {note:?} of {path}"))
            .unwrap();
    }
}

#[derive(Clone)]
struct Serving {
    gate: CancellationToken,
    noted: Arc<watch::Sender<BTreeMap<(Note, String), usize>>>,
    frozen: watch::Receiver<bool>,
}

impl Serving {
    async fn converse(&mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut heard = Vec::new();
        loop {
            let head = self.until(&mut stream, &mut heard, |heard| find(heard, b"\r\n\r\n")).await?;
            let text = String::from_utf8_lossy(&heard.drain(..head).collect::<Vec<_>>()).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default();
            let length = text
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            self.note(Note::Head, path);
            let length: usize = length.unwrap_or_default();
            if length > HALF.len() {
                self.until(&mut stream, &mut heard, |heard| (heard.len() >= HALF.len()).then_some(0)).await?;
                self.note(Note::Half, path);
            }
            self.until(&mut stream, &mut heard, |heard| (heard.len() >= length).then_some(0)).await?;
            heard.drain(..length);
            self.answer(&mut stream, path).await?;
        }
    }

    async fn answer(&mut self, stream: &mut TcpStream, path: &str) -> io::Result<()> {
        let whole = format!("app {path}");
        let head = |length| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let said = if path.starts_with("/Answering/") {
            // Each way in which the length of an answer is told.
            let (begun, rest) = match path.contains("/unsafe/") {
                true => (
                    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{HALF}\r\n"),
                    format!("4\r\n{REST}\r\n0\r\n\r\n"),
                ),
                false => (head(HALF.len() + REST.len()) + HALF, REST.to_owned()),
            };
            stream.write_all(begun.as_bytes()).await?;
            self.think(stream, path).await?;
            rest
        } else {
            if path.starts_with("/Confirmed/") {
                self.think(stream, path).await?;
            }
            head(whole.len()) + &whole
        };
        self.runs().await;
        stream.write_all(said.as_bytes()).await
    }

    async fn think(&mut self, stream: &mut TcpStream, path: &str) -> io::Result<()> {
        let mut nothing = [0];
        tokio::select! {
            () = self.gate.cancelled() => Ok(()),
            _ = stream.read(&mut nothing) => {
                self.note(Note::Gone, path);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Reads until there is what is looked for.
    async fn until(
        &mut self,
        stream: &mut TcpStream,
        heard: &mut Vec<u8>,
        found: impl Fn(&[u8]) -> Option<usize>,
    ) -> io::Result<usize> {
        loop {
            if let Some(at) = found(heard) {
                return Ok(at);
            }
            self.runs().await;
            if stream.read_buf(heard).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // It may have been stopped meanwhile.
            self.runs().await;
        }
    }

    async fn runs(&mut self) {
        // An error: the app is gone, and so is this.
        let _ = self.frozen.wait_for(|frozen| !frozen).await;
    }

    fn note(&self, note: Note, path: &str) {
        self.noted.send_modify(|noted| *noted.entry((note, path.to_owned())).or_default() += 1);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted).map(|at| at + wanted.len())
}
