//! A caller's HTTP/2 connection: as many exchanges at once as it was granted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use culvert_protocol::body::{Kept, Source};
use culvert_protocol::http1::{Limits, Refusal};
use culvert_protocol::http2::Reader;
use culvert_protocol::message::RequestHead;
use culvert_protocol::timer::Timer;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::accept::{Door, jittered};
use super::caller::{Answer, Caller, Peer};
use super::record::Exchange;
use crate::failure::Failure;
use crate::service::Service;

/// What Envoy advises for a front door: windows a stream, a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAMS: u32 = 100;
const HEADER_LIST: u32 = 64 * 1024;
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 1024;
/// Bytes of one stream that wait for the caller's windows.
const SEND_BUFFER: usize = 64 * 1024;
/// What small DATA frames may cost beyond their bytes while nobody has taken them: 256 bytes each, for a stream's window full
/// of the smallest gRPC messages, and room. Beyond it the connection ends: it is a flood.
const SMALL_FRAMES: usize = 4 * 1024 * 1024;

pub(super) async fn connection<T>(stream: T, peer: Peer, first: BytesMut, door: &Door)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &door.service.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_concurrent_reset_streams(PENDING_RESETS)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        .enable_connect_protocol();
    let handshake = builder.handshake::<_, Bytes>(Sniffed { first, stream });
    let Ok(Ok(mut connection)) = timeout(limits.head_read, handshake).await else {
        return door.service.metrics.rejected("h2_handshake");
    };
    let peer = Arc::new(peer);
    // In this task, not in their own: what several of them have to say leaves in one write.
    let mut exchanges = FuturesUnordered::new();
    let mut stopping = false;
    let keep_alive = jittered(limits.keep_alive);
    loop {
        let idle = exchanges.is_empty();
        let accepted = tokio::select! {
            biased;
            () = door.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
                continue;
            }
            Some(()) = exchanges.next() => continue,
            accepted = idle_limit(keep_alive, idle, connection.accept()) => accepted,
        };
        match accepted {
            Some(Some(Ok((request, respond)))) => {
                let (peer, service) = (Arc::clone(&peer), Arc::clone(&door.service));
                exchanges.push(exchange(request, respond, peer, service));
            }
            Some(Some(Err(cause))) => {
                tracing::debug!(service = %door.service.name, "an HTTP/2 caller: {cause}");
                door.service.metrics.rejected("h2");
                break;
            }
            Some(None) => break,
            // Nothing under way and nothing new for as long as a connection may stand idle.
            None if stopping => break,
            None => {
                stopping = true;
                connection.graceful_shutdown();
            }
        }
    }
    // What the caller can no longer hear is dropped with the set.
}

/// Waits for `step`, while nothing is under way no longer than `limit`.
async fn idle_limit<F: Future>(limit: Duration, idle: bool, step: F) -> Option<F::Output> {
    if idle { timeout(limit, step).await.ok() } else { Some(step.await) }
}

async fn exchange(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    peer: Arc<Peer>,
    service: Arc<Service>,
) {
    let (parts, stream) = request.into_parts();
    let mut head = RequestHead::default();
    let checked = culvert_protocol::http2::request(&parts, stream.is_end_stream(), &mut head);
    if checked.is_err() {
        // A malformed request is a stream error (RFC 9113 §8.1.1).
        service.metrics.rejected("malformed");
        return respond.send_reset(h2::Reason::PROTOCOL_ERROR);
    }
    let (mut body, mut kept, mut timer) = (Reader::new(stream), Kept::default(), Timer::default());
    let answer = Answer::Http2 { respond, to_head: head.is("HEAD"), body: None, call: false };
    let mut caller = Caller::new(Source::Http2(&mut body), &mut kept, answer, &mut timer, &peer);
    match oversized(&head, &Limits::default()) {
        None => super::request(&mut head, &mut caller, &service).await,
        Some(refusal) => {
            let mut exchange = Exchange::begin(&service);
            caller.fail(&Failure::Refused(refusal), false, &service.limits, &mut exchange).await;
        }
    }
}

/// The limits of HTTP/1 that `h2` does not know; it has bounded the header list as a whole.
fn oversized(head: &RequestHead, limits: &Limits) -> Option<Refusal> {
    if head.method.len() > limits.method {
        Some(Refusal::RequestLine)
    } else if head.target.len() > limits.target {
        Some(Refusal::TargetTooLong)
    } else if head.fields.len() > limits.fields {
        Some(Refusal::TooManyFields)
    } else if head.fields.iter().any(|(name, value)| name.len() + value.len() > limits.field) {
        Some(Refusal::FieldTooLarge)
    } else {
        None
    }
}

/// The connection with the bytes that were read of it already.
#[derive(Debug)]
struct Sniffed<T> {
    first: BytesMut,
    stream: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Sniffed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(self.first.get(..length).unwrap_or_default());
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sniffed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
