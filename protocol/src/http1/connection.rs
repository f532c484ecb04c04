//! The codec on a byte stream: [`Reader`] takes messages off one half, [`Writer`] puts them on the other.
//!
//! Looking at what is here ([`Reader::request`], [`Reader::response`], [`Reader::piece`]) never waits;
//! [`Reader::fill`], [`Writer::data`] and [`Writer::flush`] do, and whoever calls them sets the limit. All are
//! cancel-safe except [`Writer::data`] and [`Writer::flush`], after whose cancellation the connection is useless.

use std::io::{self, IoSlice};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::body::LengthMismatch;
use super::head::{self, Reply};
use super::{Decoder, Encoder, Limits, Refusal};
use crate::body::Piece;
use crate::message::{Fields, RequestHead, ResponseHead};
use crate::socket::{ReadHalf, WriteHalf};

/// A head and a small body usually fit; the buffer grows only for a connection that shows that it needs it.
const FIRST_READ: usize = 16 * 1024;
/// Who fills the first buffer is read in larger strides: fewer system calls per byte.
const LARGE_READ: usize = 64 * 1024;
/// Room for most heads, so that they are not grown into.
const FIRST_WRITE: usize = 1024;
/// Body bytes up to here are copied behind what waits to be written; larger ones are written from where they are.
const COALESCE: usize = 16 * 1024;

/// Takes messages off a byte stream.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
    limits: Limits,
    /// Bytes of the head to come that hold no end of it.
    scanned: usize,
    /// Bytes at the front that were handed out and are dropped at the next call.
    lent: usize,
    body: Decoder,
    /// Room that the next read is given.
    stride: usize,
    eof: bool,
}

/// Why no more can be taken off a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the connection ended in the middle of a message")]
    Cut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R, limits: Limits) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            limits,
            scanned: 0,
            lent: 0,
            body: Decoder::empty(),
            stride: FIRST_READ,
            eof: false,
        }
    }

    /// With the bytes that were read already.
    pub fn with_buffer(io: R, limits: Limits, buffer: BytesMut) -> Self {
        Self { buffer, ..Self::new(io, limits) }
    }

    /// The next request's head, if it is here whole. `Ok(false)`: [`fill`](Self::fill) first.
    /// The previous message's body must have been read to its end.
    pub fn request(&mut self, head: &mut RequestHead) -> Result<bool, ReadError> {
        self.take_back();
        // One who ends the previous message with an extra empty line is forgiven (RFC 9112 §2.2).
        while self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
            self.scanned = 0;
        }
        self.head(|input, limits| head::parse_request(input, limits, head)).map_err(|error| match error {
            ReadError::Refused(Refusal::HeadTooLarge) => self.oversized().into(),
            error => error,
        })
    }

    /// The next response's head, if it is here whole. `method` is the request's that it answers.
    pub fn response(&mut self, method: &[u8], head: &mut ResponseHead) -> Result<bool, ReadError> {
        self.take_back();
        self.head(|input, limits| head::parse_response(input, limits, method, head))
    }

    /// Drops what was handed out. Before anything else is looked at: body bytes must never be taken for a head.
    fn take_back(&mut self) {
        self.buffer.advance(std::mem::take(&mut self.lent));
    }

    fn head(
        &mut self,
        parse: impl FnOnce(&[u8], &Limits) -> Result<(usize, Decoder), Refusal>,
    ) -> Result<bool, ReadError> {
        let bounded = self.buffer.get(..self.limits.head).unwrap_or(&self.buffer);
        let whole = head::whole_head(bounded, &mut self.scanned)?;
        let Some(end) = whole else {
            return if self.buffer.len() >= self.limits.head {
                Err(Refusal::HeadTooLarge.into())
            } else if self.eof {
                Err(ReadError::Cut)
            } else {
                Ok(false)
            };
        };
        self.scanned = 0;
        let (length, body) = parse(self.buffer.get(..end).unwrap_or_default(), &self.limits)?;
        self.buffer.advance(length);
        self.body = body;
        Ok(true)
    }

    /// Which limit an endless request head has passed: its first line says.
    fn oversized(&self) -> Refusal {
        match memchr::memchr(b'\n', &self.buffer) {
            Some(_) => Refusal::HeadTooLarge,
            None if memchr::memchr(b' ', &self.buffer).is_none_or(|at| at > self.limits.method) => {
                Refusal::RequestLine
            }
            None => Refusal::TargetTooLong,
        }
    }

    /// The next piece of the body, if one is here. `Ok(None)`: [`fill`](Self::fill) first.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        use super::body::Decoded;
        self.take_back();
        match self.body.decode(&self.buffer)? {
            Decoded::Data { skip, length } => {
                self.buffer.advance(skip);
                self.lent = length;
                Ok(Some(Piece::Data(self.buffer.get(..length).unwrap_or_default())))
            }
            Decoded::End { skip } => {
                self.buffer.advance(skip);
                Ok(Some(Piece::End(self.body.trailers())))
            }
            Decoded::More { skip } => {
                self.buffer.advance(skip);
                match (self.eof, self.body.ends_with_stream()) {
                    (false, _) => Ok(None),
                    (true, true) => Ok(Some(Piece::End(None))),
                    (true, false) => Err(ReadError::Cut),
                }
            }
        }
    }

    /// The body has been taken to its end, so that another head may follow.
    pub fn is_between_messages(&self) -> bool {
        self.body.is_done()
    }

    /// What is here does not even begin like a message of HTTP/1: its first line names no version of HTTP.
    pub fn is_foreign(&self) -> bool {
        let line = memchr::memchr(b'\n', &self.buffer).and_then(|end| self.buffer.get(..end));
        memchr::memmem::find(line.unwrap_or(&self.buffer), b"HTTP/").is_none()
    }

    /// Nothing is here that was not used.
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == self.lent
    }

    /// Waits for more bytes and forgets them. Returns how many came.
    pub async fn discard(&mut self) -> io::Result<usize> {
        self.buffer.clear();
        self.lent = 0;
        self.fill().await
    }

    /// Nothing is here that was not asked for. A connection that has it cannot be trusted with another exchange.
    pub fn is_drained(&self) -> bool {
        self.body.is_done() && self.buffer.len() == self.lent && !self.eof
    }

    /// Waits for more bytes: one read. Returns how many came; none: the peer has finished its half.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.take_back();
        self.buffer.reserve(self.stride);
        let room = self.buffer.capacity() - self.buffer.len();
        let read = self.io.read_buf(&mut self.buffer).await?;
        self.stride = if read == room { LARGE_READ } else { self.stride };
        self.eof |= read == 0;
        Ok(read)
    }

    /// Resolves when the peer has finished its half or broken the connection, while nothing is due from it.
    /// What it sends meanwhile is kept, up to one head's length; then nobody listens until it is asked for.
    pub async fn hung_up(&mut self) {
        while self.buffer.len() < self.limits.head {
            match self.fill().await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    /// From here on the bytes are another protocol's (after a 101).
    pub fn upgrade(&mut self) {
        self.body = Decoder::until_close();
    }

    /// Gives the memory back while nothing is expected soon.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.lent = 0;
            self.buffer = BytesMut::new();
            self.stride = FIRST_READ;
        }
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.io
    }
}

impl Reader<ReadHalf> {
    /// Waits until there is something to read, or the end; needs no buffer where that can be known without one.
    pub async fn ready(&mut self) {
        if matches!(self.io, ReadHalf::Tcp(_)) {
            self.io.ready().await;
        } else {
            // An error is met again, and told, by the next read.
            let _ = self.fill().await;
        }
    }
}

/// Puts messages on a byte stream. What is small waits for [`flush`](Self::flush), so that a head and its body leave together.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    buffer: Vec<u8>,
    framing: Encoder,
}

/// Why a message could not be put on a connection; it is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Length(#[from] LengthMismatch),
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub fn new(io: W) -> Self {
        Self { io, buffer: Vec::new(), framing: Encoder::Empty }
    }

    pub fn request(&mut self, head: &RequestHead) {
        self.buffer.reserve(FIRST_WRITE);
        self.framing = head::encode_request(head, &mut self.buffer);
    }

    /// A final response's head, or a 101. Returns whether the connection can carry another exchange afterwards.
    pub fn response(&mut self, head: &ResponseHead, reply: Reply) -> bool {
        self.buffer.reserve(FIRST_WRITE);
        let (framing, keep_alive) = head::encode_response(head, reply, &mut self.buffer);
        self.framing = framing;
        keep_alive
    }

    /// An informational response's head; HTTP/1.0 knows none (RFC 9110 §15.2).
    pub fn inform(&mut self, head: &ResponseHead, reply: Reply) {
        if reply.version != crate::message::Version::Http10 {
            head::encode_response(head, reply, &mut self.buffer);
        }
    }

    pub async fn data(&mut self, data: &[u8]) -> Result<(), WriteError> {
        // An empty chunk would be the last one.
        if data.is_empty() {
            return Ok(());
        }
        self.framing.data(data.len(), &mut self.buffer)?;
        let after = self.framing.after_data();
        if self.buffer.len() + data.len() <= COALESCE {
            self.buffer.extend_from_slice(data);
            self.buffer.extend_from_slice(after);
            return Ok(());
        }
        let mut slices = [IoSlice::new(&self.buffer), IoSlice::new(data), IoSlice::new(after)];
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.io.write_vectored(slices).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                written => IoSlice::advance_slices(&mut slices, written),
            }
        }
        self.buffer.clear();
        Ok(())
    }

    /// Appends what ends the body; it leaves with the next flush.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WriteError> {
        Ok(self.framing.end(trailers, &mut self.buffer)?)
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.io.write_all(&self.buffer).await?;
            self.buffer.clear();
        }
        // TLS keeps a record back until it is asked; plain sockets do nothing here.
        self.io.flush().await
    }

    /// Sends what waits, then finishes our half.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await?;
        self.framing = Encoder::Empty;
        Ok(())
    }

    /// The end of our half is what ends the body (close-delimited, upgraded), and is still to come.
    pub fn ends_with_stream(&self) -> bool {
        matches!(self.framing, Encoder::UntilClose | Encoder::Raw)
    }

    pub fn get_mut(&mut self) -> &mut W {
        &mut self.io
    }

    /// From here on the bytes are another protocol's (after a 101).
    pub fn upgrade(&mut self) {
        self.framing = Encoder::Raw;
    }

    /// Gives the memory back while nothing is expected soon.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }
}

impl Writer<WriteHalf> {
    /// Makes the end of what was written a cut, where a proper end would say that it is whole. To be called before a
    /// connection is dropped that may have an exchange under way. Returns whether there was such a one.
    pub fn abort_unended(&mut self) -> bool {
        let unended = self.ends_with_stream();
        if unended {
            self.io.abort();
        }
        unended
    }
}

#[cfg(test)]
mod tests;
