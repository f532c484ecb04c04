//! An HTTP server that we dial, an upstream or an app, and the connections kept to it. How long a connect may take and
//! what may be tried again is its user's to say.

mod exchange;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Ping;
use h2::client::SendRequest;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::http1;
use crate::message::ResponseHead;
use crate::socket::{self, Linger, ReadHalf, WriteHalf};

pub use exchange::Exchange;

/// Idle connections kept to one origin: as many as nginx is commonly given.
const KEPT: usize = 1024;
/// So many of those used last keep their buffers too: memory that goes back and forth costs page faults.
const WARM: usize = 64;
/// Shorter than the 60 s after which common servers close an idle connection, so that it is rarely they who do.
const KEPT_FOR: Duration = Duration::from_secs(50);
/// The window toward us: it carries 100 Mbit/s over 20 ms, and a slow taker holds no more than it.
const WINDOW: u32 = 256 * 1024;
/// What small DATA frames may cost beyond their bytes while nobody has taken them, as `h2` counts it: 256 bytes each.
const SMALL_FRAMES: usize = 16 * 1024 * 1024;
/// An HTTP/2 connection is replaced after so many exchanges: `h2` ends one that has had a hundred empty DATA frames in its
/// life, and some servers end each answer with one.
const EXCHANGES: u32 = 64;
/// A header list as large as a head of HTTP/1 may be.
const HEADER_LIST: u32 = 64 * 1024;

/// Where it listens. A name is resolved at each connect: addresses move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The host is a name or an address without brackets.
    Tcp {
        host: String,
        port: u16,
    },
    Unix {
        path: PathBuf,
    },
}

/// What it speaks there.
#[derive(Clone)]
pub enum Speaks {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/2 in the clear, by prior knowledge (RFC 9113 §3.3).
    Http2,
    /// HTTP/2 or HTTP/1.1 over TLS, as it chooses by ALPN.
    Tls(Tls),
}

/// How an origin is known to be itself.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    /// Offers HTTP/1.1 alone, for upgrades.
    http1: TlsConnector,
    name: ServerName<'static>,
}

#[derive(Debug)]
pub struct Origin {
    address: Address,
    /// The address as `Host` says it.
    authority: Arc<str>,
    speaks: Speaks,
    /// Connections without an exchange, the one used last at the back.
    idle: Mutex<VecDeque<(Instant, Carrier)>>,
    /// What moves HTTP/2 connections.
    drivers: Mutex<JoinSet<()>>,
}

/// A connection that an exchange can begin on.
#[derive(Debug)]
pub struct Connection {
    carrier: Carrier,
    /// It was there before, and the origin may have closed it since.
    reused: bool,
}

/// One exchange at a time, whatever it speaks: connections cost little, and on a shared one a caller who takes nothing, an
/// answer in tiny frames or a silent network would be everybody's. nginx does the same.
#[derive(Debug)]
enum Carrier {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// An HTTP/1 connection.
#[derive(Debug)]
struct Http1 {
    reader: http1::Reader<ReadHalf>,
    writer: http1::Writer<WriteHalf>,
    /// The head that is being answered, or was last: its memory is used again.
    response: ResponseHead,
}

/// An HTTP/2 connection.
#[derive(Debug)]
struct Http2 {
    send: SendRequest<Bytes>,
    scheme: &'static str,
    /// What a request that names no host is for (HTTP/1.0).
    authority: Arc<str>,
    /// How many exchanges it has carried.
    carried: u32,
}

impl Origin {
    pub fn new(address: Address, speaks: Speaks) -> Self {
        let authority = address.authority(speaks.default_port()).into();
        Self { address, authority, speaks, idle: Mutex::default(), drivers: Mutex::default() }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it is asked for by when that is not to be what the caller asked for: without a port that its scheme implies
    /// (RFC 9110 §4.2.3).
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A connection that is there already and nothing bad has been heard of. It can still turn out closed
    /// ([`Connection::is_reused`]).
    pub fn kept(&self, upgrades: bool) -> Option<Connection> {
        loop {
            let (since, mut carrier) = {
                let mut idle = self.idle.lock();
                let at = idle.iter().rposition(|(_, carrier)| carrier.suits(upgrades))?;
                idle.remove(at)?
            };
            if since.elapsed() < KEPT_FOR && carrier.is_open() {
                return Some(Connection { carrier, reused: true });
            }
        }
    }

    /// A new connection. One for an upgrade speaks HTTP/1.1 where the origin lets us choose.
    pub async fn connect(&self, upgrades: bool) -> io::Result<Connection> {
        let carrier = match &self.address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                match &self.speaks {
                    Speaks::Http1 => Carrier::http1(socket::tcp(stream)?),
                    Speaks::Http2 => {
                        stream.set_nodelay(true)?;
                        self.http2(stream, upgrades).await?
                    }
                    Speaks::Tls(tls) => {
                        stream.set_nodelay(true)?;
                        self.negotiate(tls, stream, upgrades).await?
                    }
                }
            }
            #[cfg(unix)]
            Address::Unix { path } => {
                let stream = tokio::net::UnixStream::connect(path).await?;
                match &self.speaks {
                    Speaks::Http1 => Carrier::http1(socket::other(stream)),
                    Speaks::Http2 => self.http2(stream, upgrades).await?,
                    Speaks::Tls(tls) => self.negotiate(tls, stream, upgrades).await?,
                }
            }
            #[cfg(not(unix))]
            Address::Unix { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Connection { carrier, reused: false })
    }

    async fn negotiate<T>(&self, tls: &Tls, stream: T, upgrades: bool) -> io::Result<Carrier>
    where
        T: AsyncRead + AsyncWrite + Linger + Send + Sync + Unpin + 'static,
    {
        let connector = if upgrades { &tls.http1 } else { &tls.connector };
        let stream = connector.connect(tls.name.clone(), stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, upgrades).await
        } else {
            Ok(Carrier::http1(socket::other(stream)))
        }
    }

    /// Shakes hands over HTTP/2.
    async fn http2<T>(&self, stream: T, upgrades: bool) -> io::Result<Carrier>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .data_frame_budget(SMALL_FRAMES)
            .max_header_list_size(HEADER_LIST)
            .enable_push(false);
        let (send, mut connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        let pings = if upgrades { connection.ping_pong() } else { None };
        self.drive(connection);
        if let Some(mut pings) = pings {
            // Its settings say whether it knows extended CONNECT, and are the first that it says (RFC 9113 §3.4): who
            // answers a ping has said them.
            pings.ping(Ping::opaque()).await.map_err(io::Error::other)?;
        }
        let (scheme, authority) = (self.speaks.scheme(), Arc::clone(&self.authority));
        Ok(Carrier::Http2(Http2 { send, scheme, authority, carried: 0 }))
    }

    fn drive<T>(&self, connection: h2::client::Connection<T, Bytes>)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut drivers = self.drivers.lock();
        while drivers.try_join_next().is_some() {}
        drivers.spawn(async move {
            // Every exchange on it is told the same.
            let _ = connection.await;
        });
    }

    /// Takes back what an exchange that was whole in both directions leaves. A connection that has said more than was
    /// asked is not used again.
    pub fn keep(&self, exchange: Exchange) {
        let Some(carrier) = exchange.carrier() else { return };
        let mut idle = self.idle.lock();
        while idle.len() >= KEPT || idle.front().is_some_and(|(since, _)| since.elapsed() >= KEPT_FOR) {
            idle.pop_front();
        }
        idle.push_back((Instant::now(), carrier));
        let cooled = idle.len().checked_sub(WARM + 1);
        if let Some((_, Carrier::Http1(connection))) = cooled.and_then(|index| idle.get_mut(index)) {
            connection.reader.rest();
            connection.writer.rest();
        }
    }
}

/// Whatever ends an exchange before its time ends this: a pipe to it must not look like one that was closed.
impl Drop for Http1 {
    fn drop(&mut self) {
        self.writer.abort_unended();
    }
}

impl Carrier {
    /// Whether it can carry an upgrade, where the exchange is one.
    fn suits(&self, upgrades: bool) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(connection) => !upgrades || connection.send.is_extended_connect_protocol_enabled(),
        }
    }

    /// Nothing bad has been heard of it.
    fn is_open(&mut self) -> bool {
        match self {
            Self::Http1(connection) => !connection.reader.get_mut().is_readable(),
            Self::Http2(connection) => {
                let ready = connection.send.poll_ready(&mut Context::from_waker(Waker::noop()));
                matches!(ready, Poll::Ready(Ok(())))
            }
        }
    }

    fn http1((read, write): (ReadHalf, WriteHalf)) -> Self {
        Self::Http1(Box::new(Http1 {
            reader: http1::Reader::new(read, http1::Limits::default()),
            writer: http1::Writer::new(write),
            response: ResponseHead::default(),
        }))
    }
}

impl Connection {
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Tls {
    /// `config` says whom to trust; what is offered by ALPN is set here.
    pub fn new(mut config: rustls::ClientConfig, name: ServerName<'static>) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            connector: TlsConnector::from(Arc::new(config)),
            http1: TlsConnector::from(Arc::new(http1)),
            name,
        }
    }
}

impl Speaks {
    fn scheme(&self) -> &'static str {
        match self {
            Self::Http1 | Self::Http2 => "http",
            Self::Tls(_) => "https",
        }
    }

    /// RFC 9110 §4.2.1, §4.2.2.
    fn default_port(&self) -> u16 {
        match self {
            Self::Http1 | Self::Http2 => 80,
            Self::Tls(_) => 443,
        }
    }
}

impl fmt::Debug for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "Http1",
            Self::Http2 => "Http2",
            Self::Tls(_) => "Tls",
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Address {
    fn authority(&self, default_port: u16) -> String {
        match self {
            Self::Tcp { host, port } if *port == default_port && host.contains(':') => format!("[{host}]"),
            Self::Tcp { host, port } if *port == default_port => host.clone(),
            Self::Tcp { .. } => self.to_string(),
            // A path is no authority.
            Self::Unix { .. } => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_names_no_port_that_its_scheme_implies() {
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        for (address, speaks, authority) in [
            (tcp("orders", 80), 80, "orders"),
            (tcp("orders", 443), 80, "orders:443"),
            (tcp("orders", 443), 443, "orders"),
            (tcp("orders", 80), 443, "orders:80"),
            (tcp("::1", 80), 80, "[::1]"),
            (tcp("::1", 8080), 80, "[::1]:8080"),
        ] {
            assert_eq!(address.authority(speaks), authority);
        }
        assert_eq!(Origin::new(tcp("orders", 80), Speaks::Http2).authority(), "orders");
    }
}
