//! The HTTP/1 codec (RFC 9112): heads and bodies, both directions, for the front door, upstreams and apps.
//!
//! Strict: whatever two readers could take in two ways is refused by name, never repaired ([`Refusal`]). What is
//! written is always framed anew from the parsed message. [`head`] and [`body`] are pure; [`connection`] puts them on
//! a byte stream and holds the only waits. No timers here: whoever waits sets the limit.

pub mod body;
pub mod connection;
pub mod head;

pub use body::{Decoder, Encoder};
pub use connection::{ReadError, Reader, Writer};
pub use head::{Reply, encode_request, encode_response, parse_request, parse_response};

/// What a message may cost before it is refused. The defaults follow the edge settings that Envoy recommends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole head, in bytes; what is read of a head never goes beyond it.
    pub head: usize,
    /// Field lines of a head.
    pub fields: usize,
    /// One field line, name and value, in bytes.
    pub field: usize,
    /// The request target, in bytes.
    pub target: usize,
    /// The method, in bytes.
    pub method: usize,
    /// All chunk extensions of one body together, in bytes.
    pub chunk_extensions: usize,
    /// A trailer section, in bytes.
    pub trailers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            fields: 100,
            field: 32 * 1024,
            target: 16 * 1024,
            method: 32,
            chunk_extensions: 256,
            trailers: 8 * 1024,
        }
    }
}

/// Why a message is not taken. Each is one rule, so that a test, a metric and a reader can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("a line of the head ends without CR LF")]
    BareNewline,
    #[error("the request line is not METHOD SP TARGET SP VERSION")]
    RequestLine,
    #[error("the status line is not VERSION SP STATUS SP REASON")]
    StatusLine,
    #[error("the version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    #[error("a field line is malformed")]
    Field,
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    #[error("the head has more fields than allowed")]
    TooManyFields,
    #[error("a field is larger than allowed")]
    FieldTooLarge,
    #[error("the request target is longer than allowed")]
    TargetTooLong,
    #[error("the request target is malformed, or in a form that this method cannot have")]
    Target,
    #[error("CONNECT is not served: this is not a forward proxy")]
    Connect,
    #[error("host is missing, repeated or malformed")]
    Host,
    #[error("the target names another host than the host field")]
    HostMismatch,
    #[error("content-length is malformed")]
    ContentLength,
    #[error("content-length is repeated")]
    RepeatedLength,
    #[error("content-length and transfer-encoding together")]
    LengthAndCoding,
    #[error("a transfer coding other than chunked")]
    Coding,
    #[error("transfer-encoding in HTTP/1.0")]
    CodingInHttp10,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("the chunk extensions are larger than allowed")]
    ChunkExtensions,
    #[error("the trailers are malformed")]
    Trailers,
    #[error("the trailers are larger than allowed")]
    TrailersTooLarge,
}

impl Refusal {
    /// What a front door answers (RFC 9110 §15.5, RFC 6585 §5). The connection is closed with it.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyFields | Self::FieldTooLarge => 431,
            Self::TargetTooLong => 414,
            Self::Connect => 405,
            Self::Version => 505,
            Self::BareNewline
            | Self::RequestLine
            | Self::StatusLine
            | Self::Field
            | Self::Target
            | Self::Host
            | Self::HostMismatch
            | Self::ContentLength
            | Self::RepeatedLength
            | Self::LengthAndCoding
            | Self::Coding
            | Self::CodingInHttp10
            | Self::Chunk
            | Self::ChunkExtensions
            | Self::Trailers
            | Self::TrailersTooLarge => 400,
        }
    }

    /// A short stable name, for metrics and the failure label.
    pub fn label(self) -> &'static str {
        match self {
            Self::BareNewline => "bare_newline",
            Self::RequestLine => "request_line",
            Self::StatusLine => "status_line",
            Self::Version => "version",
            Self::Field => "field",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::FieldTooLarge => "field_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::Target => "target",
            Self::Connect => "connect",
            Self::Host => "host",
            Self::HostMismatch => "host_mismatch",
            Self::ContentLength => "content_length",
            Self::RepeatedLength => "repeated_length",
            Self::LengthAndCoding => "length_and_coding",
            Self::Coding => "coding",
            Self::CodingInHttp10 => "coding_in_http10",
            Self::Chunk => "chunk",
            Self::ChunkExtensions => "chunk_extensions",
            Self::Trailers => "trailers",
            Self::TrailersTooLarge => "trailers_too_large",
        }
    }
}

#[cfg(test)]
mod tests;
