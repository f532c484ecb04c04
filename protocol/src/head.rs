//! What opens a stream and what answers it, as payloads of HEAD, INFORM, UPGRADED and END ([`crate::frame`]): bytes exactly
//! as [`crate::message`] holds them, in their order. Pure.
//!
//! ```text
//! opening   tag 1 (HTTP)  claim:8  peer:1+n  request          tag 2 (raw TCP): reserved, refused
//! request   version:1  flags:1  body  method:v+n  target:v+n  upgrade:v+n  fields
//! response  version:1  status:2  body  reason:v+n  upgrade:v+n  fields
//! body      0 (empty) | 1 length:8 (exact) | 2 (streamed)
//! fields    count:v  (name:v+n  value:v+n)*
//! ```
//!
//! Fixed numbers are big-endian; `v+n` is a length as in [`crate::frame`] and so many bytes. Flags: 1 expects a 100,
//! 2 takes trailers, 4 is confirmed before it is handed over ([`crate::frame`]). What concerned the connection that a head came on (`keep_alive`, `nominated`) does not travel.
//! Nothing here can be skipped: a tag, version, flag or body that is not known is refused, and so are bytes after the
//! end.

use crate::frame::{WireError, varint};
use crate::message::{
    Body, Fields, Malformed, RequestHead, ResponseHead, Version, is_shadow, is_token, is_value,
};

/// How many fields a head or trailers may have: the 100 that a caller may send, and room for what the relay adds.
pub const FIELDS_CAP: usize = 256;
/// How long the caller's address may be.
pub const PEER_CAP: usize = 64;

/// What a stream was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// One HTTP exchange.
    Http {
        /// The claim that it falls to, by the number under which the client announced it.
        claim: u64,
        /// The caller's address, for logs: visible ASCII.
        peer: Option<&'a str>,
        /// The request is handed over only once the relay has confirmed that it goes nowhere else.
        confirm: bool,
    },
}

/// Reads what a stream was opened for, and the request if that was HTTP: into a head whose content is replaced.
pub fn decode_opening<'a>(payload: &'a [u8], request: &mut RequestHead) -> Result<Opening<'a>, WireError> {
    let mut input = Input(payload);
    match input.byte()? {
        TAG_HTTP => {
            let claim = u64::from_be_bytes(input.array()?);
            let length = input.byte()?;
            let peer = input.take(length.into())?;
            let confirm = decode_request(&mut input, request)?;
            input.end()?;
            request.check()?;
            let peer = if peer.is_empty() { None } else { Some(address(peer)?) };
            Ok(Opening::Http { claim, peer, confirm })
        }
        // TAG_TCP has no meaning in this version.
        value => Err(WireError::Unknown { what: "the kind of opening", value }),
    }
}

/// Writes an opening. The head must have come checked, as every head does.
pub fn encode_opening(
    opening: Opening<'_>,
    request: &RequestHead,
    into: &mut Vec<u8>,
) -> Result<(), WireError> {
    let Opening::Http { claim, peer, confirm } = opening;
    into.push(TAG_HTTP);
    into.extend_from_slice(&claim.to_be_bytes());
    let peer = peer.unwrap_or_default();
    if !peer.is_empty() {
        address(peer.as_bytes())?;
    }
    into.push(u8::try_from(peer.len()).map_err(|_| WireError::Peer)?);
    into.extend_from_slice(peer.as_bytes());
    into.push(version_code(request.version));
    into.push(
        if request.expects_continue { EXPECTS_CONTINUE } else { 0 }
            | if request.takes_trailers { TAKES_TRAILERS } else { 0 }
            | if confirm { CONFIRM } else { 0 },
    );
    encode_body(request.body, into);
    encode_bytes(&request.method, into);
    encode_bytes(&request.target, into);
    encode_bytes(&request.upgrade, into);
    encode_fields(&request.fields, into)
}

/// Reads the payload of a response's HEAD: a final response, not a 101.
pub fn decode_response(payload: &[u8], response: &mut ResponseHead) -> Result<(), WireError> {
    decode_status(payload, response, is_final)
}

/// Reads the payload of an INFORM.
pub fn decode_inform(payload: &[u8], response: &mut ResponseHead) -> Result<(), WireError> {
    decode_status(payload, response, is_informational)
}

/// Reads the payload of an UPGRADED.
pub fn decode_upgraded(payload: &[u8], response: &mut ResponseHead) -> Result<(), WireError> {
    decode_status(payload, response, is_upgraded)
}

pub fn encode_response(response: &ResponseHead, into: &mut Vec<u8>) -> Result<(), WireError> {
    encode_status(response, is_final, into)
}

pub fn encode_inform(response: &ResponseHead, into: &mut Vec<u8>) -> Result<(), WireError> {
    encode_status(response, is_informational, into)
}

pub fn encode_upgraded(response: &ResponseHead, into: &mut Vec<u8>) -> Result<(), WireError> {
    encode_status(response, is_upgraded, into)
}

/// Reads the payload of an END. Which fields may be trailers is HTTP's and not decided here.
pub fn decode_trailers(payload: &[u8], trailers: &mut Fields) -> Result<(), WireError> {
    trailers.clear();
    if payload.is_empty() {
        return Ok(());
    }
    let mut input = Input(payload);
    decode_fields(&mut input, trailers)?;
    input.end()?;
    for (name, value) in trailers.iter() {
        if !is_token(name) {
            return Err(Malformed::Name.into());
        }
        if !is_value(value) {
            return Err(Malformed::Value.into());
        }
    }
    Ok(())
}

pub fn encode_trailers(trailers: &Fields, into: &mut Vec<u8>) -> Result<(), WireError> {
    encode_fields(trailers, into)
}

fn is_final(status: u16) -> bool {
    matches!(status, 200..=599)
}

fn is_informational(status: u16) -> bool {
    matches!(status, 100..=199) && status != 101
}

fn is_upgraded(status: u16) -> bool {
    status == 101
}

/// Returns whether it is to be confirmed, which is the stream's and not the request's.
fn decode_request(input: &mut Input<'_>, request: &mut RequestHead) -> Result<bool, WireError> {
    request.clear();
    request.version = version(input.byte()?)?;
    let flags = input.byte()?;
    if flags & !(EXPECTS_CONTINUE | TAKES_TRAILERS | CONFIRM) != 0 {
        return Err(WireError::Unknown { what: "a request with the flags", value: flags });
    }
    request.expects_continue = flags & EXPECTS_CONTINUE != 0;
    request.takes_trailers = flags & TAKES_TRAILERS != 0;
    request.body = decode_body(input)?;
    request.method.extend_from_slice(input.bytes()?);
    request.target.extend_from_slice(input.bytes()?);
    request.upgrade.extend_from_slice(input.bytes()?);
    decode_fields(input, &mut request.fields)?;
    Ok(flags & CONFIRM != 0)
}

fn decode_status(
    payload: &[u8],
    response: &mut ResponseHead,
    fits: fn(u16) -> bool,
) -> Result<(), WireError> {
    response.clear();
    let mut input = Input(payload);
    response.version = version(input.byte()?)?;
    response.status = u16::from_be_bytes(input.array()?);
    if !fits(response.status) {
        return Err(WireError::Status(response.status));
    }
    response.body = decode_body(&mut input)?;
    response.reason.extend_from_slice(input.bytes()?);
    response.upgrade.extend_from_slice(input.bytes()?);
    decode_fields(&mut input, &mut response.fields)?;
    input.end()?;
    // As from an app over HTTP/1: what a CGI-like reader would take for framing is not passed on.
    response.fields.retain(|name, _| !is_shadow(name));
    Ok(response.check()?)
}

fn encode_status(
    response: &ResponseHead,
    fits: fn(u16) -> bool,
    into: &mut Vec<u8>,
) -> Result<(), WireError> {
    if !fits(response.status) {
        return Err(WireError::Status(response.status));
    }
    into.push(version_code(response.version));
    into.extend_from_slice(&response.status.to_be_bytes());
    encode_body(response.body, into);
    encode_bytes(&response.reason, into);
    encode_bytes(&response.upgrade, into);
    encode_fields(&response.fields, into)
}

fn decode_fields(input: &mut Input<'_>, fields: &mut Fields) -> Result<(), WireError> {
    let count = input.number()?;
    if count > FIELDS_CAP as u64 {
        return Err(WireError::Fields(count));
    }
    for _ in 0..count {
        let name = input.bytes()?;
        fields.push(name, input.bytes()?);
    }
    Ok(())
}

fn encode_fields(fields: &Fields, into: &mut Vec<u8>) -> Result<(), WireError> {
    let count = fields.len() as u64;
    if count > FIELDS_CAP as u64 {
        return Err(WireError::Fields(count));
    }
    varint::encode(count, into);
    for (name, value) in fields.iter() {
        encode_bytes(name, into);
        encode_bytes(value, into);
    }
    Ok(())
}

fn encode_bytes(bytes: &[u8], into: &mut Vec<u8>) {
    varint::encode(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

fn decode_body(input: &mut Input<'_>) -> Result<Body, WireError> {
    match input.byte()? {
        0 => Ok(Body::Empty),
        1 => Ok(Body::Exact(u64::from_be_bytes(input.array()?))),
        2 => Ok(Body::Streamed),
        value => Err(WireError::Unknown { what: "the kind of body", value }),
    }
}

fn encode_body(body: Body, into: &mut Vec<u8>) {
    match body {
        Body::Empty => into.push(0),
        Body::Exact(length) => {
            into.push(1);
            into.extend_from_slice(&length.to_be_bytes());
        }
        Body::Streamed => into.push(2),
    }
}

fn version(code: u8) -> Result<Version, WireError> {
    match code {
        10 => Ok(Version::Http10),
        11 => Ok(Version::Http11),
        20 => Ok(Version::Http2),
        value => Err(WireError::Unknown { what: "the version", value }),
    }
}

fn version_code(version: Version) -> u8 {
    match version {
        Version::Http10 => 10,
        Version::Http11 => 11,
        Version::Http2 => 20,
    }
}

/// An address is visible ASCII: it ends up in a terminal.
fn address(peer: &[u8]) -> Result<&str, WireError> {
    if peer.len() > PEER_CAP || !peer.iter().all(u8::is_ascii_graphic) {
        return Err(WireError::Peer);
    }
    std::str::from_utf8(peer).map_err(|_| WireError::Peer)
}

/// What is left of a payload.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, WireError> {
        let (number, size) = varint::decode(self.0).ok_or(WireError::Truncated)?;
        self.take(size)?;
        Ok(number)
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

const TAG_HTTP: u8 = 1;
const EXPECTS_CONTINUE: u8 = 1;
const TAKES_TRAILERS: u8 = 2;
const CONFIRM: u8 = 4;

#[cfg(test)]
mod tests;
