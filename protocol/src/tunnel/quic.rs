//! A tunnel over QUIC: quinn's connection, its streams with our drop rules, and the transport settings.
//! Holds no socket, no certificate and no endpoint: whoever dials or listens brings the connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{ConnectionError, IdleTimeout, ReadError, StoppedError, VarInt, WriteError};
use tokio::io::{AsyncWrite, ReadBuf};

use super::{
    CloseCode, CloseReason, Closed, IDLE_LIMIT, KEEP_ALIVE, Lost, MAX_STREAMS, Side, StreamError, Traffic,
};

mod congestion;

/// Streams granted to a fresh tunnel. quinn pays memory for every granted stream up front (31 KiB for an idle
/// connection with 16, 113 KiB with 1,024), and most tunnels never have more than a few requests at once. It announces
/// places that became free only when more than an eighth of the grant is: of 16, always 14 are to be had.
const FIRST_STREAMS: u32 = 16;

/// What one stream may have in flight. 1.25 MB would carry 100 Mbit/s over a round trip of 100 ms, if nothing were lost: what
/// follows a lost packet waits for it, one round trip or, where it is lost again, two. Measured with two packets in a hundred lost:
/// 39 Mbit/s with 1.25 MB, 59 with 2 MB, 71 with 3 MB, 90 with 4 MB.
const STREAM_WINDOW: u32 = 3_500_000;

/// What the streams of one tunnel that are being read may have in flight toward a relay.
const LISTENER_WINDOW: u32 = 8 << 20;

/// The same toward a developer's machine, which has one tunnel and not thousands.
const DIALER_WINDOW: u32 = 16 << 20;

/// What the window of a tunnel grows to while streams in it are not read: the memory that one developer can pin. Each such
/// stream holds up to its own window and gives back nothing of the tunnel's; without growth two of them would stop all
/// others at a relay. This has room for 26 beside what is being read.
const STALLED_WINDOW: u32 = 96 << 20;

/// Streams for which the window grows at once.
const STALLED_STEP: usize = 4;

/// A round trip to start from. The default of 333 ms makes a lost first packet cost a second; 100 ms is still
/// above what most developers have to their relay.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// What every path carries (RFC 9000 section 14), so that the handshake never disappears in a narrow tunnel.
const INITIAL_MTU: u16 = 1200;

/// Ethernet's 1,500 less IPv6, UDP and some room: where discovery ends.
const MAX_MTU: u16 = 1452;

/// Where discovery stops: two probes find the whole of it where all of it passes, in place of four.
const MTU_STEP: u16 = 64;

/// What a dropped half tells the peer. There is one reason for it: nobody is interested any more.
const CANCELLED: VarInt = VarInt::from_u32(0);

/// The transport settings of both ends. The caller adds them to its quinn endpoint configuration.
pub fn quic_transport(side: Side) -> quinn::TransportConfig {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_MTU).minimum_change(MTU_STEP);

    let mut transport = quinn::TransportConfig::default();
    transport
        // Both sides start small. Only a dialer grows its grant, as it is used: see `Shared::accepted`.
        .max_concurrent_bidi_streams(FIRST_STREAMS.into())
        // Nothing in the protocol uses either, so a peer gets no buffer for them.
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(match side {
            Side::Listener => LISTENER_WINDOW.into(),
            Side::Dialer => DIALER_WINDOW.into(),
        })
        // Bytes that wait for an acknowledgement; the counterpart of the window above, and as large.
        .send_window(LISTENER_WINDOW.into())
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_millis()))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(congestion::Model))
        // One system call for a batch of packets: without it a gigabyte costs about twice the CPU.
        .enable_segmentation_offload(true);
    transport
}

/// QUIC counts from the first packet that was sent into the silence (RFC 9000 section 10.1), which a keep-alive is at the latest.
fn idle_millis() -> u32 {
    u32::try_from(IDLE_LIMIT.as_millis()).unwrap_or(u32::MAX)
}

/// A handle of a tunnel over QUIC. Cheap to clone.
///
/// The connection closes when the last handle and the last stream are dropped.
#[derive(Debug, Clone)]
pub struct Quic {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: quinn::Connection,
    /// quinn does not keep what we closed with.
    reason: OnceLock<CloseReason>,
    /// Halves of streams that the peer opened and that are still held here.
    live_halves: AtomicUsize,
    /// How many streams the peer may have open.
    granted: AtomicU32,
    stalled: Mutex<Stalled>,
}

#[derive(Debug, Default)]
struct Stalled {
    /// Streams that had something to read, and whose reader has not come back for more.
    unread: usize,
    /// For how many of those the window has grown.
    room_for: usize,
}

impl Quic {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Self {
            shared: Arc::new(Shared {
                connection,
                reason: OnceLock::new(),
                live_halves: AtomicUsize::new(0),
                granted: AtomicU32::new(FIRST_STREAMS),
                stalled: Mutex::default(),
            }),
        }
    }

    pub(super) async fn open(&self) -> Result<(Reader, Writer), Closed> {
        let opened = self.shared.connection.open_bi().await;
        let (send, recv) = opened.map_err(|e| self.shared.closed(e))?;
        Ok(halves(&self.shared, recv, send, false))
    }

    pub(super) async fn accept(&self) -> Result<(Reader, Writer), Closed> {
        let accepted = self.shared.connection.accept_bi().await;
        let (send, recv) = accepted.map_err(|e| self.shared.closed(e))?;
        self.shared.accepted();
        Ok(halves(&self.shared, recv, send, true))
    }

    pub(super) fn close(&self, reason: &CloseReason) {
        // The first reason wins, here as in quinn.
        if self.shared.reason.set(reason.clone()).is_ok() {
            self.shared.connection.close(reason.code().number().into(), reason.text().as_bytes());
        }
    }

    pub(super) async fn closed(&self) -> Closed {
        let error = self.shared.connection.closed().await;
        self.shared.closed(error)
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.shared.connection.remote_address()
    }

    pub(super) fn rtt(&self) -> Duration {
        self.shared.connection.rtt()
    }

    pub(super) fn traffic(&self) -> Traffic {
        let stats = self.shared.connection.stats();
        Traffic { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
    }
}

fn halves(
    shared: &Arc<Shared>,
    recv: quinn::RecvStream,
    send: quinn::SendStream,
    counted: bool,
) -> (Reader, Writer) {
    let held = || Held { shared: Arc::clone(shared), counted };
    (
        Reader { stream: recv, held: held(), unread: false },
        Writer { stream: send, held: held(), finished: false, blocked: None },
    )
}

impl Shared {
    /// Grants more streams once a quarter of the grant is in use: a burst doubles it every round trip, and a tunnel
    /// that never has many streams never pays for them. A quarter, because a place is free only when the end of the answer was
    /// acknowledged and the relay has heard of that, which is a round trip after it could have used it. Only the dialling side grows: it serves requests, while a
    /// relay accepts little more than a control stream and must not be made to pay for others.
    fn accepted(&self) {
        let live = self.live_halves.fetch_add(2, Ordering::Relaxed) / 2 + 1;
        let granted = self.granted.load(Ordering::Relaxed);
        let wanted = granted.saturating_mul(2).min(MAX_STREAMS);
        if self.connection.side() == quinn::Side::Client
            && wanted > granted
            && live * 4 > usize::try_from(granted).unwrap_or(usize::MAX)
            && self.granted.compare_exchange(granted, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.connection.set_max_concurrent_bi_streams(wanted.into());
        }
    }

    /// A reader leaves something behind (`true`), or has taken everything that was there. The window keeps room for what
    /// is left behind, in steps, so that most reads change nothing. It never shrinks: quinn takes back what it granted only from
    /// what is read, and what is granted again meanwhile comes on top. A window that went down and up beside streams that nobody
    /// reads let in a gigabyte.
    fn unread(&self, more: bool) {
        let mut stalled = self.stalled.lock();
        let Stalled { unread, room_for } = &mut *stalled;
        *unread = if more { *unread + 1 } else { unread.saturating_sub(1) };
        let wanted = unread.next_multiple_of(STALLED_STEP);
        if wanted > *room_for {
            *room_for = wanted;
            let least = match self.connection.side() {
                quinn::Side::Server => LISTENER_WINDOW,
                quinn::Side::Client => DIALER_WINDOW,
            };
            let held = u32::try_from(wanted).unwrap_or(u32::MAX).saturating_mul(STREAM_WINDOW);
            let window = least.saturating_add(held).min(STALLED_WINDOW);
            self.connection.set_receive_window(window.into());
        }
    }

    fn closed(&self, error: ConnectionError) -> Closed {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Closed::ByPeer(CloseReason::from_wire(close.error_code.into_inner(), &close.reason))
            }
            // Without a reason of ours it was the endpoint that was closed, and all its connections with it.
            ConnectionError::LocallyClosed => {
                Closed::ByUs(self.reason.get().cloned().unwrap_or_else(|| CloseCode::Shutdown.into()))
            }
            ConnectionError::TimedOut => Closed::Lost(Lost::Silent),
            ConnectionError::Reset => Closed::Lost(Lost::Forgotten),
            ConnectionError::ConnectionClosed(close) => {
                Closed::Lost(Lost::Protocol(format!("the peer reports {}", printable(&close))))
            }
            ConnectionError::TransportError(error) => Closed::Lost(Lost::Protocol(printable(&error))),
            error @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
                Closed::Lost(Lost::Protocol(error.to_string()))
            }
        }
    }
}

/// Texts that the peer had a hand in go through the same filter as a reason.
fn printable(error: &dyn fmt::Display) -> String {
    CloseReason::new(CloseCode::Protocol, &error.to_string()).text().to_owned()
}

/// What each half holds of its tunnel.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    counted: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.counted {
            self.shared.live_halves.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Dropped before the end was read, it tells the peer to stop: quinn does that by itself.
#[derive(Debug)]
pub(super) struct Reader {
    stream: quinn::RecvStream,
    held: Held,
    /// The last read found something, so that there may be more.
    unread: bool,
}

impl Reader {
    pub(super) fn id(&self) -> u64 {
        VarInt::from(self.stream.id()).into_inner()
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        // The future keeps nothing between polls: a new one each time reads where the last one stopped.
        let chunk = pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx);
        self.note(matches!(chunk, Poll::Ready(Ok(Some(_)))));
        Poll::Ready(match ready!(chunk) {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(error) => Err(self.error(error).into()),
        })
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.stream.poll_read_buf(cx, buffer);
        self.note(read.is_ready() && buffer.filled().len() > before);
        Poll::Ready(ready!(read).map_err(|error| self.error(error).into()))
    }

    /// Whether there may be more to read.
    fn note(&mut self, unread: bool) {
        if self.unread != unread {
            self.unread = unread;
            self.held.shared.unread(unread);
        }
    }

    fn error(&self, error: ReadError) -> StreamError {
        match error {
            ReadError::ConnectionLost(error) => self.held.shared.closed(error).into(),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => StreamError::Reset,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.note(false);
    }
}

/// Dropped before `poll_shutdown`, it resets the stream.
pub(super) struct Writer {
    stream: quinn::SendStream,
    held: Held,
    finished: bool,
    /// What hears the peer's stop while a write waits. quinn wakes a writer for room, but where the room that is missing
    /// is the whole connection's it asks for that first, and a stopped stream's writer waits as long as the others do.
    blocked: Option<Stop>,
}

/// The peer's stop, or the end of the connection.
type Stop = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

impl Writer {
    pub(super) fn id(&self) -> u64 {
        VarInt::from(self.stream.id()).into_inner()
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(StreamError::Finished.into()));
        }
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                self.blocked = None;
                Poll::Ready(written.map_err(|error| self.error(error).into()))
            }
            Poll::Pending => self.poll_blocked(cx).map(|error| Err(error.into())),
        }
    }

    /// While a write waits: why it waits in vain. Made only then, because most writes never wait.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let stop = self.blocked.get_or_insert_with(|| Box::pin(self.stream.stopped()));
        let stopped = ready!(stop.as_mut().poll(cx));
        self.blocked = None;
        match stopped {
            // None is for a stream whose end has arrived, and after its end nobody writes.
            Ok(Some(_) | None) | Err(StoppedError::ZeroRttRejected) => Poll::Ready(StreamError::Stopped),
            Err(StoppedError::ConnectionLost(error)) => Poll::Ready(self.held.shared.closed(error).into()),
        }
    }

    /// Marks the end. It leaves with the bytes before it: quinn packs what is there when its own task gets to run.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        ready!(AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), cx))?;
        self.finished = true;
        Poll::Ready(Ok(()))
    }

    /// Resolves when the peer reads no more, or the tunnel is over.
    pub(super) async fn stopped(&self) {
        // Ok(None): the peer has it all. That is no stop, and nothing more will come of it.
        if let Ok(None) = self.stream.stopped().await {
            std::future::pending().await
        }
    }

    fn error(&self, error: WriteError) -> StreamError {
        match error {
            WriteError::ConnectionLost(error) => self.held.shared.closed(error).into(),
            WriteError::Stopped(_) | WriteError::ZeroRttRejected => StreamError::Stopped,
            WriteError::ClosedStream => StreamError::Finished,
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("id", &self.id())
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // quinn would finish the stream here, and the peer would take half a message for a whole one. An error
            // means that there is nothing left to reset.
            let _ = self.stream.reset(CANCELLED);
        }
    }
}
