//! HTTP/2 (RFC 9113, by the `h2` crate) as the same messages: heads to and from `http`'s types, bodies as halves.
//!
//! Nothing here opens or accepts a connection.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};

use crate::body::Piece;
use crate::http1::body::may_be_trailer;
use crate::message::{Body, Fields, Malformed, RequestHead, ResponseHead, Version, is_shadow};

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
        head.upgrade.extend_from_slice(protocol.as_str().as_bytes());
    }
    // `:authority` takes the place of Host; where both stand they say the same (RFC 9113 §8.3.1).
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        head.fields.push(b"host", authority);
    }
    for (name, value) in &parts.headers {
        match name.as_str() {
            "host" if authority.is_some_and(|authority| authority == value.as_bytes()) => {}
            "te" => head.takes_trailers |= value.as_bytes() == b"trailers",
            "cookie" => {}
            // As in HTTP/1: what a CGI-like reader would take for one of our names is not passed on.
            name if is_shadow(name.as_bytes()) => {}
            name => head.fields.push(name.as_bytes(), value.as_bytes()),
        }
    }
    push_cookie(&parts.headers, &mut head.fields);
    head.body = body(&head.fields, ended)?;
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

/// A response's head, final or informational, as `h2` sends it.
pub fn response(head: &ResponseHead) -> Result<http::Response<()>, Malformed> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    *response.status_mut() = http::StatusCode::from_u16(head.status).map_err(|_| Malformed::Status)?;
    *response.headers_mut() = headers(head.fields.iter())?;
    Ok(response)
}

fn headers<'a>(lines: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<http::HeaderMap, Malformed> {
    let mut headers = http::HeaderMap::with_capacity(lines.size_hint().1.unwrap_or_default());
    for (name, value) in lines {
        let name = http::HeaderName::from_bytes(name).map_err(|_| Malformed::Name)?;
        let value = http::HeaderValue::from_bytes(value).map_err(|_| Malformed::Value)?;
        headers.try_append(name, value).map_err(|_| Malformed::Name)?;
    }
    Ok(headers)
}

/// The half of a stream that is read.
#[derive(Debug)]
pub struct Reader {
    stream: h2::RecvStream,
    chunk: Bytes,
    /// The chunk was handed out and is dropped at the next call.
    lent: bool,
    ended: bool,
    trailers: Option<Fields>,
}

impl Reader {
    pub fn new(stream: h2::RecvStream) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, chunk: Bytes::new(), lent: false, ended, trailers: None }
    }

    /// The next piece, if one is here; the one before is used up, and the peer may send as much again.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, h2::Error> {
        self.take_back()?;
        if self.chunk.is_empty() {
            return Ok(self.ended.then_some(Piece::End(self.trailers.as_ref())));
        }
        self.lent = true;
        Ok(Some(Piece::Data(&self.chunk)))
    }

    fn take_back(&mut self) -> Result<(), h2::Error> {
        if std::mem::take(&mut self.lent) {
            let chunk = std::mem::take(&mut self.chunk);
            self.stream.flow_control().release_capacity(chunk.len())?;
        }
        Ok(())
    }

    /// Waits for the next DATA frame, or the end.
    pub async fn fill(&mut self) -> Result<(), h2::Error> {
        self.take_back()?;
        while self.chunk.is_empty() && !self.ended {
            match poll_fn(|cx| self.stream.poll_data(cx)).await {
                Some(chunk) => self.chunk = chunk?,
                None => {
                    let trailers = poll_fn(|cx| self.stream.poll_trailers(cx)).await?;
                    self.trailers = trailers.map(|trailers| {
                        trailers
                            .iter()
                            .filter(|(name, _)| may_be_trailer(name.as_str().as_bytes()))
                            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
                            .collect()
                    });
                    self.ended = true;
                }
            }
        }
        Ok(())
    }

    /// The body has been taken to its end.
    pub fn is_done(&self) -> bool {
        self.ended && (self.lent || self.chunk.is_empty())
    }
}

/// The half of a stream that is written. Small data wait for a flush, so that the end can ride on them.
#[derive(Debug)]
pub struct Writer {
    stream: h2::SendStream<Bytes>,
    waiting: BytesMut,
    /// END_STREAM was said with the head.
    ended: bool,
}

/// Data up to here wait for more of them, or for the end.
const COALESCE: usize = 16 * 1024;

impl Writer {
    /// `ended`: END_STREAM was said with the head.
    pub fn new(stream: h2::SendStream<Bytes>, ended: bool) -> Self {
        Self { stream, waiting: BytesMut::new(), ended }
    }

    pub async fn data(&mut self, data: &[u8]) -> Result<(), h2::Error> {
        if self.waiting.len() + data.len() > COALESCE {
            self.flush().await?;
        }
        self.waiting.extend_from_slice(data);
        if self.waiting.len() > COALESCE { self.flush().await } else { Ok(()) }
    }

    /// Sends what waits, as fast as the peer's windows open.
    pub async fn flush(&mut self) -> Result<(), h2::Error> {
        while !self.waiting.is_empty() {
            let room = self.room().await?;
            let chunk = self.waiting.split_to(room.min(self.waiting.len())).freeze();
            self.stream.send_data(chunk, false)?;
        }
        Ok(())
    }

    /// Sends what waits and ends the stream.
    pub async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), h2::Error> {
        if self.ended {
            return Ok(());
        }
        let headers = trailers
            .and_then(|trailers| headers(trailers.iter().filter(|(name, _)| may_be_trailer(name))).ok());
        let headers = headers.filter(|headers| !headers.is_empty());
        if let Some(headers) = headers {
            self.flush().await?;
            return self.stream.send_trailers(headers);
        }
        loop {
            if self.waiting.is_empty() {
                return self.stream.send_data(Bytes::new(), true);
            }
            let room = self.room().await?;
            let chunk = self.waiting.split_to(room.min(self.waiting.len())).freeze();
            let last = self.waiting.is_empty();
            self.stream.send_data(chunk, last)?;
            if last {
                return Ok(());
            }
        }
    }

    /// Resolves when the peer has reset the stream, or the connection is over.
    pub async fn gone(&mut self) -> h2::Error {
        match poll_fn(|cx| self.stream.poll_reset(cx)).await {
            Ok(reason) => reason.into(),
            Err(error) => error,
        }
    }

    /// Tells the peer that this stream cannot be finished.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    async fn room(&mut self) -> Result<usize, h2::Error> {
        self.stream.reserve_capacity(self.waiting.len());
        while self.stream.capacity() == 0 {
            match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Err(h2::Reason::CANCEL.into()),
            };
        }
        Ok(self.stream.capacity())
    }
}

#[cfg(test)]
mod tests;
