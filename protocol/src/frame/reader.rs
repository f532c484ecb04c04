//! Frames out of a byte stream. Data is handed out where it was read to; only a frame that must be whole is waited for.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::order::Order;
use super::{HEAD_CAP, Kind, Prefix, Refusal, WireError, decode};

/// One half of a stream, read. Holds at most one frame that is not DATA and one read; nothing until the first read.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    buffer: Vec<u8>,
    /// Where what was not handed out begins.
    start: usize,
    /// How much of the current DATA frame is still to come.
    data: u64,
    order: Order,
    /// How much room the next read gets.
    room: usize,
}

/// A frame, or the next part of a DATA frame. What heads and trailers hold is read by [`crate::head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Head(&'a [u8]),
    Accepted,
    /// The text is the peer's, for a log that escapes it.
    Refused(Refusal, &'a str),
    /// The relay's alone.
    Confirmed,
    Inform(&'a [u8]),
    Upgraded(&'a [u8]),
    Data(&'a [u8]),
    /// Nothing, or trailers.
    End(&'a [u8]),
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Self {
        Self { io, buffer: Vec::new(), start: 0, data: 0, order: Order::default(), room: FIRST_READ }
    }

    /// The next frame (or the next part of a DATA frame) that is already here, without waiting. The one before it is
    /// consumed. An error is the end of the stream.
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        if self.data == 0 {
            let Some(Prefix { kind, size, length }) = decode(self.pending())? else {
                return Ok(None);
            };
            let order = self.order.after(kind)?;
            if kind == Kind::Data {
                self.start += size;
                self.data = length;
            } else {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if self.pending().len().saturating_sub(size) < length {
                    return Ok(None);
                }
                self.order = order;
                let from = self.start + size;
                self.start = from + length;
                let payload = self.buffer.get(from..self.start).unwrap_or_default();
                return whole(kind, payload).map(Some);
            }
            self.order = order;
        }
        let from = self.start;
        let here = self.buffer.len() - from;
        let part = usize::try_from(self.data).map_or(here, |data| data.min(here));
        if part == 0 {
            return Ok(None);
        }
        self.start += part;
        self.data -= part as u64;
        Ok(Some(Frame::Data(self.buffer.get(from..self.start).unwrap_or_default())))
    }

    /// Waits for more bytes: one read. 0: the peer finished its half. To be called when [`Reader::frame`] has none;
    /// dropping the future loses nothing.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.pending().len() > HEAD_CAP + LARGEST_PREFIX {
            return Err(io::Error::other("reading on a stream whose frames are not taken"));
        }
        self.compact();
        self.buffer.reserve_exact(self.room);
        let room = self.room;
        let count = (&mut self.io).take(room as u64).read_buf(&mut self.buffer).await?;
        // What fills its room has more behind it; what does not, needs no more.
        if count == room {
            self.room = (room * 4).min(LARGEST_READ);
        }
        Ok(count)
    }

    /// Whether the peer said all it had to: END, or REFUSED. If not, and [`Reader::fill`] says 0, the stream was cut.
    pub fn is_over(&self) -> bool {
        self.order == Order::Over
    }

    pub fn get_ref(&self) -> &R {
        &self.io
    }

    /// The half itself, and what its buffer has become.
    #[cfg(test)]
    pub(super) fn into_parts(self) -> (R, Vec<u8>) {
        (self.io, self.buffer)
    }

    fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Moves what is left of a frame to the front. Never more than a frame: data was handed out.
    fn compact(&mut self) {
        let left = self.pending().len();
        let start = self.buffer.len() - left;
        self.buffer.copy_within(start.., 0);
        self.buffer.truncate(left);
        self.start = 0;
    }
}

fn whole(kind: Kind, payload: &[u8]) -> Result<Frame<'_>, WireError> {
    Ok(match kind {
        Kind::Head => Frame::Head(payload),
        Kind::Inform => Frame::Inform(payload),
        Kind::Upgraded => Frame::Upgraded(payload),
        Kind::Data => Frame::Data(payload),
        Kind::End => Frame::End(payload),
        Kind::Accepted => Frame::Accepted,
        Kind::Confirmed => Frame::Confirmed,
        Kind::Refused => {
            let (code, text) = payload.split_first().ok_or(WireError::Truncated)?;
            Frame::Refused(Refusal::from_code(*code), std::str::from_utf8(text).map_err(|_| WireError::Text)?)
        }
    })
}

/// Room for most heads with a small body.
const FIRST_READ: usize = 4 * 1024;
/// What a bulk body is read by.
const LARGEST_READ: usize = 64 * 1024;
const LARGEST_PREFIX: usize = 9;
