//! Bodies: the two halves of an HTTP/2 stream.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};

use super::head::{headers, trailers};
use crate::body::Piece;
use crate::http1::body::LengthMismatch;
use crate::message::{Body, Fields, may_be_trailer};

/// The half of a stream that is read.
#[derive(Debug)]
pub struct Reader {
    stream: h2::RecvStream,
    chunk: Bytes,
    /// The chunk was handed out and is dropped at the next call.
    lent: bool,
    ended: bool,
    trailers: Option<Fields>,
}

impl Reader {
    pub fn new(stream: h2::RecvStream) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, chunk: Bytes::new(), lent: false, ended, trailers: None }
    }

    /// The next piece, if one is here; the one before is used up, and the peer may send as much again.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, h2::Error> {
        self.take_back()?;
        if self.chunk.is_empty() {
            return Ok(self.ended.then_some(Piece::End(self.trailers.as_ref())));
        }
        self.lent = true;
        Ok(Some(Piece::Data(&self.chunk)))
    }

    fn take_back(&mut self) -> Result<(), h2::Error> {
        if std::mem::take(&mut self.lent) {
            let chunk = std::mem::take(&mut self.chunk);
            self.stream.flow_control().release_capacity(chunk.len())?;
        }
        Ok(())
    }

    /// Waits for the next DATA frame, or the end.
    pub async fn fill(&mut self) -> Result<(), h2::Error> {
        self.take_back()?;
        while self.chunk.is_empty() && !self.ended {
            match poll_fn(|cx| self.stream.poll_data(cx)).await {
                Some(chunk) => self.chunk = chunk?,
                None => {
                    let map = poll_fn(|cx| self.stream.poll_trailers(cx)).await?;
                    self.trailers = map.as_ref().map(trailers);
                    self.ended = true;
                }
            }
        }
        Ok(())
    }

    /// The body has been taken to its end.
    pub fn is_done(&self) -> bool {
        self.ended && (self.lent || self.chunk.is_empty())
    }
}

/// Why a body could not be put on a stream; it is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    Length(#[from] LengthMismatch),
}

/// The half of a stream that is written. Small data wait for a flush, so that the end can ride on them.
#[derive(Debug)]
pub struct Writer {
    stream: h2::SendStream<Bytes>,
    waiting: BytesMut,
    /// END_STREAM was said with the head.
    ended: bool,
    /// What is still owed of the content-length that the head told.
    owed: Option<u64>,
}

/// Data up to here wait for more of them, or for the end.
const COALESCE: usize = 16 * 1024;

impl Writer {
    /// `ended`: END_STREAM was said with the head. `body`: what the head said would follow.
    pub fn new(stream: h2::SendStream<Bytes>, ended: bool, body: Body) -> Self {
        let owed = match body {
            Body::Exact(length) if !ended => Some(length),
            Body::Exact(_) | Body::Empty | Body::Streamed => None,
        };
        Self { stream, waiting: BytesMut::new(), ended, owed }
    }

    pub async fn data(&mut self, data: &[u8]) -> Result<(), WriteError> {
        if let Some(owed) = &mut self.owed {
            *owed = owed.checked_sub(data.len() as u64).ok_or(LengthMismatch::TooLong)?;
        }
        if self.waiting.len() + data.len() > COALESCE {
            self.flush().await?;
        }
        self.waiting.extend_from_slice(data);
        if self.waiting.len() > COALESCE {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what waits, as fast as the peer's windows open.
    pub async fn flush(&mut self) -> Result<(), h2::Error> {
        while !self.waiting.is_empty() {
            let room = self.room().await?;
            let chunk = self.waiting.split_to(room.min(self.waiting.len())).freeze();
            self.stream.send_data(chunk, false)?;
        }
        Ok(())
    }

    /// Sends what waits and ends the stream.
    pub async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WriteError> {
        if self.ended {
            return Ok(());
        }
        if self.owed.is_some_and(|owed| owed > 0) {
            return Err(LengthMismatch::TooShort.into());
        }
        let headers = trailers
            .and_then(|trailers| headers(trailers.iter().filter(|(name, _)| may_be_trailer(name))).ok());
        let headers = headers.filter(|headers| !headers.is_empty());
        if let Some(headers) = headers {
            self.flush().await?;
            return Ok(self.stream.send_trailers(headers)?);
        }
        loop {
            if self.waiting.is_empty() {
                return Ok(self.stream.send_data(Bytes::new(), true)?);
            }
            let room = self.room().await?;
            let chunk = self.waiting.split_to(room.min(self.waiting.len())).freeze();
            let last = self.waiting.is_empty();
            self.stream.send_data(chunk, last)?;
            if last {
                return Ok(());
            }
        }
    }

    /// Resolves when the peer has reset the stream, or the connection is over.
    pub async fn gone(&mut self) -> h2::Error {
        match poll_fn(|cx| self.stream.poll_reset(cx)).await {
            Ok(reason) => reason.into(),
            Err(error) => error,
        }
    }

    /// Tells the peer that this stream cannot be finished.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    async fn room(&mut self) -> Result<usize, h2::Error> {
        self.stream.reserve_capacity(self.waiting.len());
        while self.stream.capacity() == 0 {
            match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Err(h2::Reason::CANCEL.into()),
            };
        }
        Ok(self.stream.capacity())
    }
}
