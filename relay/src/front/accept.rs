//! Callers come in here: one task a connection, so many at once and from one address, and one deadline from the first
//! moment to the end of the first head. Which version of HTTP they speak, their first bytes say.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use culvert_protocol::http1::{Reply, encode_response};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{http1, http2};
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
    let tasks = TaskTracker::new();
    let seats = Arc::new(Seats::default());
    let door = Door { service, stop: stop.clone() };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Seats::take(&seats, peer.ip(), &door.service) {
                Some(seat) => {
                    let (door, cut) = (door.clone(), cut.clone());
                    tasks.spawn(async move {
                        let _seat = seat;
                        tokio::select! {
                            biased;
                            () = cut.cancelled() => {}
                            () = connection(stream, peer, &door) => {}
                        }
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
    tasks.close();
    tasks.wait().await;
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

async fn connection(mut stream: TcpStream, peer: SocketAddr, door: &Door) {
    let deadline = Instant::now() + door.service.limits.head_read;
    let mut first = BytesMut::new();
    let version = tokio::select! {
        biased;
        version = timeout_at(deadline, sniff(&mut stream, &mut first)) => version,
        () = door.stop.cancelled() => return,
    };
    match version {
        Ok(Ok(Sniffed::Http1)) => http1::connection(stream, peer, first, deadline, door).await,
        Ok(Ok(Sniffed::Http2)) => http2::connection(stream, peer, first, door).await,
        Ok(Err(_)) => {}
        Err(_) => door.service.metrics.rejected("head_timeout"),
    }
}

enum Sniffed {
    Http1,
    Http2,
}

async fn sniff(stream: &mut TcpStream, first: &mut BytesMut) -> std::io::Result<Sniffed> {
    first.reserve(http1::FIRST_READ);
    loop {
        if stream.read_buf(first).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let compared = first.len().min(PREFACE.len());
        if first.get(..compared) != PREFACE.get(..compared) {
            return Ok(Sniffed::Http1);
        }
        if compared == PREFACE.len() {
            return Ok(Sniffed::Http2);
        }
    }
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
