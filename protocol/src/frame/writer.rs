//! Frames into a byte stream. What is small waits for the next flush, so that a head, a small body and the end leave
//! in one write; what is large is written from where it stands.

use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{DATA_CAP, HEAD_CAP, Kind, REFUSED_CAP, Refusal, WireError, encode, varint};
use crate::head::{self, Opening};
use crate::message::{Fields, RequestHead, ResponseHead};

/// One half of a stream, written. Holds nothing until the first frame.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    buffer: Vec<u8>,
    /// How much of the buffer was written already.
    sent: usize,
    /// A large frame is under way. Still so at the next call: its writing was cut short, and nothing can follow it.
    midway: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub fn new(io: W) -> Self {
        Self { io, buffer: Vec::new(), sent: 0, midway: false }
    }

    /// HEAD of a request: what the stream is opened for.
    pub fn request(&mut self, opening: Opening<'_>, request: &RequestHead) -> Result<(), WireError> {
        self.append(Kind::Head, |into| head::encode_opening(opening, request, into))
    }

    /// The request goes nowhere else any more.
    pub fn confirmed(&mut self) -> Result<(), WireError> {
        self.append(Kind::Confirmed, |_| Ok(()))
    }

    /// HEAD of a final response.
    pub fn response(&mut self, response: &ResponseHead) -> Result<(), WireError> {
        self.append(Kind::Head, |into| head::encode_response(response, into))
    }

    pub fn inform(&mut self, response: &ResponseHead) -> Result<(), WireError> {
        self.append(Kind::Inform, |into| head::encode_inform(response, into))
    }

    pub fn upgraded(&mut self, response: &ResponseHead) -> Result<(), WireError> {
        self.append(Kind::Upgraded, |into| head::encode_upgraded(response, into))
    }

    pub fn accepted(&mut self) -> Result<(), WireError> {
        self.append(Kind::Accepted, |_| Ok(()))
    }

    /// The text is for the relay's log, and cut at the frame's cap.
    pub fn refused(&mut self, why: Refusal, text: &str) -> Result<(), WireError> {
        self.append(Kind::Refused, |into| {
            into.push(why.code());
            let end = text.floor_char_boundary(REFUSED_CAP - 1);
            into.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
            Ok(())
        })
    }

    /// Some of the body; nothing is said for nothing. One frame, unless it is larger than one may be. Small data wait for
    /// a flush or for more; large data have been taken by the stream when this returns. If the future is dropped before
    /// that, the stream can only be cut.
    pub async fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let most = usize::try_from(DATA_CAP).unwrap_or(usize::MAX);
            let (frame, rest) = bytes.split_at(bytes.len().min(most));
            self.one_data(frame).await?;
            bytes = rest;
        }
        Ok(())
    }

    /// END, with the trailers if there are any.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        self.append(Kind::End, |into| match trailers {
            Some(trailers) if !trailers.is_empty() => head::encode_trailers(trailers, into),
            _ => Ok(()),
        })
    }

    /// Writes what waits. Dropping the future loses nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.io.flush().await
    }

    /// Writes what waits and finishes this half.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.io.shutdown().await
    }

    /// Whether anything waits for a flush.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.buffer.len()
    }

    pub fn get_ref(&self) -> &W {
        &self.io
    }

    /// The half itself. What was not flushed is forgotten.
    pub fn into_inner(self) -> W {
        self.io
    }

    /// The half itself, and what its buffer has become.
    #[cfg(test)]
    pub(super) fn into_parts(self) -> (W, Vec<u8>) {
        (self.io, self.buffer)
    }

    /// Appends a frame whose payload is written by `payload`, or nothing at all.
    fn append(
        &mut self,
        kind: Kind,
        payload: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if self.buffer.len() > UNFLUSHED_CAP {
            return Err(WireError::Unflushed);
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(FIRST_WRITE);
        }
        let at = self.buffer.len();
        self.buffer.push(kind as u8);
        self.buffer.extend_from_slice(&varint::fixed(0));
        let from = self.buffer.len();
        let written = payload(&mut self.buffer).and_then(|()| {
            let length = self.buffer.len() - from;
            let (cap, told) = (kind.cap(), length as u64);
            match u32::try_from(length) {
                Ok(length) if told <= cap => Ok(length),
                _ => Err(WireError::TooLong { kind, length: told, cap }),
            }
        });
        match written {
            Ok(length) => {
                if let Some(place) = self.buffer.get_mut(at + 1..from) {
                    place.copy_from_slice(&varint::fixed(length));
                }
                Ok(())
            }
            Err(fault) => {
                self.buffer.truncate(at);
                Err(fault)
            }
        }
    }

    async fn one_data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.whole()?;
        encode(Kind::Data, bytes.len() as u64, &mut self.buffer).map_err(io::Error::other)?;
        if bytes.len() <= SMALL && self.buffer.len() + bytes.len() <= WAITING {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.midway = true;
        let mut left = bytes;
        while !left.is_empty() {
            let waiting = self.buffer.get(self.sent..).unwrap_or_default();
            let count = if waiting.is_empty() {
                self.io.write(left).await?
            } else {
                self.io.write_vectored(&[IoSlice::new(waiting), IoSlice::new(left)]).await?
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let ours = count.min(waiting.len());
            left = left.get(count - ours..).unwrap_or_default();
            self.advance(ours);
        }
        self.midway = false;
        Ok(())
    }

    async fn drain(&mut self) -> io::Result<()> {
        self.whole()?;
        while let Some(waiting) = self.buffer.get(self.sent..).filter(|waiting| !waiting.is_empty()) {
            let count = self.io.write(waiting).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(count);
        }
        Ok(())
    }

    /// Nothing may follow a frame that was only half written.
    fn whole(&self) -> io::Result<()> {
        if self.midway {
            return Err(io::Error::other("writing on a stream whose last frame was cut short"));
        }
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.is_flushed() {
            self.buffer.clear();
            self.sent = 0;
        }
    }
}

/// Room for most heads with a small body, so that they are not grown into.
const FIRST_WRITE: usize = 1024;
/// Data up to here are copied rather than written by themselves: a write costs more than a copy.
const SMALL: usize = 8 * 1024;
/// How much may wait for a flush before data push it out.
const WAITING: usize = 16 * 1024;
/// What may wait at most: two of the largest heads. Beyond, someone forgot to flush.
const UNFLUSHED_CAP: usize = 2 * HEAD_CAP;
