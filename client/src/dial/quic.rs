//! The first rung: QUIC. One endpoint, and so one UDP socket, for each attempt: it goes with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use culvert_certs::tls::HandshakeFailure;
use culvert_protocol::tunnel::{Side, Tunnel, quic_transport};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, EndpointConfig, TransportErrorCode};
use socket2::{Domain, Protocol, Socket, Type};

use super::answers::Answers;
use super::{SetupError, Why};

mod socket;

use socket::Exchangeable;

/// A burst of 100 Mbit/s over 100 ms with room to spare. The system may grant less, and then that is what there is.
const UDP_BUFFER: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Rung {
    config: quinn::ClientConfig,
    source: Option<IpAddr>,
}

/// What a QUIC tunnel runs on.
#[derive(Debug)]
pub(super) struct Carrier {
    endpoint: Endpoint,
    socket: Arc<Exchangeable>,
    source: Option<IpAddr>,
    /// Knows, as the tunnel does not, in which words the relay's end of the handshake refused us.
    connection: quinn::Connection,
    buffers: UdpBuffers,
}

/// What the system lets a socket hold, in bytes. Less than was asked for costs packets in a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpBuffers {
    pub receive: usize,
    pub send: usize,
    pub wanted: usize,
}

impl Rung {
    pub(super) fn new(tls: rustls::ClientConfig, source: Option<IpAddr>) -> Result<Self, SetupError> {
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|_| SetupError::Quic("the TLS configuration lacks the cipher that QUIC begins with"))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(quic_transport(Side::Dialer)));
        Ok(Self { config, source })
    }

    pub(super) async fn connect(
        &self,
        relay: SocketAddr,
        host: &str,
        answers: &Answers,
    ) -> Result<(Tunnel, Carrier), Why> {
        let (socket, buffers) = socket(relay, self.source).map_err(Why::Io)?;
        let runtime = quinn::default_runtime().ok_or_else(|| Why::Io(io::ErrorKind::Unsupported.into()))?;
        let socket =
            Arc::new(Exchangeable::new(runtime.wrap_udp_socket(socket).map_err(Why::Io)?, relay, answers));
        let under = Arc::clone(&socket);
        let endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, under, runtime);
        let endpoint = endpoint.map_err(Why::Io)?;
        let connecting = endpoint
            .connect_with(self.config.clone(), relay, host)
            .map_err(|error| Why::Quic(error.to_string()))?;
        let connection = connecting.await.map_err(|error| why(&error))?;
        let source = self.source;
        Ok((Tunnel::quic(connection.clone()), Carrier { endpoint, socket, source, connection, buffers }))
    }
}

impl Carrier {
    pub(super) fn refusal(&self) -> Option<HandshakeFailure> {
        match self.connection.close_reason()? {
            ConnectionError::ConnectionClosed(close) => {
                alert(close.error_code).map(HandshakeFailure::of_peer_alert)
            }
            _ => None,
        }
    }

    pub(super) fn buffers(&self) -> UdpBuffers {
        self.buffers
    }

    pub(super) async fn knocked(&self) {
        self.socket.knocked().await;
    }

    /// Goes on from another port: the one that is in use may belong to a network that is gone, or be forgotten by a NAT.
    pub(super) fn rebind(&self) -> io::Result<()> {
        let (socket, _) = socket(self.connection.remote_address(), self.source)?;
        let runtime = quinn::default_runtime().ok_or(io::ErrorKind::Unsupported)?;
        self.socket.exchange(runtime.wrap_udp_socket(socket)?);
        Ok(())
    }

    /// Returns once the close has been sent.
    pub(super) async fn gone(self) {
        drop(self.connection);
        self.endpoint.wait_idle().await;
    }
}

/// On any port.
fn socket(relay: SocketAddr, source: Option<IpAddr>) -> io::Result<(UdpSocket, UdpBuffers)> {
    let any = match relay {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = SocketAddr::new(source.unwrap_or(any), 0);
    let socket = Socket::new(Domain::for_address(relay), Type::DGRAM, Some(Protocol::UDP))?;
    for granted in [socket.set_recv_buffer_size(UDP_BUFFER), socket.set_send_buffer_size(UDP_BUFFER)] {
        if let Err(error) = granted {
            tracing::debug!(%error, "the system does not grant larger UDP buffers");
        }
    }
    socket.bind(&local.into())?;
    let buffers = UdpBuffers {
        receive: granted(socket.recv_buffer_size()?),
        send: granted(socket.send_buffer_size()?),
        wanted: UDP_BUFFER,
    };
    Ok((socket.into(), buffers))
}

/// Linux tells the double of what it was asked for: it counts its own bookkeeping (socket(7)).
fn granted(told: usize) -> usize {
    if cfg!(target_os = "linux") { told / 2 } else { told }
}

fn why(error: &ConnectionError) -> Why {
    let failure = match error {
        ConnectionError::TransportError(error) => alert(error.code).map(HandshakeFailure::of_own_alert),
        ConnectionError::ConnectionClosed(close) => {
            alert(close.error_code).map(HandshakeFailure::of_peer_alert)
        }
        ConnectionError::TimedOut => return Why::Silent,
        _ => None,
    };
    match failure {
        Some(HandshakeFailure::Other) | None => Why::Quic(error.to_string()),
        Some(failure) => Why::Handshake(failure),
    }
}

/// The TLS alert inside a CRYPTO_ERROR (RFC 9001 §4.8): 0x100 and the alert.
fn alert(code: TransportErrorCode) -> Option<u8> {
    u8::try_from(u64::from(code).checked_sub(0x100)?).ok()
}
