//! What a caller may send, and what it gets when it sends something else: one row per rule.

use super::*;
use Expected::{Cut, Passes, Refused};
use Refusal::{
    BareNewline, Chunk, ChunkExtensions, Coding, CodingInHttp10, Connect, ContentLength, Field,
    FieldTooLarge, HeadTooLarge, Host, HostMismatch, LengthAndCoding, RepeatedLength, RequestLine, Target,
    TargetTooLong, TooManyFields, Trailers, TrailersTooLarge,
};

enum Expected {
    Refused(Refusal),
    Cut,
    /// Target and body of each request that is taken; nothing else is.
    Passes(&'static [(&'static str, &'static str)]),
}

const HOST: &str = "Host: app.test\r\n";
/// What somebody would like to be taken for a request of its own.
const POISON: &str = "GET /poison HTTP/1.1\r\nHost: app.test\r\n\r\n";

fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{HOST}{fields}\r\n").into_bytes()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\n{body}").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", &format!("{body}{POISON}"))
}

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\n{HOST}\r\n").into_bytes()
}

fn host(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

fn raw(text: impl Into<Vec<u8>>) -> Vec<u8> {
    text.into()
}

/// Runs every row, at once and byte by byte: what is refused is refused before anything of it, or behind it, is taken.
fn hold(rows: Vec<(&str, Vec<u8>, Expected)>) {
    for (name, raw, expected) in rows {
        let (taken, end) = requests(&raw, AT_ONCE);
        assert_eq!((&taken, end), (&requests(&raw, ONE_BY_ONE).0, requests(&raw, ONE_BY_ONE).1), "{name}");
        let seen: Vec<_> =
            taken.iter().map(|request| (text(&request.head.target), text(&request.body))).collect();
        let (wanted, wanted_end) = match &expected {
            Refused(refusal) => (&[][..], End::Refused(*refusal)),
            Cut => (&[][..], End::Cut),
            Passes(requests) => (*requests, End::Done),
        };
        assert_eq!(end, wanted_end, "{name}: {}", text(&raw));
        let wanted: Vec<_> =
            wanted.iter().map(|(target, body)| ((*target).to_owned(), (*body).to_owned())).collect();
        assert_eq!(seen, wanted, "{name}: {}", text(&raw));
        for request in &taken {
            assert_passes_on(name, request);
        }
    }
}

const ONE: Expected = Passes(&[("/", "")]);
const HELLO: Expected = Passes(&[("/", "hello")]);
/// The bytes are not of this request's body, and they are a request by every reading.
const TWO: Expected = Passes(&[("/", ""), ("/poison", "")]);
const HELLO_AND_TWO: Expected = Passes(&[("/", "hello"), ("/poison", "")]);

#[test]
#[rustfmt::skip] // a row is a line
fn a_body_has_one_length_or_the_request_is_refused() {
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), &format!("hello{POISON}"));
    let coding = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), &format!("0\r\n\r\n{POISON}"));
    let both = |value: &str| {
        post(&format!("Transfer-Encoding: {value}\r\nContent-Length: 5\r\n"), &format!("hello{POISON}"))
    };
    hold(vec![
        ("none", post("", POISON), TWO),
        ("length", length("5"), HELLO_AND_TWO),
        ("length of nothing", post("Content-Length: 0\r\n", POISON), TWO),
        ("length with more space", length("  5"), HELLO_AND_TWO),
        ("length behind a tab", post("Content-Length:\t5\r\n", "hello"), HELLO),
        ("length without space", post("Content-Length:5\r\n", "hello"), HELLO),
        ("a body that a GET has", raw(format!("GET / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello")), HELLO),
        ("a body that a HEAD has", raw(format!("HEAD / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello")), HELLO),
        ("a body that OPTIONS has", raw(format!("OPTIONS / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello")), HELLO),
        ("cut", post("Content-Length: 5\r\n", "hell"), Cut),
        ("cut before its first byte", post("Content-Length: 999999999\r\n", ""), Cut),
        // Two lengths (B1-B4).
        ("cl.te", post("Content-Length: 45\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{POISON}")), Refused(LengthAndCoding)),
        ("te.cl", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5\r\nhello\r\n0\r\n\r\n"), Refused(LengthAndCoding)),
        ("te.cl of nothing", post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n"), Refused(LengthAndCoding)),
        ("cl.te in HTTP/1.0", raw(format!("POST / HTTP/1.0\r\n{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")), Refused(LengthAndCoding)),
        ("cl-differ", post("Content-Length: 0\r\nContent-Length: 5\r\n", "hello"), Refused(RepeatedLength)),
        ("cl-same-twice", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Refused(RepeatedLength)),
        ("cl-other-case-twice", post("content-length: 5\r\nCONTENT-LENGTH: 5\r\n", "hello"), Refused(RepeatedLength)),
        ("cl-comma-differ", length("5, 10"), Refused(ContentLength)),
        ("cl-comma-same", length("5, 5"), Refused(ContentLength)),
        ("cl-plus", length("+5"), Refused(ContentLength)),
        ("cl-minus", length("-5"), Refused(ContentLength)),
        ("cl-hexa", length("0x5"), Refused(ContentLength)),
        ("cl-under", length("0_5"), Refused(ContentLength)),
        ("cl-space", length("5 5"), Refused(ContentLength)),
        ("cl-empty", length(""), Refused(ContentLength)),
        ("cl-float", length("5.0"), Refused(ContentLength)),
        ("cl-nbsp", raw(&b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xa05\r\n\r\nhello"[..]), Refused(ContentLength)),
        ("cl-huge", length("18446744073709551621"), Refused(ContentLength)),
        ("cl-beyond-signed", length("9223372036854775808"), Refused(ContentLength)),
        ("cl-octal", length("005"), Refused(ContentLength)),
        ("cl-double-zero", length("00"), Refused(ContentLength)),
        ("cl-sp-colon", post("Content-Length : 5\r\n", "hello"), Refused(Field)),
        // A coding is `chunked` and said once (B5, B6).
        ("chunked", coding("chunked"), TWO),
        ("chunked in any case", coding("cHuNkEd"), TWO),
        ("chunked behind a tab", post("Transfer-Encoding:\tchunked \t\r\n", "0\r\n\r\n"), ONE),
        ("te-xchunked", both("xchunked"), Refused(Coding)),
        ("te-params", both("chunked;q=1"), Refused(Coding)),
        ("te-identity", both("identity"), Refused(Coding)),
        ("te-gzip", both("gzip"), Refused(Coding)),
        ("te-gzip-chunked", coding("gzip, chunked"), Refused(Coding)),
        ("te-chunked2", both("chunked, chunked"), Refused(Coding)),
        ("te-notlast", coding("chunked, identity"), Refused(Coding)),
        ("te-leading-comma", both(", chunked"), Refused(Coding)),
        ("te-trailing-comma", both("chunked,"), Refused(Coding)),
        ("te-quote", both("\"chunked\""), Refused(Coding)),
        ("te-kelvin", coding("chun\u{212a}ed"), Refused(Coding)),
        ("te-empty", both(""), Refused(Coding)),
        ("te-vtab", both("\x0bchunked"), Refused(Field)),
        ("te-ff", both("\x0cchunked"), Refused(Field)),
        ("te-nul", both("chunked\0"), Refused(Field)),
        ("te-two-lines", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), Refused(Coding)),
        ("te-same-twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(Coding)),
        ("te-sp-colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), Refused(Field)),
        ("te-obsfold", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), Refused(Field)),
        ("te-lf-value", post("Transfer-Encoding:\n chunked\r\nContent-Length: 5\r\n", "hello"), Refused(BareNewline)),
        ("te-prefix-cr", post("Foo: bar\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), Refused(Field)),
        // No proxy of HTTP/1.0 knows of codings (B7), and no name is one because it looks like one (B8).
        ("te-http10", raw(format!("POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{POISON}")), Refused(CodingInHttp10)),
        ("te-underscore", post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), HELLO),
        ("cl-underscore", post("Content_Length: 50\r\nContent-Length: 5\r\n", "hello"), HELLO),
        ("cl-named-away", post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"), HELLO),
        ("te-named-away", post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), HELLO),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn chunks_are_plain_or_the_request_is_refused() {
    let trailer = |line: &str| chunked(&format!("5\r\nhello\r\n0\r\n{line}\r\n\r\n"));
    hold(vec![
        ("chunks", chunked("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n"), HELLO_AND_TWO),
        ("chunk-upper", post("Transfer-Encoding: chunked\r\n", "A\r\nhelloworld\r\n0\r\n\r\n"), Passes(&[("/", "helloworld")])),
        ("chunk-zeros", chunked("0000000000000005\r\nhello\r\n000\r\n\r\n"), HELLO_AND_TWO),
        ("chunk-no-final", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), Cut),
        ("chunk-no-end", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"), Cut),
        ("chunk-short", post("Transfer-Encoding: chunked\r\n", "5\r\nhell"), Cut),
        // B9.
        ("chunk-neg", chunked("-5\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-plus", chunked("+5\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-hexa", chunked("0x5\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-under", chunked("0_5\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-sp", chunked("5 \r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-lead", chunked(" 5\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-over", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-over-wraps", chunked("FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-empty", chunked("5\r\nhello\r\n\r\n\r\n"), Refused(Chunk)),
        ("chunk-no-size", chunked(";a=b\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        // B10.
        ("chunk-lf", chunked("5\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-cr", chunked("5\rhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-lfend", chunked("5\r\nhello\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-spill", chunked("5\r\nhelloXX\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-nocrlf", chunked("5\r\nhello0\r\n\r\n"), Refused(Chunk)),
        ("chunk-twobyte", chunked("5\r\nhello33\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-lastlf", chunked("5\r\nhello\r\n0\n\n"), Refused(Chunk)),
        ("chunk-lastlf-only", chunked("5\r\nhello\r\n0\r\n\n"), Refused(Trailers)),
        // B11: what is well-formed goes nowhere.
        ("chunk-ext", chunked("5;ext=value\r\nhello\r\n0;last\r\n\r\n"), HELLO_AND_TWO),
        ("chunk-ext-quoted", chunked("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), HELLO_AND_TWO),
        ("chunk-ext-spaced", chunked("5; a=b\r\nhello\r\n0\r\n\r\n"), HELLO_AND_TWO),
        ("chunk-ext-bare", chunked("5;\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-ext-twice-bare", chunked("5;;a\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-extlf", chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-extlf-bare", chunked("5;\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-extcr", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        ("chunk-extnul", chunked("5;\0ext\r\nhello\r\n0\r\n\r\n"), Refused(Chunk)),
        // B12: those that would steer are dropped (`assert_passes_on` looks at what is left), the rest passes.
        ("trailer", trailer("X-Checksum: abc"), HELLO_AND_TWO),
        ("trailer-content-length", trailer("Content-Length: 6"), HELLO_AND_TWO),
        ("trailer-transfer-encoding", trailer("Transfer-Encoding: chunked"), HELLO_AND_TWO),
        ("trailer-host", trailer("Host: evil.test"), HELLO_AND_TWO),
        ("trailer-authorization", trailer("Authorization: x"), HELLO_AND_TWO),
        ("trailer-cookie", trailer("Cookie: x=y"), HELLO_AND_TWO),
        ("trailer-forwarded", trailer("X-Forwarded-For: ::1"), HELLO_AND_TWO),
        ("trailer-culvert", trailer("culvert-route: x"), HELLO_AND_TWO),
        ("trailer-lf", trailer("X-A: b\nX-B: c"), Refused(Trailers)),
        ("trailer-cr", trailer("X-A: b\rX-B: c"), Refused(Trailers)),
        ("trailer-nul", trailer("X-A: \0"), Refused(Trailers)),
        ("trailer-obsfold", trailer("X-A: b\r\n c"), Refused(Trailers)),
        ("trailer-sp-colon", trailer("X-A : b"), Refused(Trailers)),
        ("trailer-no-colon", trailer("XA"), Refused(Trailers)),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_head_is_plain_or_the_request_is_refused() {
    hold(vec![
        ("baseline", get(""), ONE),
        ("leading-crlf", raw([&b"\r\n\r\n"[..], &get("")].concat()), ONE),
        ("pipeline-ok", raw([get(""), get("")].concat()), Passes(&[("/", ""), ("/", "")])),
        ("pipeline-with-crlf", raw([get(""), b"\r\n".to_vec(), get("")].concat()), Passes(&[("/", ""), ("/", "")])),
        ("nothing", raw(""), Passes(&[])),
        ("only-crlf", raw("\r\n\r\n"), Passes(&[])),
        ("cut", raw(format!("GET / HTTP/1.1\r\n{HOST}")), Cut),
        ("http09", raw("GET /\r\n"), Cut),
        // B13.
        ("lf-request-line", raw(format!("GET / HTTP/1.1\n{HOST}\r\n")), Refused(BareNewline)),
        ("lf-header", host("Host: app.test\nX-A: b\r\n"), Refused(BareNewline)),
        ("lf-end", raw("GET / HTTP/1.1\r\nHost: a\r\n\n"), Refused(BareNewline)),
        ("lf-only", raw("GET / HTTP/1.1\nHost: a\n\n"), Refused(BareNewline)),
        ("cr-only", raw("GET / HTTP/1.1\rHost: app.test\r\r\r\n\r\n"), Refused(RequestLine)),
        ("cr-line-ending", raw("GET / HTTP/1.1\rHost: localhost\r\n\r\n"), Refused(RequestLine)),
        ("cr-before-crlf", raw("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"), Refused(RequestLine)),
        ("cr-in-value", get("X-A: a\rX-B: b\r\n"), Refused(Field)),
        ("nul-value", get("X-A: a\0b\r\n"), Refused(Field)),
        ("nul-name", get("X\0A: a\r\n"), Refused(Field)),
        ("ctl-value", get("X-A: a\x07b\r\n"), Refused(Field)),
        ("del-value", get("X-A: a\x7f\r\n"), Refused(Field)),
        ("del-in-a-long-value", get(&format!("X-A: {}\x7f{}\r\n", "a".repeat(37), "a".repeat(40))), Refused(Field)),
        // B14.
        ("obs-fold", get("X-A: a\r\n b\r\n"), Refused(Field)),
        ("obs-fold-tab", get("X-A: a\r\n\tb\r\n"), Refused(Field)),
        ("sp-before-colon", get("X-A : a\r\n"), Refused(Field)),
        ("tab-before-colon", get("X-A\t: a\r\n"), Refused(Field)),
        ("empty-name", get(": a\r\n"), Refused(Field)),
        ("no-colon", get("XA\r\n"), Refused(Field)),
        ("lead-space-first-header", host(" Host: app.test\r\n"), Refused(Field)),
        ("white-line-first", host(" \r\nHost: app.test\r\n"), Refused(Field)),
        ("latin1-name", raw(&b"GET / HTTP/1.1\r\nHost: a\r\nX-\xe9: a\r\n\r\n"[..]), Refused(Field)),
        ("utf8-name", get("X-T\u{eb}st: value\r\n"), Refused(Field)),
        ("name-with-slash", get("X/A: a\r\n"), Refused(Field)),
        // B16: what is a version but not ours is told so.
        ("version-9.9", line("GET / HTTP/9.9"), Refused(Refusal::Version)),
        ("version-1.2", line("GET / HTTP/1.2"), Refused(Refusal::Version)),
        ("version-2.0", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Refused(Refusal::Version)),
        ("version-lower", line("GET / http/1.1"), Refused(RequestLine)),
        ("version-no-minor", line("GET / HTTP/1"), Refused(RequestLine)),
        ("version-space", line("GET / HTTP/ 1.1"), Refused(RequestLine)),
        ("version-long", line("GET / HTTP/1.10"), Refused(RequestLine)),
        ("version-then-space", line("GET / HTTP/1.1 "), Refused(RequestLine)),
        // B17.
        ("tab-request-line", line("GET\t/\tHTTP/1.1"), Refused(RequestLine)),
        ("two-sp", line("GET  /  HTTP/1.1"), Refused(RequestLine)),
        ("two-sp-version", line("GET /  HTTP/1.1"), Refused(RequestLine)),
        ("lead-sp", line(" GET / HTTP/1.1"), Refused(RequestLine)),
        ("no-target", line("GET HTTP/1.1"), Refused(RequestLine)),
        ("no-method", line("/ HTTP/1.1"), Refused(RequestLine)),
        ("white-only", raw("   \r\n\r\n"), Refused(RequestLine)),
        ("method-with-colon", line("GET: / HTTP/1.1"), Refused(RequestLine)),
        ("sp-target", line("GET /a b HTTP/1.1"), Refused(RequestLine)),
        ("nul-target", line("GET /\0 HTTP/1.1"), Refused(RequestLine)),
        ("del-target", line("GET /\x7f HTTP/1.1"), Refused(RequestLine)),
        ("frag-target", line("GET /a#b HTTP/1.1"), Refused(Target)),
        ("utf8-target", line("GET /\u{e9} HTTP/1.1"), Refused(Target)),
        ("overlong-target", raw(&b"GET /\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n"[..]), Refused(RequestLine)),
        ("target-as-it-came", line("GET //a/../%2e%2F;x?a=b|\"{} HTTP/1.1"), Passes(&[("//a/../%2e%2F;x?a=b|\"{}", "")])),
        ("tls", raw(&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n\r\n"[..]), Refused(BareNewline)),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_request_names_one_host_and_its_target_no_other() {
    hold(vec![
        // B19.
        ("host-none", host(""), Refused(Host)),
        ("host-none-http10", raw("GET / HTTP/1.0\r\n\r\n"), ONE),
        ("host-two", get("Host: evil.test\r\n"), Refused(Host)),
        ("host-two-same", get(HOST), Refused(Host)),
        ("host-two-http10", raw("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), Refused(Host)),
        ("host-comma", host("Host: app.test, evil.test\r\n"), Refused(Host)),
        ("host-path", host("Host: app.test/evil\r\n"), Refused(Host)),
        ("host-user", host("Host: u@app.test\r\n"), Refused(Host)),
        ("host-empty", host("Host: \r\n"), Refused(Host)),
        ("host-space", host("Host: app.test evil.test\r\n"), Refused(Host)),
        ("host-query", host("Host: app.test?x\r\n"), Refused(Host)),
        ("host-scheme", host("Host: http://app.test\r\n"), Refused(Host)),
        ("host-backslash", host("Host: app.test\\evil\r\n"), Refused(Host)),
        ("host-port-name", host("Host: app.test:http\r\n"), Refused(Host)),
        ("host-two-ports", host("Host: app.test:80:80\r\n"), Refused(Host)),
        ("host-bare-v6", host("Host: ::1\r\n"), Refused(Host)),
        ("host-v6", host("Host: [::1]:80\r\n"), ONE),
        ("host-underscore", host("Host: app.test\r\nHOST_: evil.test\r\n"), ONE),
        // B20.
        ("abs-ok", line("GET http://app.test/x?y HTTP/1.1"), Passes(&[("/x?y", "")])),
        ("abs-other-case", line("GET HTTP://APP.test/x HTTP/1.1"), Passes(&[("/x", "")])),
        ("abs-no-path", line("GET http://app.test HTTP/1.1"), ONE),
        ("abs-query-only", line("GET http://app.test?y HTTP/1.1"), Passes(&[("/?y", "")])),
        ("abs-options", line("OPTIONS http://app.test HTTP/1.1"), Passes(&[("*", "")])),
        ("abs-mismatch", line("GET http://evil.test/x HTTP/1.1"), Refused(HostMismatch)),
        ("abs-port-mismatch", line("GET http://app.test:81/x HTTP/1.1"), Refused(HostMismatch)),
        ("abs-user", line("GET http://app.test@evil.test/x HTTP/1.1"), Refused(HostMismatch)),
        ("abs-backslash", line("GET http://app.test\\@evil.test/x HTTP/1.1"), Refused(HostMismatch)),
        ("abs-fragment", line("GET http://app.test#x HTTP/1.1"), Refused(Target)),
        ("abs-http10-no-host", raw("GET http://app.test/ HTTP/1.0\r\n\r\n"), Refused(HostMismatch)),
        ("abs-no-authority", raw("GET http:///x HTTP/1.0\r\n\r\n"), Refused(HostMismatch)),
        ("abs-other-scheme", line("GET ftp://app.test/x HTTP/1.1"), Refused(Target)),
        // B21.
        ("connect", raw("CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n"), Refused(Connect)),
        ("connect-path", line("CONNECT / HTTP/1.1"), Refused(Connect)),
        ("authority-get", line("GET app.test:80 HTTP/1.1"), Refused(Target)),
        ("star-get", line("GET * HTTP/1.1"), Refused(Target)),
        ("star-more", line("OPTIONS *x HTTP/1.1"), Refused(Target)),
        ("star-options", line("OPTIONS * HTTP/1.1"), Passes(&[("*", "")])),
        ("relative", line("GET x HTTP/1.1"), Refused(Target)),
        ("trace", line("TRACE / HTTP/1.1"), ONE),
    ]);
}

/// The only request that `raw` holds.
#[track_caller]
fn only(raw: &[u8]) -> RequestHead {
    let (taken, end) = requests(raw, AT_ONCE);
    assert_eq!((taken.len(), end), (1, End::Done), "{}", text(raw));
    taken[0].head.clone()
}

fn names(fields: &Fields) -> Vec<String> {
    fields.iter().map(|(name, _)| text(name)).collect()
}

#[test]
fn what_concerns_one_connection_is_not_passed_on() {
    let head = only(&get(
        "Connection: close, X-Hop\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nX-Hop: 1\r\nUpgrade: websocket\r\n",
    ));
    assert_eq!(
        names(&head.fields),
        ["Host", "X-Hop"],
        "what Connection names is the front door's to take out"
    );
    assert_eq!(head.nominated, b"X-Hop,");
    assert!(head.takes_trailers && !head.keep_alive);
    assert_eq!(head.upgrade, b"", "nobody said that it concerns this connection");
}

#[test]
fn a_name_spelt_with_underscores_is_not_a_second_way_to_say_it() {
    let head = only(&get(
        "content_length: 5\r\nX_Forwarded_For: ::1\r\nX-Forwarded_Host: a\r\nCulvert_Route: a\r\nX_Real_IP: a\r\nX_Mine: a\r\nX-Real: b\r\n",
    ));
    assert_eq!(names(&head.fields), ["Host", "X_Mine", "X-Real"]);
}

#[test]
fn values_pass_byte_for_byte() {
    let raw = b"GET / HTTP/1.1\r\nhOST: a\r\nX-A: \t caf\xe9 \xff\t;  x \t\r\nX-A:\r\nx-a: 2\r\n\r\n";
    let head = only(raw);
    let lines: Vec<_> = head.fields.iter().collect();
    let same: [(&[u8], &[u8]); 4] =
        [(b"hOST", b"a"), (b"X-A", b"caf\xe9 \xff\t;  x"), (b"X-A", b""), (b"x-a", b"2")];
    assert_eq!(lines, same);
}

#[test]
fn an_upgrade_is_taken_where_it_can_only_be_read_one_way() {
    // fields of the request, and the protocol it may switch to (B23)
    for (fields, upgrade) in [
        ("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade:\r\n", "websocket"),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", "websocket"),
        ("Connection: keep-alive, uPGRADE\r\nUpgrade: websocket\r\n", "websocket"),
        ("Connection: Upgrade\r\nUpgrade: a/1\r\nUpgrade: b\r\n", "a/1, b"),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", "websocket"),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: Upgrade\r\n", ""),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n", ""),
    ] {
        assert_eq!(text(&only(&get(fields)).upgrade), upgrade, "{fields}");
    }
    let with_body =
        format!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {}\r\n", POISON.len());
    assert_eq!(only(&post(&with_body, POISON)).upgrade, b"", "where would the protocol begin?");
    let in_chunks = "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(only(&post(in_chunks, "5\r\nhello\r\n0\r\n\r\n")).upgrade, b"");
    let old = format!("GET / HTTP/1.0\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(only(old.as_bytes()).upgrade, b"");

    let (taken, end) =
        requests(&[get("Connection: Upgrade\r\nUpgrade: websocket\r\n"), POISON.into()].concat(), AT_ONCE);
    assert_eq!((taken.len(), end), (2, End::Done), "what is not switched is read as the next request");
}

#[test]
fn a_caller_is_told_to_go_on_only_if_it_waits() {
    for (fields, body, waits) in [
        ("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello", true),
        ("Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", true),
        ("Expect: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n", "hello", true),
        ("Expect: 100-continue\r\n", "", false),
        ("Expect: 100-continue\r\nContent-Length: 0\r\n", "", false),
        ("Expect: y 100-continue\r\nContent-Length: 5\r\n", "hello", false),
        ("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello", false),
    ] {
        assert_eq!(only(&post(fields, body)).expects_continue, waits, "{fields}");
    }
    let old = format!("POST / HTTP/1.0\r\n{HOST}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    assert!(!only(old.as_bytes()).expects_continue);
}

#[test]
fn a_connection_is_kept_by_http11_unless_it_says_close() {
    for (raw, kept) in [
        (get(""), true),
        (get("Connection: keep-alive\r\n"), true),
        (get("Connection: close\r\n"), false),
        (get("Connection: x, CLOSE\r\n"), false),
        (get("Connection: keep-alive\r\nConnection: close\r\n"), false),
        (raw("GET / HTTP/1.0\r\n\r\n"), false),
        (raw("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), false),
    ] {
        assert_eq!(only(&raw).keep_alive, kept, "{}", text(&raw));
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_refusal_is_answered_with_its_status() {
    for (refusal, status) in [
        (BareNewline, 400), (RequestLine, 400), (Refusal::Version, 505), (Field, 400), (HeadTooLarge, 431),
        (TooManyFields, 431), (FieldTooLarge, 431), (TargetTooLong, 414), (Target, 400), (Connect, 405),
        (Host, 400), (HostMismatch, 400), (ContentLength, 400), (RepeatedLength, 400), (LengthAndCoding, 400),
        (Coding, 400), (CodingInHttp10, 400), (Chunk, 400), (ChunkExtensions, 400), (Trailers, 400),
        (TrailersTooLarge, 400),
    ] {
        assert_eq!(refusal.status(), status, "{refusal}");
    }
}
