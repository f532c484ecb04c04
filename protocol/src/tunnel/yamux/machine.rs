//! What happens in a yamux tunnel, turn by turn: streams arrive and are made, signals go both ways, and an end is
//! understood. yamux moves only while it is polled, and it is polled here and nowhere else.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use ::yamux::{Config, Connection, ConnectionError, DEFAULT_CREDIT, FrameDecodeError, Mode};
use futures_util::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::signal::{Decoder, Signal};
use super::stream::Shared as StreamShared;
use super::wire::{HEADER, Wire};
use super::{SPARE_STREAMS, Tunnel, count};
use crate::tunnel::{CloseCode, CloseReason, Closed, Limits, Lost, Side};

/// The dialer's first stream, which carries the signals.
const SIGNAL_STREAM: u32 = 1;

/// As many of the newest arrivals may go unacknowledged. yamux stops opening at 256; the rest is room for what is on
/// its way. Below this no acknowledgement costs a frame of its own: the answer carries it.
const UNACKNOWLEDGED: usize = 64;

/// Streams beyond the limits that yamux takes before it calls them a violation. What the peer opens too many of is
/// reset one by one; only a peer that floods us while it does not read gets this far.
const SURPLUS: usize = 64;

/// Windows start at 256 KiB, as the protocol has it, and grow with the speed that is seen. All streams of a tunnel
/// together grow by at most this: toward a relay, where there are many tunnels, and toward a developer's machine.
const LISTENER_GROWTH: usize = 8 << 20;
const DIALER_GROWTH: usize = 16 << 20;

/// What is in the largest data frame: with its header, one TLS record. Small frames wait behind it, and behind larger ones for longer.
const SPLIT: usize = 16 * 1024 - HEADER;

/// Signals that wait for a peer which does not read them wait in the tunnel's queue, and here no more than this.
const SIGNALS_AT_ONCE: usize = 1024;

pub(super) struct Machine<T> {
    /// First, so that streams learn of the end before yamux takes them away.
    _end: End,
    connection: Connection<Wire<T>>,
    pub(super) tunnel: Arc<Tunnel>,
    side: Side,
    spare: mpsc::Sender<::yamux::Stream>,
    arrived: mpsc::Sender<Arc<StreamShared>>,
    /// The dialer opens it first of all; the listener has it once the dialer was heard.
    signals: Option<::yamux::Stream>,
    incoming: Decoder,
    outgoing: Vec<u8>,
    /// The newest arrivals, oldest first.
    unacknowledged: VecDeque<Weak<StreamShared>>,
}

/// Ends the tunnel with its machine, be that dropped or unwound: nobody is left waiting for it.
struct End(Arc<Tunnel>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.finish(Closed::Lost(Lost::Abandoned));
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Machine<T> {
    pub(super) fn new(
        io: T,
        side: Side,
        limits: Limits,
        tunnel: Arc<Tunnel>,
        spare: mpsc::Sender<::yamux::Stream>,
        arrived: mpsc::Sender<Arc<StreamShared>>,
    ) -> Self {
        let mode = match side {
            Side::Dialer => Mode::Client,
            Side::Listener => Mode::Server,
        };
        let wire = Wire::new(io, Arc::clone(&tunnel));
        Self {
            _end: End(Arc::clone(&tunnel)),
            connection: Connection::new(wire, config(side, limits), mode),
            tunnel,
            side,
            spare,
            arrived,
            signals: None,
            incoming: Decoder::default(),
            outgoing: Vec::new(),
            unacknowledged: VecDeque::new(),
        }
    }

    /// Ready when the tunnel is over: with how, or with nothing if one of its handles ended it.
    pub(super) fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<Option<Closed>> {
        self.tunnel.driver.register(cx.waker());
        loop {
            if self.tunnel.end.get().is_some() {
                return Poll::Ready(None);
            }
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(over) => return Poll::Ready(Some(over)),
            }
        }
    }

    /// Says goodbye: first the reason, then yamux' GoAway, then the end of the byte stream. The caller bounds it.
    pub(super) async fn close(&mut self) {
        let told = poll_fn(|cx| {
            loop {
                match self.turn(cx) {
                    Ok(_) if self.signals.is_some() && self.outgoing.is_empty() => {
                        return Poll::Ready(Ok(()));
                    }
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(over) => return Poll::Ready(Err(over)),
                }
            }
        })
        .await;
        if told.is_ok() {
            // If it fails the peer is gone, and with it anyone to tell.
            let _ = poll_fn(|cx| self.connection.poll_close(cx)).await;
        }
    }

    pub(super) fn queue(&mut self, signal: &Signal) {
        signal.encode(&mut self.outgoing);
    }

    /// One round. True if there may be more to do at once: yamux has to be polled again after anything was done to
    /// one of its streams.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let arrived = self.receive(cx)?;
        let made = self.make_streams(cx)?;
        let heard = self.hear(cx)?;
        let said = self.say(cx);
        Ok(arrived || made || heard || said)
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut arrived = false;
        while let Poll::Ready(next) = self.connection.poll_next_inbound(cx) {
            match next {
                Some(Ok(stream)) => self.arrive(stream)?,
                Some(Err(error)) => return Err(self.over(cx, &error)),
                None => return Err(self.over(cx, &ConnectionError::Closed)),
            }
            arrived = true;
        }
        if self.tunnel.seen.violation.load(Ordering::Relaxed) {
            return Err(violation("the peer broke the rules of yamux"));
        }
        Ok(arrived)
    }

    fn arrive(&mut self, stream: ::yamux::Stream) -> Result<(), Closed> {
        if self.side == Side::Listener && self.signals.is_none() {
            if stream.id().val() != SIGNAL_STREAM {
                return Err(violation("the peer opened a stream before the first one"));
            }
            self.signals = Some(stream);
            return Ok(());
        }
        let Ok(place) = self.arrived.try_reserve() else {
            // Too many, and the peer knows the limit: this stream is reset, the others live.
            self.tunnel.forget(stream.id().val(), true);
            return Ok(());
        };
        let finished = self.tunnel.seen.arrived_finished.load(Ordering::Relaxed);
        let shared = self.tunnel.register(stream, finished);
        self.unacknowledged.push_back(Arc::downgrade(&shared));
        place.send(shared);
        if self.unacknowledged.len() > UNACKNOWLEDGED
            && let Some(oldest) = self.unacknowledged.pop_front().and_then(|weak| weak.upgrade())
        {
            oldest.acknowledge();
        }
        Ok(())
    }

    /// Makes the signal stream, and spare ones for `open`. Only while yamux can write: else it does not clear away
    /// dropped streams, and one too many would end the tunnel. Within a turn after it could, the streams that exist
    /// are those in use and the spare ones, and for these the limit has room.
    fn make_streams(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut made = false;
        if self.side == Side::Dialer && self.signals.is_none() {
            let Some(mut stream) = self.make_stream(cx)? else { return Ok(false) };
            // Opens it at the peer. There is room: it is the first.
            let _ = Pin::new(&mut stream).poll_write(cx, &[]);
            self.signals = Some(stream);
            made = true;
        }
        for _ in 0..SPARE_STREAMS {
            // No room: `open` wakes this task when it has taken one.
            let Ok(place) = self.spare.clone().try_reserve_owned() else { break };
            let Some(stream) = self.make_stream(cx)? else { break };
            place.send(stream);
            made = true;
        }
        Ok(made)
    }

    fn make_stream(&mut self, cx: &mut Context<'_>) -> Result<Option<::yamux::Stream>, Closed> {
        if self.tunnel.seen.blocked.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.connection.poll_new_outbound(cx) {
            Poll::Ready(Ok(stream)) => Ok(Some(stream)),
            Poll::Ready(Err(error)) => Err(self.over(cx, &error)),
            Poll::Pending => Ok(None),
        }
    }

    fn hear(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut heard = false;
        let Some(signals) = &mut self.signals else { return Ok(false) };
        let mut bytes = [0; Decoder::READ];
        while let Poll::Ready(read) = Pin::new(&mut *signals).poll_read(cx, &mut bytes) {
            heard = true;
            let read = match read {
                Ok(0) | Err(_) => return Err(violation("the peer ended the stream of signals")),
                Ok(read) => read,
            };
            self.incoming.push(bytes.get(..read).unwrap_or_default());
            loop {
                match self.incoming.next() {
                    Ok(Some(Signal::Stop(id))) => {
                        if let Some(stream) = self.tunnel.find(id) {
                            stream.peer_stopped();
                        }
                    }
                    Ok(Some(Signal::Reset(id))) => {
                        if let Some(stream) = self.tunnel.find(id) {
                            stream.peer_cut();
                        }
                    }
                    Ok(Some(Signal::Alive)) => {}
                    Ok(Some(Signal::Close(reason))) => return Err(Closed::ByPeer(reason)),
                    Ok(None) => break,
                    Err(malformed) => return Err(violation(&malformed.to_string())),
                }
            }
        }
        Ok(heard)
    }

    fn say(&mut self, cx: &mut Context<'_>) -> bool {
        let mut said = false;
        loop {
            while self.outgoing.len() < SIGNALS_AT_ONCE {
                // Bound first, so that the queue is free again.
                let next = self.tunnel.signals.lock().pop_front();
                let Some((stream, signal)) = next else { break };
                if stream.worth_saying(&signal) {
                    signal.encode(&mut self.outgoing);
                }
            }
            let Some(signals) = self.signals.as_mut().filter(|_| !self.outgoing.is_empty()) else {
                return said;
            };
            match Pin::new(signals).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(written)) => {
                    self.outgoing.drain(..written.min(self.outgoing.len()));
                    said = true;
                }
                // An error is the connection's, which tells it itself.
                Poll::Ready(Err(_)) | Poll::Pending => return said,
            }
        }
    }

    /// yamux is done. A reason that came right before counts for more than what yamux makes of the end.
    fn over(&mut self, cx: &mut Context<'_>, error: &ConnectionError) -> Closed {
        if let Err(told @ Closed::ByPeer(_)) = self.hear(cx) {
            return told;
        }
        match (self.tunnel.goaway(), error) {
            (Some(0), _) => Closed::ByPeer(CloseCode::Dropped.into()),
            (Some(code), _) => violation(&format!("the peer reports yamux error {code}")),
            (None, ConnectionError::Io(error) | ConnectionError::Decode(FrameDecodeError::Io(error))) => {
                Closed::Lost(Lost::Io(error.kind()))
            }
            (None, ConnectionError::Closed) => Closed::Lost(Lost::Ended),
            (None, error) => violation(&error.to_string()),
        }
    }
}

fn violation(what: &str) -> Closed {
    // Through the filter of a reason: part of it may come from the peer.
    Closed::Lost(Lost::Protocol(CloseReason::new(CloseCode::Protocol, what).text().to_owned()))
}

fn config(side: Side, limits: Limits) -> Config {
    // Streams that exist at once: those in use, those that wait for `accept`, the spare ones (in the channel, and
    // taken but not yet cleared away), and the signals.
    let streams = count(limits.open) + 2 * count(limits.accept) + 2 * SPARE_STREAMS + 1 + SURPLUS;
    let growth = match side {
        Side::Dialer => DIALER_GROWTH,
        Side::Listener => LISTENER_GROWTH,
    };
    let window = usize::try_from(DEFAULT_CREDIT).unwrap_or(usize::MAX);
    let mut config = Config::default();
    // yamux asserts that the one bound has room for the other, so the first is lifted meanwhile.
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(streams);
    config.set_max_connection_receive_window(Some(streams.saturating_mul(window).saturating_add(growth)));
    config.set_split_send_size(SPLIT);
    config
}
