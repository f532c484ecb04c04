//! Tunnels over TLS on TCP, in a WebSocket or not, and on the same port whoever comes to enrol: who is let try, and the
//! handshake.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::tls::{Choice, TlsError, config_for, join_server, tunnel_server};
use culvert_certs::{Authority, Identity, Leaf};
use culvert_protocol::tunnel::{Limits, Side, Transport, Tunnel, tune_tcp};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::join::Joiner;
use super::leaving::{Turned, report};
use super::quic::Crypto;
use super::strangers::{Bounds, Line, Seat, Seats};
use super::websocket::{self, Outer};
use super::{Arrival, HANDSHAKE, Peer, Port, run};

/// After a failed accept. Out of files, most likely: trying again at once would only burn the core.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How long the first byte may take. A client sends it together with its last word of the TCP handshake.
const FIRST_BYTE: Duration = Duration::from_secs(1);

/// Each is an open file, as every caller's connection is. A client waits 3 s for a handshake.
const LINE: Bounds = Bounds { length: 256, patience: Duration::from_secs(2) };

/// What the two protocols of the port, on the two transports, are spoken with.
pub(crate) struct Configs {
    tunnel: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    pub(super) quic: Arc<Crypto>,
}

#[derive(Debug)]
pub(super) enum Accepted {
    Peer(Peer),
    Joiner(Joiner),
}

impl Configs {
    pub(crate) fn new(authority: &Authority, leaf: &Leaf) -> Result<Self, TlsError> {
        let tunnel = Arc::new(tunnel_server(authority, leaf)?);
        let quic = Arc::new(Crypto::new(Arc::clone(&tunnel))?);
        Ok(Self { tunnel, join: Arc::new(join_server(leaf)?), quic })
    }
}

impl fmt::Debug for Configs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configs")
    }
}

/// Takes connections in until the relay drains.
pub(super) async fn accept(listener: TcpListener, seats: &Seats, tls: &Arc<Configs>, port: &Arc<Port>) {
    let next = async || {
        let place = seats.place().await?;
        Some((place, listener.accept().await))
    };
    let mut line = Line::new(LINE);
    let spawn = |stream, remote, seat| {
        let arrival = Arrival::Tls(stream, remote);
        port.tasks.spawn(run(arrival, seat, Arc::clone(tls), Arc::clone(port)));
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = port.drain.cancelled() => break,
            () = line.tired() => {
                line.leave();
                continue;
            }
            () = seats.freed(), if !line.is_empty() => {
                while let Some((seat, (stream, remote))) = line.next(seats) {
                    spawn(stream, remote, seat);
                }
                continue;
            }
            accepted = next() => accepted,
        };
        match accepted {
            Some((place, Ok((stream, remote)))) => match place.of(remote.ip()) {
                Some(seat) => spawn(stream, remote, seat),
                // Where there is no room for it either, the connection is closed with this.
                None => {
                    if line.join(remote.ip(), (stream, remote)).is_err() {
                        report(Err(Turned::Crowd), remote, port);
                    }
                }
            },
            Some((_, Err(cause))) => {
                port.metrics.refused("accept");
                tracing::warn!("accepting a tunnel: {cause}");
                sleep(AFTER_FAILURE).await;
            }
            None => break,
        }
    }
}

/// The seat is held until it is known who is there; by someone who would join, until that is done.
pub(super) async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    seat: Seat,
    configs: &Configs,
    port: &Port,
) -> Result<Accepted, Turned> {
    let garbage = |error: std::io::Error| Turned::Handshake(error.to_string());
    tune_tcp(&stream).map_err(garbage)?;
    timeout(FIRST_BYTE, stream.peek(&mut [0])).await.map_err(|_| Turned::Mute)?.map_err(garbage)?;
    let end = Instant::now() + HANDSHAKE;
    let (transport, outer) = timeout_at(end, websocket::unwrap(stream)).await.map_err(|_| Turned::Slow)??;
    let shaking = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), outer).await?;
        let choice = config_for(start.client_hello().alpn());
        let config = match choice {
            Choice::Tunnel => &configs.tunnel,
            Choice::Join => &configs.join,
        };
        Ok((choice, start.into_stream(Arc::clone(config)).await?))
    };
    let (choice, tls) = timeout_at(end, shaking).await.map_err(|_| Turned::Slow)?.map_err(garbage)?;
    match choice {
        Choice::Join => Ok(Accepted::Joiner(Joiner { stream: Box::new(tls), remote, seat })),
        Choice::Tunnel => peer(transport, tls, port).map(Accepted::Peer),
    }
}

fn peer(transport: Transport, tls: TlsStream<Outer>, port: &Port) -> Result<Peer, Turned> {
    let presented = tls.get_ref().1.peer_certificates();
    // rustls lets nobody without a certificate this far; it is asked for all the same.
    let certificate = presented.and_then(|chain| chain.first()).ok_or(Turned::NoCertificate)?;
    let identity = Identity::from_verified(certificate)?;
    let (tunnel, driver) = Tunnel::yamux_over(transport, tls, Side::Listener, Limits::of(Side::Listener));
    // A task of its own: what a tunnel carries is not to wait for its control messages.
    port.tasks.spawn(driver);
    Ok(Peer { tunnel, identity })
}
