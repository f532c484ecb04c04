//! What an upstream or an app may answer (B26), and how it is said to callers of every kind.

use super::*;
use Refusal::{
    BareNewline, Chunk, Coding, CodingInHttp10, ContentLength, Field, LengthAndCoding, RepeatedLength,
    StatusLine,
};

enum Expected {
    Refused(Refusal),
    Cut,
    /// Status and body of each head taken, and whether nothing was left over.
    Passes(&'static [(u16, &'static str)], Left),
}
use Expected::{Passes, Refused};

#[derive(Clone, Copy, PartialEq)]
enum Left {
    /// The connection can carry another exchange.
    Nothing,
    /// Nothing, but the connection ends with this response.
    Closing,
    /// Bytes that nobody asked for: the connection is of no further use.
    Bytes,
}
use Left::{Bytes, Closing, Nothing};

#[test]
#[rustfmt::skip] // a row is a line
fn a_response_ends_in_one_place_or_is_refused() {
    let ok = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    let status = |line: &str| format!("{line}\r\nContent-Length: 0\r\n\r\n");
    let rows: Vec<(&str, &str, String, Expected)> = vec![
        ("length", "GET", ok("Content-Length: 5\r\n", "hello"), Passes(&[(200, "hello")], Nothing)),
        ("chunks", "GET", ok("Transfer-Encoding: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), Passes(&[(200, "hello")], Nothing)),
        ("until-close", "GET", ok("", "hello"), Passes(&[(200, "hello")], Closing)),
        ("close", "GET", ok("Connection: close\r\nContent-Length: 5\r\n", "hello"), Passes(&[(200, "hello")], Closing)),
        ("old-close", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(), Passes(&[(200, "hello")], Closing)),
        ("old-keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello".into(), Passes(&[(200, "hello")], Nothing)),
        // Bodies that are not there.
        ("head-length", "HEAD", ok("Content-Length: 5\r\n", ""), Passes(&[(200, "")], Nothing)),
        ("head-chunks", "HEAD", ok("Transfer-Encoding: chunked\r\n", ""), Passes(&[(200, "")], Nothing)),
        ("head-no-framing", "HEAD", ok("", ""), Passes(&[(200, "")], Nothing)),
        ("head-body", "HEAD", ok("Content-Length: 5\r\n", "hello"), Passes(&[(200, "")], Bytes)),
        ("204", "GET", "HTTP/1.1 204 No Content\r\n\r\n".into(), Passes(&[(204, "")], Nothing)),
        ("204-body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello".into(), Passes(&[(204, "")], Bytes)),
        ("204-chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Passes(&[(204, "")], Bytes)),
        ("304-length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".into(), Passes(&[(304, "")], Nothing)),
        ("304-body", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello".into(), Passes(&[(304, "")], Bytes)),
        ("behind-length", "GET", ok("Content-Length: 5\r\n", "hello!"), Passes(&[(200, "hello")], Bytes)),
        ("behind-chunks", "GET", ok("Transfer-Encoding: chunked\r\n", "0\r\n\r\nX"), Passes(&[(200, "")], Bytes)),
        ("crlf-behind", "GET", ok("Content-Length: 5\r\n", "hello\r\n"), Passes(&[(200, "hello")], Bytes)),
        // Others before the one that counts.
        ("100", "POST", format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("Content-Length: 0\r\n", "")), Passes(&[(100, ""), (200, "")], Nothing)),
        ("103", "GET", format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n{}", ok("Content-Length: 0\r\n", "")), Passes(&[(103, ""), (200, "")], Nothing)),
        ("101", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".into(), Passes(&[(101, "")], Nothing)),
        ("100-alone", "POST", "HTTP/1.1 100 Continue\r\n\r\n".into(), Passes(&[(100, "")], Nothing)),
        ("100-with-body", "POST", format!("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello{}", ok("", "")), Refused(Refusal::Version)),
        // Two lengths.
        ("cl-twice", "GET", ok("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), Refused(RepeatedLength)),
        ("cl-same-twice", "GET", ok("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Refused(RepeatedLength)),
        ("cl-te", "GET", ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(LengthAndCoding)),
        ("cl-te-to-head", "HEAD", ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ""), Refused(LengthAndCoding)),
        ("cl-bad", "GET", ok("Content-Length: 5,5\r\n", "hello"), Refused(ContentLength)),
        ("te-gzip", "GET", ok("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), Refused(Coding)),
        ("te-old", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refused(CodingInHttp10)),
        // Cut short.
        ("cut-head", "GET", "HTTP/1.1 200 OK\r\nContent".into(), Expected::Cut),
        ("cut-length", "GET", ok("Content-Length: 5\r\n", "hell"), Expected::Cut),
        ("cut-chunk", "GET", ok("Transfer-Encoding: chunked\r\n", "5\r\nhell"), Expected::Cut),
        ("cut-last-chunk", "GET", ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), Expected::Cut),
        ("cut-trailers", "GET", ok("Transfer-Encoding: chunked\r\n", "0\r\nX-A: b\r\n"), Expected::Cut),
        // Heads.
        ("lf-head", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n".into(), Refused(BareNewline)),
        ("lf-field", "GET", ok("X-A: b\nX-B: c\r\n", ""), Refused(BareNewline)),
        ("cr-field", "GET", ok("X-A: b\rX-B: c\r\n", ""), Refused(Field)),
        ("obs-fold", "GET", ok("X-A: b\r\n c\r\n", ""), Refused(Field)),
        ("sp-colon", "GET", ok("X-A : b\r\n", ""), Refused(Field)),
        ("nul", "GET", ok("X-A: \0\r\n", ""), Refused(Field)),
        ("bad-chunk", "GET", ok("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("leading-crlf", "GET", format!("\r\n{}", ok("Content-Length: 0\r\n", "")), Refused(StatusLine)),
        ("version", "GET", status("HTTP/2.0 200 OK"), Refused(Refusal::Version)),
        ("garbage", "GET", status("hello"), Refused(Refusal::Version)),
        ("status-short", "GET", status("HTTP/1.1 20 OK"), Refused(StatusLine)),
        ("status-long", "GET", status("HTTP/1.1 2000 OK"), Refused(StatusLine)),
        ("status-low", "GET", status("HTTP/1.1 099 x"), Refused(StatusLine)),
        ("status-high", "GET", status("HTTP/1.1 600 x"), Refused(StatusLine)),
        ("status-plus", "GET", status("HTTP/1.1 +20 x"), Refused(StatusLine)),
        ("two-sp-status", "GET", status("HTTP/1.1  200 OK"), Refused(StatusLine)),
        ("reason-ctl", "GET", status("HTTP/1.1 200 \x07"), Refused(StatusLine)),
        ("no-reason", "GET", status("HTTP/1.1 200"), Passes(&[(200, "")], Nothing)),
        ("own-status", "GET", status("HTTP/1.1 599 Not Good At All"), Passes(&[(599, "")], Nothing)),
    ];
    for (name, method, raw, expected) in rows {
        let (taken, end, empty) = responses(raw.as_bytes(), method.as_bytes(), AT_ONCE);
        assert_eq!((taken.clone(), end, empty), responses(raw.as_bytes(), method.as_bytes(), ONE_BY_ONE), "{name}");
        let seen: Vec<_> =
            taken.iter().map(|taken| (taken.head.status, text(&taken.body))).collect();
        match expected {
            Refused(refusal) => assert_eq!(end, End::Refused(refusal), "{name}"),
            Expected::Cut => assert_eq!(end, End::Cut, "{name}"),
            Passes(wanted, left) => {
                assert_eq!(end, End::Done, "{name}");
                let wanted: Vec<_> =
                    wanted.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
                assert_eq!(seen, wanted, "{name}");
                let keep_alive = taken.last().is_some_and(|taken| taken.head.keep_alive);
                let seen = if !empty { Bytes } else if keep_alive { Nothing } else { Closing };
                assert!(seen == left, "{name}");
            }
        }
        for response in &taken {
            assert_says_once(name, response, method.as_bytes());
        }
    }
}

/// However the caller asked, it gets one message, framed in one way that its version knows.
#[track_caller]
fn assert_says_once(name: &str, response: &Taken<ResponseHead>, method: &[u8]) {
    for version in [Version::Http10, Version::Http11] {
        let reply = Reply { version, to_head: method == b"HEAD", keep_alive: true };
        if version == Version::Http10 && response.head.status < 200 {
            continue; // `inform` does not say it
        }
        let (said, keep_alive) = say_response(response, reply);
        let seen = strict::response(&said, reply.to_head)
            .unwrap_or_else(|fault| panic!("{name}: {fault}: {}", text(&said)));
        assert_eq!(seen.body, response.body, "{name}");
        let closes = seen.fields.iter().any(|field| *field == ("connection".into(), b"close".to_vec()));
        assert_eq!(closes, !keep_alive && response.head.status >= 200, "{name}: {}", text(&said));
    }
}

fn head(status: u16, body: Body, fields: &[(&str, &str)]) -> ResponseHead {
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    ResponseHead { status, body, fields, ..ResponseHead::default() }
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_response_is_said_as_its_caller_reads_it() {
    let http11 = Reply { version: Version::Http11, to_head: false, keep_alive: true };
    let http10 = Reply { version: Version::Http10, ..http11 };
    let to_head = Reply { to_head: true, ..http11 };
    let length = ("Content-Length", "5");
    for (name, head, reply, said) in [
        ("exact", head(200, Body::Exact(5), &[("A", "b"), length]), http11, "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\n"),
        ("exact, not told", head(200, Body::Exact(5), &[]), http11, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        ("none", head(200, Body::Empty, &[]), http11, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("streamed", head(200, Body::Streamed, &[]), http11, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("streamed to an old caller", head(200, Body::Streamed, &[]), http10, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n"),
        ("exact to an old caller", head(200, Body::Exact(5), &[length]), http10, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nconnection: close\r\n\r\n"),
        ("to HEAD", head(200, Body::Empty, &[length]), to_head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("to HEAD, streamed", head(200, Body::Streamed, &[]), to_head, "HTTP/1.1 200 OK\r\n\r\n"),
        ("304", head(304, Body::Empty, &[length]), http11, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("last", head(200, Body::Empty, &[]), Reply { keep_alive: false, ..http11 }, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        ("103", head(103, Body::Empty, &[("Link", "a")]), http11, "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"),
        ("unknown status", head(299, Body::Empty, &[]), http11, "HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"),
        // What the wire can bring and no HTTP/1 reader would: the caller is told the length that it gets.
        ("a length, but no body", head(200, Body::Empty, &[length]), http11, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("another length", head(200, Body::Exact(7), &[length]), http11, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        ("two lengths", head(200, Body::Exact(5), &[length, length]), http11, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("a length beside chunks", head(200, Body::Streamed, &[length]), http11, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("204 with a length", head(204, Body::Exact(5), &[length]), http11, "HTTP/1.1 204 No Content\r\n\r\n"),
        ("103 with a length", head(103, Body::Empty, &[length]), http11, "HTTP/1.1 103 Early Hints\r\n\r\n"),
    ] {
        let mut out = Vec::new();
        super::super::encode_response(&head, reply, &mut out);
        assert_eq!(text(&out), said, "{name}");
    }
}

#[test]
fn an_old_caller_hears_nothing_before_the_final_response() {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    let reply = Reply { version: Version::Http10, ..Reply::default() };
    writer.inform(&head(100, Body::Empty, &[]), reply);
    now(writer.flush()).unwrap();
    assert_eq!(out, b"");
}

#[test]
fn a_switch_names_its_protocol() {
    let raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let (taken, ..) = responses(raw, b"GET", AT_ONCE);
    assert_eq!(taken[0].head.upgrade, b"websocket");
    let reply = Reply { keep_alive: true, ..Reply::default() };
    assert_eq!(
        text(&say_response(&taken[0], reply).0),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn what_an_app_said_of_its_own_connection_stays_there() {
    let raw = b"HTTP/1.1 200 OK\r\nConnection: X-Hop, set-cookie\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Connection: a\r\nTransfer_Encoding: chunked\r\nX-A: b\r\nContent-Length: 0\r\n\r\n";
    let (taken, ..) = responses(raw, b"GET", AT_ONCE);
    let names: Vec<_> = taken[0].head.fields.iter().map(|(name, _)| text(name)).collect();
    assert_eq!(names, ["X-A", "Content-Length"]);
}

#[test]
fn a_head_that_comes_over_the_wire_has_no_body_where_http_has_none() {
    for status in [100, 101, 103, 199, 204, 304] {
        assert!(head(status, Body::Empty, &[]).check().is_ok(), "{status}");
        assert!(head(status, Body::Streamed, &[]).check().is_err(), "{status}");
        assert!(head(status, Body::Exact(5), &[("content-length", "5")]).check().is_err(), "{status}");
    }
}
