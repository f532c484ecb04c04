//! A body on its way: taken from one side in pieces, put on the other, whatever carries either.

mod kept;

use std::io;
use std::time::Duration;

use crate::frame::{self, Frame, WireError};
use crate::http1::body::LengthMismatch;
use crate::message::{Fields, Malformed};
use crate::socket::{ReadHalf, WriteHalf};
use crate::timer::Timer;
use crate::tunnel::{RecvHalf, SendHalf};
use crate::{head, http1, http2};

pub use kept::{KEPT, Kept};

/// What a body's next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Body bytes; never none.
    Data(&'a [u8]),
    /// The body has ended as its sender meant it to, with these trailers.
    End(Option<&'a Fields>),
}

/// Where a body comes from.
#[derive(Debug)]
pub enum Source<'a> {
    Http1(&'a mut http1::Reader<ReadHalf>),
    Http2(&'a mut http2::Reader),
    Tunnel(&'a mut TunnelReader),
}

/// Where a body goes.
#[derive(Debug)]
pub enum Sink<'a> {
    Http1(&'a mut http1::Writer<WriteHalf>),
    Http2(&'a mut http2::Writer),
    Tunnel(&'a mut frame::Writer<SendHalf>),
}

/// The frames of one stream, with the trailers that its END brought.
#[derive(Debug)]
pub struct TunnelReader {
    pub frames: frame::Reader<RecvHalf>,
    trailers: Fields,
    ended: bool,
}

/// How long one side may keep the other waiting in the middle of a body.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// For the next bytes from the source.
    pub source: Duration,
    /// For the sink to take bytes.
    pub sink: Duration,
}

/// Which side ended a copy early, and how.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("reading the body: {0}")]
    Source(#[source] Cut),
    #[error("writing the body: {0}")]
    Sink(#[source] Cut),
}

/// Why a message stopped in the middle.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    #[error(transparent)]
    Read(#[from] http1::ReadError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    Length(#[from] LengthMismatch),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Malformed(Malformed),
    #[error("a frame that has no place in a body")]
    Misplaced,
    #[error("it does not speak the protocol that was asked for")]
    NoUpgrade,
    #[error("the connection ended in the middle of the body")]
    Ended,
    #[error("nothing moved for {} s", .0.as_secs_f32())]
    Stalled(Duration),
}

impl From<http2::WriteError> for Cut {
    fn from(error: http2::WriteError) -> Self {
        match error {
            http2::WriteError::Http2(error) => Self::Http2(error),
            http2::WriteError::Length(mismatch) => Self::Length(mismatch),
        }
    }
}

impl From<http1::connection::WriteError> for Cut {
    fn from(error: http1::connection::WriteError) -> Self {
        match error {
            http1::connection::WriteError::Io(error) => Self::Io(error),
            http1::connection::WriteError::Length(mismatch) => Self::Length(mismatch),
        }
    }
}

impl Cut {
    /// The peer has said that it did not begin with the request (RFC 9113 §8.7).
    pub fn is_unexecuted(&self) -> bool {
        match self {
            Self::Http2(error) => {
                error.reason() == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away() && error.is_remote()
            }
            _ => false,
        }
    }
}

/// Moves a body to its end, trailers included; returns how many bytes it had. Flushes whenever the source has nothing
/// ready, so that an event is on its way as soon as it was written, and small bodies leave with their heads.
pub async fn copy(source: &mut Source<'_>, sink: &mut Sink<'_>, idle: Idle) -> Result<u64, CopyError> {
    copy_seen(source, sink, idle, |_| false, |_| {}).await
}

/// The same without the trailers whose names `withheld` says yes to; `seen` is shown every piece before it goes on.
pub async fn copy_seen(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    idle: Idle,
    withheld: impl Fn(&[u8]) -> bool,
    mut seen: impl FnMut(&Piece<'_>),
) -> Result<u64, CopyError> {
    let (mut moved, mut timer) = (0, Timer::default());
    loop {
        match source.piece().map_err(CopyError::Source)? {
            Some(Piece::Data(data)) => {
                moved += data.len() as u64;
                seen(&Piece::Data(data));
                within(&mut timer, idle.sink, sink.data(data)).await.map_err(CopyError::Sink)?;
            }
            Some(Piece::End(trailers)) => {
                let trailers = trailers.map(|trailers| trailers.without(&withheld));
                seen(&Piece::End(trailers.as_deref()));
                within(&mut timer, idle.sink, sink.end(trailers.as_deref()))
                    .await
                    .map_err(CopyError::Sink)?;
                return Ok(moved);
            }
            None => {
                within(&mut timer, idle.sink, sink.flush()).await.map_err(CopyError::Sink)?;
                tokio::select! {
                    biased;
                    filled = within(&mut timer, idle.source, source.fill()) => filled.map_err(CopyError::Source)?,
                    cut = sink.gone() => return Err(CopyError::Sink(cut)),
                }
            }
        }
    }
}

async fn within(
    timer: &mut Timer,
    limit: Duration,
    step: impl Future<Output = Result<(), Cut>>,
) -> Result<(), Cut> {
    timer.within(limit, step).await.unwrap_or(Err(Cut::Stalled(limit)))
}

impl Source<'_> {
    /// The next piece, if one is here; the one before is used up. `Ok(None)`: [`fill`](Self::fill) first.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, Cut> {
        match self {
            Self::Http1(reader) => Ok(reader.piece()?),
            Self::Http2(reader) => Ok(reader.piece()?),
            Self::Tunnel(reader) => reader.piece(),
        }
    }

    /// Waits for more.
    pub async fn fill(&mut self) -> Result<(), Cut> {
        match self {
            Self::Http1(reader) => {
                reader.fill().await?;
                Ok(())
            }
            Self::Http2(reader) => Ok(reader.fill().await?),
            Self::Tunnel(reader) => reader.fill().await,
        }
    }
}

impl Sink<'_> {
    /// Takes data. Small ones may wait for [`flush`](Self::flush).
    pub async fn data(&mut self, data: &[u8]) -> Result<(), Cut> {
        match self {
            Self::Http1(writer) => Ok(writer.data(data).await?),
            Self::Http2(writer) => Ok(writer.data(data).await?),
            Self::Tunnel(writer) => Ok(writer.data(data).await?),
        }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), Cut> {
        match self {
            Self::Http1(writer) => Ok(writer.flush().await?),
            Self::Http2(writer) => Ok(writer.flush().await?),
            Self::Tunnel(writer) => Ok(writer.flush().await?),
        }
    }

    /// From here on the bytes are another protocol's (after a 101).
    pub fn upgrade(&mut self) {
        if let Self::Http1(writer) = self {
            writer.upgrade();
        }
    }

    /// Makes the end of what was written a cut, where a proper end would say that it is whole.
    pub fn abort(&mut self) {
        match self {
            Self::Http1(writer) => writer.get_mut().abort(),
            Self::Http2(writer) => writer.reset(h2::Reason::CANCEL),
            // Dropped before its end, it is reset.
            Self::Tunnel(_) => {}
        }
    }

    /// Resolves when whoever takes the body has said that it takes no more, where that can be heard without writing.
    async fn gone(&mut self) -> Cut {
        match self {
            // Whether the peer hung up shows on the half that is read.
            Self::Http1(_) => std::future::pending().await,
            Self::Http2(writer) => writer.gone().await.into(),
            Self::Tunnel(writer) => {
                writer.get_ref().stopped().await;
                Cut::Ended
            }
        }
    }

    /// Says that the body is whole, and sends it.
    pub async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), Cut> {
        match self {
            Self::Http1(writer) => {
                writer.end(trailers)?;
                if writer.ends_with_stream() {
                    Ok(writer.finish().await?)
                } else {
                    Ok(writer.flush().await?)
                }
            }
            Self::Http2(writer) => Ok(writer.end(trailers).await?),
            Self::Tunnel(writer) => {
                writer.end(trailers)?;
                Ok(writer.finish().await?)
            }
        }
    }
}

impl TunnelReader {
    pub fn new(half: RecvHalf) -> Self {
        Self { frames: frame::Reader::new(half), trailers: Fields::default(), ended: false }
    }

    fn piece(&mut self) -> Result<Option<Piece<'_>>, Cut> {
        if self.ended {
            return Ok(Some(Piece::End(Some(&self.trailers))));
        }
        match self.frames.frame()? {
            Some(Frame::Data(data)) => Ok(Some(Piece::Data(data))),
            Some(Frame::End(payload)) => {
                head::decode_trailers(payload, &mut self.trailers)?;
                self.ended = true;
                Ok(Some(Piece::End((!self.trailers.is_empty()).then_some(&self.trailers))))
            }
            Some(_) => Err(Cut::Misplaced),
            None => Ok(None),
        }
    }

    /// Waits for more. A stream that ends before its END was cut.
    async fn fill(&mut self) -> Result<(), Cut> {
        if self.frames.fill().await? == 0 { Err(Cut::Ended) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
