//! Control messages as bytes, and over a byte stream. Nothing is allocated for a length that was only announced.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use zeroize::{Zeroize as _, Zeroizing};

use super::{FIRST_MESSAGE_CAP, MESSAGE_CAP};

/// What one side may say.
pub trait Message: Serialize + DeserializeOwned {
    /// Every `type` that this version knows.
    const TYPES: &'static [&'static str];

    /// Stands for a message whose type is not among [`Message::TYPES`].
    fn unknown(kind: String) -> Self;

    /// Stands for a message about a claim that cannot be read, where that has an answer.
    fn unreadable(_kind: &str, _claim: u64, _why: &str) -> Option<Self> {
        None
    }
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("a control message of {length} bytes, of which {cap} are allowed")]
    TooLong { length: usize, cap: usize },
    #[error("reading a control message of type `{kind}`: {source}")]
    Content { kind: String, source: serde_json::Error },
    #[error("reading a control message: {0}")]
    Form(serde_json::Error),
    #[error("writing a control message: {0}")]
    Write(serde_json::Error),
    #[error("the control stream ended within a message")]
    Cut,
    #[error("the control stream failed: {0}")]
    Stream(#[from] io::Error),
}

/// One message with its length before it.
pub fn encode<T: Message>(message: &T) -> Result<Vec<u8>, HelloError> {
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, message).map_err(HelloError::Write)?;
    let length = bytes.len() - PREFIX;
    let announced = u32::try_from(length).ok().filter(|_| length <= MESSAGE_CAP);
    let (Some(announced), Some(prefix)) = (announced, bytes.first_chunk_mut::<PREFIX>()) else {
        bytes.zeroize();
        return Err(HelloError::TooLong { length, cap: MESSAGE_CAP });
    };
    *prefix = announced.to_be_bytes();
    Ok(bytes)
}

/// One message, without the length before it.
pub fn decode<T: Message>(json: &[u8]) -> Result<T, HelloError> {
    if json.len() > MESSAGE_CAP {
        return Err(HelloError::TooLong { length: json.len(), cap: MESSAGE_CAP });
    }
    let fault = match serde_json::from_slice::<T>(json) {
        Ok(message) => return Ok(message),
        Err(fault) => fault,
    };
    let Envelope { mut kind } = serde_json::from_slice(json).map_err(HelloError::Form)?;
    kind.truncate(kind.floor_char_boundary(TYPE_SHOWN));
    if !T::TYPES.contains(&kind.as_str()) {
        return Ok(T::unknown(kind));
    }
    serde_json::from_slice(json)
        .ok()
        .and_then(|Claim { claim }| T::unreadable(&kind, claim, &fault.to_string()))
        .ok_or(HelloError::Content { kind, source: fault })
}

/// What every message has.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
}

/// What a message about a claim can be answered by when the rest of it is beyond this version.
#[derive(Deserialize)]
struct Claim {
    claim: u64,
}

/// The messages that arrive on a byte stream. Holds at most one message and one read.
#[derive(Debug)]
pub struct Messages<R> {
    io: R,
    buffer: Vec<u8>,
    cap: usize,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    /// The first message may be [`FIRST_MESSAGE_CAP`] long, those after it [`MESSAGE_CAP`].
    pub fn new(io: R) -> Self {
        Self { io, buffer: Vec::new(), cap: FIRST_MESSAGE_CAP }
    }

    /// The next message; none when the peer has finished its half between two of them. Dropping the future loses
    /// nothing: the next call goes on where it stopped.
    pub async fn next<T: Message>(&mut self) -> Result<Option<T>, HelloError> {
        loop {
            if let Some(length) = self.arrived()? {
                let message = self.buffer.get(PREFIX..length).map(decode);
                self.discard(length);
                self.cap = MESSAGE_CAP;
                return message.transpose();
            }
            if poll_fn(|cx| self.poll_read(cx)).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(HelloError::Cut) };
            }
        }
    }

    /// Reads on the stack, because a tunnel that idles keeps no buffer: there are thousands of them.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; READ];
        let mut read = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        // Room for the whole of nearly every message, so that none leaves a copy of its beginning behind.
        self.buffer.reserve(READ);
        self.buffer.extend_from_slice(read.filled());
        read.filled_mut().zeroize();
        Poll::Ready(Ok(count))
    }

    /// How long the message at the front of the buffer is, its length included, once all of it is there.
    fn arrived(&self) -> Result<Option<usize>, HelloError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > self.cap {
            return Err(HelloError::TooLong { length, cap: self.cap });
        }
        Ok((self.buffer.len() >= PREFIX + length).then_some(PREFIX + length))
    }

    /// Forgets a message, and what it held: it may have been a secret.
    fn discard(&mut self, length: usize) {
        let length = length.min(self.buffer.len());
        let rest = self.buffer.len() - length;
        self.buffer.copy_within(length.., 0);
        if let Some(stale) = self.buffer.get_mut(rest..) {
            stale.zeroize();
        }
        self.buffer.truncate(rest);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }
}

/// Says one message. Dropping the future may leave half of it said: whoever may be cut short says no other.
pub async fn write_message<W: AsyncWrite + Unpin, T: Message>(
    io: &mut W,
    message: &T,
) -> Result<(), HelloError> {
    let bytes = Zeroizing::new(encode(message)?);
    io.write_all(&bytes).await?;
    io.flush().await?;
    Ok(())
}

/// The length before a message.
const PREFIX: usize = 4;
/// One read: more than nearly every message, so that they cost one each.
const READ: usize = 4 * 1024;
/// As much of an unknown type as a log may repeat.
const TYPE_SHOWN: usize = 64;
