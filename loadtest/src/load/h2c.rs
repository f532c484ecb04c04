//! The same closed loop over HTTP/2 without TLS: a few connections, and as many requests at once on each.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use h2::client::{self, SendRequest};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{ANSWER, Outcome};

/// So many requests at once on one connection.
const STREAMS: usize = 8;
/// No body that is measured waits for a window.
const WINDOW: u32 = 16 << 20;

/// Requests have none, and it has to be something.
type NoBody = &'static [u8];

/// Connections that are open, and what drives them.
#[derive(Debug)]
pub struct Callers {
    request: Request<()>,
    at_once: usize,
    connections: Vec<SendRequest<NoBody>>,
    driving: JoinSet<()>,
}

impl Callers {
    /// For so many requests at once.
    pub async fn connect(
        address: SocketAddr,
        path: &str,
        fields: &[&str],
        at_once: usize,
    ) -> anyhow::Result<Self> {
        let mut request = Request::get(format!("http://orders.example{path}"));
        for field in fields {
            let (name, value) = field.split_once(": ").context("a field without a value")?;
            request = request.header(name, value);
        }
        let (mut connections, mut driving) = (Vec::new(), JoinSet::new());
        for _ in 0..at_once.div_ceil(STREAMS) {
            let stream = timeout(ANSWER, TcpStream::connect(address)).await.context("connecting")??;
            stream.set_nodelay(true)?;
            let mut handshake = client::Builder::new();
            handshake.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
            let (sender, connection): (SendRequest<NoBody>, _) =
                timeout(ANSWER, handshake.handshake(stream)).await??;
            // What goes wrong with it is seen by who asks on it.
            driving.spawn(async move { _ = connection.await });
            connections.push(sender);
        }
        Ok(Self { request: request.body(())?, at_once, connections, driving })
    }

    /// Fails when any request does; leaves the connections open.
    pub async fn run(&mut self, time: Duration) -> anyhow::Result<Outcome> {
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for (_, connection) in (0..self.at_once).zip(self.connections.iter().cycle()) {
            callers.spawn(call(connection.clone(), self.request.clone(), begun + time));
        }
        let mut latencies = Vec::new();
        while let Some(done) = callers.join_next().await {
            latencies.extend(done.context("a caller's task failed")??);
        }
        if self.driving.try_join_next().is_some() {
            bail!("a connection ended");
        }
        Ok(Outcome::of(latencies, begun.elapsed()))
    }
}

async fn call(
    mut connection: SendRequest<NoBody>,
    request: Request<()>,
    until: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut now = Instant::now();
    while now < until {
        let sent = now;
        connection = timeout(ANSWER, exchange(connection, request.clone())).await.context("no answer")??;
        now = Instant::now();
        latencies.push(now.duration_since(sent));
    }
    Ok(latencies)
}

async fn exchange(
    connection: SendRequest<NoBody>,
    request: Request<()>,
) -> anyhow::Result<SendRequest<NoBody>> {
    let mut connection = connection.ready().await?;
    let (answer, _) = connection.send_request(request, true)?;
    let answer = answer.await?;
    if answer.status() != http::StatusCode::OK {
        bail!("an answer that is not 200: {}", answer.status());
    }
    let mut body = answer.into_body();
    while let Some(piece) = body.data().await {
        let length = piece?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(connection)
}
