//! Callers who come when they come, whether or not the ones before them were answered: so many requests a second, evenly
//! spaced, each on whichever connection is free, and each one's time counted from when it was due. What a pause of the
//! other side does to the requests that were due in it is counted (a closed loop would leave it out).
//!
//! Threads and blocking sockets instead of tasks, because a runtime's clock has steps of a millisecond, and what is measured
//! here takes a tenth of that.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::load::{self, Outcome};

/// As many connections as keep a request from waiting for the one before it.
const CONNECTIONS: usize = 64;
/// An answer that takes longer ends the run with an error.
const ANSWER: Duration = Duration::from_secs(10);
const BLOCK: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct Open {
    pub address: SocketAddr,
    /// One whole request without a body.
    pub request: Vec<u8>,
    pub per_second: u32,
    pub time: Duration,
}

impl Open {
    /// Fails when any request does.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        tokio::task::spawn_blocking(move || self.block()).await.context("the callers' task")?
    }

    fn block(&self) -> anyhow::Result<Outcome> {
        let connections = (0..CONNECTIONS).map(|_| self.connect()).collect::<anyhow::Result<Vec<_>>>()?;
        let (next, begun) = (AtomicU32::new(0), Instant::now());
        let latencies = thread::scope(|scope| {
            let callers: Vec<_> = connections
                .into_iter()
                .map(|stream| {
                    let next = &next;
                    scope.spawn(move || self.call(stream, next, begun))
                })
                .collect();
            let mut latencies = Vec::new();
            for caller in callers {
                latencies.extend(caller.join().map_err(|_| anyhow!("a caller's thread failed"))??);
            }
            anyhow::Ok(latencies)
        })?;
        Ok(Outcome::of(latencies, begun.elapsed()))
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, ANSWER).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(stream)
    }

    /// Takes the next request that nobody has taken, waits until it is due, and sends it.
    fn call(&self, mut stream: TcpStream, next: &AtomicU32, begun: Instant) -> anyhow::Result<Vec<Duration>> {
        let between = Duration::from_secs(1) / self.per_second;
        let (mut buffer, mut latencies) = (vec![0; BLOCK], Vec::new());
        loop {
            let due = between * next.fetch_add(1, Ordering::Relaxed);
            if due >= self.time {
                return Ok(latencies);
            }
            let due = begun + due;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            stream.write_all(&self.request).context("sending a request")?;
            answer(&mut stream, &mut buffer)?;
            latencies.push(due.elapsed());
        }
    }
}

fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    let whole = loop {
        match stream.read(buffer.get_mut(filled..).unwrap_or_default()).context("reading an answer")? {
            0 => bail!("the connection ended before an answer"),
            read => filled += read,
        }
        if let Some(whole) = load::length(buffer.get(..filled).unwrap_or_default())? {
            break whole;
        }
    };
    let mut missing = whole.checked_sub(filled).context("more than one answer")?;
    while missing > 0 {
        let room = missing.min(buffer.len());
        match stream.read(buffer.get_mut(..room).unwrap_or_default()).context("reading an answer")? {
            0 => bail!("the connection ended in an answer"),
            read => missing -= read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that stops for a while is as slow as those who were due meanwhile have found it, not only as the one that it
    /// kept waiting.
    #[test]
    fn a_pause_is_counted_for_everyone_who_was_due_in_it() {
        const PAUSE: Duration = Duration::from_millis(400);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Instant::now();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {
                        thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                    }
                });
            }
        });
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let open = Open { address, request, per_second: 1000, time: Duration::from_millis(800) };
        let outcome = open.block().unwrap();
        assert_eq!(outcome.requests, 800);
        // Half of them were due while nobody was answered, and all but the first 64 of those were not even sent.
        assert!(outcome.latency(0.75) > PAUSE / 8, "{:?}", outcome.latency(0.75));
    }
}
