//! Bodies on their way out: framed as their head said, whatever their sender does.

use super::*;
use crate::http1::Encoder;
use crate::http1::body::LengthMismatch::{self, TooLong, TooShort};
use crate::http1::connection::WriteError;

/// Sends pieces and the end; the bytes, or what was wrong.
fn send(framing: Encoder, pieces: &[&str], trailers: &[(&str, &str)]) -> Result<String, LengthMismatch> {
    let mut encoder = framing;
    let mut out = Vec::new();
    for piece in pieces {
        encoder.data(piece.len(), &mut out)?;
        out.extend_from_slice(piece.as_bytes());
        out.extend_from_slice(encoder.after_data());
    }
    let trailers: Fields = trailers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    encoder.end(Some(&trailers), &mut out)?;
    Ok(text(&out))
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_body_is_what_its_head_said_or_an_error() {
    for (name, framing, pieces, said) in [
        ("none", Encoder::Empty, &[][..], Ok("")),
        ("some where none is", Encoder::Empty, &["a"], Err(TooLong)),
        ("exact", Encoder::Exact(5), &["he", "llo"], Ok("hello")),
        ("too short", Encoder::Exact(5), &["hell"], Err(TooShort)),
        ("nothing of it", Encoder::Exact(5), &[], Err(TooShort)),
        ("too long", Encoder::Exact(5), &["hello", "!"], Err(TooLong)),
        ("too long at once", Encoder::Exact(5), &["hello!"], Err(TooLong)),
        ("chunks", Encoder::Chunked, &["hello", "0123456789abcdef"], Ok("5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n")),
        ("no chunks", Encoder::Chunked, &[], Ok("0\r\n\r\n")),
        ("until close", Encoder::UntilClose, &["hello"], Ok("hello")),
        ("raw", Encoder::Raw, &["hello"], Ok("hello")),
    ] {
        assert_eq!(send(framing, pieces, &[]), said.map(str::to_owned), "{name}");
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn trailers_that_steer_are_not_said_whoever_sent_them() {
    let steering = [
        "Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Keep-Alive", "Trailer",
        "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Content-Type", "Content-Encoding",
        "Content-Range", "Cache-Control", "Expect", "Range", "Location", "Max-Forwards", "Forwarded", "Via",
        "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Anything", "Culvert-Route", "X_Forwarded_For",
        "Content_Length", "culvert_route",
    ];
    let mut trailers = vec![("X-A", "b")];
    trailers.extend(steering.map(|name| (name, "x")));
    trailers.push(("grpc-status", "0"));
    let said = send(Encoder::Chunked, &["a"], &trailers).unwrap();
    assert_eq!(said, "1\r\na\r\n0\r\nX-A: b\r\ngrpc-status: 0\r\n\r\n");
}

#[test]
fn an_empty_piece_does_not_end_a_body() {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    let head = ResponseHead { status: 200, body: Body::Streamed, ..ResponseHead::default() };
    writer.response(&head, Reply::default());
    for piece in [&b""[..], b"a", b"", b"b"] {
        now(writer.data(piece)).unwrap();
    }
    writer.end(None).unwrap();
    now(writer.flush()).unwrap();
    assert!(text(&out).ends_with("\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"), "{}", text(&out));
}

#[test]
fn a_body_ends_once() {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    let head = ResponseHead { status: 200, body: Body::Streamed, ..ResponseHead::default() };
    writer.response(&head, Reply::default());
    writer.end(None).unwrap();
    writer.end(None).unwrap();
    assert!(matches!(now(writer.data(b"more")), Err(WriteError::Length(TooLong))));
    now(writer.flush()).unwrap();
    assert_eq!(text(&out).matches("0\r\n\r\n").count(), 1, "{}", text(&out));
}
