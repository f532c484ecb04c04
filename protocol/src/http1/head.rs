//! Heads of HTTP/1: bytes to [`RequestHead`] and [`ResponseHead`], and back. Pure.

use std::mem::MaybeUninit;

use super::{Decoder, Encoder, Limits, Refusal};
use crate::message::{
    Body, Fields, RequestHead, ResponseHead, Version, is_hop_by_hop, is_host, is_target, list_contains,
    parse_length,
};

/// The hard bound of field lines, whatever [`Limits::fields`] says: their places are kept on the stack.
pub const MOST_FIELDS: usize = 128;
/// All that `Connection` may name: each name is held against each field, and nobody means more than a few.
const MOST_NOMINATED: usize = 1024;

/// Parses a request's head from the start of `input` into `head`, which is overwritten.
///
/// `input` holds a whole head (see [`whole_head`]). Returns its length and how its body is framed.
pub fn parse_request(
    input: &[u8],
    limits: &Limits,
    head: &mut RequestHead,
) -> Result<(usize, Decoder), Refusal> {
    head.clear();
    let mut places = [MaybeUninit::uninit(); MOST_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(input, &mut places) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(Refusal::RequestLine),
        Err(httparse::Error::Version) if !is_version_line(input) => return Err(Refusal::RequestLine),
        Err(error) => return Err(refusal(error, Refusal::RequestLine)),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::RequestLine);
    };
    if method.len() > limits.method {
        return Err(Refusal::RequestLine);
    }
    if target.len() > limits.target {
        return Err(Refusal::TargetTooLong);
    }
    head.version = if version == 0 { Version::Http10 } else { Version::Http11 };
    head.method.extend_from_slice(method.as_bytes());

    let connection = take_fields(request.headers, limits, head.version, &mut head.fields)?;
    head.takes_trailers = connection.takes_trailers;
    head.keep_alive = head.version == Version::Http11 && !connection.close;
    head.nominated = connection.nominated;

    let decoder = match (connection.chunked, connection.length) {
        (true, _) => Decoder::chunked(*limits),
        (false, Some(length)) => Decoder::exact(length),
        (false, None) => Decoder::empty(),
    };
    head.body = match (connection.chunked, connection.length) {
        (true, _) => Body::Streamed,
        (false, Some(length)) => Body::Exact(length),
        (false, None) => Body::Empty,
    };
    let has_body = !matches!(head.body, Body::Empty | Body::Exact(0));
    head.expects_continue = has_body
        && head.version == Version::Http11
        && head.fields.all("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    // An upgrade with a body has two readings of where the new protocol begins, and `h2c` would move the
    // connection past our own parser (CVE-2022-41721): both are served as the plain requests they also are.
    if head.version == Version::Http11
        && connection.upgrades
        && !has_body
        && !list_contains(&connection.upgrade, b"h2c")
    {
        head.upgrade = connection.upgrade;
    }
    take_target(target.as_bytes(), head)?;
    Ok((length, decoder))
}

/// Parses a response's head from the start of `input` into `head`, which is overwritten. `method` is the request's.
///
/// `input` holds a whole head (see [`whole_head`]). Returns its length and how its body is framed.
pub fn parse_response(
    input: &[u8],
    limits: &Limits,
    method: &[u8],
    head: &mut ResponseHead,
) -> Result<(usize, Decoder), Refusal> {
    head.clear();
    // The tokeniser would skip empty lines. In front of a response they are bytes that the one before did not announce.
    if input.starts_with(b"\r") {
        return Err(Refusal::StatusLine);
    }
    let mut places = [MaybeUninit::uninit(); MOST_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut places,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(Refusal::StatusLine),
        Err(error) => return Err(refusal(error, Refusal::StatusLine)),
    };
    let (Some(status), Some(version)) = (response.code, response.version) else {
        return Err(Refusal::StatusLine);
    };
    if !matches!(status, 100..=599) {
        return Err(Refusal::StatusLine);
    }
    head.version = if version == 0 { Version::Http10 } else { Version::Http11 };
    head.status = status;
    head.reason.extend_from_slice(response.reason.unwrap_or_default().as_bytes());

    let connection = take_fields(response.headers, limits, head.version, &mut head.fields)?;
    head.keep_alive = match head.version {
        Version::Http10 => connection.keep_alive && !connection.close,
        Version::Http11 | Version::Http2 => !connection.close,
    };
    if !connection.nominated.is_empty() {
        head.fields.strip_listed(&connection.nominated, |_| false);
    }
    if status == 101 {
        head.upgrade = connection.upgrade;
    }
    if head.is_bodiless(method) {
        // 1xx and 204 must not tell a length (RFC 9110 §8.6); 304 and the answer to HEAD may.
        if matches!(status, 100..=199 | 204) {
            head.fields.remove("content-length");
        }
        return Ok((length, Decoder::empty()));
    }
    let decoder = match (connection.chunked, connection.length) {
        (true, _) => Decoder::chunked(*limits),
        (false, Some(length)) => Decoder::exact(length),
        (false, None) => {
            head.keep_alive = false;
            Decoder::until_close()
        }
    };
    head.body = match (connection.chunked, connection.length) {
        (false, Some(length)) => Body::Exact(length),
        _ => Body::Streamed,
    };
    Ok((length, decoder))
}

/// Looks for the empty line that ends a head, beginning at `scanned`, the bytes that an earlier call has seen.
///
/// `Ok(None)`: not here yet, and `scanned` has moved. Linear however slowly the bytes come.
pub fn whole_head(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Refusal> {
    while let Some(at) = memchr::memchr(b'\n', input.get(*scanned..).unwrap_or_default()) {
        let newline = *scanned + at;
        *scanned = newline + 1;
        match input.get(..newline) {
            Some(before) if before.ends_with(b"\r\n\r") => return Ok(Some(newline + 1)),
            Some(before) if before.ends_with(b"\r") => {}
            _ => return Err(Refusal::BareNewline),
        }
    }
    *scanned = input.len();
    Ok(None)
}

/// What one connection's fields said, parsed.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrades: bool,
    upgrade: Vec<u8>,
    takes_trailers: bool,
    chunked: bool,
    length: Option<u64>,
    nominated: Vec<u8>,
}

fn take_fields(
    lines: &[httparse::Header<'_>],
    limits: &Limits,
    version: Version,
    fields: &mut Fields,
) -> Result<Connection, Refusal> {
    if lines.len() > limits.fields {
        return Err(Refusal::TooManyFields);
    }
    let mut said = Connection::default();
    for line in lines {
        let (name, value) = (line.name.as_bytes(), line.value.trim_ascii());
        if name.len() + value.len() > limits.field {
            return Err(Refusal::FieldTooLarge);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if said.length.is_some() {
                return Err(Refusal::RepeatedLength);
            }
            said.length = Some(parse_length(value).ok_or(Refusal::ContentLength)?);
        } else if is_hop_by_hop(name) {
            said.take(name, value)?;
            continue;
        }
        fields.take(name, value);
    }
    match (said.chunked, said.length, version) {
        (true, Some(_), _) => Err(Refusal::LengthAndCoding),
        (true, None, Version::Http10) => Err(Refusal::CodingInHttp10),
        _ => Ok(said),
    }
}

impl Connection {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Coding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    self.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    self.upgrades = true;
                } else if !token.is_empty() && !is_hop_by_hop(token) {
                    self.nominated.extend_from_slice(token);
                    self.nominated.push(b',');
                    if self.nominated.len() > MOST_NOMINATED {
                        return Err(Refusal::FieldTooLarge);
                    }
                }
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            if !self.upgrade.is_empty() && !value.is_empty() {
                self.upgrade.extend_from_slice(b", ");
            }
            self.upgrade.extend_from_slice(value);
        } else if name.eq_ignore_ascii_case(b"te") {
            self.takes_trailers |= list_contains(value, b"trailers");
        }
        Ok(())
    }
}

/// Puts the target in origin-form or asterisk-form, and checks it and `Host` against each other (RFC 9112 §3.2).
fn take_target(target: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    let mut hosts = head.fields.all("host");
    let host = match (hosts.next(), hosts.next(), head.version) {
        (Some(host), None, _) if is_host(host) => host,
        (None, None, Version::Http10) => b"",
        _ => return Err(Refusal::Host),
    };
    if head.is("CONNECT") {
        return Err(Refusal::Connect);
    }
    if target == b"*" {
        if !head.is("OPTIONS") {
            return Err(Refusal::Target);
        }
        head.target.extend_from_slice(target);
        return Ok(());
    }
    if target.first() == Some(&b'/') {
        head.target.extend_from_slice(target);
    } else {
        let rest = strip_scheme(target).ok_or(Refusal::Target)?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || !authority.eq_ignore_ascii_case(host) {
            return Err(Refusal::HostMismatch);
        }
        match path.first() {
            Some(b'/') => {}
            None if head.is("OPTIONS") => head.target.push(b'*'),
            _ => head.target.push(b'/'),
        }
        head.target.extend_from_slice(path);
    }
    if is_target(&head.target) { Ok(()) } else { Err(Refusal::Target) }
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"]
        .iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .and_then(|scheme| target.get(scheme.len()..))
}

/// The first line has the shape of a request's, so that its version is one, only not ours.
fn is_version_line(input: &[u8]) -> bool {
    let end = memchr::memchr(b'\r', input).unwrap_or(input.len());
    let mut parts = input.get(..end).unwrap_or_default().split(|byte| *byte == b' ').skip(2);
    match (parts.next(), parts.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

fn refusal(error: httparse::Error, start_line: Refusal) -> Refusal {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        httparse::Error::TooManyHeaders => Refusal::TooManyFields,
        httparse::Error::Version => Refusal::Version,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => start_line,
    }
}

/// How a response is to be said to the one who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The version that the request came in.
    pub version: Version,
    /// The request was HEAD: no body follows, whatever the fields say.
    pub to_head: bool,
    /// The connection stays open afterwards, if the response's framing lets it.
    pub keep_alive: bool,
}

impl Reply {
    pub fn to(request: &RequestHead) -> Self {
        Self { version: request.version, to_head: request.is("HEAD"), keep_alive: request.keep_alive }
    }
}

/// Appends a request's head to `out`; always HTTP/1.1. Returns how its body is to be framed.
pub fn encode_request(head: &RequestHead, out: &mut Vec<u8>) -> Encoder {
    out.extend_from_slice(&head.method);
    out.push(b' ');
    out.extend_from_slice(&head.target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if head.version == Version::Http10 && !head.fields.contains("host") {
        // HTTP/1.1 obliges whoever passes the request on to name a host (RFC 9112 §3.2), an empty one if none was given.
        out.extend_from_slice(b"host: \r\n");
    }
    let framing = match head.body {
        Body::Empty => Encoder::Empty,
        Body::Exact(length) => Encoder::Exact(length),
        Body::Streamed => Encoder::Chunked,
    };
    encode_fields(&head.fields, framing, false, out);
    match (!head.upgrade.is_empty(), head.takes_trailers) {
        (true, true) => out.extend_from_slice(b"connection: upgrade, te\r\nte: trailers\r\n"),
        (true, false) => out.extend_from_slice(b"connection: upgrade\r\n"),
        (false, true) => out.extend_from_slice(b"connection: te\r\nte: trailers\r\n"),
        (false, false) => {}
    }
    if !head.upgrade.is_empty() {
        encode_field(b"upgrade", &head.upgrade, out);
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Appends a response's head, final or informational, to `out`. Returns how its body is to be framed, and
/// whether the connection can carry another exchange afterwards.
pub fn encode_response(head: &ResponseHead, reply: Reply, out: &mut Vec<u8>) -> (Encoder, bool) {
    let mut status = [b' ', b'0', b'0', b'0', b' '];
    for (place, unit) in [(1, 100), (2, 10), (3, 1)] {
        status[place] = b'0' + u8::try_from(head.status / unit % 10).unwrap_or_default();
    }
    out.extend_from_slice(if reply.version == Version::Http10 { b"HTTP/1.0" } else { b"HTTP/1.1" });
    out.extend_from_slice(&status);
    if head.reason.is_empty() {
        out.extend_from_slice(standard_reason(head.status));
    } else {
        out.extend_from_slice(&head.reason);
    }
    out.extend_from_slice(b"\r\n");
    let silent = matches!(head.status, 100..=199 | 204);
    let bodiless = reply.to_head || silent || head.status == 304;
    let framing = match head.body {
        _ if bodiless => Encoder::Empty,
        Body::Empty => Encoder::Exact(0),
        Body::Exact(length) => Encoder::Exact(length),
        Body::Streamed if reply.version == Version::Http10 => Encoder::UntilClose,
        Body::Streamed => Encoder::Chunked,
    };
    encode_fields(&head.fields, framing, bodiless && !silent, out);
    let keep_alive = reply.keep_alive && reply.version == Version::Http11 && framing != Encoder::UntilClose;
    if head.status == 101 {
        out.extend_from_slice(b"connection: upgrade\r\n");
        encode_field(b"upgrade", &head.upgrade, out);
    } else if !keep_alive && !matches!(head.status, 100..=199) {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    (framing, keep_alive)
}

/// Says the fields, and exactly one framing: a length that stands among them only where it is the framing, or where
/// no body follows and it may be told nevertheless (`tells`).
fn encode_fields(fields: &Fields, framing: Encoder, tells: bool, out: &mut Vec<u8>) {
    let mut told = false;
    fields.encode(out, |name, value| {
        if !name.eq_ignore_ascii_case(b"content-length") {
            return true;
        }
        let holds = match framing {
            Encoder::Exact(length) => parse_length(value) == Some(length),
            Encoder::Empty | Encoder::Chunked | Encoder::UntilClose | Encoder::Raw => tells,
        };
        holds && !std::mem::replace(&mut told, true)
    });
    match framing {
        Encoder::Exact(length) if !told => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(length.to_string().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Encoder::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Encoder::Exact(_) | Encoder::Empty | Encoder::UntilClose | Encoder::Raw => {}
    }
}

fn encode_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The phrase of RFC 9110 §15 for a response that came without one (HTTP/2 has none).
fn standard_reason(status: u16) -> &'static [u8] {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default()
        .as_bytes()
}
