//! Every limit at its edge and one beyond, and that what never ends is not read for long.

use super::*;
use crate::http1::Decoder;
use crate::http1::head::{MOST_FIELDS, whole_head};
use Refusal::{
    Chunk, ChunkExtensions, FieldTooLarge, HeadTooLarge, RequestLine, TargetTooLong, TooManyFields,
    TrailersTooLarge,
};

/// A request whose head has so many bytes, in fields that are each within their limit.
fn head_of(size: usize) -> Vec<u8> {
    let mut raw = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    while size - raw.len() > 40_000 {
        raw.extend_from_slice(format!("X-A: {}\r\n", "a".repeat(20_000)).as_bytes());
    }
    let left = size - raw.len() - "X-A: \r\n\r\n".len();
    raw.extend_from_slice(format!("X-A: {}\r\n\r\n", "a".repeat(left)).as_bytes());
    assert_eq!(raw.len(), size);
    raw
}

fn fields(count: usize) -> Vec<u8> {
    let lines: String = (1..count).map(|number| format!("X-{number}: a\r\n")).collect();
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

fn field_of(size: usize) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "a".repeat(size - 3)).into_bytes()
}

fn field_name_of(size: usize) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{}: a\r\n\r\n", "a".repeat(size - 1)).into_bytes()
}

fn target_of(size: usize) -> Vec<u8> {
    format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(size - 1)).into_bytes()
}

fn method_of(size: usize) -> Vec<u8> {
    format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(size)).into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
}

/// Extensions of so many bytes, on three chunks.
fn extensions_of(size: usize) -> Vec<u8> {
    let one = format!(";{}", "e".repeat(99));
    let last = format!(";{}", "e".repeat(size - 201));
    chunked(&format!("1{one}\r\na\r\n1{one}\r\nb\r\n0{last}\r\n\r\n"))
}

fn trailers_of(size: usize) -> Vec<u8> {
    let line = format!("X-A: {}\r\n", "a".repeat(size - "X-A: \r\n\r\n".len()));
    chunked(&format!("0\r\n{line}\r\n"))
}

fn nominated_of(size: usize) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "a,".repeat(size / 2)).into_bytes()
}

type Row = (&'static str, fn(usize) -> Vec<u8>, usize, Refusal);

#[test]
fn a_request_up_to_each_limit_is_served_and_one_beyond_is_not() {
    let limits = Limits::default();
    let rows: [Row; 9] = [
        ("head", head_of, limits.head, HeadTooLarge),
        ("fields", fields, limits.fields, TooManyFields),
        ("field", field_of, limits.field, FieldTooLarge),
        ("field name", field_name_of, limits.field, FieldTooLarge),
        ("target", target_of, limits.target, TargetTooLong),
        ("method", method_of, limits.method, RequestLine),
        ("chunk extensions", extensions_of, limits.chunk_extensions, ChunkExtensions),
        ("trailers", trailers_of, limits.trailers, TrailersTooLarge),
        ("names in Connection", nominated_of, 1024, FieldTooLarge),
    ];
    for (name, raw, limit, refusal) in rows {
        let beyond = if name == "names in Connection" { limit + 2 } else { limit + 1 };
        for sizes in [AT_ONCE, &[1000]] {
            let (taken, end) = requests(&raw(limit), sizes);
            assert_eq!((taken.len(), end), (1, End::Done), "{name} at its limit");
            let (taken, end) = requests(&raw(beyond), sizes);
            assert_eq!((taken.len(), end), (0, End::Refused(refusal)), "{name} beyond its limit");
        }
    }
}

#[test]
fn more_fields_than_there_is_ever_room_for_are_refused_too() {
    for count in [MOST_FIELDS, MOST_FIELDS + 1, 5000] {
        assert_eq!(requests(&fields(count), AT_ONCE).1, End::Refused(TooManyFields), "{count}");
    }
}

#[test]
fn a_response_has_the_same_limits() {
    let response =
        |fields: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n").into_bytes();
    let many: String = (0..100).map(|number| format!("X-{number}: a\r\n")).collect();
    for (name, raw, refusal) in [
        ("fields", response(&many), TooManyFields),
        ("field", response(&format!("X-A: {}\r\n", "a".repeat(40_000))), FieldTooLarge),
        ("head", response(&format!("X-A: {}\r\n", "a".repeat(70_000))), HeadTooLarge),
        ("reason", format!("HTTP/1.1 200 {}", "a".repeat(70_000)).into_bytes(), HeadTooLarge),
        ("names", response(&format!("Connection: {}\r\n", "a,".repeat(600))), FieldTooLarge),
    ] {
        assert_eq!(responses(&raw, b"GET", AT_ONCE).1, End::Refused(refusal), "{name}");
    }
}

#[test]
fn what_never_ends_is_refused_before_it_costs_more_than_a_head() {
    const MOST_READ: usize = 192 * 1024;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (name, start, again, refusal) in [
        ("method", "", "A", RequestLine),
        ("target", "GET /", "a", TargetTooLong),
        ("version", "GET / ", "a", TargetTooLong),
        ("fields", "GET / HTTP/1.1\r\n", "a: b\r\n", HeadTooLarge),
        ("value", "GET / HTTP/1.1\r\nA: ", "a", HeadTooLarge),
        ("chunk size", post, "0", Chunk),
        ("extension", &format!("{post}1;"), "e", ChunkExtensions),
        ("extensions", post, "1;e\r\na\r\n", ChunkExtensions),
        ("trailers", &format!("{post}0\r\n"), "a: b\r\n", TrailersTooLarge),
        ("trailer", &format!("{post}0\r\na: "), "a", TrailersTooLarge),
    ] {
        let mut raw = start.to_owned();
        while raw.len() < 1024 * 1024 {
            raw.push_str(again);
        }
        let mut reader = Reader::new(Pieces::new(raw.as_bytes(), &[1500]), Limits::default());
        let mut head = RequestHead::default();
        let ended = take(&mut reader, &mut head, Reader::request);
        assert!(matches!(ended, Err(ReadError::Refused(other)) if other == refusal), "{name}: {ended:?}");
        let read = raw.len() - reader.get_mut().bytes.len();
        assert!(read <= MOST_READ, "{name}: {read} bytes were read");
    }
}

#[test]
fn a_chunk_of_any_size_is_only_counted() {
    let mut decoder = Decoder::chunked(Limits::default());
    let input = b"ffffffffffffffff\r\nabc";
    let decoded = decoder.decode(input).unwrap();
    assert_eq!(decoded, crate::http1::body::Decoded::Data { skip: 18, length: 3 });
    assert!(!decoder.is_done());
}

#[test]
fn a_head_that_comes_byte_by_byte_is_looked_at_once() {
    let raw = head_of(4096);
    let mut scanned = 0;
    for length in 0..raw.len() {
        assert_eq!(whole_head(&raw[..length], &mut scanned), Ok(None));
        assert_eq!(scanned, length, "no byte is looked at again");
    }
    assert_eq!(whole_head(&raw, &mut scanned), Ok(Some(raw.len())));
}
