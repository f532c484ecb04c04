//! One representation of an HTTP message for HTTP/1, HTTP/2 and the wire: bytes as they came.
//!
//! A head keeps the end-to-end fields, in order and in the sender's spelling, and *parsed* what only concerned
//! the connection that it came on (RFC 9110 §7.6.1): nothing hop-by-hop is ever in [`Fields`]. Whoever decodes a
//! head, from whatever bytes, hands it over checked ([`RequestHead::check`], [`ResponseHead::check`]): a name is a token and a value
//! holds no CR, LF or NUL, so that no encoder can be made to say something else than was parsed.
//!
//! Fields are in `fields`, what bytes may stand where in `grammar`, what a name means in `known`.
//!
//! Heads are reused from request to request (`clear`), so that a connection allocates for its largest head once.

mod fields;
mod grammar;
mod known;

pub use fields::Fields;
pub use grammar::{is_host, is_target, is_token, is_value};
pub(crate) use grammar::{is_token_byte, list_contains, parse_length};
pub(crate) use known::is_shadow;
pub use known::{FAILURE_FIELD, Vouched, in_any_spelling, is_hop_by_hop, may_be_trailer, vouched};

/// The version that the sender spoke, which decides what may be said back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing. A response to HEAD may still tell a `content-length` among its fields.
    #[default]
    Empty,
    /// So many bytes, as the `content-length` among the fields says.
    Exact(u64),
    /// Until its sender ends it: chunked, close-delimited, or an HTTP/2 stream without a `content-length`.
    Streamed,
}

/// A request's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    pub version: Version,
    pub method: Vec<u8>,
    /// In origin-form or asterisk-form (RFC 9112 §3.2), byte for byte as sent.
    pub target: Vec<u8>,
    /// The end-to-end fields. `host` is among them, whichever protocol brought it, exactly once (or, from
    /// HTTP/1.0, not at all).
    pub fields: Fields,
    pub body: Body,
    /// The protocol that the caller would switch to: `Upgrade` (RFC 9110 §7.8) or `:protocol` (RFC 8441). Empty: none.
    pub upgrade: Vec<u8>,
    /// The caller waits for a 100 before it sends its body (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// The caller takes trailers (`TE: trailers`, RFC 9110 §10.1.4).
    pub takes_trailers: bool,
    /// The connection that brought this head can carry another one after it.
    pub keep_alive: bool,
    /// What `Connection` named, as a comma list: taken out by [`RequestHead::strip_nominated`].
    pub nominated: Vec<u8>,
}

/// A response's head, final or informational.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    pub version: Version,
    pub status: u16,
    /// HTTP/1's reason phrase; empty where the protocol has none.
    pub reason: Vec<u8>,
    pub fields: Fields,
    pub body: Body,
    /// The protocol that a 101 switched to.
    pub upgrade: Vec<u8>,
    pub keep_alive: bool,
}

/// Why a head made of parts cannot be said in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the method is not a token")]
    Method,
    #[error("CONNECT is not served: this is not a forward proxy")]
    Connect,
    #[error("the request target holds a byte that no target may hold")]
    Target,
    #[error("a field name is not a token")]
    Name,
    #[error("a field value holds a control byte")]
    Value,
    #[error("a field belongs to one connection only and cannot be passed on")]
    HopByHop,
    #[error("content-length is not one plain number, or not the body's")]
    ContentLength,
    #[error("host is missing, repeated or not a host")]
    Host,
    #[error("the status is not between 100 and 599")]
    Status,
    #[error("the upgrade is not a list of protocols")]
    Upgrade,
}

impl RequestHead {
    pub fn clear(&mut self) {
        let mut emptied = Self {
            method: std::mem::take(&mut self.method),
            target: std::mem::take(&mut self.target),
            fields: std::mem::take(&mut self.fields),
            upgrade: std::mem::take(&mut self.upgrade),
            nominated: std::mem::take(&mut self.nominated),
            ..Self::default()
        };
        emptied.method.clear();
        emptied.target.clear();
        emptied.fields.clear();
        emptied.upgrade.clear();
        emptied.nominated.clear();
        *self = emptied;
    }

    pub fn is(&self, method: &str) -> bool {
        self.method == method.as_bytes()
    }

    /// Asking for it again changes nothing (RFC 9110 §9.2.1).
    pub fn is_safe(&self) -> bool {
        self.is("GET") || self.is("HEAD") || self.is("OPTIONS")
    }

    /// The authority that the caller asked, as in `Host`.
    pub fn host(&self) -> Option<&[u8]> {
        self.fields.first("host")
    }

    /// Asks for another authority than the caller did.
    pub fn set_host(&mut self, host: &[u8]) {
        self.fields.remove("host");
        self.fields.push(b"host", host);
    }

    /// The path of the target, without its query.
    pub fn path(&self) -> &[u8] {
        let end = memchr::memchr(b'?', &self.target).unwrap_or(self.target.len());
        self.target.get(..end).unwrap_or_default()
    }

    /// Takes out what `Connection` named, but never a field that decides framing, routing or who the caller is:
    /// those the caller may not make disappear between the one who matched and the one who reads (CVE-2024-45410).
    /// `steers` says which further names the relay matches on.
    pub fn strip_nominated(&mut self, steers: impl Fn(&[u8]) -> bool) {
        if self.nominated.is_empty() {
            return;
        }
        let nominated = std::mem::take(&mut self.nominated);
        self.fields.strip_listed(&nominated, steers);
    }

    /// Refuses what cannot be encoded as the same message. For heads that came from parts (HTTP/2, the wire).
    pub fn check(&self) -> Result<(), Malformed> {
        if !is_token(&self.method) {
            return Err(Malformed::Method);
        }
        // With a protocol it is RFC 8441's, and no tunnel to anywhere.
        if self.is("CONNECT") && self.upgrade.is_empty() {
            return Err(Malformed::Connect);
        }
        if !is_target(&self.target) {
            return Err(Malformed::Target);
        }
        if !self.upgrade.is_empty() && !is_value(&self.upgrade) {
            return Err(Malformed::Upgrade);
        }
        self.fields.check(self.body)?;
        let mut hosts = self.fields.all("host");
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_host(host) => Ok(()),
            (None, _) if self.version == Version::Http10 => Ok(()),
            _ => Err(Malformed::Host),
        }
    }
}

impl ResponseHead {
    pub fn clear(&mut self) {
        let mut emptied = Self {
            reason: std::mem::take(&mut self.reason),
            fields: std::mem::take(&mut self.fields),
            upgrade: std::mem::take(&mut self.upgrade),
            ..Self::default()
        };
        emptied.reason.clear();
        emptied.fields.clear();
        emptied.upgrade.clear();
        *self = emptied;
    }

    /// 1xx other than 101: more heads follow on the same exchange (RFC 9110 §15.2).
    pub fn is_informational(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }

    /// Neither this status nor this method lets a body follow (RFC 9112 §6.3).
    pub fn is_bodiless(&self, method: &[u8]) -> bool {
        method == b"HEAD" || matches!(self.status, 100..=199 | 204 | 304)
    }

    /// Refuses what cannot be encoded as the same message. For heads that came from parts (HTTP/2, the wire).
    pub fn check(&self) -> Result<(), Malformed> {
        if !matches!(self.status, 100..=599) {
            return Err(Malformed::Status);
        }
        // These have no body whatever was asked (RFC 9112 §6.3): said with one, its bytes would be taken for the next response.
        if matches!(self.status, 100..=199 | 204 | 304) && self.body != Body::Empty {
            return Err(Malformed::ContentLength);
        }
        if !is_value(&self.reason) {
            return Err(Malformed::Value);
        }
        if !self.upgrade.is_empty() && !is_value(&self.upgrade) {
            return Err(Malformed::Upgrade);
        }
        self.fields.check(self.body)
    }
}

#[cfg(test)]
mod tests;
