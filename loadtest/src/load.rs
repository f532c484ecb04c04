//! A closed loop of callers on kept connections: each sends the next request when it has the whole answer. Cheap, so that
//! what is measured is the other side: it reads no more of an answer than where it ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub mod h2c;

/// An answer that takes longer ends the run with an error.
const ANSWER: Duration = Duration::from_secs(10);
/// What is read at once.
const BLOCK: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct Load {
    pub address: SocketAddr,
    /// One whole request without a body.
    pub request: Vec<u8>,
    pub connections: usize,
    pub time: Duration,
}

/// Connections that are open, and asked on again and again.
#[derive(Debug)]
pub struct Callers {
    request: Vec<u8>,
    connections: Vec<(TcpStream, Vec<u8>)>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    /// From the first request's start to the last answer's end.
    pub took: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Outcome {
    pub(crate) fn of(mut latencies: Vec<Duration>, took: Duration) -> Self {
        latencies.sort_unstable();
        Self { requests: latencies.len() as u64, took, latencies }
    }

    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// 0.5 is the median.
    pub fn latency(&self, quantile: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the length"
        )]
        let index = (self.latencies.len().saturating_sub(1) as f64 * quantile).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

impl Load {
    /// Fails when any request does: what is measured must work.
    pub async fn run(&self) -> anyhow::Result<Outcome> {
        self.callers().await?.run(self.time).await
    }

    /// The connections alone, for what is to be counted without opening them.
    pub async fn callers(&self) -> anyhow::Result<Callers> {
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let connecting = timeout(ANSWER, TcpStream::connect(self.address)).await;
            let stream = connecting.context("connecting: timed out")?.context("connecting")?;
            stream.set_nodelay(true)?;
            connections.push((stream, vec![0; BLOCK]));
        }
        Ok(Callers { request: self.request.clone(), connections })
    }
}

impl Callers {
    /// Fails when any request does; leaves the connections open.
    pub async fn run(&mut self, time: Duration) -> anyhow::Result<Outcome> {
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for (stream, buffer) in self.connections.drain(..) {
            callers.spawn(call(stream, buffer, self.request.clone(), begun + time));
        }
        let mut latencies = Vec::new();
        while let Some(done) = callers.join_next().await {
            let (stream, buffer, taken) = done.context("a caller's task failed")??;
            self.connections.push((stream, buffer));
            latencies.extend(taken);
        }
        Ok(Outcome::of(latencies, begun.elapsed()))
    }

    /// One request on each, one after the other.
    pub async fn ask_once(&mut self) -> anyhow::Result<()> {
        for (stream, buffer) in &mut self.connections {
            exchange(stream, buffer, &self.request).await?;
        }
        Ok(())
    }
}

async fn call(
    mut stream: TcpStream,
    mut buffer: Vec<u8>,
    request: Vec<u8>,
    until: Instant,
) -> anyhow::Result<(TcpStream, Vec<u8>, Vec<Duration>)> {
    let mut latencies = Vec::new();
    let mut now = Instant::now();
    while now < until {
        let sent = now;
        exchange(&mut stream, &mut buffer, &request).await?;
        now = Instant::now();
        latencies.push(now.duration_since(sent));
    }
    Ok((stream, buffer, latencies))
}

async fn exchange(stream: &mut TcpStream, buffer: &mut [u8], request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await.context("sending a request")?;
    timeout(ANSWER, answer(stream, buffer)).await.context("waiting for an answer: timed out")?
}

/// Reads one answer with a `content-length`, and nothing after it.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    let whole = loop {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match stream.read(room).await.context("reading an answer")? {
            0 => bail!("the connection ended before an answer"),
            read => filled += read,
        }
        if let Some(whole) = length(buffer.get(..filled).unwrap_or_default())? {
            break whole;
        }
    };
    let mut missing = whole.checked_sub(filled).context("more than one answer")?;
    while missing > 0 {
        let room = missing.min(buffer.len());
        match stream.read(buffer.get_mut(..room).unwrap_or_default()).await.context("reading an answer")? {
            0 => bail!("the connection ended in an answer"),
            read => missing -= read,
        }
    }
    Ok(())
}

/// How long an answer is, head and body, once its head is there.
pub(crate) fn length(begun: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = begun.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(begun.get(..end).unwrap_or_default())?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("an answer that is not 200: {}", head.lines().next().unwrap_or_default());
    }
    let body = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(Some(end + 4 + body.context("an answer without a length")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_says() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(length(whole).unwrap(), Some(whole.len()));
        assert!(length(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_quantile_is_one_of_what_was_measured() {
        let outcome = Outcome::of([3, 1, 2].map(Duration::from_millis).to_vec(), Duration::from_secs(1));
        assert_eq!(outcome.latency(0.5), Duration::from_millis(2));
        assert_eq!(outcome.latency(1.0), Duration::from_millis(3));
        assert_eq!(Outcome::default().latency(0.99), Duration::ZERO);
    }
}
