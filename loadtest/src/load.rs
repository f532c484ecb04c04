//! A closed loop of callers on kept connections: each sends the next request when it has the whole answer. Cheap, so that
//! what is measured is the other side: it reads no more of an answer than where it ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// An answer that takes longer ends the run with an error.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Load {
    pub address: SocketAddr,
    /// One whole request without a body.
    pub request: Vec<u8>,
    pub connections: usize,
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    /// From the first connection's start to the last one's end.
    pub took: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Outcome {
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
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..self.connections {
            let load = self.clone();
            callers.spawn(async move { load.call(begun).await });
        }
        let mut outcome = Outcome::default();
        while let Some(done) = callers.join_next().await {
            outcome.latencies.extend(done.context("a caller's task failed")??);
        }
        outcome.took = begun.elapsed();
        outcome.requests = outcome.latencies.len() as u64;
        outcome.latencies.sort_unstable();
        Ok(outcome)
    }

    async fn call(&self, begun: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut stream = TcpStream::connect(self.address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut latencies = Vec::new();
        let mut now = begun;
        while now.duration_since(begun) < self.time {
            let sent = Instant::now();
            stream.write_all(&self.request).await.context("sending a request")?;
            timeout(ANSWER, answer(&mut stream, &mut buffer))
                .await
                .context("waiting for an answer: timed out")??;
            now = Instant::now();
            latencies.push(now.duration_since(sent));
        }
        Ok(latencies)
    }
}

/// Reads one answer with a `content-length`, and nothing after it.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    let (head, length) = loop {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match stream.read(room).await.context("reading an answer")? {
            0 => bail!("the connection ended before an answer"),
            read => filled += read,
        }
        let text = buffer.get(..filled).unwrap_or_default();
        if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = std::str::from_utf8(text.get(..end).unwrap_or_default())?;
            if !head.starts_with("HTTP/1.1 200") {
                bail!("an answer that is not 200: {}", head.lines().next().unwrap_or_default());
            }
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            break (end + 4, length.context("an answer without a length")?);
        }
    };
    let mut missing = (head + length).checked_sub(filled).context("more than one answer")?;
    while missing > 0 {
        let room = missing.min(buffer.len());
        match stream.read(buffer.get_mut(..room).unwrap_or_default()).await.context("reading an answer")? {
            0 => bail!("the connection ended in an answer"),
            read => missing -= read,
        }
    }
    Ok(())
}
