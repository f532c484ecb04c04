//! What a caller and an app notice of culvert between them: nothing. Every test plays both, byte by byte, on each way that a
//! request can take.

mod bodies;
mod bulk;
mod cancel;
mod ends;
mod grpc;
mod http2_backends;
mod load_balancers;
mod manners;
mod origins;
mod patience;
mod property;
mod steering;
mod streaming;
mod upgrades;
mod versions;
mod websockets;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use culvert_client::dial::Rungs;
use culvert_client::session::Session;
use culvert_loadtest::world::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way that a request can take, and what stands at its end.
struct Way {
    name: &'static str,
    world: World,
    /// The upstream, or the app.
    behind: TcpListener,
    /// The claim ends with it.
    session: Option<Session>,
}

impl Way {
    /// To the upstream, and down a tunnel on each transport.
    async fn each() -> Vec<Self> {
        Self::each_with("", "http").await
    }

    /// With these keys of the service (`via: false`), and what stands behind addressed as `scheme` says.
    async fn each_with(keys: &str, scheme: &str) -> Vec<Self> {
        let mut ways = Vec::new();
        for (name, rungs) in
            [("upstream", None), ("app over quic", Some(Rungs::Quic)), ("app over tls", Some(Rungs::Tls))]
        {
            ways.push(Self::new(name, rungs, keys, scheme).await.unwrap());
        }
        ways
    }

    async fn new(name: &'static str, rungs: Option<Rungs>, keys: &str, scheme: &str) -> anyhow::Result<Self> {
        let behind = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("{scheme}://{}", behind.local_addr()?);
        // What must not get there fails there.
        let upstream = if rungs.is_some() { "http://127.0.0.1:1" } else { &address };
        let (world, session) = culvert(rungs, keys, upstream, &address).await?;
        Ok(Self { name, world, behind, session })
    }

    fn door(&self) -> SocketAddr {
        self.world.door().unwrap()
    }

    async fn caller(&self) -> Peer {
        Peer::to(self.door()).await.unwrap()
    }

    /// A caller that has said `request`, and whoever stands behind, who has heard the head of it.
    async fn opened(&self, request: &str) -> (Peer, Peer, String) {
        let mut caller = self.caller().await;
        caller.say(request).await;
        let mut behind = self.accepted().await;
        let head = behind.head().await.unwrap();
        (caller, behind, head)
    }

    /// The next connection behind.
    async fn accepted(&self) -> Peer {
        let accepted = timeout(PATIENCE, self.behind.accept()).await;
        Peer::new(accepted.unwrap_or_else(|_| panic!("{}: nobody came", self.name)).unwrap().0)
    }
}

/// A relay with these keys of its service, and alice's claim where there is to be a tunnel.
async fn culvert(
    rungs: Option<Rungs>,
    keys: &str,
    upstream: &str,
    app: &str,
) -> anyhow::Result<(World, Option<Session>)> {
    let world = World::with(&format!(
        "services:\n  - {{name: orders, listen: \"127.0.0.1:0\", upstream: \"{upstream}\"{}{keys}}}\n",
        if keys.is_empty() { "" } else { ", " }
    ))
    .await?;
    let session = match rungs {
        Some(rungs) => Some(world.developer("alice").await?.intercept("x-user=alice", app, rungs).await?),
        None => None,
    };
    Ok((world, session))
}

/// One end of a connection, which says and hears bytes.
struct Peer {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, heard: Vec::new() }
    }

    async fn to(address: SocketAddr) -> io::Result<Self> {
        TcpStream::connect(address).await.map(Self::new)
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    /// Hears up to and with `marker`. An error: the connection ended, or nothing more came.
    async fn until(&mut self, marker: &str) -> anyhow::Result<String> {
        loop {
            let found = self.heard.windows(marker.len()).position(|bytes| bytes == marker.as_bytes());
            if let Some(at) = found {
                let rest = self.heard.split_off(at + marker.len());
                return Ok(text(&std::mem::replace(&mut self.heard, rest)));
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.heard)).await;
            let heard = || format!("{:?} instead of {marker:?}", text(&self.heard));
            if read.context("nothing more came").and_then(|read| Ok(read?)).with_context(heard)? == 0 {
                bail!("the end after {}", heard());
            }
        }
    }

    async fn head(&mut self) -> anyhow::Result<String> {
        self.until("\r\n\r\n").await
    }

    /// Hears everything up to a proper end. An error: the connection was cut.
    async fn end(&mut self) -> io::Result<String> {
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut self.heard)).await;
        read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(text(&std::mem::take(&mut self.heard)))
    }

    /// Hears that the connection is over, properly or not.
    async fn gone(&mut self) -> bool {
        !matches!(self.end().await, Err(cause) if cause.kind() == io::ErrorKind::TimedOut)
    }

    /// Says that nothing more follows.
    async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Dies: what is not read yet is lost, and the other side hears a reset.
    fn die(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The head of a request that alice's claim takes where there is one; other lines may follow.
fn request(line: &str, fields: &[&str]) -> String {
    let mut head = format!("{line}\r\nHost: orders.example\r\nx-user: alice\r\n");
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

/// A head without what culvert says of itself and of the caller.
fn plain(head: &str) -> String {
    let ours = ["via:", "x-forwarded-", "culvert-"];
    let lines = head.split_inclusive("\r\n");
    lines.filter(|line| !ours.iter().any(|name| line.to_ascii_lowercase().starts_with(name))).collect()
}
