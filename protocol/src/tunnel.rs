//! A developer's multiplexed connection, whichever transport carries it, and the streams inside.
//!
//! What holds for both multiplexers, and what `tests/tunnel.rs` shows for both:
//! * `open` waits at the peer's limit of streams; `accept` reads nothing. The peer learns of a stream with its first
//!   byte, not before.
//! * A stream's two halves are independent. `shutdown` ends ours; a [`SendHalf`] dropped before that resets it, and
//!   the peer's reader gets an error, never a clean end. A [`RecvHalf`] dropped before its end tells the peer to stop,
//!   and its writer gets an error.
//! * A stream that nobody reads holds back its own writer and nobody else's.
//! * A reason given to `close` reaches the peer, at best effort and in bounded time.
//! * A tunnel whose peer fell silent is over after [`IDLE_LIMIT`].
//!
//! Holds no socket, no TLS and no frame of the exchange: bytes in, bytes out.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod closed;
mod quic;
mod tcp;
mod websocket;
mod yamux;

pub use closed::{CloseCode, CloseReason, Closed, Lost, StreamError};
pub use quic::{Quic, quic_transport};
pub use tcp::tune_tcp;
pub use websocket::{UpgradeError, WebSocket};
pub use yamux::{Driver, Yamux};

/// The longest silence of a living peer. A dead path is noticed within this even if nothing is being sent. Long enough for
/// what heals by itself (a change of networks, a lift, a process that is stopped for ten seconds) to cost no answer that is
/// under way; requests that come meanwhile need not wait for it.
pub const IDLE_LIMIT: Duration = Duration::from_secs(12);

/// How often an otherwise silent side says something: three of these may get lost before the limit is reached. Longer than the time
/// between two pings on the control stream, which mostly are what is said.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// What a relay that was started again sends once, as a datagram of its own, to where tunnels over QUIC were: who hears it may ask
/// whether the relay still knows the tunnel. It is no proof of anything, and too short for a packet of QUIC's (RFC 9000 section
/// 10.3), which drops it.
pub const KNOCK: [u8; 16] = *b"culvert is back\n";

/// The most streams that one side lets the other have open: one developer's share of a relay's callers.
pub const MAX_STREAMS: u32 = 1_000;

/// An exchange that has moved so much, and is not over, is bulk: more than the first windows of a path, so that on a slow one
/// others would wait for it. On a fast one it is seldom seen before it is over.
pub const BULK: u64 = 64 * 1024;

/// Which end of the connection this is. A client dials, a relay listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Dialer,
    Listener,
}

/// How many streams each side of a yamux tunnel may have open. yamux cannot tell the peer, so both ends have to
/// start from the same numbers: what one opens is what the other accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams that we open: the next `open` waits.
    pub open: u32,
    /// Streams that the peer opens. As many again may wait for `accept`; what comes on top is reset.
    pub accept: u32,
}

impl Limits {
    /// A relay opens a stream for every request, a client hardly more than a control stream.
    pub const fn of(side: Side) -> Self {
        match side {
            Side::Dialer => Self { open: 16, accept: MAX_STREAMS },
            Side::Listener => Self { open: MAX_STREAMS, accept: 16 },
        }
    }
}

/// What carries a tunnel, by the name that status and metrics use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Quic,
    Tls,
    WebSocket,
}

impl Transport {
    /// The best one first.
    pub const ALL: [Self; 3] = [Self::Quic, Self::Tls, Self::WebSocket];

    pub fn label(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
        }
    }
}

/// Streams of a tunnel, the control stream among them.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    pub under_way: usize,
    /// Since the tunnel began.
    pub begun: u64,
}

/// What a tunnel has carried since it began, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// As they left: over QUIC with everything that QUIC adds, over a byte stream without what that one adds.
    pub sent: u64,
    pub received: u64,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A handle of a tunnel; cheap to clone. The tunnel closes when the last handle and the last stream are dropped.
#[derive(Debug, Clone)]
pub enum Tunnel {
    Quic(Quic),
    Yamux(Yamux),
}

impl Tunnel {
    pub fn quic(connection: quinn::Connection) -> Self {
        Self::Quic(Quic::new(connection))
    }

    /// Runs yamux over any authenticated byte stream. Nothing moves unless the owner polls the [`Driver`], which
    /// ends when the tunnel is over; dropped early, it takes the tunnel with it.
    pub fn yamux<T>(io: T, side: Side, limits: Limits) -> (Self, Driver)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::yamux_over(Transport::Tls, io, side, limits)
    }

    /// The same for a byte stream that `transport` has brought.
    pub fn yamux_over<T>(transport: Transport, io: T, side: Side, limits: Limits) -> (Self, Driver)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (yamux, driver) = Yamux::new(transport, io, side, limits);
        (Self::Yamux(yamux), driver)
    }

    /// Opens a stream. Waits while the peer's limit is reached.
    pub async fn open(&self) -> Result<Stream, Closed> {
        match self {
            Self::Quic(tunnel) => Ok(Stream::from_quic(tunnel.open().await?)),
            Self::Yamux(tunnel) => Ok(Stream::from_yamux(tunnel.open().await?)),
        }
    }

    /// The next stream that the peer opened. Reads nothing from it: a silent stream does not keep others waiting.
    pub async fn accept(&self) -> Result<Stream, Closed> {
        match self {
            Self::Quic(tunnel) => Ok(Stream::from_quic(tunnel.accept().await?)),
            Self::Yamux(tunnel) => Ok(Stream::from_yamux(tunnel.accept().await?)),
        }
    }

    /// Ends the tunnel and everything in it, and tells the peer why. Does not wait: the QUIC endpoint or the yamux
    /// driver needs to live a moment longer for the reason to get out.
    pub fn close(&self, reason: &CloseReason) {
        match self {
            Self::Quic(tunnel) => tunnel.close(reason),
            Self::Yamux(tunnel) => tunnel.close(reason),
        }
    }

    /// Waits until the tunnel is over and says why.
    pub async fn closed(&self) -> Closed {
        match self {
            Self::Quic(tunnel) => tunnel.closed().await,
            Self::Yamux(tunnel) => tunnel.closed().await,
        }
    }

    pub fn transport(&self) -> Transport {
        match self {
            Self::Quic(_) => Transport::Quic,
            Self::Yamux(tunnel) => tunnel.transport(),
        }
    }

    /// Where the peer is now; QUIC's peers move. Unknown for a byte stream: who made it knows.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Quic(tunnel) => Some(tunnel.remote_address()),
            Self::Yamux(_) => None,
        }
    }

    /// The round trip as the multiplexer measures it: QUIC with every acknowledgement, yamux with its pings, at once and
    /// then every 10 s, which wait with the data that is under way. `None` until the first answer.
    pub fn rtt(&self) -> Option<Duration> {
        match self {
            Self::Quic(tunnel) => Some(tunnel.rtt()),
            Self::Yamux(tunnel) => tunnel.rtt(),
        }
    }

    /// Whether small exchanges may wait for a large one here: one stream under way has moved more than [`BULK`], and all are
    /// in one order of bytes. Never over QUIC, where they are not.
    pub fn is_bulk(&self) -> bool {
        match self {
            Self::Quic(_) => false,
            Self::Yamux(tunnel) => tunnel.is_bulk(),
        }
    }

    /// The streams of a tunnel on which they wait behind each other's lost packets. None over QUIC, where they do not.
    pub fn in_one_order(&self) -> Option<Streams> {
        match self {
            Self::Quic(_) => None,
            Self::Yamux(tunnel) => Some(tunnel.streams()),
        }
    }

    pub fn traffic(&self) -> Traffic {
        match self {
            Self::Quic(tunnel) => tunnel.traffic(),
            Self::Yamux(tunnel) => tunnel.traffic(),
        }
    }
}

/// One exchange's bytes inside a tunnel.
#[derive(Debug)]
pub struct Stream {
    recv: RecvHalf,
    send: SendHalf,
}

impl Stream {
    fn from_quic((recv, send): (quic::Reader, quic::Writer)) -> Self {
        Self { recv: RecvHalf(Reading::Quic(recv)), send: SendHalf(Writing::Quic(send)) }
    }

    fn from_yamux((recv, send): (yamux::Reader, yamux::Writer)) -> Self {
        Self { recv: RecvHalf(Reading::Yamux(recv)), send: SendHalf(Writing::Yamux(send)) }
    }

    /// The stream's number, for logs. Both ends see the same one.
    pub fn id(&self) -> u64 {
        self.recv.id()
    }

    /// Both halves on their own, with the drop rules of each.
    pub fn split(self) -> (RecvHalf, SendHalf) {
        (self.recv, self.send)
    }

    /// See [`RecvHalf::poll_chunk`].
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.recv.poll_chunk(cx)
    }
}

/// What the peer sends.
#[derive(Debug)]
pub struct RecvHalf(Reading);

#[derive(Debug)]
enum Reading {
    Quic(quic::Reader),
    Yamux(yamux::Reader),
}

impl RecvHalf {
    pub fn id(&self) -> u64 {
        match &self.0 {
            Reading::Quic(recv) => recv.id(),
            Reading::Yamux(recv) => recv.id(),
        }
    }

    /// The next bytes as they arrived, without a copy. `None` is the end that the peer declared; a stream that was cut
    /// is an error. Chunk boundaries mean nothing.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match &mut self.0 {
            Reading::Quic(recv) => recv.poll_chunk(cx),
            Reading::Yamux(recv) => recv.poll_chunk(cx),
        }
    }

    /// [`Self::poll_chunk`] as a future. Nothing is lost when it is dropped.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }
}

/// What we send.
#[derive(Debug)]
pub struct SendHalf(Writing);

#[derive(Debug)]
enum Writing {
    Quic(quic::Writer),
    Yamux(yamux::Writer),
}

impl SendHalf {
    pub fn id(&self) -> u64 {
        match &self.0 {
            Writing::Quic(send) => send.id(),
            Writing::Yamux(send) => send.id(),
        }
    }

    /// Resolves when the peer has stopped reading, or the tunnel is over: nobody waits for what would be sent.
    pub async fn stopped(&self) {
        match &self.0 {
            Writing::Quic(send) => send.stopped().await,
            Writing::Yamux(send) => poll_fn(|cx| send.poll_stopped(cx)).await,
        }
    }
}

impl AsyncRead for RecvHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Reading::Quic(recv) => recv.poll_read(cx, buffer),
            Reading::Yamux(recv) => recv.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Writing::Quic(send) => send.poll_write(cx, bytes),
            Writing::Yamux(send) => send.poll_write(cx, bytes),
        }
    }

    /// Nothing to do: both multiplexers send as soon as they may, and neither says when that was.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Marks the end of what we send. Does not wait for the peer to have it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Writing::Quic(send) => send.poll_shutdown(cx),
            Writing::Yamux(send) => send.poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().recv).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().send).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().send).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().send).poll_shutdown(cx)
    }
}
