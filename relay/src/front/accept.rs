//! Callers come in here: one task a connection, so many at once and from one address, and one deadline from the first
//! moment to the end of the first head. Which version of HTTP they speak, their first bytes say.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use culvert_protocol::http1::{Reply, encode_response};
use culvert_protocol::socket;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::caller::Peer;
use super::{http1, http2, proxy_protocol};
use crate::failure::Failure;
use crate::service::Service;

/// What HTTP/2 connections begin with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection needs besides its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) service: Arc<Service>,
    /// No new exchanges.
    pub(crate) stop: CancellationToken,
}

/// Serves callers until `stop`, then what they have under way until `cut`. Returns when the last one is gone.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let seats = Arc::new(Seats::default());
    let door = Door { service, stop: stop.clone() };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Seats::take(&seats, peer.ip(), &door.service) {
                Some(seat) => {
                    let door = door.clone();
                    connections.spawn(async move {
                        let _seat = seat;
                        connection(stream, peer, &door).await;
                    });
                }
                None => turn_away(&stream, &door.service),
            },
            // Out of files, most likely: what is under way goes on, and trying again at once would only burn the core.
            Err(cause) => {
                door.service.metrics.rejected("accept");
                tracing::warn!(service = %door.service.name, "accepting a caller: {cause}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let whole = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = cut.cancelled() => {}
        () = whole => return,
    }
    connections.shutdown().await;
}

/// Says why, if the caller's buffer takes it at once, and hangs up.
fn turn_away(stream: &TcpStream, service: &Service) {
    let failure = Failure::TooManyCallers;
    service.metrics.rejected(failure.label());
    let (head, body) = failure.render();
    let mut answer = Vec::new();
    encode_response(&head, Reply::default(), &mut answer);
    answer.extend_from_slice(&body);
    // A new connection's buffer is empty; a caller that is already gone needs no answer.
    let _ = stream.try_write(&answer);
}

/// One deadline from here to the end of the first head: through the PROXY header, TLS and the sniff.
async fn connection(stream: TcpStream, peer: SocketAddr, door: &Door) {
    let deadline = Instant::now() + door.service.limits.head_read;
    let arrived = tokio::select! {
        biased;
        arrived = timeout_at(deadline, arrive(stream, peer, &door.service)) => arrived,
        () = door.stop.cancelled() => return,
    };
    match arrived {
        Ok(Ok(Arrived { peer, stream: Secured::Plain(stream), first, http2: false })) => {
            let Ok(halves) = socket::tcp(stream) else { return };
            http1::connection(halves, peer, first, deadline, door).await;
        }
        Ok(Ok(Arrived { peer, stream: Secured::Tls(stream), first, http2: false })) => {
            http1::connection(socket::other(*stream), peer, first, deadline, door).await;
        }
        Ok(Ok(Arrived { peer, stream: Secured::Plain(stream), first, http2: true })) => {
            Box::pin(http2::connection(stream, peer, first, door)).await;
        }
        Ok(Ok(Arrived { peer, stream: Secured::Tls(stream), first, http2: true })) => {
            Box::pin(http2::connection(*stream, peer, first, door)).await;
        }
        Ok(Err(cause)) => {
            tracing::debug!(service = %door.service.name, %peer, "a caller that said nothing of use: {cause}");
            door.service.metrics.rejected("arrival");
        }
        Err(_) => door.service.metrics.rejected("head_timeout"),
    }
}

/// A caller whose first bytes are known.
struct Arrived {
    peer: Peer,
    stream: Secured,
    first: BytesMut,
    http2: bool,
}

enum Secured {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn arrive(mut stream: TcpStream, peer: SocketAddr, service: &Service) -> io::Result<Arrived> {
    stream.set_nodelay(true)?;
    let mut peer = peer;
    let told = &service.manners.proxy_protocol;
    if told.iter().any(|network| network.contains(&peer.ip().to_canonical())) {
        peer = proxy_protocol::read(&mut stream).await?.unwrap_or(peer);
    }
    let mut first = BytesMut::new();
    match &service.tls {
        None => {
            hear(&stream, &mut first).await?;
            let http2 = sniff(&mut stream, &mut first).await?;
            Ok(Arrived { peer: Peer::new(peer, false), stream: Secured::Plain(stream), first, http2 })
        }
        Some(acceptor) => {
            let mut stream = Box::new(acceptor.accept(stream).await?);
            let http2 = sniff(&mut *stream, &mut first).await?;
            Ok(Arrived { peer: Peer::new(peer, true), stream: Secured::Tls(stream), first, http2 })
        }
    }
}

/// Waits for the first bytes of one who may only have connected, and is given no buffer until they are there.
async fn hear(stream: &TcpStream, first: &mut BytesMut) -> io::Result<()> {
    loop {
        stream.readable().await?;
        first.reserve(http1::FIRST_READ);
        match stream.try_read_buf(first) {
            Ok(_) => return Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => *first = BytesMut::new(),
            Err(cause) => return Err(cause),
        }
    }
}

/// Whether the caller speaks HTTP/2, by its first bytes, which are put behind those that are in `first`.
async fn sniff(stream: &mut (impl AsyncRead + Unpin), first: &mut BytesMut) -> io::Result<bool> {
    first.reserve(http1::FIRST_READ.saturating_sub(first.len()));
    loop {
        let compared = first.len().min(PREFACE.len());
        if first.get(..compared) != PREFACE.get(..compared) {
            return Ok(false);
        }
        if compared == PREFACE.len() {
            return Ok(true);
        }
        if stream.read_buf(first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Up to a tenth less, so that connections that were opened at once do not all end at once.
pub(super) fn jittered(limit: Duration) -> Duration {
    let tenth = limit / 10;
    let share = RandomState::new().build_hasher().finish() % 1024;
    limit - tenth + tenth * u32::try_from(share).unwrap_or_default() / 1024
}

/// Who is connected, counted; a seat is given back when it is dropped.
#[derive(Debug, Default)]
struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
    service: Arc<Service>,
}

impl Seats {
    fn take(seats: &Arc<Self>, address: IpAddr, service: &Arc<Service>) -> Option<Seat> {
        let mut taken = seats.0.lock();
        if taken.all >= service.limits.connections {
            return None;
        }
        let here = taken.by_address.entry(address).or_default();
        if *here >= service.limits.connections_per_address {
            return None;
        }
        *here += 1;
        taken.all += 1;
        service.metrics.callers.inc();
        Some(Seat { seats: Arc::clone(seats), address, service: Arc::clone(service) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.service.metrics.callers.dec();
        let mut taken = self.seats.0.lock();
        taken.all -= 1;
        if let Some(here) = taken.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}
