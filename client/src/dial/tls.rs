//! The rungs over TCP: our TLS in whatever byte stream there is, with yamux inside. Also what the first contact of a login
//! goes over.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_certs::tls::HandshakeFailure;
use culvert_protocol::tunnel::{Limits, Side, Tunnel};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Outer, Streams, Way, Why};

/// How long a relay that has taken the connection may take for its side of the handshake: one round trip. Shorter than
/// an attempt, so that a port on which something listens and says nothing is told from one where nothing does.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Rung {
    config: Arc<ClientConfig>,
    streams: Streams,
}

/// What a tunnel over TLS runs on.
#[derive(Debug)]
pub(super) struct Carrier {
    driver: JoinSet<()>,
    refusal: Arc<OnceLock<HandshakeFailure>>,
}

impl Rung {
    pub(super) fn new(config: ClientConfig, streams: Streams) -> Self {
        Self { config: Arc::new(config), streams }
    }

    pub(super) async fn connect(&self, way: &Way) -> Result<(Tunnel, Carrier), Why> {
        let stream = connect(&self.config, &self.streams, way).await?;
        let refusal = Arc::default();
        let watched = Watched { stream, refusal: Arc::clone(&refusal) };
        let (tunnel, run) = Tunnel::yamux_over(way.rung(), watched, Side::Dialer, Limits::of(Side::Dialer));
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The tunnel's own `closed` says how it ended.
            let _ = run.await;
        });
        Ok((tunnel, Carrier { driver, refusal }))
    }
}

impl Carrier {
    pub(super) fn refusal(&self) -> Option<HandshakeFailure> {
        self.refusal.get().copied()
    }

    /// Returns once the close has been sent and the connection is gone.
    pub(super) async fn gone(mut self) {
        while self.driver.join_next().await.is_some() {}
    }
}

/// A TLS connection whose relay has been verified. The caller limits how long all of it may take.
pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    streams: &Streams,
    way: &Way,
) -> Result<TlsStream<Outer>, Why> {
    let outer = streams.connect(way).await?;
    let connector = TlsConnector::from(Arc::clone(config));
    let shaken = timeout(HANDSHAKE, connector.connect(streams.name().clone(), outer)).await;
    shaken.map_err(|_| Why::Mute)?.map_err(|error| match handshake_failure(&error) {
        Some(failure) => Why::Handshake(failure),
        None => Why::Foreign(error),
    })
}

/// What rustls had against the relay, or the relay against us, when that is what an i/o error is about.
pub(crate) fn handshake_failure(error: &io::Error) -> Option<HandshakeFailure> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match HandshakeFailure::of(error) {
        HandshakeFailure::Other => None,
        failure => Some(failure),
    }
}

/// Remembers the alert that a read ended with: a multiplexer keeps of an i/o error that there was one.
#[derive(Debug)]
struct Watched {
    stream: TlsStream<Outer>,
    refusal: Arc<OnceLock<HandshakeFailure>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if let Err(error) = &read
            && let Some(failure) = handshake_failure(error)
        {
            // Set already: the first one is the reason, the others its consequence.
            let _ = self.refusal.set(failure);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
