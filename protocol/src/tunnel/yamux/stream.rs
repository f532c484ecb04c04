//! The two halves of a yamux stream, and what they share: our drop rules on top of a library that knows only whole
//! streams.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use futures_util::{AsyncRead, AsyncWrite, Stream as _};
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::signal::Signal;
use super::{Held, Tunnel};
use crate::tunnel::{BULK, StreamError};

/// What both halves, the driver and the wire know about one stream.
#[derive(Debug)]
pub(super) struct Shared {
    id: u32,
    tunnel: Arc<Tunnel>,
    /// Both halves need all of it. Seldom contended: an exchange is mostly one task.
    stream: Mutex<::yamux::Stream>,
    /// The peer's FIN passed the wire: the end is an end.
    fin: AtomicBool,
    /// The peer's RST passed the wire.
    reset: AtomicBool,
    /// The peer signalled that its half which feeds our reader was dropped unfinished.
    cut: AtomicBool,
    /// The peer signalled that it reads no more.
    stopped: AtomicBool,
    /// Something was written, so that the peer knows the stream (outbound) or has our acknowledgement (inbound).
    wrote: AtomicBool,
    /// Our half ended in order.
    finished: AtomicBool,
    halves: AtomicU8,
    /// Bytes, both ways.
    moved: AtomicU64,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Empty while the stream waits to be accepted.
    held: OnceLock<Held>,
}

impl Shared {
    pub(super) fn new(stream: ::yamux::Stream, fin: bool, tunnel: Arc<Tunnel>) -> Self {
        Self {
            id: stream.id().val(),
            tunnel,
            stream: Mutex::new(stream),
            fin: AtomicBool::new(fin),
            reset: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            halves: AtomicU8::new(0),
            moved: AtomicU64::new(0),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            held: OnceLock::new(),
        }
    }

    pub(super) fn halves(shared: Arc<Self>, held: Held) -> (Reader, Writer) {
        // Set once: a stream is opened or accepted once.
        let _ = shared.held.set(held);
        shared.halves.store(2, Ordering::Release);
        (Reader { shared: Arc::clone(&shared), ended: false }, Writer { shared })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn peer_finished(&self) {
        self.fin.store(true, Ordering::Release);
    }

    pub(super) fn peer_reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn peer_cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.reader.wake();
    }

    pub(super) fn peer_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        self.writer.wake();
    }

    pub(super) fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// Tells the peer that the stream has arrived, if nothing that we wrote did so already. yamux opens no more
    /// than 256 streams ahead of the acknowledgements, and an app that thinks for long writes nothing.
    pub(super) fn acknowledge(&self) {
        let mut stream = self.stream.lock();
        if !self.wrote.swap(true, Ordering::AcqRel) {
            // An empty frame carries the flag. It cannot have to wait: it is the first.
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut *stream).poll_write(&mut cx, &[]);
        }
    }

    /// Whether `signal` still tells the peer something. What was dropped as a whole and unfinished leaves with a
    /// reset, which says it all.
    pub(super) fn worth_saying(&self, signal: &Signal) -> bool {
        let gone = self.halves.load(Ordering::Acquire) == 0;
        match signal {
            Signal::Stop(_) => {
                let whole = self.finished.load(Ordering::Acquire) || !gone;
                whole && !self.fin.load(Ordering::Acquire) && !self.reset.load(Ordering::Acquire)
            }
            Signal::Reset(_) => !gone && !self.reset.load(Ordering::Acquire),
            Signal::Alive | Signal::Close(_) => true,
        }
    }

    fn moved(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or_default();
        let before = self.moved.fetch_add(bytes, Ordering::Relaxed);
        if before <= BULK && before + bytes > BULK {
            self.tunnel.bulk.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn over(&self) -> Option<StreamError> {
        self.tunnel.end.get().cloned().map(StreamError::Tunnel)
    }

    /// What it means that yamux has nothing more to read or to write to.
    fn verdict(&self, on_reset: StreamError) -> Poll<io::Error> {
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(on_reset.into());
        }
        match self.over() {
            Some(error) => Poll::Ready(error.into()),
            // yamux has given up and the driver is about to say why: `Tunnel::finish` wakes every stream.
            None => Poll::Pending,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tunnel.forget(self.id, !*self.finished.get_mut());
        if *self.moved.get_mut() > BULK {
            self.tunnel.bulk.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Dropped before the end, it tells the peer to stop.
#[derive(Debug)]
pub(in crate::tunnel) struct Reader {
    shared: Arc<Shared>,
    ended: bool,
}

impl Reader {
    pub(in crate::tunnel) fn id(&self) -> u64 {
        u64::from(self.shared.id)
    }

    pub(in crate::tunnel) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let read = self.poll_with(cx, |mut stream, cx| {
            loop {
                match stream.as_mut().poll_next(cx) {
                    // An acknowledgement, or a frame that only opens or ends the stream.
                    Poll::Ready(Some(Ok(packet))) if packet.as_ref().is_empty() => {}
                    Poll::Ready(Some(Ok(packet))) => {
                        return Poll::Ready(Some(Bytes::from_owner(packet)));
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        if let Poll::Ready(Ok(Some(chunk))) = &read {
            self.shared.moved(chunk.len());
        }
        read
    }

    pub(in crate::tunnel) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = self.poll_with(cx, |stream, cx| {
            let read = match stream.poll_read(cx, buffer.initialize_unfilled()) {
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(_)) => 0,
                Poll::Pending => return Poll::Pending,
            };
            buffer.advance(read);
            Poll::Ready((read > 0).then_some(()))
        });
        self.shared.moved(buffer.filled().len() - before);
        read.map_ok(|_| ())
    }

    /// `read` says `None` when yamux has nothing more; whether that is the end is found out here.
    fn poll_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(Pin<&mut ::yamux::Stream>, &mut Context<'_>) -> Poll<Option<R>>,
    ) -> Poll<io::Result<Option<R>>> {
        let shared = &self.shared;
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if shared.cut.load(Ordering::Acquire) {
            return Poll::Ready(Err(StreamError::Reset.into()));
        }
        // Bound first, so that the lock is free again.
        let read = read(Pin::new(&mut *shared.stream.lock()), cx);
        match read {
            Poll::Ready(Some(read)) => return Poll::Ready(Ok(Some(read))),
            Poll::Ready(None) if shared.fin.load(Ordering::Acquire) => {
                self.ended = true;
                return Poll::Ready(Ok(None));
            }
            Poll::Ready(None) => {
                shared.reader.register(cx.waker());
                return shared.verdict(StreamError::Reset).map(Err);
            }
            Poll::Pending => shared.reader.register(cx.waker()),
        }
        // Registered first: what happens from here on wakes us.
        if shared.cut.load(Ordering::Acquire) {
            return Poll::Ready(Err(StreamError::Reset.into()));
        }
        match shared.over() {
            Some(error) => Poll::Ready(Err(error.into())),
            None => Poll::Pending,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.halves.fetch_sub(1, Ordering::AcqRel);
        let stop = Signal::Stop(shared.id);
        if !self.ended && !shared.cut.load(Ordering::Acquire) && shared.worth_saying(&stop) {
            shared.tunnel.signal(shared, stop);
        }
    }
}

/// Dropped before `poll_shutdown`, it resets the stream.
#[derive(Debug)]
pub(in crate::tunnel) struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    pub(in crate::tunnel) fn id(&self) -> u64 {
        u64::from(self.shared.id)
    }

    pub(in crate::tunnel) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.shared.finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(StreamError::Finished.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = self.poll_with(cx, |stream, cx| stream.poll_write(cx, bytes));
        if let Poll::Ready(Ok(written)) = written {
            self.shared.moved(written);
        }
        written
    }

    /// Queues the FIN behind the bytes before it; the driver writes both at once if it was not faster.
    pub(in crate::tunnel) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.finished.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if self.shared.stopped.load(Ordering::Acquire) {
            // Nobody reads it, so nobody needs the end. What is left is reset when this is dropped.
            return Poll::Ready(Ok(()));
        }
        let shared = Arc::clone(&self.shared);
        self.poll_with(cx, |mut stream, cx| {
            if !shared.wrote.load(Ordering::Acquire) && !stream.is_closed() {
                // A FIN does not open a stream: the peer would ignore it and never learn of us.
                ready!(stream.as_mut().poll_write(cx, &[]))?;
            }
            ready!(stream.poll_close(cx))?;
            // Under the lock, so that the FIN cannot leave before it counts as ours.
            shared.finished.store(true, Ordering::Release);
            Poll::Ready(Ok(()))
        })
    }

    /// Ready when the peer reads no more, or the tunnel is over.
    pub(in crate::tunnel) fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.shared;
        shared.writer.register(cx.waker());
        let over = shared.stopped.load(Ordering::Acquire)
            || shared.reset.load(Ordering::Acquire)
            || shared.tunnel.end.get().is_some();
        if over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut ::yamux::Stream>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let shared = &self.shared;
        if shared.stopped.load(Ordering::Acquire) {
            return Poll::Ready(Err(StreamError::Stopped.into()));
        }
        if let Some(error) = shared.over() {
            return Poll::Ready(Err(error.into()));
        }
        // Bound first, so that the lock is free again.
        let written = {
            let mut stream = shared.stream.lock();
            let written = write(Pin::new(&mut *stream), cx);
            if matches!(written, Poll::Ready(Ok(_))) {
                shared.wrote.store(true, Ordering::Release);
            }
            written
        };
        match written {
            Poll::Ready(Ok(written)) => return Poll::Ready(Ok(written)),
            Poll::Ready(Err(_)) => {
                shared.writer.register(cx.waker());
                return shared.verdict(StreamError::Stopped).map(Err);
            }
            Poll::Pending => shared.writer.register(cx.waker()),
        }
        // Registered first: what happens from here on wakes us.
        if shared.stopped.load(Ordering::Acquire) {
            return Poll::Ready(Err(StreamError::Stopped.into()));
        }
        match shared.over() {
            Some(error) => Poll::Ready(Err(error.into())),
            None => Poll::Pending,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.halves.fetch_sub(1, Ordering::AcqRel);
        let reset = Signal::Reset(shared.id);
        // A peer that stopped reading has no reader left to tell.
        let told = shared.finished.load(Ordering::Acquire) || shared.stopped.load(Ordering::Acquire);
        if !told && shared.worth_saying(&reset) {
            shared.tunnel.signal(shared, reset);
        }
    }
}
