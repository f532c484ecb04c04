//! Any bytes are requests or a refusal, the same ones however they are cut up; what was taken passes `check()`, and said
//! again it is the same. The first byte says how it is cut up.
#![no_main]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use culvert_protocol::body::Piece;
use culvert_protocol::http1::head::MOST_FIELDS;
use culvert_protocol::http1::{Limits, ReadError, Reader, Refusal, Writer};
use culvert_protocol::message::{Body, Fields, RequestHead, Version};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = requests(bytes, usize::MAX, Limits::default());
    assert_eq!(whole, requests(bytes, usize::from(*cut).max(1), Limits::default()));
    for (head, body, trailers) in whole.0 {
        assert_eq!(head.check(), Ok(()));
        if !head.fields.contains("host") {
            continue; // HTTP/1.0 is passed on with an empty host.
        }
        let mut said = Vec::new();
        let mut writer = Writer::new(&mut said);
        writer.request(&head);
        now(writer.data(&body)).expect("the body is what the head says");
        writer.end(Some(&trailers)).expect("the body is what the head says");
        now(writer.flush()).expect("memory takes everything");
        // `connection` may have been added.
        let (again, end) = requests(&said, usize::MAX, Limits { fields: MOST_FIELDS, ..Limits::default() });
        assert_eq!(end, Ok(()), "{}", said.escape_ascii());
        assert_eq!(again, [(passed_on(head), body, trailers)], "{}", said.escape_ascii());
    }
});

/// Only what concerned the connection that it came on is gone.
fn passed_on(mut head: RequestHead) -> RequestHead {
    head.version = Version::Http11;
    head.keep_alive = true;
    head.nominated.clear();
    head.expects_continue = !matches!(head.body, Body::Empty | Body::Exact(0))
        && head.fields.all("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    head
}

type Request = (RequestHead, Vec<u8>, Fields);

/// `Err(None)`: cut.
fn requests(bytes: &[u8], most: usize, limits: Limits) -> (Vec<Request>, Result<(), Option<Refusal>>) {
    let mut reader = Reader::new(Pieces { bytes, most }, limits);
    let mut taken = Vec::new();
    loop {
        match request(&mut reader) {
            Ok(Some(request)) => taken.push(request),
            Ok(None) => return (taken, Ok(())),
            Err(ReadError::Cut) => return (taken, Err(None)),
            Err(ReadError::Refused(refusal)) => return (taken, Err(Some(refusal))),
        }
    }
}

fn request(reader: &mut Reader<Pieces<'_>>) -> Result<Option<Request>, ReadError> {
    let mut head = RequestHead::default();
    loop {
        match reader.request(&mut head) {
            Ok(true) => break,
            Ok(false) => _ = now(reader.fill()).expect("a slice does not fail"),
            Err(ReadError::Cut) if reader.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let mut body = Vec::new();
    loop {
        match reader.piece()? {
            Some(Piece::Data(data)) => {
                assert!(!data.is_empty());
                body.extend_from_slice(data);
            }
            Some(Piece::End(trailers)) => {
                let trailers = trailers.cloned().unwrap_or_default();
                assert!(reader.is_between_messages());
                return Ok(Some((head, body, trailers)));
            }
            None => _ = now(reader.fill()).expect("a slice does not fail"),
        }
    }
}

/// Bytes, at most so many at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (piece, rest) = self.bytes.split_at(self.bytes.len().min(self.most).min(into.remaining()));
        into.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// The outcome of a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("memory is always ready"),
    }
}
