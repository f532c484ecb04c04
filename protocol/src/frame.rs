//! What is said on every stream after it was opened: one exchange, in frames.
//!
//! ```text
//! relay -> client   HEAD CONFIRMED? DATA* END
//! client -> relay   REFUSED
//!                 | ACCEPTED? INFORM* ( HEAD DATA* END | UPGRADED DATA* END )
//! ```
//!
//! | kind | byte | payload | at most |
//! |---|---|---|---|
//! | HEAD | 1 | request: what opens the stream; response: its head ([`crate::head`]) | 128 KiB |
//! | INFORM | 2 | a 1xx head other than 101 | 128 KiB |
//! | UPGRADED | 3 | a 101 head; DATA is the new protocol's from here on, both ways | 128 KiB |
//! | DATA | 4 | at least one byte of the body | 2^30 bytes, passed on as it comes |
//! | END | 5 | trailers, or nothing; the sender's half is over | 16 KiB |
//! | ACCEPTED | 6 | nothing; the app is connected and the head is being handed to it | 0 |
//! | REFUSED | 7 | a code and a text: nothing was executed and nothing ever will be | 1 KiB |
//! | CONFIRMED | 8 | nothing; the request goes nowhere else any more, and may be handed over | 0 |
//!
//! A frame is its kind, the payload's length as a QUIC variable-length integer (RFC 9000 §16), and the payload.
//! A stream that stops without END or REFUSED was cut. ACCEPTED is implied by INFORM, HEAD and UPGRADED. A request
//! that asks for an upgrade has no body and holds its END back until the answer says what its half carries: after
//! HEAD nothing more, after UPGRADED the new protocol.
//!
//! A request that must not be executed twice, and that has somewhere else to go, is opened with the flag `confirm`. ACCEPTED
//! then says that the app is connected; the head is handed over only after CONFIRMED, which answers it. Until the relay
//! has begun to say CONFIRMED it may send the request elsewhere, and then never says it: an ACCEPTED that was lost on the way
//! costs a round trip and never a second execution, with no clock that both ends would have to agree on.
//!
//! A kind that is not in the table, a frame out of its order or over its cap is the end of its stream, and of
//! nothing else. No timers here: how long to wait for a peer is the exchange's own.

mod order;
mod reader;
pub(crate) mod varint;
mod writer;

pub use reader::{Frame, Reader};
pub use writer::Writer;

use crate::message::Malformed;

/// How long a head may be on the wire: 64 KiB of head with its lengths, and room for what the relay adds.
pub const HEAD_CAP: usize = 128 * 1024;
/// How long the payload of one DATA frame may be. It is passed on piece by piece and never held.
pub const DATA_CAP: u64 = 1 << 30;
/// How long trailers may be on the wire.
pub const TRAILERS_CAP: usize = 16 * 1024;
/// How long a refusal may be on the wire.
pub const REFUSED_CAP: usize = 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Head = 1,
    Inform = 2,
    Upgraded = 3,
    Data = 4,
    End = 5,
    Accepted = 6,
    Refused = 7,
    Confirmed = 8,
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub kind: Kind,
    /// How long this prefix is: 2 to 9 bytes.
    pub size: usize,
    /// How long the payload is. Never over the kind's cap.
    pub length: u64,
}

/// Why the client will not have the request. Whichever it is, the relay may send the request elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The app could not be connected to.
    AppUnreachable,
    /// The client is leaving.
    Draining,
    /// The client has no such claim, or has it no longer.
    NoSuchClaim,
    /// The client is doing as much as it can.
    Busy,
    /// A reason that this version does not know.
    Other,
}

/// Why bytes are not frames, or a value is not a frame. It concerns one stream only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of kind {kind:?} with {length} bytes, of which {cap} are allowed")]
    TooLong { kind: Kind, length: u64, cap: u64 },
    #[error("a frame of kind {0:?} out of its order")]
    Order(Kind),
    #[error("a DATA frame without data")]
    EmptyData,
    #[error("a payload ends before its content does")]
    Truncated,
    #[error("a payload goes on after its content ends")]
    Trailing,
    #[error("{what} {value} is not known")]
    Unknown { what: &'static str, value: u8 },
    #[error("{0} fields, of which {cap} are allowed", cap = crate::head::FIELDS_CAP)]
    Fields(u64),
    #[error("a status of {0} where none such may be")]
    Status(u16),
    #[error("the caller's address is not one")]
    Peer,
    #[error("the text of a refusal is not text")]
    Text,
    #[error("a head that cannot be said in HTTP: {0}")]
    Malformed(#[from] Malformed),
    #[error("frames are written faster than they are flushed")]
    Unflushed,
}

impl Kind {
    pub fn cap(self) -> u64 {
        match self {
            Self::Head | Self::Inform | Self::Upgraded => HEAD_CAP as u64,
            Self::Data => DATA_CAP,
            Self::End => TRAILERS_CAP as u64,
            Self::Accepted | Self::Confirmed => 0,
            Self::Refused => REFUSED_CAP as u64,
        }
    }
}

impl TryFrom<u8> for Kind {
    type Error = WireError;

    fn try_from(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Head,
            2 => Self::Inform,
            3 => Self::Upgraded,
            4 => Self::Data,
            5 => Self::End,
            6 => Self::Accepted,
            7 => Self::Refused,
            8 => Self::Confirmed,
            _ => return Err(WireError::UnknownKind(byte)),
        })
    }
}

/// The prefix that bytes start with; none while it is not whole. Refuses before anything is kept for it.
pub fn decode(bytes: &[u8]) -> Result<Option<Prefix>, WireError> {
    let Some((byte, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let kind = Kind::try_from(*byte)?;
    let Some((length, size)) = varint::decode(rest) else {
        return Ok(None);
    };
    let cap = kind.cap();
    if length > cap {
        return Err(WireError::TooLong { kind, length, cap });
    }
    if kind == Kind::Data && length == 0 {
        return Err(WireError::EmptyData);
    }
    Ok(Some(Prefix { kind, size: 1 + size, length }))
}

/// Writes a prefix in its shortest form.
pub fn encode(kind: Kind, length: u64, into: &mut Vec<u8>) -> Result<(), WireError> {
    let cap = kind.cap();
    if length > cap {
        return Err(WireError::TooLong { kind, length, cap });
    }
    if kind == Kind::Data && length == 0 {
        return Err(WireError::EmptyData);
    }
    into.push(kind as u8);
    varint::encode(length, into);
    Ok(())
}

impl Refusal {
    fn code(self) -> u8 {
        match self {
            Self::Other => 0,
            Self::AppUnreachable => 1,
            Self::Draining => 3,
            Self::NoSuchClaim => 4,
            Self::Busy => 5,
        }
    }

    /// A code of a newer version is [`Refusal::Other`]: whatever it means, nothing was executed.
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::AppUnreachable,
            3 => Self::Draining,
            4 => Self::NoSuchClaim,
            5 => Self::Busy,
            _ => Self::Other,
        }
    }

    /// For logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::AppUnreachable => "app_unreachable",
            Self::Draining => "draining",
            Self::NoSuchClaim => "no_such_claim",
            Self::Busy => "busy",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests;
