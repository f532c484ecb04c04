//! The byte stream under yamux. It batches what yamux writes, and watches the frame headers that pass in both
//! directions for what yamux does not tell. Changes nothing but one flag: see `outgoing`.
//!
//! yamux flushes after every frame, so a flush does nothing here. Whatever was written goes out when yamux has
//! nothing more to write and nothing more to read, or when a buffer's worth has gathered.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::Tunnel;

/// Gathers as much before it writes: four TLS records, or the small frames of a few hundred exchanges.
const WRITE_BUFFER: usize = 64 * 1024;

/// The same where the connection takes no more than its path carries: what comes later, such as a small answer, waits behind all
/// that has gathered, and on 1 Mbit/s half a second for each 64 KiB.
const SLOW_WRITE_BUFFER: usize = 16 * 1024;

/// A buffer that is larger than this is given back when it is empty: most tunnels are idle most of the time.
const KEPT: usize = 4 * 1024;

/// Frame headers are read with so much of what follows; bodies at least as large go straight to yamux.
const READ_BUFFER: usize = 4 * 1024;

/// While more keeps coming in, what we have to say (window updates, answers) waits no longer than this many bytes.
const READ_BEFORE_FLUSH: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Wire<T> {
    io: T,
    tunnel: Arc<Tunnel>,
    /// What came with what yamux wanted. Given back when all of it is read and nothing follows.
    input: Vec<u8>,
    /// What of `input` yamux has not read yet.
    unread: std::ops::Range<usize>,
    read_since_flush: usize,
    incoming: Incoming,
    output: Vec<u8>,
    /// How much of `output` is written.
    written: usize,
    unflushed: bool,
    /// What the connection has taken since it last had us wait.
    taken: usize,
    /// What is missing of the body that yamux is writing; a header comes after it.
    body_left: usize,
    /// Our newest ping, and when it was written: yamux measures with it, and keeps what it finds to itself.
    ping: Option<(u32, Instant)>,
}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Wire<T> {
    pub(super) fn new(io: T, tunnel: Arc<Tunnel>) -> Self {
        Self {
            io,
            tunnel,
            input: Vec::new(),
            unread: 0..0,
            read_since_flush: 0,
            incoming: Incoming::default(),
            output: Vec::new(),
            written: 0,
            unflushed: false,
            taken: 0,
            body_left: 0,
            ping: None,
        }
    }

    /// Writes what has gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.taken = self.taken.saturating_add(written);
            self.tunnel.seen.sent.fetch_add(u64::try_from(written).unwrap_or_default(), Ordering::Relaxed);
            self.unflushed = true;
            self.tunnel.seen.spoke.store(true, Ordering::Relaxed);
        }
        self.written = 0;
        if self.output.capacity() > KEPT {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
        Poll::Ready(Ok(()))
    }

    /// And has it leave: TLS would keep some, which makes what has gathered look like less.
    fn poll_drain_and_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_since_flush = 0;
        let mut left = self.poll_drain(cx)?;
        if left.is_ready() && self.unflushed {
            left = Pin::new(&mut self.io).poll_flush(cx)?;
            self.unflushed = left.is_pending();
        }
        if left.is_pending() {
            self.taken = 0;
        }
        left.map(Ok)
    }

    /// Looks at a header that is about to leave. A stream that was dropped unfinished after the peer's FIN would end
    /// with a FIN of yamux' own making, and the peer would take half a message for a whole one: it becomes an RST.
    fn outgoing(&mut self, header: [u8; HEADER]) -> [u8; HEADER] {
        let mut header = Header(header);
        self.body_left = header.body();
        match header.kind() {
            Some(Kind::Stream)
                if header.flags() & (FIN | RST) != 0 && self.tunnel.last_frame_leaves(header.stream()) =>
            {
                header.set_flags(header.flags() & !FIN | RST);
            }
            Some(Kind::Ping) if header.flags() & ACK == 0 => {
                self.ping = Some((header.length(), Instant::now()));
            }
            Some(Kind::GoAway) if header.length() != 0 => {
                self.tunnel.seen.violation.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
        header.0
    }

    /// Reads more than yamux wants if that is little, on the stack: a tunnel that waits keeps no buffer for what may come.
    fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.unread.is_empty() {
            if wanted.len() >= READ_BUFFER {
                let mut direct = ReadBuf::new(wanted);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut direct))?;
                return Poll::Ready(Ok(direct.filled().len()));
            }
            let mut room = [MaybeUninit::uninit(); READ_BUFFER];
            let mut buffer = ReadBuf::uninit(&mut room);
            let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut buffer) else {
                self.input = Vec::new();
                return Poll::Pending;
            };
            read?;
            let read = buffer.filled().len().min(wanted.len());
            let (now, later) = buffer.filled().split_at(read);
            if let Some(to) = wanted.get_mut(..read) {
                to.copy_from_slice(now);
            }
            self.input.clear();
            self.input.extend_from_slice(later);
            self.unread = 0..later.len();
            return Poll::Ready(Ok(read));
        }
        let unread = self.input.get(self.unread.clone()).unwrap_or_default();
        let read = unread.len().min(wanted.len());
        if let (Some(to), Some(from)) = (wanted.get_mut(..read), unread.get(..read)) {
            to.copy_from_slice(from);
        }
        self.unread.start += read;
        Poll::Ready(Ok(read))
    }
}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, wanted: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Poll::Ready(read) = this.poll_fill(cx, wanted)? else {
            // yamux reads only when it has nothing to write: now is the time to send. That it could not all be
            // sent is no reason to fail here; the task wakes up for it.
            let _ = this.poll_drain_and_flush(cx)?;
            return Poll::Pending;
        };
        if read > 0 {
            this.tunnel.seen.heard.store(true, Ordering::Relaxed);
            this.tunnel.seen.received.fetch_add(u64::try_from(read).unwrap_or_default(), Ordering::Relaxed);
        }
        this.incoming.watch(wanted.get(..read).unwrap_or_default(), &this.tunnel, &mut this.ping);
        this.read_since_flush += read;
        if this.read_since_flush > READ_BEFORE_FLUSH {
            let _ = this.poll_drain_and_flush(cx)?;
        }
        Poll::Ready(Ok(read))
    }
}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = this.taken.clamp(SLOW_WRITE_BUFFER, WRITE_BUFFER);
        let full = this.output.len() - this.written >= room;
        let blocked = full && this.poll_drain_and_flush(cx)?.is_pending();
        this.tunnel.seen.blocked.store(blocked, Ordering::Relaxed);
        if blocked {
            return Poll::Pending;
        }
        if this.written >= WRITE_BUFFER {
            this.output.drain(..this.written);
            this.written = 0;
        }
        // Everything is taken, so a header always comes in one piece.
        if this.output.capacity() - this.output.len() < bytes.len() && this.output.capacity() >= KEPT {
            this.output.reserve_exact(WRITE_BUFFER + bytes.len());
        }
        if this.body_left > 0 {
            this.body_left = this.body_left.saturating_sub(bytes.len());
            this.output.extend_from_slice(bytes);
        } else {
            let header = bytes.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let header = this.outgoing(header);
            this.output.extend_from_slice(&header);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends the rest, ends our direction, and then reads the peer's to its end: a socket that is closed with
    /// something unread resets the connection, and the reset may overtake what was just sent. The driver bounds it.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain_and_flush(cx))?;
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        loop {
            let mut room = [MaybeUninit::uninit(); READ_BUFFER];
            let mut buffer = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Follows the frames that come in.
#[derive(Debug, Default)]
struct Incoming {
    header: [u8; HEADER],
    /// How much of `header` is there.
    have: usize,
    body_left: usize,
}

impl Incoming {
    fn watch(&mut self, mut bytes: &[u8], tunnel: &Tunnel, ping: &mut Option<(u32, Instant)>) {
        while !bytes.is_empty() {
            let skipped = self.body_left.min(bytes.len());
            self.body_left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();

            let missing = self.header.iter_mut().skip(self.have);
            let taken = missing.zip(bytes).map(|(to, from)| *to = *from).count();
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.have == HEADER {
                self.have = 0;
                let header = Header(self.header);
                self.body_left = header.body();
                announce(&header, tunnel, ping);
            }
        }
    }
}

fn announce(header: &Header, tunnel: &Tunnel, ping: &mut Option<(u32, Instant)>) {
    let flags = header.flags();
    match header.kind() {
        // In yamux' order: a reset is nothing else, and the first frame of a stream may be its last.
        Some(Kind::Stream) if flags & RST != 0 => tunnel.peer_reset(header.stream()),
        Some(Kind::Stream) if flags & SYN != 0 => {
            tunnel.seen.arrived_finished.store(flags & FIN != 0, Ordering::Relaxed);
        }
        Some(Kind::Stream) if flags & FIN != 0 => tunnel.peer_finished(header.stream()),
        Some(Kind::GoAway) => tunnel.seen.goaway.store(header.length(), Ordering::Relaxed),
        Some(Kind::Ping) if flags & ACK != 0 => {
            if let Some((_, sent)) = ping.take_if(|(number, _)| *number == header.length()) {
                let took = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                tunnel.seen.rtt.store(took.max(1), Ordering::Relaxed);
            }
        }
        Some(Kind::Stream | Kind::Ping) | None => {}
    }
}

/// version 8, type 8, flags 16, stream 32, length 32 bits, big-endian.
pub(super) const HEADER: usize = 12;

const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

struct Header([u8; HEADER]);

enum Kind {
    /// Data and window updates, whose flags mean the same.
    Stream,
    Ping,
    GoAway,
}

impl Header {
    fn kind(&self) -> Option<Kind> {
        match self.0 {
            [_, 0 | 1, ..] => Some(Kind::Stream),
            [_, 2, ..] => Some(Kind::Ping),
            [_, 3, ..] => Some(Kind::GoAway),
            _ => None,
        }
    }

    fn flags(&self) -> u16 {
        let [_, _, high, low, ..] = self.0;
        u16::from_be_bytes([high, low])
    }

    fn set_flags(&mut self, flags: u16) {
        let [_, _, high, low, ..] = &mut self.0;
        [*high, *low] = flags.to_be_bytes();
    }

    fn stream(&self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    fn length(&self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Only data frames have a body.
    fn body(&self) -> usize {
        match self.0 {
            [_, 0, ..] => usize::try_from(self.length()).unwrap_or(usize::MAX),
            _ => 0,
        }
    }
}
