//! The two halves of a byte stream, whatever it is: plain TCP costs nothing extra, everything rarer is boxed.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub enum ReadHalf {
    Tcp(OwnedReadHalf),
    Other(Box<dyn AsyncRead + Send + Sync + Unpin>),
}

pub enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Other(Box<dyn AsyncWrite + Send + Sync + Unpin>),
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
    T: AsyncRead + AsyncWrite + Send + Sync + 'static,
{
    let (read, write) = tokio::io::split(stream);
    (ReadHalf::Other(Box::new(read)), WriteHalf::Other(Box::new(write)))
}

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
    /// Says nothing more, not even that nothing follows: for what only a proper end would make whole. TCP is reset once the
    /// other half is gone too, and TLS ends without its goodbye.
    pub fn abort(&mut self) {
        let muted = Self::Other(Box::new(tokio::io::sink()));
        if let Self::Tcp(write) = std::mem::replace(self, muted) {
            // A connection that is gone already needs no reset.
            let _ = write.as_ref().set_zero_linger();
            // Dropping it would send a FIN first, and that is a proper end.
            write.forget();
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
