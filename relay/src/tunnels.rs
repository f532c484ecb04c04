//! A developer's tunnel, from the connection that comes in to the last claim that is taken back. Each stage is a file;
//! this one is the path.
//!
//! accept ([`quic`], [`tls`], [`websocket`]) -> hello ([`greeting`]) -> authorise and register -> serve ([`control`]) -> leave
//!
//! Nothing here knows the front door, and the front door sees nothing of this but what the [`registry`] has compiled.

pub(crate) mod claim;
mod control;
mod greeting;
mod join;
mod knock;
mod leaving;
mod pace;
mod quic;
pub(crate) mod registry;
pub(crate) mod session;
mod socket;
mod strangers;
mod tls;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::{Authority, Identity};
use culvert_protocol::hello::RelayInformation;
use culvert_protocol::tunnel::Tunnel;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span};

use crate::metrics::TunnelMetrics;
use crate::store::Store;
use leaving::{CountPanic, Left, Turned};
use registry::Registry;
use session::Session;
use strangers::Seat;

pub(crate) use socket::{BindError, Bound};
pub(crate) use strangers::Strangers;
pub(crate) use tls::Configs;

/// From the first byte to a verified certificate, and again to the first message. Longer than any path takes that
/// could carry a tunnel afterwards.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long the reasons for closing may take to get out, once everything else is over.
const GOODBYE: Duration = Duration::from_secs(1);

/// What every tunnel shares.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) authority: Authority,
    pub(crate) relay: RelayInformation,
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: TunnelMetrics,
    pub(crate) strangers: Strangers,
    /// Relays that serve the same services, this one included.
    pub(crate) replicas: u32,
    /// What the tunnels of a relay that is stopping are told that they have left.
    pub(crate) grace: Duration,
    /// No new tunnels; those that are up are told to go elsewhere.
    pub(crate) drain: CancellationToken,
    /// Every tunnel is closed.
    pub(crate) close: CancellationToken,
    /// Everything that runs for a tunnel.
    pub(crate) tasks: TaskTracker,
}

/// A connection before anybody is known to be at its end.
#[derive(Debug)]
enum Arrival {
    Tls(TcpStream, SocketAddr),
    Quic(Box<quinn::Incoming>),
}

/// A tunnel, and who a verified certificate says is at its end.
#[derive(Debug)]
struct Peer {
    tunnel: Tunnel,
    identity: Identity,
}

/// Accepts developers until `drain`, keeps their tunnels until `close`. Returns when the last one is gone.
pub(crate) async fn serve(bound: Bound, port: Arc<Port>) {
    let Bound { tcp, websocket, tls, quic, knocker, address: _ } = bound;
    let of_ingresses = async {
        if let Some(listener) = websocket {
            tls::accept(listener, &port.strangers.ingress, &tls, &port).await;
        }
    };
    tokio::join!(
        tls::accept(tcp, &port.strangers.tcp, &tls, &port),
        of_ingresses,
        port.registry.expire(port.close.clone()),
        quic::accept(&quic, &tls, &port),
        knocker.run(&port.registry, port.close.clone())
    );
    port.close.cancelled().await;
    port.tasks.close();
    // Both ends were told why; what has not reached them by then never will.
    let _ = timeout(GOODBYE, port.tasks.wait()).await;
    let _ = timeout(GOODBYE, quic.wait_idle()).await;
}

/// One developer, from the accepted connection to the leave.
async fn developer(arrival: Arrival, seat: Seat, tls: &Configs, port: &Port) -> Result<Left, Turned> {
    // Each on its own, and given back when it is over: most tunnels are past all that for most of their lives.
    let peer = match arrival {
        Arrival::Quic(incoming) => Box::pin(quic::handshake(*incoming, seat)).await?,
        Arrival::Tls(stream, remote) => {
            match Box::pin(tls::handshake(stream, remote, seat, tls, port)).await? {
                tls::Accepted::Peer(peer) => peer,
                tls::Accepted::Joiner(joiner) => return Box::pin(join::answer(joiner, port)).await,
            }
        }
    };
    let (greeted, session) = {
        let (greeted, hello) = Box::pin(greeting::hear(&peer)).await?;
        let start = port.registry.start(&peer.identity, &hello);
        (greeted, Session::new(peer, &hello, start, &port.metrics))
    };
    let (mut control, _admitted) = Box::pin(greeted.admit(&session, port)).await?;
    let left = control.serve(&session, port).await;
    // One that was silent was counted when it fell silent.
    if !session.is_silent() {
        port.metrics.down(left.label());
    }
    session.tunnel.close(&left.reason());
    Ok(left)
}

/// Runs one arrival to its end and reports it, once.
async fn run(arrival: Arrival, seat: Seat, tls: Arc<Configs>, port: Arc<Port>) {
    let remote = arrival.remote();
    let _counted = CountPanic(&port.metrics);
    let span = info_span!("tunnel", %remote, identity = tracing::field::Empty);
    async {
        let ended = developer(arrival, seat, &tls, &port).await;
        leaving::report(ended, remote, &port);
    }
    .instrument(span)
    .await;
}

impl Arrival {
    fn remote(&self) -> SocketAddr {
        match self {
            Self::Tls(_, remote) => *remote,
            Self::Quic(incoming) => incoming.remote_address(),
        }
    }
}

#[cfg(test)]
mod tests;
