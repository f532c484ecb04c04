//! The two halves of a byte stream, whatever it is: plain TCP costs nothing extra, everything rarer is boxed. Either way it can
//! be cut so that nobody takes its end for a proper one.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub enum ReadHalf {
    Tcp(OwnedReadHalf),
    Other(Box<dyn AsyncRead + Send + Sync + Unpin>),
}

pub enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Other(Box<dyn Write + Send + Sync + Unpin>),
}

/// Splits a TCP connection. Nagle's algorithm is off: what we flush is meant to leave.
pub fn tcp(stream: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
}

/// Splits any other byte stream: TLS, a Unix socket, memory.
pub fn other<T>(stream: T) -> (ReadHalf, WriteHalf)
where
    T: AsyncRead + AsyncWrite + Linger + Send + Sync + Unpin + 'static,
{
    let shared = Shared(Arc::new(Mutex::new(stream)));
    (ReadHalf::Other(Box::new(shared.clone())), WriteHalf::Other(Box::new(shared)))
}

/// What can be told to end with a reset once it is dropped, where what carries it knows such a thing.
pub trait Linger {
    fn reset_on_close(&self) {}
}

impl Linger for TcpStream {
    fn reset_on_close(&self) {
        // A connection that is gone already needs no reset.
        let _ = self.set_zero_linger();
    }
}

// Without a reset TLS would still end without its goodbye, which many callers forgive.
impl<T: Linger> Linger for tokio_rustls::server::TlsStream<T> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

impl<T: Linger> Linger for tokio_rustls::client::TlsStream<T> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

#[cfg(unix)]
impl Linger for tokio::net::UnixStream {}

impl Linger for tokio::io::DuplexStream {}

impl Linger for tokio::io::Sink {}

/// What a boxed half that is written can do.
pub trait Write: AsyncWrite + Linger {}

impl<T: AsyncWrite + Linger> Write for T {}

impl ReadHalf {
    /// Something is there to be read, or the peer has gone. What is rarer than TCP may lose a byte of it: not for a
    /// stream that is read any further then.
    pub fn is_readable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        match self {
            // As far as the runtime has heard: no system call.
            Self::Tcp(read) => read.as_ref().poll_read_ready(&mut context).is_ready(),
            Self::Other(read) => {
                let mut byte = [0];
                Pin::new(read).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_ready()
            }
        }
    }

    /// Waits until there is something to be read, or the end, where that can be known without a buffer to read into.
    pub async fn ready(&self) {
        if let Self::Tcp(read) = self {
            // An error is found again, and told, by the read that follows.
            let _ = read.readable().await;
        }
    }
}

impl WriteHalf {
    /// Says nothing more, not even that nothing follows: for what only a proper end would make whole. TCP, and TLS over it,
    /// is reset once the other half is gone too.
    pub fn abort(&mut self) {
        match std::mem::replace(self, Self::Other(Box::new(tokio::io::sink()))) {
            Self::Tcp(write) => {
                write.as_ref().reset_on_close();
                // Dropping it would send a FIN first, and that is a proper end.
                write.forget();
            }
            Self::Other(write) => write.reset_on_close(),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(read) => Pin::new(read).poll_read(cx, buf),
            Self::Other(read) => Pin::new(read).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(write) => Pin::new(write).poll_write(cx, buf),
            Self::Other(write) => Pin::new(write).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(write) => Pin::new(write).poll_write_vectored(cx, bufs),
            Self::Other(write) => Pin::new(write).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(write) => write.is_write_vectored(),
            Self::Other(write) => write.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(write) => Pin::new(write).poll_flush(cx),
            Self::Other(write) => Pin::new(write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(write) => Pin::new(write).poll_shutdown(cx),
            Self::Other(write) => Pin::new(write).poll_shutdown(cx),
        }
    }
}

/// A stream whose halves are held apart and used by turns: they are one task's.
struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Linger> Linger for Shared<T> {
    fn reset_on_close(&self) {
        self.0.lock().reset_on_close();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Shared<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Shared<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(read) => read.fmt(f),
            Self::Other(_) => f.write_str("ReadHalf::Other"),
        }
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(write) => write.fmt(f),
            Self::Other(_) => f.write_str("WriteHalf::Other"),
        }
    }
}
