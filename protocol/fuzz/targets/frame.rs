//! Any bytes are frames or an error, and the same ones however the bytes are cut up. The first byte says how.
#![no_main]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use culvert_protocol::frame::{Frame, Reader, Refusal, WireError};
use culvert_protocol::head::{
    decode_inform, decode_opening, decode_response, decode_trailers, decode_upgraded,
};
use culvert_protocol::message::{Fields, RequestHead, ResponseHead};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = frames(bytes, usize::MAX);
    let cut = frames(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, cut);
});

/// A frame, without its loan.
#[derive(Debug, PartialEq)]
enum Seen {
    Head(Vec<u8>),
    Accepted,
    Refused(Refusal, String),
    Confirmed,
    Inform(Vec<u8>),
    Upgraded(Vec<u8>),
    Data(Vec<u8>),
    End(Vec<u8>),
}

fn frames(bytes: &[u8], most: usize) -> (Vec<Seen>, Result<bool, WireError>) {
    let mut reader = Reader::new(Pieces { bytes, most });
    let mut seen = Vec::new();
    loop {
        match reader.frame() {
            Ok(Some(frame)) => note(frame, &mut seen),
            Ok(None) => {
                if now(reader.fill()).expect("a slice does not fail") == 0 {
                    return (seen, Ok(reader.is_over()));
                }
            }
            Err(fault) => return (seen, Err(fault)),
        }
    }
}

fn note(frame: Frame<'_>, seen: &mut Vec<Seen>) {
    let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
    let one = match frame {
        Frame::Head(payload) => {
            decode_opening(payload, &mut request).ok();
            decode_response(payload, &mut response).ok();
            Seen::Head(payload.to_vec())
        }
        Frame::Inform(payload) => {
            decode_inform(payload, &mut response).ok();
            Seen::Inform(payload.to_vec())
        }
        Frame::Upgraded(payload) => {
            decode_upgraded(payload, &mut response).ok();
            Seen::Upgraded(payload.to_vec())
        }
        Frame::End(payload) => {
            decode_trailers(payload, &mut Fields::default()).ok();
            Seen::End(payload.to_vec())
        }
        Frame::Accepted => Seen::Accepted,
        Frame::Confirmed => Seen::Confirmed,
        Frame::Refused(why, text) => Seen::Refused(why, text.to_owned()),
        Frame::Data(part) => {
            assert!(!part.is_empty());
            if let Some(Seen::Data(data)) = seen.last_mut() {
                data.extend_from_slice(part);
                return;
            }
            Seen::Data(part.to_vec())
        }
    };
    seen.push(one);
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
        Poll::Pending => panic!("a slice is always ready"),
    }
}
