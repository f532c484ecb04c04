//! What a TLS session of ours runs on, on the rungs over TCP: a connection of our own or a proxy's, and in it a WebSocket
//! where that is the rung.
//!
//! An ingress' own TLS is not verified. It ends with somebody who is not the relay in any case, and all that passes there is
//! our own session, in which both ends show who they are; so a firewall that puts a certificate of its own in between is
//! no obstacle, and learns nothing.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_certs::tls::{Trust, origin_client};
use culvert_protocol::tunnel::{UpgradeError, WebSocket, tune_tcp};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::way::{Reach, Way};
use super::{SetupError, Why};
use crate::address::{RelayAddress, Web};

/// Boxed once per connection, so that whatever brought it, what runs in it is one type.
pub(crate) type Outer = Box<dyn ByteStream>;

pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> ByteStream for T {}

/// Makes the streams to one relay.
#[derive(Debug)]
pub(crate) struct Streams {
    relay: RelayAddress,
    name: ServerName<'static>,
    source: Option<IpAddr>,
    outer_tls: Arc<ClientConfig>,
}

impl Streams {
    pub(crate) fn new(relay: &RelayAddress, source: Option<IpAddr>) -> Result<Self, SetupError> {
        let mut outer_tls = origin_client(Trust::Nobody).map_err(SetupError::OuterTls)?;
        outer_tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let outer_tls = Arc::new(outer_tls);
        Ok(Self { relay: relay.clone(), name: relay.server_name()?, source, outer_tls })
    }

    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// The caller limits how long all of it may take.
    pub(crate) async fn connect(&self, way: &Way) -> Result<Outer, Why> {
        match way {
            // UDP is no stream; nobody asks.
            Way::Quic(_) => Err(Why::Io(io::ErrorKind::Unsupported.into())),
            Way::Tls(reach) => self.reach(reach).await,
            Way::WebSocket(reach, at) => {
                let tcp = self.reach(reach).await?;
                let stream: Outer = match at.web {
                    Web::Clear => tcp,
                    Web::Secure => {
                        let connector = TlsConnector::from(Arc::clone(&self.outer_tls));
                        Box::new(connector.connect(self.name.clone(), tcp).await.map_err(Why::Foreign)?)
                    }
                };
                let upgraded = WebSocket::dial(stream, &at.host(&self.relay), self.relay.path()).await;
                Ok(Box::new(upgraded.map_err(|error| match error {
                    UpgradeError::Io(error) => Why::Foreign(error),
                    error => Why::WebSocket(error),
                })?))
            }
        }
    }

    async fn reach(&self, reach: &Reach) -> Result<Outer, Why> {
        match reach {
            Reach::Direct(address) => {
                let tcp = connect(*address, self.source).await.map_err(Why::Io)?;
                tune_tcp(&tcp).map_err(Why::Io)?;
                Ok(Box::new(tcp))
            }
            Reach::Through(proxy, port) => proxy.connect(self.relay.host(), *port).await.map_err(Why::Proxy),
        }
    }
}

/// From that address of this machine.
async fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    socket.connect(to).await
}
