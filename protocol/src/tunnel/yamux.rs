//! A tunnel over yamux: the handle that opens and accepts, and the state that the handle, its streams and the driver
//! share. The byte stream underneath lies in `wire`, the task in `driver`, the halves in `stream`.
//!
//! yamux itself can neither say why it closes, nor stop one direction of a stream, nor tell a reset from an end. So:
//! * The dialer's first stream (id 1) belongs to the tunnel: the `signal`s run on it, the reason of a close among
//!   them. The reason goes out before yamux' GoAway and the peer looks for it before it believes the GoAway.
//! * `wire` watches the frame headers that pass: an end is an end only if a FIN was seen, and a stream that was
//!   dropped unfinished never leaves with a FIN.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{CloseCode, CloseReason, Closed, Limits, Side, Streams, Traffic, Transport};

mod driver;
mod machine;
mod signal;
mod stream;
mod wire;

pub use driver::Driver;
use signal::Signal;
use stream::Shared as StreamShared;
pub(super) use stream::{Reader, Writer};

/// Streams that the driver keeps made but unused, so that `open` need not wait for the driver's turn. yamux sends
/// nothing for a stream before its first byte, so a spare one costs a few hundred bytes and no packet.
const SPARE_STREAMS: usize = 8;

/// A handle of a tunnel over yamux. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Yamux {
    handle: Arc<Handle>,
}

/// Dropped with the last clone of the tunnel and the last of its streams, which closes the tunnel.
#[derive(Debug)]
struct Handle {
    tunnel: Arc<Tunnel>,
    spare: AsyncMutex<mpsc::Receiver<::yamux::Stream>>,
    arrived: AsyncMutex<mpsc::Receiver<Arc<StreamShared>>>,
}

impl Yamux {
    pub(super) fn new<T>(transport: Transport, io: T, side: Side, limits: Limits) -> (Self, Driver)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tunnel = Arc::new(Tunnel::new(transport, limits));
        let (spare_in, spare) = mpsc::channel(SPARE_STREAMS);
        let (arrived_in, arrived) = mpsc::channel(count(limits.accept).max(1));
        let driver = Driver::new(io, side, limits, Arc::clone(&tunnel), spare_in, arrived_in);
        let handle = Handle { tunnel, spare: AsyncMutex::new(spare), arrived: AsyncMutex::new(arrived) };
        (Self { handle: Arc::new(handle) }, driver)
    }

    pub(super) async fn open(&self) -> Result<(Reader, Writer), Closed> {
        let tunnel = &self.handle.tunnel;
        let opening = async {
            let permit = Arc::clone(&tunnel.open_permits).acquire_owned().await.ok()?;
            let stream = self.handle.spare.lock().await.recv().await?;
            Some((permit, stream))
        };
        let Some((permit, stream)) = tunnel.unless_over(opening).await else {
            return Err(self.closed().await);
        };
        tunnel.driver.wake(); // it makes the next spare stream
        let shared = tunnel.register(stream, false);
        Ok(StreamShared::halves(shared, self.held(permit)))
    }

    pub(super) async fn accept(&self) -> Result<(Reader, Writer), Closed> {
        let tunnel = &self.handle.tunnel;
        let accepting = async {
            let permit = Arc::clone(&tunnel.accept_permits).acquire_owned().await.ok()?;
            let stream = self.handle.arrived.lock().await.recv().await?;
            Some((permit, stream))
        };
        let Some((permit, shared)) = tunnel.unless_over(accepting).await else {
            return Err(self.closed().await);
        };
        Ok(StreamShared::halves(shared, self.held(permit)))
    }

    pub(super) fn close(&self, reason: &CloseReason) {
        self.handle.tunnel.finish(Closed::ByUs(reason.clone()));
    }

    pub(super) async fn closed(&self) -> Closed {
        self.handle.tunnel.closed().await
    }

    pub(super) fn transport(&self) -> Transport {
        self.handle.tunnel.transport
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        match self.handle.tunnel.seen.rtt.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let seen = &self.handle.tunnel.seen;
        Traffic { sent: seen.sent.load(Ordering::Relaxed), received: seen.received.load(Ordering::Relaxed) }
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.handle.tunnel.bulk.load(Ordering::Relaxed) > 0
    }

    pub(super) fn streams(&self) -> Streams {
        let registry = self.handle.tunnel.registry.lock();
        Streams { under_way: registry.streams.len(), begun: registry.begun }
    }

    fn held(&self, permit: OwnedSemaphorePermit) -> Held {
        Held { _permit: permit, _handle: Arc::clone(&self.handle) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tunnel.finish(Closed::ByUs(CloseCode::Dropped.into()));
    }
}

/// What a stream in use holds of its tunnel: its place among the streams, and the tunnel's life.
#[derive(Debug)]
struct Held {
    _permit: OwnedSemaphorePermit,
    _handle: Arc<Handle>,
}

/// What the handle, the streams, the driver and the wire share.
#[derive(Debug)]
struct Tunnel {
    transport: Transport,
    open_permits: Arc<Semaphore>,
    accept_permits: Arc<Semaphore>,
    /// Set once, by whoever ends the tunnel first.
    end: OnceLock<Closed>,
    over: CancellationToken,
    driver: AtomicWaker,
    registry: Mutex<Registry>,
    /// Signals that wait for the driver. At most two for each stream (a stop and a reset), and each keeps its
    /// stream's permit, so that the limits of streams bound this queue too.
    signals: Mutex<VecDeque<(Arc<StreamShared>, Signal)>>,
    /// Streams under way that have moved more than [`super::BULK`].
    bulk: AtomicUsize,
    /// What the wire tells the driver.
    seen: Seen,
}

/// Streams by id, for the wire and for the peer's signals.
#[derive(Debug, Default)]
struct Registry {
    streams: HashMap<u32, Entry>,
    /// How many there have been.
    begun: u64,
    /// Streams that were dropped unfinished and whose last frame has not left yet: it must not be a FIN. Exactly one
    /// last frame leaves for each, and takes its entry along.
    aborted: HashSet<u32>,
}

#[derive(Debug)]
struct Entry {
    stream: Weak<StreamShared>,
    reset: bool,
}

#[derive(Debug)]
struct Seen {
    /// The peer was heard since the driver last looked.
    heard: AtomicBool,
    /// We wrote since the driver last looked.
    spoke: AtomicBool,
    /// yamux has more to write than the wire takes: it does not clear away dropped streams meanwhile.
    blocked: AtomicBool,
    /// yamux refused what the peer did, and said so in a GoAway. It would go on regardless.
    violation: AtomicBool,
    /// The newest stream that arrived had its end in its first frame.
    arrived_finished: AtomicBool,
    /// The code of the peer's GoAway, or `NO_GOAWAY`.
    goaway: AtomicU32,
    /// What the newest of yamux' pings took, in microseconds; 0 before the first answer.
    rtt: AtomicU64,
    /// Bytes.
    sent: AtomicU64,
    received: AtomicU64,
}

const NO_GOAWAY: u32 = u32::MAX;

impl Tunnel {
    fn new(transport: Transport, limits: Limits) -> Self {
        Self {
            transport,
            open_permits: Arc::new(Semaphore::new(count(limits.open))),
            accept_permits: Arc::new(Semaphore::new(count(limits.accept))),
            end: OnceLock::new(),
            over: CancellationToken::new(),
            driver: AtomicWaker::new(),
            registry: Mutex::default(),
            signals: Mutex::default(),
            bulk: AtomicUsize::new(0),
            seen: Seen {
                heard: AtomicBool::new(false),
                spoke: AtomicBool::new(false),
                blocked: AtomicBool::new(false),
                violation: AtomicBool::new(false),
                arrived_finished: AtomicBool::new(false),
                goaway: AtomicU32::new(NO_GOAWAY),
                rtt: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
            },
        }
    }

    /// Ends the tunnel; the first end counts. Everyone who waits for anything in it is woken.
    fn finish(&self, end: Closed) {
        if self.end.set(end).is_err() {
            return;
        }
        self.open_permits.close();
        self.accept_permits.close();
        self.over.cancel();
        // Collected first: the last reference to a stream must not be dropped while its registry is locked.
        let streams: Vec<_> =
            self.registry.lock().streams.values().filter_map(|entry| entry.stream.upgrade()).collect();
        for stream in streams {
            stream.wake();
        }
        let signals = std::mem::take(&mut *self.signals.lock());
        drop(signals);
        self.driver.wake();
    }

    async fn closed(&self) -> Closed {
        self.over.cancelled().await;
        // Set before the token is cancelled; the default is never seen.
        self.end.get().cloned().unwrap_or(Closed::Lost(super::Lost::Ended))
    }

    /// What `work` comes to, or `None` once the tunnel is over.
    async fn unless_over<R>(&self, work: impl Future<Output = Option<R>>) -> Option<R> {
        if self.end.get().is_some() {
            return None;
        }
        tokio::select! {
            biased;
            result = work => result,
            () = self.over.cancelled() => None,
        }
    }

    fn register(self: &Arc<Self>, stream: ::yamux::Stream, fin: bool) -> Arc<StreamShared> {
        let shared = Arc::new(StreamShared::new(stream, fin, Arc::clone(self)));
        let entry = Entry { stream: Arc::downgrade(&shared), reset: false };
        let mut registry = self.registry.lock();
        registry.streams.insert(shared.id(), entry);
        registry.begun += 1;
        drop(registry);
        shared
    }

    fn find(&self, id: u32) -> Option<Arc<StreamShared>> {
        self.registry.lock().streams.get(&id).and_then(|entry| entry.stream.upgrade())
    }

    /// A stream goes; `unfinished` if the peer must not take what it has for the whole.
    fn forget(&self, id: u32, unfinished: bool) {
        let mut registry = self.registry.lock();
        let reset = registry.streams.remove(&id).is_some_and(|entry| entry.reset);
        // After the peer's reset yamux sends no last frame.
        if unfinished && !reset && self.end.get().is_none() {
            registry.aborted.insert(id);
        }
    }

    fn signal(&self, stream: &Arc<StreamShared>, signal: Signal) {
        if self.end.get().is_none() {
            self.signals.lock().push_back((Arc::clone(stream), signal));
            self.driver.wake();
        }
    }

    // --- what the wire sees, called before yamux itself does

    fn peer_finished(&self, id: u32) {
        if let Some(stream) = self.find(id) {
            stream.peer_finished();
        }
    }

    fn peer_reset(&self, id: u32) {
        let stream = {
            let mut registry = self.registry.lock();
            registry.aborted.remove(&id);
            let entry = registry.streams.get_mut(&id);
            entry.and_then(|entry| {
                entry.reset = true;
                entry.stream.upgrade()
            })
        };
        if let Some(stream) = stream {
            stream.peer_reset();
        }
    }

    /// A stream's last frame leaves. True if it was dropped unfinished.
    fn last_frame_leaves(&self, id: u32) -> bool {
        self.registry.lock().aborted.remove(&id)
    }

    fn goaway(&self) -> Option<u32> {
        Some(self.seen.goaway.load(Ordering::Relaxed)).filter(|code| *code != NO_GOAWAY)
    }
}

fn count(streams: u32) -> usize {
    usize::try_from(streams).unwrap_or(usize::MAX)
}
