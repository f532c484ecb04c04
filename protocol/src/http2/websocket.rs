//! WebSockets over HTTP/2 (RFC 8441) in the shape that they have over HTTP/1 (RFC 6455 §4), and back: HTTP/2 has no key to
//! prove that the answer is to this request, so one is made where HTTP/1 wants it and answered where HTTP/2 has none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::message::{Body, Malformed, RequestHead, ResponseHead};

const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";

/// An extended CONNECT as an `Upgrade`.
pub(super) fn inbound(head: &mut RequestHead) {
    head.method.clear();
    head.method.extend_from_slice(b"GET");
    head.body = Body::Empty;
    if head.upgrade.eq_ignore_ascii_case(b"websocket") && !head.fields.contains(KEY) {
        head.fields.push(KEY.as_bytes(), STANDARD.encode(rand::random::<[u8; 16]>()).as_bytes());
    }
}

/// An `Upgrade` as an extended CONNECT.
pub(super) fn outbound(head: &RequestHead, request: &mut http::Request<()>) -> Result<(), Malformed> {
    let protocol = std::str::from_utf8(&head.upgrade).map_err(|_| Malformed::Upgrade)?;
    request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    request.headers_mut().remove(KEY);
    Ok(())
}

/// A 101 as the 200 that agrees to an extended CONNECT.
pub(super) fn accepted(response: &mut http::Response<()>) {
    *response.status_mut() = http::StatusCode::OK;
    response.headers_mut().remove(ACCEPT);
}

/// The 200 that agrees to an extended CONNECT, as a 101 to the `Upgrade` that was asked for. `key` is what that one sent.
pub(super) fn switched(upgrade: &[u8], key: Option<&[u8]>, head: &mut ResponseHead) {
    head.status = 101;
    head.body = Body::Empty;
    head.upgrade.clear();
    head.upgrade.extend_from_slice(upgrade);
    head.fields.remove("content-length");
    if let Some(key) = key {
        head.fields.push(ACCEPT.as_bytes(), accept(key).as_bytes());
    }
}

/// RFC 6455 §4.2.2.
pub(crate) fn accept(key: &[u8]) -> String {
    let mut digest = Sha1::new();
    digest.update(key);
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_is_answered_as_rfc_6455_does() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
