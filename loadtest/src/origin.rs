//! Servers that a test or the demo puts behind culvert: each records exactly what reached it, byte for byte, and
//! answers as it was told to. They read with [`crate::message`] and share nothing with culvert's codec.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::message::{self, Kind, Message};

/// So many requests are kept; later ones are only counted. More than any test looks at, less than a measurement sends.
const KEPT: usize = 10_000;

/// How long a test waits for a request that must come.
const ARRIVES: Duration = Duration::from_secs(20);

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    record: Arc<Record>,
    tasks: JoinSet<()>,
}

/// What it answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// As they go on the wire. Empty: nothing is said.
    pub bytes: Vec<u8>,
    /// Where they are parted, in order ([`message::write`]).
    pub cuts: Vec<usize>,
    /// Nothing is sent before this is cancelled.
    pub gate: Option<CancellationToken>,
    /// The connection is closed afterwards.
    pub close: bool,
}

type Script = dyn Fn(&Message) -> Answer + Send + Sync;

struct Record {
    script: Box<Script>,
    requests: Mutex<Vec<Message>>,
    count: watch::Sender<usize>,
}

impl Origin {
    /// Listens on a port of the system's choice, and answers every request with its name and what it got.
    pub async fn named(name: &'static str) -> anyhow::Result<Self> {
        Self::with(move |request| Answer::text(&format!("{name} {}\n", request.line()))).await
    }

    /// Listens on a port of the system's choice, and answers as `script` says.
    pub async fn with(script: impl Fn(&Message) -> Answer + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    pub async fn at(
        address: SocketAddr,
        script: impl Fn(&Message) -> Answer + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let address = listener.local_addr()?;
        let record = Arc::new(Record {
            script: Box::new(script),
            requests: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&record)));
        Ok(Self { address, record, tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first whole requests so far, in order of their ends.
    pub fn requests(&self) -> Vec<Message> {
        self.record.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        *self.record.count.borrow()
    }

    /// Waits until there were so many, and returns them all.
    pub async fn arrived(&self, count: usize) -> anyhow::Result<Vec<Message>> {
        let mut seen = self.record.count.subscribe();
        let wanted = timeout(ARRIVES, seen.wait_for(|seen| *seen >= count)).await;
        let came = self.count();
        wanted.with_context(|| format!("waiting for request {count} at {}: {came} came", self.address))??;
        Ok(self.requests())
    }

    /// Refuses connections from now on, and cuts those that are open.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Answer {
    /// 200 and a text.
    pub fn text(text: &str) -> Self {
        Self::with_status("200 OK", text)
    }

    pub fn with_status(status: &str, text: &str) -> Self {
        let length = text.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        Self { bytes: (head + text).into_bytes(), ..Self::default() }
    }

    /// The same, not before the gate is opened.
    #[must_use]
    pub fn after(self, gate: &CancellationToken) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }
}

async fn accept(listener: TcpListener, record: Arc<Record>) {
    let mut connections = JoinSet::new();
    // Dropping the set, when the origin is stopped, cuts every connection.
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&record)));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection. What goes wrong on it is the peer's affair, and seen by the test at its other end.
async fn serve(stream: TcpStream, record: Arc<Record>) {
    let _ = converse(stream, &record).await;
}

async fn converse(mut stream: TcpStream, record: &Record) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(request) = message::read(&mut stream, &mut buffer, Kind::Request).await? {
        let answer = (record.script)(&request);
        record.keep(request);
        record.count.send_modify(|count| *count += 1);
        if let Some(gate) = &answer.gate {
            gate.cancelled().await;
        }
        message::write(&mut stream, &answer.bytes, &answer.cuts).await?;
        if answer.close {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

impl Record {
    fn keep(&self, request: Message) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < KEPT {
            requests.push(request);
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("count", &self.count).finish_non_exhaustive()
    }
}
