//! The tunnel port's sockets: the same number for TCP and UDP, so that one address in a firewall rule or on a command
//! line is enough. Accepts nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::RelayKeys;
use culvert_protocol::tunnel::{Side, quic_transport};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::knock::Knocker;
use super::quic::LINE;
use super::tls::Configs;

mod ids;

use ids::Ids;

/// Enough for a burst of a fast link while the relay's task waits for its turn. Best effort: the kernel may give less.
const UDP_BUFFER: usize = 4 << 20;

/// A free TCP port may be taken for UDP. So many other ones are tried where any will do.
const TRIES: usize = 16;

/// QUIC clients that wait to be looked at, those in line among them: quinn drops what comes on top without a word.
const INCOMING: usize = LINE.length + 1_024;
/// What is kept of what they say beyond their first packet: nothing. They say it again, and packets that arrive together lie in one
/// buffer of up to 64 KiB for as long as any of them is kept, however small it is.
const INCOMING_BYTES: u64 = 0;

/// quinn's 20 ms would tell 50 clients a second that the relay was restarted, and let the others wait until they doubt it: packets
/// of many are read at once. Only who knows an id that this relay has given out gets one, and it is smaller than the packet that it
/// answers, so that nobody gains by having it sent elsewhere.
const BETWEEN_RESETS: Duration = Duration::ZERO;

#[derive(Debug)]
pub(crate) struct Bound {
    pub(super) tcp: TcpListener,
    /// For ingresses alone; the one above takes WebSockets too.
    pub(super) websocket: Option<TcpListener>,
    pub(super) quic: quinn::Endpoint,
    pub(super) knocker: Knocker,
    pub(super) tls: Arc<Configs>,
    /// Of TCP and UDP.
    pub(crate) address: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
#[error("{protocol}: {cause}")]
pub(crate) struct BindError {
    pub(crate) protocol: &'static str,
    pub(crate) cause: io::Error,
}

impl Bound {
    pub(crate) async fn bind(
        listen: SocketAddr,
        websocket: Option<TcpListener>,
        tls: Arc<Configs>,
        keys: &RelayKeys,
        data: &Path,
    ) -> Result<Self, BindError> {
        let tcp_failed = |cause| BindError { protocol: "TCP", cause };
        let udp_failed = |cause| BindError { protocol: "UDP", cause };
        let mut tries = if listen.port() == 0 { TRIES } else { 1 };
        loop {
            let tcp = TcpListener::bind(listen).await.map_err(tcp_failed)?;
            let address = tcp.local_addr().map_err(tcp_failed)?;
            tries -= 1;
            match udp(address) {
                Ok(udp) => {
                    let knocker = Knocker::new(udp.try_clone().map_err(udp_failed)?, data);
                    let quic = endpoint(udp, &tls, keys).map_err(udp_failed)?;
                    return Ok(Self { tcp, websocket, quic, knocker, tls, address });
                }
                Err(cause) if tries == 0 => return Err(udp_failed(cause)),
                Err(_) => {}
            }
        }
    }
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // What the kernel would not grant is not worth failing for.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn endpoint(udp: UdpSocket, tls: &Configs, keys: &RelayKeys) -> io::Result<quinn::Endpoint> {
    let mut server = quinn::ServerConfig::with_crypto(Arc::clone(&tls.quic) as _);
    server
        .transport_config(Arc::new(quic_transport(Side::Listener)))
        .max_incoming(INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES);
    // Both keys outlive the process: a packet for a connection of the former life is recognised as such and answered
    // with a reset, and its client dials again at once. The reset key alone does nothing.
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, keys.reset.expose());
    let mut config = quinn::EndpointConfig::new(Arc::new(reset));
    let ids = Ids::marked_with(keys.connection_id.expose());
    config.min_reset_interval(BETWEEN_RESETS);
    config.cid_generator(move || Box::new(ids.clone()));
    quinn::Endpoint::new(config, Some(server), udp, Arc::new(quinn::TokioRuntime))
}
