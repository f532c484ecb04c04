//! Bodies of HTTP/1: where one ends, and what of the bytes is it (RFC 9112 §6, §7). Pure.

use super::{Limits, Refusal, head};
use crate::message::{Fields, is_token_byte, may_be_trailer};

/// Takes a body out of the bytes that follow a head.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Exact(u64),
    Chunked(Box<Chunked>),
    UntilClose,
}

/// What the next bytes are. `skip` bytes of framing stand before it and are to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// `length` bytes of body follow the framing; never none.
    Data { skip: usize, length: usize },
    /// The body has ended. What follows the framing belongs to the next message.
    End { skip: usize },
    /// More bytes are needed.
    More { skip: usize },
}

#[derive(Debug)]
struct Chunked {
    next: Expected,
    extensions: usize,
    limits: Limits,
    /// Bytes of the trailer section that hold no end of it.
    scanned: usize,
    trailers: Fields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Nothing,
}

impl Decoder {
    pub fn empty() -> Self {
        Self(State::Exact(0))
    }

    pub fn exact(length: u64) -> Self {
        Self(State::Exact(length))
    }

    pub fn chunked(limits: Limits) -> Self {
        Self(State::Chunked(Box::new(Chunked {
            next: Expected::Size,
            extensions: 0,
            limits,
            scanned: 0,
            trailers: Fields::default(),
        })))
    }

    /// Everything until the peer finishes: close-delimited responses, and upgraded connections.
    pub fn until_close() -> Self {
        Self(State::UntilClose)
    }

    /// The peer's end of stream is this body's end, and not a cut.
    pub fn ends_with_stream(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// Nothing more belongs to this body.
    pub fn is_done(&self) -> bool {
        match &self.0 {
            State::Exact(left) => *left == 0,
            State::Chunked(chunked) => chunked.next == Expected::Nothing,
            State::UntilClose => false,
        }
    }

    /// The trailers, once the body has ended.
    pub fn trailers(&self) -> Option<&Fields> {
        match &self.0 {
            State::Chunked(chunked) if !chunked.trailers.is_empty() => Some(&chunked.trailers),
            State::Chunked(_) | State::Exact(_) | State::UntilClose => None,
        }
    }

    /// Looks at the bytes at the front of `input`; the caller drops what `Decoded` accounts for before it asks again.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, Refusal> {
        match &mut self.0 {
            State::Exact(0) => Ok(Decoded::End { skip: 0 }),
            State::Exact(left) => Ok(take(left, input, 0)),
            State::Chunked(chunked) => chunked.decode(input),
            State::UntilClose if input.is_empty() => Ok(Decoded::More { skip: 0 }),
            State::UntilClose => Ok(Decoded::Data { skip: 0, length: input.len() }),
        }
    }
}

impl Chunked {
    fn decode(&mut self, input: &[u8]) -> Result<Decoded, Refusal> {
        let mut skip = 0;
        loop {
            let rest = input.get(skip..).unwrap_or_default();
            match &mut self.next {
                Expected::Size => match self.chunk_head(rest)? {
                    Some((length, 0)) => {
                        skip += length;
                        self.next = Expected::Trailers;
                    }
                    Some((length, size)) => {
                        skip += length;
                        self.next = Expected::Data(size);
                    }
                    None => return Ok(Decoded::More { skip }),
                },
                Expected::Data(left) => {
                    let decoded = take(left, rest, skip);
                    if *left == 0 {
                        self.next = Expected::DataEnd;
                    }
                    return Ok(decoded);
                }
                Expected::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        skip += 2;
                        self.next = Expected::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::More { skip }),
                    _ => return Err(Refusal::Chunk),
                },
                Expected::Trailers => match self.trailer_section(rest)? {
                    Some(length) => {
                        skip += length;
                        self.next = Expected::Nothing;
                    }
                    None => return Ok(Decoded::More { skip }),
                },
                Expected::Nothing => return Ok(Decoded::End { skip }),
            }
        }
    }

    /// `chunk-size [ chunk-ext ] CRLF` at the front of `input`: its length and the size that it tells.
    fn chunk_head(&mut self, input: &[u8]) -> Result<Option<(usize, u64)>, Refusal> {
        const MOST_DIGITS: usize = 16;
        let digits = input.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > MOST_DIGITS || digits == 0 && !input.is_empty() {
            return Err(Refusal::Chunk);
        }
        let (size, rest) = input.split_at(digits);
        match rest {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => return Ok(Some((digits + 2, hexadecimal(size)?))),
            [b';', ..] => {}
            _ => return Err(Refusal::Chunk),
        }
        let end =
            rest.iter().position(|byte| !matches!(byte, b'\t' | b' '..=b'~' | 0x80..)).unwrap_or(rest.len());
        if self.extensions + end > self.limits.chunk_extensions {
            return Err(Refusal::ChunkExtensions);
        }
        match rest.get(end..).unwrap_or_default() {
            [] | [b'\r'] => Ok(None),
            // A `;` and no name, or `;;`: whoever wrote that may have meant anything.
            [b'\r', b'\n', ..] if !names_extension(rest) => Err(Refusal::Chunk),
            [b'\r', b'\n', ..] => {
                self.extensions += end;
                Ok(Some((digits + end + 2, hexadecimal(size)?)))
            }
            _ => Err(Refusal::Chunk),
        }
    }

    /// The trailer section at the front of `input` with the empty line that ends it: its length.
    fn trailer_section(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        let length = match input {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => return Ok(Some(2)),
            _ => {
                let bounded = input.get(..self.limits.trailers).unwrap_or(input);
                match head::whole_head(bounded, &mut self.scanned).map_err(|_| Refusal::Trailers)? {
                    Some(length) => length,
                    None if input.len() >= self.limits.trailers => return Err(Refusal::TrailersTooLarge),
                    None => return Ok(None),
                }
            }
        };
        let mut places = [httparse::EMPTY_HEADER; head::MOST_FIELDS];
        let lines = match httparse::parse_headers(input.get(..length).unwrap_or_default(), &mut places) {
            Ok(httparse::Status::Complete((_, lines))) => lines,
            Ok(httparse::Status::Partial) | Err(_) => return Err(Refusal::Trailers),
        };
        for line in lines {
            let name = line.name.as_bytes();
            if may_be_trailer(name) {
                self.trailers.push(name, line.value.trim_ascii());
            }
        }
        Ok(Some(length))
    }
}

/// `";" BWS chunk-ext-name`: what follows the name is dropped unread (RFC 9112 §7.1.1).
fn names_extension(line: &[u8]) -> bool {
    let mut rest = line.iter().skip(1).skip_while(|byte| matches!(byte, b' ' | b'\t'));
    rest.next().is_some_and(|byte| is_token_byte(*byte))
}

fn take(left: &mut u64, input: &[u8], skip: usize) -> Decoded {
    let length = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    if length == 0 {
        return Decoded::More { skip };
    }
    *left -= length as u64;
    Decoded::Data { skip, length }
}

fn hexadecimal(digits: &[u8]) -> Result<u64, Refusal> {
    digits.iter().try_fold(0u64, |sum, digit| {
        let value = char::from(*digit).to_digit(16).ok_or(Refusal::Chunk)?;
        sum.checked_mul(16).map(|sum| sum + u64::from(value)).ok_or(Refusal::Chunk)
    })
}

/// How a body is framed on its way out. Holds its sender to what the head said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoder {
    /// No body follows the head.
    #[default]
    Empty,
    /// So many bytes are still owed.
    Exact(u64),
    Chunked,
    /// The end of the connection ends the body (to HTTP/1.0).
    UntilClose,
    /// After an upgrade: bytes, and the end of our half.
    Raw,
}

/// The body is not what its head said (its sender's fault, or a cut that was not reported).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LengthMismatch {
    #[error("the body is longer than its content-length")]
    TooLong,
    #[error("the body ended before its content-length")]
    TooShort,
}

impl Encoder {
    /// Accounts for `length` more bytes, never none, and appends what stands before them.
    pub fn data(&mut self, length: usize, out: &mut Vec<u8>) -> Result<(), LengthMismatch> {
        match self {
            Self::Empty => return Err(LengthMismatch::TooLong),
            Self::Exact(owed) => *owed = owed.checked_sub(length as u64).ok_or(LengthMismatch::TooLong)?,
            Self::Chunked => {
                let mut digits = [0u8; 16];
                let mut at = digits.len();
                let mut left = length;
                loop {
                    at -= 1;
                    digits[at] = b"0123456789abcdef"[left % 16];
                    left /= 16;
                    if left == 0 {
                        break;
                    }
                }
                out.extend_from_slice(&digits[at..]);
                out.extend_from_slice(b"\r\n");
            }
            Self::UntilClose | Self::Raw => {}
        }
        Ok(())
    }

    /// What stands behind the bytes that [`Encoder::data`] announced.
    pub fn after_data(&self) -> &'static [u8] {
        if matches!(self, Self::Chunked) { b"\r\n" } else { b"" }
    }

    /// Appends what ends the body, once. Trailers are said where the framing has a place for them, and only those that
    /// may be: they can have come over a tunnel.
    pub fn end(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), LengthMismatch> {
        match self {
            Self::Empty | Self::Exact(0) | Self::UntilClose | Self::Raw => Ok(()),
            Self::Exact(_) => Err(LengthMismatch::TooShort),
            Self::Chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    trailers.encode(out, |name, _| may_be_trailer(name));
                }
                out.extend_from_slice(b"\r\n");
                *self = Self::Empty;
                Ok(())
            }
        }
    }
}
