//! Heads: `http`'s types to ours and back. Pure.

use crate::message::{Body, Fields, Malformed, RequestHead, ResponseHead, Version, is_token, may_be_trailer};

use super::websocket;

/// Takes a request's head off a stream. `ended`: END_STREAM came with it.
pub fn request(parts: &http::request::Parts, ended: bool, head: &mut RequestHead) -> Result<(), Malformed> {
    head.clear();
    head.version = Version::Http2;
    head.keep_alive = true;
    head.method.extend_from_slice(parts.method.as_str().as_bytes());
    match parts.uri.path_and_query() {
        Some(target) => head.target.extend_from_slice(target.as_str().as_bytes()),
        None => head.target.push(b'/'),
    }
    if let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() {
        // As over HTTP/1: it would move the connection past our own parser.
        if protocol.as_str().eq_ignore_ascii_case("h2c") || !is_token(protocol.as_str().as_bytes()) {
            return Err(Malformed::Upgrade);
        }
        head.upgrade.extend_from_slice(protocol.as_str().as_bytes());
    }
    // `:authority` takes the place of Host; where both stand they say the same (RFC 9113 §8.3.1).
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        head.fields.push(b"host", authority);
    }
    for (name, value) in &parts.headers {
        // RFC 9113 §8.2.1; whoever gets it over HTTP/1 would trim what we have matched whole.
        if value.as_bytes().trim_ascii() != value.as_bytes() {
            return Err(Malformed::Value);
        }
        match name.as_str() {
            "host" if authority.is_some_and(|authority| authority == value.as_bytes()) => {}
            "te" => head.takes_trailers |= value.as_bytes() == b"trailers",
            "cookie" => {}
            name => head.fields.take(name.as_bytes(), value.as_bytes()),
        }
    }
    push_cookie(&parts.headers, &mut head.fields);
    if head.upgrade.is_empty() {
        head.body = body(&head.fields, ended)?;
    } else {
        // What follows is the other protocol's, once it was agreed to.
        websocket::inbound(head);
    }
    head.expects_continue = !ended
        && head.fields.first("expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    head.check()
}

/// HTTP/2 may split a cookie for compression; elsewhere it is one line (RFC 9113 §8.2.3).
fn push_cookie(headers: &http::HeaderMap, fields: &mut Fields) {
    let mut crumbs = headers.get_all(http::header::COOKIE).iter().map(http::HeaderValue::as_bytes);
    let Some(first) = crumbs.next() else { return };
    let mut cookie = first.to_vec();
    for crumb in crumbs {
        cookie.extend_from_slice(b"; ");
        cookie.extend_from_slice(crumb);
    }
    fields.push(b"cookie", &cookie);
}

fn body(fields: &Fields, ended: bool) -> Result<Body, Malformed> {
    let length = fields
        .first("content-length")
        .map(|value| crate::message::parse_length(value).ok_or(Malformed::ContentLength));
    match (length.transpose()?, ended) {
        (Some(1..), true) => Err(Malformed::ContentLength),
        (Some(length), _) => Ok(Body::Exact(length)),
        (None, true) => Ok(Body::Empty),
        (None, false) => Ok(Body::Streamed),
    }
}

/// A request's head as `h2` sends it, and whether it is the whole request. `scheme` is how the origin is reached, `authority`
/// what a request is for that names no host (HTTP/1.0).
pub fn request_to(
    head: &RequestHead,
    scheme: &'static str,
    authority: &str,
) -> Result<(http::Request<()>, bool), Malformed> {
    let mut request = http::Request::new(());
    let method = if head.upgrade.is_empty() { &head.method[..] } else { b"CONNECT" };
    *request.method_mut() = http::Method::from_bytes(method).map_err(|_| Malformed::Method)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::builder()
        .scheme(scheme)
        .authority(head.host().unwrap_or(authority.as_bytes()))
        .path_and_query(&head.target[..])
        .build()
        .map_err(|_| Malformed::Target)?;
    let lines = head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(b"host"));
    *request.headers_mut() = headers(lines)?;
    if head.takes_trailers {
        request.headers_mut().insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    }
    if !head.upgrade.is_empty() {
        websocket::outbound(head, &mut request)?;
        return Ok((request, false));
    }
    Ok((request, matches!(head.body, Body::Empty | Body::Exact(0))))
}

/// Takes a response's head, final or informational, off a stream. `ended`: END_STREAM came with it.
pub fn response_from(
    parts: &http::response::Parts,
    ended: bool,
    method: &[u8],
    head: &mut ResponseHead,
) -> Result<(), Malformed> {
    head.clear();
    head.version = Version::Http2;
    head.keep_alive = true;
    head.status = parts.status.as_u16();
    for (name, value) in &parts.headers {
        head.fields.push(name.as_str().as_bytes(), value.as_bytes());
    }
    head.body = if head.is_bodiless(method) { Body::Empty } else { body(&head.fields, ended)? };
    head.check()
}

/// A response's head, final or informational, as `h2` sends it.
pub fn response(head: &ResponseHead) -> Result<http::Response<()>, Malformed> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    *response.status_mut() = http::StatusCode::from_u16(head.status).map_err(|_| Malformed::Status)?;
    *response.headers_mut() = headers(head.fields.iter())?;
    if head.status == 101 {
        websocket::accepted(&mut response);
    }
    Ok(response)
}

pub(super) fn headers<'a>(
    lines: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<http::HeaderMap, Malformed> {
    let mut headers = http::HeaderMap::with_capacity(lines.size_hint().1.unwrap_or_default());
    for (name, value) in lines {
        let name = http::HeaderName::from_bytes(name).map_err(|_| Malformed::Name)?;
        let value = http::HeaderValue::from_bytes(value).map_err(|_| Malformed::Value)?;
        headers.try_append(name, value).map_err(|_| Malformed::Name)?;
    }
    Ok(headers)
}

/// A trailer section as it came, without what no trailer may be.
pub(super) fn trailers(trailers: &http::HeaderMap) -> Fields {
    let lines = trailers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    lines.filter(|(name, _)| may_be_trailer(name)).collect()
}
