//! The task of a yamux tunnel: from the first poll to the word of farewell. What happens in between is the machine's.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::Tunnel;
use super::machine::Machine;
use super::signal::Signal;
use super::stream::Shared as StreamShared;
use crate::tunnel::{Closed, IDLE_LIMIT, KEEP_ALIVE, Limits, Lost, Side};

/// How long we try to tell the peer why we close: a few round trips on a bad link. A peer that does not read cannot
/// hold us longer than this.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Drives a yamux tunnel; ends with how the tunnel ended. Whoever made the tunnel polls it to its end.
#[must_use = "nothing moves in the tunnel unless this is polled"]
pub struct Driver {
    running: Pin<Box<dyn Future<Output = Closed> + Send>>,
}

impl Driver {
    pub(super) fn new<T>(
        io: T,
        side: Side,
        limits: Limits,
        tunnel: Arc<Tunnel>,
        spare: mpsc::Sender<::yamux::Stream>,
        arrived: mpsc::Sender<Arc<StreamShared>>,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // On its own, because a future keeps room twice for what it is given.
        let machine = Box::new(Machine::new(io, side, limits, tunnel, spare, arrived));
        Self { running: Box::pin(drive(machine)) }
    }
}

impl Future for Driver {
    type Output = Closed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        self.running.as_mut().poll(cx)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

async fn drive<T: AsyncRead + AsyncWrite + Unpin>(mut machine: Box<Machine<T>>) -> Closed {
    let tunnel = Arc::clone(&machine.tunnel);
    let mut silence = Silence::new();
    let over = poll_fn(|cx| match silence.poll(cx, &mut machine) {
        Poll::Ready(()) => Poll::Ready(Some(Closed::Lost(Lost::Silent))),
        Poll::Pending => machine.poll_running(cx),
    })
    .await;
    if let Some(over) = over {
        tunnel.finish(over);
    }

    if let Some(Closed::ByUs(reason)) = tunnel.end.get() {
        machine.queue(&Signal::Close(reason.clone()));
        // At best effort: whether the peer was told, nobody here could do anything about.
        let _ = timeout(CLOSE_LIMIT, machine.close()).await;
    }
    tunnel.closed().await
}

/// Says something when nothing was said for a while, and notices when nothing was heard. It counts ticks and not
/// time: to a process that was itself stopped for a minute, nobody has been silent yet.
struct Silence {
    ticks: Interval,
    silent: u64,
    /// Ticks since we said something.
    mute: u64,
}

impl Silence {
    /// After as many ticks without a byte the peer was silent for the limit, and for at most one tick more.
    const TICKS: u64 = IDLE_LIMIT.as_secs() / Self::TICK.as_secs();
    const TICK: Duration = Duration::from_secs(1);

    fn new() -> Self {
        let mut ticks = interval_at(Instant::now() + Self::TICK, Self::TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, silent: 0, mute: 0 }
    }

    fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        machine: &mut Machine<T>,
    ) -> Poll<()> {
        while self.ticks.poll_tick(cx).is_ready() {
            let tunnel = Arc::clone(&machine.tunnel);
            self.silent = if tunnel.seen.heard.swap(false, Ordering::Relaxed) { 0 } else { self.silent + 1 };
            if self.silent >= Self::TICKS {
                return Poll::Ready(());
            }
            self.mute = if tunnel.seen.spoke.swap(false, Ordering::Relaxed) { 0 } else { self.mute + 1 };
            if self.mute >= KEEP_ALIVE.as_secs() {
                self.mute = 0;
                machine.queue(&Signal::Alive);
            }
        }
        Poll::Pending
    }
}
