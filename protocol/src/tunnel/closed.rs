//! Why a tunnel or a stream is over, and whose doing it was: the same words for every transport.
//! Decides nothing: whether to dial again is the session's business.

use std::fmt;
use std::io;

use thiserror::Error;

/// The longest reason text that is sent or kept, in bytes. A reason is one line in a log; a QUIC close frame
/// has to fit into one packet together with everything else.
const MAX_TEXT: usize = 200;

/// Why a tunnel was closed on purpose, as both ends are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    code: CloseCode,
    text: String,
}

impl CloseReason {
    /// `text` is one line for a log. It is cut at 200 bytes and stripped of control characters, whether we
    /// wrote it or a peer did: it ends up on somebody's terminal.
    pub fn new(code: CloseCode, text: &str) -> Self {
        let clean = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
        let mut text = String::new();
        for c in clean {
            if text.len() + c.len_utf8() > MAX_TEXT {
                break;
            }
            text.push(c);
        }
        Self { code, text }
    }

    /// A reason as a peer sent it. What is not UTF-8 is replaced, what is too long is cut.
    pub(super) fn from_wire(code: u64, text: &[u8]) -> Self {
        let bounded = text.get(..MAX_TEXT).unwrap_or(text);
        Self::new(CloseCode::from_number(code), &String::from_utf8_lossy(bounded))
    }

    pub fn code(&self) -> CloseCode {
        self.code
    }

    /// What the closing side added, possibly nothing.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<CloseCode> for CloseReason {
    fn from(code: CloseCode) -> Self {
        Self { code, text: String::new() }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.label())?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}

/// The kinds of reasons. The numbers are on the wire: they are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// Every handle of the tunnel was dropped and nobody said why.
    Dropped,
    /// The closing process is stopping.
    Shutdown,
    /// The relay is draining: connect to another one.
    Drain,
    /// A newer session of the same owner took over.
    Superseded,
    /// The identity was revoked.
    Revoked,
    /// The identity may not have this tunnel.
    Denied,
    /// The peer broke the protocol.
    Protocol,
    /// Nothing was asked of the tunnel for too long.
    Idle,
    /// The closing side failed.
    Internal,
    /// A number that this version does not know.
    Unknown,
}

impl CloseCode {
    pub fn label(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Shutdown => "shutdown",
            Self::Drain => "drain",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
            Self::Denied => "denied",
            Self::Protocol => "protocol error",
            Self::Idle => "idle",
            Self::Internal => "internal error",
            Self::Unknown => "unknown reason",
        }
    }

    pub(super) fn number(self) -> u32 {
        match self {
            // Also what QUIC sends by itself when the last handle is dropped.
            Self::Dropped => 0,
            Self::Shutdown => 1,
            Self::Drain => 2,
            Self::Superseded => 3,
            Self::Revoked => 4,
            Self::Denied => 5,
            Self::Protocol => 6,
            Self::Idle => 7,
            Self::Internal => 8,
            Self::Unknown => u32::MAX,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Dropped,
            1 => Self::Shutdown,
            2 => Self::Drain,
            3 => Self::Superseded,
            4 => Self::Revoked,
            5 => Self::Denied,
            6 => Self::Protocol,
            7 => Self::Idle,
            8 => Self::Internal,
            _ => Self::Unknown,
        }
    }
}

/// How a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Closed {
    #[error("this side closed the tunnel: {0}")]
    ByUs(CloseReason),
    #[error("the peer closed the tunnel: {0}")]
    ByPeer(CloseReason),
    #[error("the tunnel was lost: {0}")]
    Lost(Lost),
}

/// How a tunnel ended that nobody closed on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Lost {
    /// Nothing was heard for the idle limit: the peer, or the way to it, is gone.
    #[error("the peer fell silent")]
    Silent,
    /// The peer does not know this tunnel: it was restarted.
    #[error("the peer no longer knows the tunnel")]
    Forgotten,
    /// The bytes underneath ended without a word.
    #[error("the connection ended without a reason")]
    Ended,
    /// One side did what the multiplexer does not allow; `.0` says what.
    #[error("protocol violation: {0}")]
    Protocol(String),
    #[error("{0}")]
    Io(io::ErrorKind),
    /// The task that drives the tunnel was stopped or has panicked.
    #[error("the tunnel's driver was stopped")]
    Abandoned,
}

/// What the errors of a stream carry inside their [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The peer gave up sending: what was read so far is not the whole.
    #[error("the peer reset the stream")]
    Reset,
    /// The peer will read no more of what is written here.
    #[error("the peer stopped reading the stream")]
    Stopped,
    /// A write after `shutdown`.
    #[error("the stream was already finished")]
    Finished,
    #[error(transparent)]
    Tunnel(#[from] Closed),
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match &error {
            StreamError::Reset => io::ErrorKind::ConnectionReset,
            StreamError::Stopped | StreamError::Finished => io::ErrorKind::BrokenPipe,
            StreamError::Tunnel(_) => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_reason_cannot_reach_a_terminal() {
        let reason = CloseReason::from_wire(3, b"\x1b[2Jgone\r\nrm -rf /");
        assert_eq!(reason.code(), CloseCode::Superseded);
        assert!(!reason.text().chars().any(char::is_control), "{reason}");
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let reason = CloseReason::new(CloseCode::Drain, &"ü".repeat(500));
        assert_eq!(reason.text().len(), 200);
        let wire = CloseReason::from_wire(2, "ü".repeat(500).as_bytes());
        assert!(wire.text().len() <= 200);
    }

    #[test]
    fn every_code_survives_the_wire() {
        use CloseCode::*;
        for code in [Dropped, Shutdown, Drain, Superseded, Revoked, Denied, Protocol, Idle, Internal, Unknown]
        {
            assert_eq!(CloseCode::from_number(u64::from(code.number())), code);
        }
    }
}
