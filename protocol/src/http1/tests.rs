//! The codec held against RFC 9112, row by row, and against itself. What every part of it needs: bytes that arrive in
//! pieces, what was taken of them, and the same said again.

mod bodies;
mod limits;
mod properties;
mod requests;
mod responses;
mod strict;

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Limits, ReadError, Reader, Refusal, Reply, Writer};
use crate::body::Piece;
use crate::message::{Body, Fields, RequestHead, ResponseHead, Version};

/// A message with its body, as it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken<H> {
    head: H,
    body: Vec<u8>,
    trailers: Fields,
}

/// Why no further message was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The bytes ended where a message does.
    Done,
    Cut,
    Refused(Refusal),
}

/// Bytes that arrive in pieces of these sizes, over and over.
#[derive(Debug)]
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: &'a [usize],
    next: usize,
}

const AT_ONCE: &[usize] = &[usize::MAX];
const ONE_BY_ONE: &[usize] = &[1];

impl<'a> Pieces<'a> {
    fn new(bytes: &'a [u8], sizes: &'a [usize]) -> Self {
        Self { bytes, sizes, next: 0 }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let size = self.sizes[self.next % self.sizes.len()].max(1);
        self.next += 1;
        let (piece, rest) = self.bytes.split_at(size.min(self.bytes.len()).min(into.remaining()));
        into.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// The outcome of what has nothing to wait for.
fn now<T>(step: impl Future<Output = T>) -> T {
    step.now_or_never().expect("memory is always ready")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All requests that `raw` holds, however it arrives.
fn requests(raw: &[u8], sizes: &[usize]) -> (Vec<Taken<RequestHead>>, End) {
    let mut reader = Reader::new(Pieces::new(raw, sizes), Limits::default());
    let mut taken = Vec::new();
    loop {
        let mut head = RequestHead::default();
        match take(&mut reader, &mut head, Reader::request) {
            Ok(Some((body, trailers))) => taken.push(Taken { head, body, trailers }),
            Ok(None) => return (taken, End::Done),
            Err(ReadError::Cut) => return (taken, End::Cut),
            Err(ReadError::Refused(refusal)) => return (taken, End::Refused(refusal)),
        }
    }
}

/// All responses that `raw` holds, up to the first that ends the connection, and whether nothing was left over.
fn responses(raw: &[u8], method: &[u8], sizes: &[usize]) -> (Vec<Taken<ResponseHead>>, End, bool) {
    let mut reader = Reader::new(Pieces::new(raw, sizes), Limits::default());
    let mut taken = Vec::new();
    loop {
        let mut head = ResponseHead::default();
        match take(&mut reader, &mut head, |reader, head| reader.response(method, head)) {
            Ok(Some((body, trailers))) => {
                let last = !head.is_informational();
                taken.push(Taken { head, body, trailers });
                if last {
                    // What came right behind it has to be here for `is_drained` to see it.
                    let left = now(reader.fill()).expect("a slice does not fail");
                    return (taken, End::Done, left == 0 && reader.is_empty());
                }
            }
            Ok(None) => return (taken, End::Done, true),
            Err(ReadError::Cut) => return (taken, End::Cut, false),
            Err(ReadError::Refused(refusal)) => return (taken, End::Refused(refusal), false),
        }
    }
}

type Rest = Option<(Vec<u8>, Fields)>;

fn take<'a, H>(
    reader: &mut Reader<Pieces<'a>>,
    head: &mut H,
    next: impl Fn(&mut Reader<Pieces<'a>>, &mut H) -> Result<bool, ReadError>,
) -> Result<Rest, ReadError> {
    loop {
        match next(reader, head) {
            Ok(true) => break,
            Ok(false) => _ = now(reader.fill()).expect("a slice does not fail"),
            Err(ReadError::Cut) if reader.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let mut body = Vec::new();
    loop {
        match reader.piece()? {
            Some(Piece::Data(data)) => body.extend_from_slice(data),
            Some(Piece::End(trailers)) => {
                return Ok(Some((body, trailers.cloned().unwrap_or_default())));
            }
            None => _ = now(reader.fill()).expect("a slice does not fail"),
        }
    }
}

/// Says a request again as the codec would to an upstream.
fn say_request(request: &Taken<RequestHead>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.request(&request.head);
    now(writer.data(&request.body)).expect("the body is what the head says");
    writer.end(Some(&request.trailers)).expect("the body is what the head says");
    now(writer.flush()).expect("memory takes everything");
    out
}

/// Says a response again as the codec would to a caller, and whether the connection stays open.
fn say_response(response: &Taken<ResponseHead>, reply: Reply) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    let keep_alive = writer.response(&response.head, reply);
    now(writer.data(&response.body)).expect("the body is what the head says");
    writer.end(Some(&response.trailers)).expect("the body is what the head says");
    now(writer.flush()).expect("memory takes everything");
    (out, keep_alive)
}

/// What a request is once it was passed on: only what concerned the connection that it came on is gone.
fn passed_on(request: &Taken<RequestHead>) -> Taken<RequestHead> {
    let mut request = request.clone();
    request.head.version = Version::Http11;
    request.head.keep_alive = true;
    request.head.nominated.clear();
    request.head.expects_continue = !matches!(request.head.body, Body::Empty | Body::Exact(0))
        && request.head.fields.all("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    request
}

/// Whatever was accepted can be said again, only one way, and means the same.
#[track_caller]
fn assert_passes_on(name: &str, request: &Taken<RequestHead>) {
    let said = say_request(request);
    let seen = strict::requests(&said).unwrap_or_else(|fault| panic!("{name}: {fault}: {}", text(&said)));
    assert_eq!(seen.len(), 1, "{name}: {}", text(&said));
    assert_eq!(seen[0].body, request.body, "{name}");
    if !request.head.fields.contains("host") {
        return; // HTTP/1.0: an empty host is said for it, which we would not take.
    }
    let (again, end) = requests(&said, AT_ONCE);
    assert_eq!(end, End::Done, "{name}: {}", text(&said));
    assert_eq!(again, [passed_on(request)], "{name}: {}", text(&said));
    assert_eq!(say_request(&again[0]), said, "{name}");
}
