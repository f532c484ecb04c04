//! A request that a developer has claimed: relay and client together, on each transport, beside tunnels that forward bytes, and
//! beside a proxy with such a tunnel behind it, which together do what culvert does.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;

use super::target::{self, Protocol, Target};
use super::{DIRECT, Effort, Ground, Report, progress, starts, stream, syscalls};
use crate::binaries::Binaries;
use crate::peers::{Found, Kind, Peer, Proxy, tunnel};
use crate::process::Process;
use crate::stack::{Home, Stack, Where};
use crate::upstream::Body;

const USUAL: [Peer; 2] = [Peer::RatholeTcp, Peer::RatholeTls];
const BASELINES: [&str; 3] = ["rathole-tls", "rathole-tcp", "nginx + rathole-tls"];
pub const CULVERT: [&str; 2] = ["culvert quic", "culvert tls"];

/// How a request gets to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Quic,
    Tls,
    Peer(Peer),
    /// The proxy sends it there because of its header.
    Behind(Peer, Peer),
}

/// A tunnel that runs.
#[derive(Debug)]
pub struct Running {
    pub name: String,
    pub way: Way,
    pub address: SocketAddr,
    pub client: Process,
    ends: Ends,
}

#[derive(Debug)]
enum Ends {
    Culvert { stack: Box<Stack>, home: Home, app: String },
    Peer(Box<Forwarding>),
}

#[derive(Debug)]
struct Forwarding {
    tunnel: tunnel::Tunnel,
    server: Process,
    /// What sends requests there.
    front: Option<Proxy>,
}

pub async fn run(binaries: &Binaries, effort: &Effort) -> anyhow::Result<Report> {
    let ground = Ground::prepare().await?;
    let found = Found::of(Kind::Tunnel, &effort.peers, &USUAL).await;
    let mut ways = vec![Way::Quic, Way::Tls];
    ways.extend(found.there.iter().map(|(peer, _)| Way::Peer(*peer)));
    let mut running = start_all(&ways, binaries, &ground, ground.upstream.other).await?;
    let both = [Peer::Nginx, Peer::RatholeTls];
    if ways.contains(&Way::Peer(both[1])) && both[0].version().await.is_some() {
        let way = Way::Behind(both[0], both[1]);
        let own = ground.directory.path().join("behind");
        std::fs::create_dir_all(&own)?;
        running.push(Running::start(way, binaries, &own, ground.upstream.other).await?);
    }

    let mut sheets = Vec::new();
    {
        let mut targets = vec![Target {
            name: DIRECT.to_owned(),
            http1: ground.upstream.other,
            h2c: None,
            fields: Vec::new(),
            processes: ground.upstream.process().into_iter().collect(),
        }];
        targets.extend(running.iter().map(Running::target));
        let memory = target::memory(&targets, effort).await?;
        for callers in &effort.connections {
            for body in Body::ALL {
                let callers = (*callers).into();
                sheets.push(target::saturated(&targets, Protocol::Http1, body, callers, effort).await?);
            }
        }
        sheets.push(target::paced(&targets, effort).await?);
        sheets.extend(syscalls::count(&targets, ground.directory.path()).await?);
        sheets.push(memory);
    }
    running.retain(|running| !matches!(running.way, Way::Behind(..)));
    sheets.push(starts::measure(&mut running, effort).await?);
    drop(running);
    let app = stream::App::start().await?;
    let running = start_all(&ways, binaries, &ground, app.address).await?;
    sheets.push(stream::measure(&app, &running, effort).await?);
    Ok(ground.report("tunnel", effort, &BASELINES, &found, sheets))
}

async fn start_all(
    ways: &[Way],
    binaries: &Binaries,
    ground: &Ground,
    app: SocketAddr,
) -> anyhow::Result<Vec<Running>> {
    progress("starting what is measured");
    let mut all = Vec::new();
    for way in ways {
        let running = Running::start(*way, binaries, ground.directory.path(), app).await;
        all.push(running.with_context(|| format!("starting {}", way.name()))?);
    }
    Ok(all)
}

impl Way {
    pub fn name(self) -> String {
        match self {
            Self::Quic => CULVERT[0].to_owned(),
            Self::Tls => CULVERT[1].to_owned(),
            Self::Peer(peer) => peer.to_string(),
            Self::Behind(proxy, tunnel) => format!("{proxy} + {tunnel}"),
        }
    }
}

impl Running {
    /// Once it serves what listens at `app`.
    async fn start(way: Way, binaries: &Binaries, directory: &Path, app: SocketAddr) -> anyhow::Result<Self> {
        let (address, client, ends) = match way {
            Way::Quic | Way::Tls => {
                // Nobody gets to the upstream.
                let stack = Stack::before(binaries, "http://127.0.0.1:1", Where::Pinned).await?;
                let home = stack.developer("alice").await?;
                let app = app.to_string();
                let client = culvert(way, &stack, &home, &app).await?;
                (stack.door, client, Ends::Culvert { stack: Box::new(stack), home, app })
            }
            Way::Peer(peer) | Way::Behind(_, peer) => {
                let tunnel = tunnel::Tunnel::configure(peer, directory, app).await?;
                let server = tunnel.server().await?;
                let client = tunnel.client()?;
                let front = match way {
                    Way::Behind(proxy, _) => {
                        Some(Proxy::before(proxy, directory, app, tunnel.address).await?)
                    }
                    _ => None,
                };
                let address = front.as_ref().map_or(tunnel.address, |proxy| proxy.http1);
                (address, client, Ends::Peer(Box::new(Forwarding { tunnel, server, front })))
            }
        };
        let running = Self { name: way.name(), way, address, client, ends };
        running.served().await?;
        Ok(running)
    }

    fn target(&self) -> Target<'_> {
        let front = match &self.ends {
            Ends::Culvert { .. } => None,
            Ends::Peer(peer) => peer.front.as_ref().map(|proxy| &proxy.process),
        };
        let processes = front.into_iter().chain([self.server(), &self.client]).collect();
        Target { name: self.name.clone(), http1: self.address, h2c: None, fields: vec![FIELD], processes }
    }

    pub fn server(&self) -> &Process {
        match &self.ends {
            Ends::Culvert { stack, .. } => &stack.relay,
            Ends::Peer(peer) => &peer.server,
        }
    }

    /// Waits for an answer of the app.
    pub async fn served(&self) -> anyhow::Result<()> {
        starts::served(self.address, FIELD)
            .await
            .with_context(|| format!("{}: {}{}", self.name, self.server().stderr(), self.client.stderr()))
    }

    pub async fn start_client(&mut self) -> anyhow::Result<()> {
        self.client = match &self.ends {
            Ends::Culvert { stack, home, app } => culvert(self.way, stack, home, app).await?,
            Ends::Peer(peer) => peer.tunnel.client()?,
        };
        Ok(())
    }

    /// On the same ports, once the old one is gone.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        match &mut self.ends {
            Ends::Culvert { stack, .. } => stack.start_relay().await?,
            Ends::Peer(peer) => peer.server = peer.tunnel.server().await?,
        }
        Ok(())
    }

    pub fn reconnects(&self) -> bool {
        match &self.ends {
            Ends::Culvert { .. } => true,
            Ends::Peer(peer) => peer.tunnel.reconnects(),
        }
    }
}

/// What culvert and the proxy look at; to the others it is bytes.
pub const FIELD: &str = "x-user: alice";

async fn culvert(way: Way, stack: &Stack, home: &Home, app: &str) -> anyhow::Result<Process> {
    let transport = if way == Way::Quic { "quic" } else { "tls" };
    stack.intercept_quietly(home, &["--transport", transport, "orders", app, "x-user=alice"]).await
}
