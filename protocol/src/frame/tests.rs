use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, duplex};

use super::*;
use crate::head;
use crate::message::{Fields, RequestHead, ResponseHead};

fn request() -> RequestHead {
    RequestHead {
        method: b"GET".to_vec(),
        target: b"/a%2Fb//c;d".to_vec(),
        fields: [(&b"Host"[..], &b"a.test"[..]), (b"X-User", b"caf\xe9")].into_iter().collect(),
        ..RequestHead::default()
    }
}

fn opening(claim: u64) -> head::Opening<'static> {
    head::Opening::Http { claim, peer: Some("192.0.2.1:5000"), confirm: false }
}

fn response(status: u16) -> ResponseHead {
    ResponseHead { status, reason: b"Fine".to_vec(), ..ResponseHead::default() }
}

/// What a reader makes of bytes that arrive as `pieces`: frames with joined data, and how it ended.
async fn read(pieces: Vec<Vec<u8>>) -> (Vec<String>, Result<bool, WireError>) {
    let mut reader = Reader::new(Pieces(pieces.into_iter().collect()));
    let mut seen: Vec<String> = Vec::new();
    let mut data = Vec::new();
    loop {
        match reader.frame() {
            Ok(Some(Frame::Data(part))) => {
                assert!(!part.is_empty(), "an empty part of data");
                data.extend_from_slice(part);
                continue;
            }
            Ok(None) => {}
            frame => {
                if !data.is_empty() {
                    seen.push(format!("Data({})", std::mem::take(&mut data).escape_ascii()));
                }
                match frame {
                    Ok(Some(frame)) => seen.push(name(&frame)),
                    Ok(None) => {}
                    Err(fault) => return (seen, Err(fault)),
                }
                continue;
            }
        }
        if reader.fill().await.expect("the pieces do not fail") == 0 {
            if !data.is_empty() {
                seen.push(format!("Data({})", data.escape_ascii()));
            }
            return (seen, Ok(reader.is_over()));
        }
    }
}

fn name(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Head(_) => "Head".to_owned(),
        Frame::Inform(_) => "Inform".to_owned(),
        Frame::Upgraded(_) => "Upgraded".to_owned(),
        frame => format!("{frame:?}"),
    }
}

/// A stream whose every read yields one piece, and that then ends.
struct Pieces(std::collections::VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(piece) = self.0.front_mut() {
            let count = piece.len().min(into.remaining());
            into.put_slice(&piece[..count]);
            piece.drain(..count);
            if piece.is_empty() {
                self.0.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream that counts writes, and takes `most` bytes at a time.
struct Counted {
    written: Vec<u8>,
    writes: usize,
    most: usize,
    finished: bool,
}

impl Counted {
    fn new(most: usize) -> Self {
        Self { written: Vec::new(), writes: 0, most, finished: false }
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.poll_write_vectored(cx, &[std::io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let mut left = self.most;
        for part in parts {
            let count = part.len().min(left);
            left -= count;
            self.written.extend_from_slice(&part[..count]);
        }
        self.writes += 1;
        Poll::Ready(Ok(self.most - left))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_small_exchange_costs_one_write_and_one_read() {
    let mut writer = Writer::new(Counted::new(usize::MAX));
    writer.request(opening(7), &request()).expect("a head");
    writer.data(b"hello").await.expect("data");
    writer.end(None).expect("an end");
    writer.finish().await.expect("a finish");
    let sent = writer.into_inner();
    assert_eq!((sent.writes, sent.finished), (1, true));

    let mut reader = Reader::new(&sent.written[..]);
    assert_eq!(reader.frame(), Ok(None));
    assert_eq!(reader.fill().await.expect("a read"), sent.written.len());
    let mut head = RequestHead::default();
    let Ok(Some(Frame::Head(payload))) = reader.frame() else { panic!("no head") };
    assert_eq!(head::decode_opening(payload, &mut head), Ok(opening(7)));
    assert_eq!(head, request());
    assert_eq!(reader.frame(), Ok(Some(Frame::Data(b"hello"))));
    assert_eq!(reader.frame(), Ok(Some(Frame::End(b""))));
    assert!(reader.is_over());
    assert_eq!(reader.frame(), Ok(None));
    assert_eq!(reader.fill().await.expect("the end"), 0);
}

#[tokio::test]
async fn an_idle_half_holds_no_memory() {
    let (_, buffer) = Reader::new(tokio::io::empty()).into_parts();
    assert_eq!(buffer.capacity(), 0);
    let (_, buffer) = Writer::new(tokio::io::sink()).into_parts();
    assert_eq!(buffer.capacity(), 0);
}

/// The bytes of an exchange with everything in it, and the frames that it is.
async fn full_response() -> (Vec<u8>, Vec<String>) {
    let trailers: Fields = [(&b"grpc-status"[..], &b"0"[..])].into_iter().collect();
    let mut writer = Writer::new(Vec::new());
    writer.accepted().expect("accepted");
    writer.inform(&response(103)).expect("inform");
    writer.response(&response(200)).expect("a head");
    writer.data(b"first ").await.expect("data");
    writer.data(b"second").await.expect("data");
    writer.end(Some(&trailers)).expect("an end");
    writer.finish().await.expect("a finish");
    let mut end = Vec::new();
    head::encode_trailers(&trailers, &mut end).expect("trailers");
    let frames = vec![
        "Accepted".to_owned(),
        "Inform".to_owned(),
        "Head".to_owned(),
        "Data(first second)".to_owned(),
        name(&Frame::End(&end)),
    ];
    (writer.into_inner(), frames)
}

#[tokio::test]
async fn frames_are_the_same_however_they_are_cut_up() {
    let (bytes, frames) = full_response().await;
    for at in 0..bytes.len() {
        let (before, after) = bytes.split_at(at);
        let pieces = [before, after].into_iter().filter(|piece| !piece.is_empty()).map(<[u8]>::to_vec);
        assert_eq!(read(pieces.collect()).await, (frames.clone(), Ok(true)), "cut at {at}");
    }
    let single = bytes.iter().map(|byte| vec![*byte]).collect();
    assert_eq!(read(single).await, (frames, Ok(true)));
}

#[tokio::test]
async fn a_stream_that_stops_early_was_cut() {
    let (bytes, _) = full_response().await;
    for at in 1..bytes.len() {
        assert_eq!(read(vec![bytes[..at].to_vec()]).await.1, Ok(false), "cut at {at}");
    }
    assert_eq!(read(Vec::new()).await, (Vec::new(), Ok(false)));
}

#[tokio::test]
async fn a_refusal_carries_its_reason_and_ends_the_half() {
    let mut writer = Writer::new(Vec::new());
    writer
        .refused(Refusal::AppUnreachable, "connecting to 127.0.0.1:3000: connection refused")
        .expect("refused");
    writer.flush().await.expect("a flush");
    let mut bytes = writer.into_inner();
    let mut reader = Reader::new(&bytes[..]);
    reader.fill().await.expect("a read");
    assert_eq!(
        reader.frame(),
        Ok(Some(Frame::Refused(Refusal::AppUnreachable, "connecting to 127.0.0.1:3000: connection refused")))
    );
    assert!(reader.is_over());
    // A reason of a newer client is a refusal all the same.
    bytes[1 + varint::FIXED] = 200;
    let mut reader = Reader::new(&bytes[..]);
    reader.fill().await.expect("a read");
    assert!(matches!(reader.frame(), Ok(Some(Frame::Refused(Refusal::Other, _)))));
}

#[tokio::test]
async fn the_text_of_a_refusal_is_cut_and_not_refused() {
    let mut writer = Writer::new(Vec::new());
    writer.refused(Refusal::Other, &"é".repeat(REFUSED_CAP)).expect("refused");
    writer.flush().await.expect("a flush");
    let (frames, end) = read(vec![writer.into_inner()]).await;
    assert_eq!((frames.len(), end), (1, Ok(true)));
}

#[test]
fn what_is_not_a_frame_is_refused_at_its_first_byte() {
    for byte in (0..=0u8).chain(9..=255) {
        assert_eq!(decode(&[byte]), Err(WireError::UnknownKind(byte)));
    }
}

#[test]
fn a_length_over_its_cap_is_refused_before_anything_is_kept_for_it() {
    for kind in 1..=8 {
        let kind = Kind::try_from(kind).expect("a kind");
        let mut prefix = vec![kind as u8];
        varint::encode(kind.cap(), &mut prefix);
        let size = prefix.len();
        assert_eq!(decode(&prefix), Ok(Some(Prefix { kind, size, length: kind.cap() })));
        for length in [kind.cap() + 1, u64::from(u32::MAX), varint::MAX] {
            let mut prefix = vec![kind as u8];
            varint::encode(length, &mut prefix);
            assert_eq!(decode(&prefix), Err(WireError::TooLong { kind, length, cap: kind.cap() }));
            let mut into = Vec::new();
            assert_eq!(
                encode(kind, length, &mut into),
                Err(WireError::TooLong { kind, length, cap: kind.cap() })
            );
            assert!(into.is_empty());
        }
    }
    assert_eq!(decode(&[Kind::Data as u8, 0]), Err(WireError::EmptyData));
}

#[tokio::test]
async fn an_announced_length_costs_nothing_until_its_bytes_come() {
    let mut prefix = vec![Kind::Head as u8];
    varint::encode(HEAD_CAP as u64, &mut prefix);
    let mut reader = Reader::new(&prefix[..]);
    reader.fill().await.expect("a read");
    assert_eq!(reader.frame(), Ok(None));
    let (_, buffer) = reader.into_parts();
    assert!(buffer.capacity() <= 8 * 1024, "{} bytes", buffer.capacity());
}

#[tokio::test]
async fn a_largest_head_passes_in_bounded_memory() {
    let mut head = request();
    let value = vec![b'v'; 30 * 1024];
    for _ in 0..4 {
        head.fields.push(b"x", &value);
    }
    let mut writer = Writer::new(Vec::new());
    writer.request(opening(1), &head).expect("a head under the cap");
    writer.flush().await.expect("a flush");
    let bytes = writer.into_inner();
    let mut reader = Reader::new(&bytes[..]);
    let mut read = RequestHead::default();
    while match reader.frame().expect("frames") {
        Some(Frame::Head(payload)) => {
            head::decode_opening(payload, &mut read).expect("an opening");
            false
        }
        frame => {
            assert_eq!(frame, None);
            true
        }
    } {
        assert_ne!(reader.fill().await.expect("a read"), 0);
    }
    assert_eq!(read, head);
    let (_, buffer) = reader.into_parts();
    assert!(buffer.capacity() <= HEAD_CAP + 64 * 1024 + 9, "{} bytes", buffer.capacity());

    head.fields.push(b"x", &value);
    let mut writer = Writer::new(Vec::new());
    assert!(matches!(writer.request(opening(1), &head), Err(WireError::TooLong { kind: Kind::Head, .. })));
    assert!(writer.is_flushed(), "half a head was left behind");
}

#[tokio::test]
async fn frames_out_of_their_order_end_the_stream() {
    let head = [Kind::Head as u8, 0];
    let end = [Kind::End as u8, 0];
    let data = [Kind::Data as u8, 1, b'x'];
    let accepted = [Kind::Accepted as u8, 0];
    let refused = [Kind::Refused as u8, 1, 0];
    let inform = [Kind::Inform as u8, 0];
    let upgraded = [Kind::Upgraded as u8, 0];
    let confirmed = [Kind::Confirmed as u8, 0];
    let wrong: &[(&[&[u8]], Kind)] = &[
        (&[&data], Kind::Data),
        (&[&end], Kind::End),
        (&[&head, &head], Kind::Head),
        (&[&head, &inform], Kind::Inform),
        (&[&head, &accepted], Kind::Accepted),
        (&[&head, &refused], Kind::Refused),
        (&[&head, &upgraded], Kind::Upgraded),
        (&[&head, &end, &data], Kind::Data),
        (&[&head, &end, &end], Kind::End),
        (&[&head, &end, &head], Kind::Head),
        (&[&accepted, &accepted], Kind::Accepted),
        (&[&accepted, &refused], Kind::Refused),
        (&[&inform, &refused], Kind::Refused),
        (&[&inform, &data], Kind::Data),
        (&[&refused, &head], Kind::Head),
        (&[&upgraded, &head], Kind::Head),
        (&[&upgraded, &end, &data], Kind::Data),
        (&[&confirmed], Kind::Confirmed),
        (&[&accepted, &confirmed], Kind::Confirmed),
        (&[&head, &confirmed, &confirmed], Kind::Confirmed),
        (&[&head, &data, &confirmed], Kind::Confirmed),
        (&[&head, &end, &confirmed], Kind::Confirmed),
        (&[&refused, &confirmed], Kind::Confirmed),
    ];
    for (frames, kind) in wrong {
        assert_eq!(read(vec![frames.concat()]).await.1, Err(WireError::Order(*kind)), "{frames:?}");
    }
    let right: &[&[&[u8]]] = &[
        &[&head, &end],
        &[&head, &data, &data, &end],
        &[&head, &confirmed, &end],
        &[&head, &confirmed, &data, &end],
        &[&accepted, &inform, &inform, &head, &end],
        &[&accepted, &upgraded, &data, &end],
        &[&refused],
    ];
    for frames in right {
        assert_eq!(read(vec![frames.concat()]).await.1, Ok(true), "{frames:?}");
    }
}

#[tokio::test]
async fn bulk_data_are_one_frame_a_call_and_are_not_gathered() {
    let body: Vec<u8> = (0..300_000u32).map(|at| at.to_le_bytes()[1]).collect();
    let mut writer = Writer::new(Counted::new(50_000));
    writer.response(&response(200)).expect("a head");
    writer.data(&body).await.expect("data");
    let (sent, buffer) = writer.into_parts();
    assert!(buffer.capacity() < 16 * 1024, "{} bytes", buffer.capacity());
    assert_eq!(sent.writes, sent.written.len().div_ceil(50_000));
    let mut reader = Reader::new(&sent.written[..]);
    let mut got = Vec::new();
    loop {
        while let Some(frame) = reader.frame().expect("frames") {
            if let Frame::Data(part) = frame {
                got.extend_from_slice(part);
            }
        }
        if reader.fill().await.expect("a read") == 0 {
            break;
        }
    }
    assert!(got == body);
    let (_, buffer) = reader.into_parts();
    assert!(buffer.capacity() <= 2 * 64 * 1024, "{} bytes", buffer.capacity());
}

#[tokio::test]
async fn waiting_data_leave_before_they_become_many() {
    let mut writer = Writer::new(Counted::new(usize::MAX));
    for _ in 0..100 {
        writer.data(&[b'x'; 1000]).await.expect("data");
    }
    let (sent, buffer) = writer.into_parts();
    assert!(buffer.capacity() <= 64 * 1024, "{} bytes", buffer.capacity());
    assert!((1..=10).contains(&sent.writes), "{} writes", sent.writes);
}

#[tokio::test]
async fn heads_that_are_never_flushed_are_refused_in_the_end() {
    let mut writer = Writer::new(Vec::new());
    let mut many = response(103);
    many.fields.push(b"x", &[b'v'; 60_000]);
    let fault = std::iter::repeat_with(|| writer.inform(&many)).take(100).find_map(Result::err);
    assert_eq!(fault, Some(WireError::Unflushed));
}

#[tokio::test]
async fn nothing_follows_a_frame_that_was_cut_short() {
    let (ours, mut theirs) = duplex(1024);
    let mut writer = Writer::new(ours);
    let body = [0u8; 100_000];
    tokio::select! {
        biased;
        _ = writer.data(&body) => panic!("a stream of 1 KiB took 100 KB"),
        () = std::future::ready(()) => {}
    }
    let fault = writer.data(b"more").await.expect_err("data went on after half a frame");
    assert!(fault.to_string().contains("cut short"), "{fault}");
    writer.finish().await.expect_err("a half frame was finished");
    drop(writer);
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.expect("what was sent");
    assert_eq!(read(vec![got]).await.1.ok(), None, "data before a head");
}

#[tokio::test]
async fn a_flush_that_was_cut_short_goes_on_where_it_stopped() {
    let (ours, mut theirs) = duplex(16);
    let mut writer = Writer::new(ours);
    writer.response(&response(200)).expect("a head");
    writer.data(&[b'x'; 200]).await.expect("data");
    writer.end(None).expect("an end");
    let mut got = Vec::new();
    loop {
        tokio::select! {
            biased;
            flushed = writer.flush() => { flushed.expect("a flush"); break }
            () = std::future::ready(()) => {}
        }
        let mut some = [0; 7];
        let count = theirs.read(&mut some).await.expect("a read");
        got.extend_from_slice(&some[..count]);
    }
    drop(writer);
    theirs.read_to_end(&mut got).await.expect("the rest");
    let (frames, end) = read(vec![got]).await;
    assert_eq!((frames.len(), end), (3, Ok(true)));
}

#[tokio::test]
async fn a_read_that_was_cut_short_loses_nothing() {
    let (bytes, frames) = full_response().await;
    let (ours, mut theirs) = duplex(4);
    let mut reader = Reader::new(ours);
    let mut seen = Vec::new();
    let feed = async {
        theirs.write_all(&bytes).await.expect("a write");
        theirs.shutdown().await.expect("a shutdown");
    };
    let take = async {
        loop {
            while let Some(frame) = reader.frame().expect("frames") {
                seen.push(name(&frame));
            }
            tokio::select! {
                biased;
                count = reader.fill() => if count.expect("a read") == 0 { break },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::join!(feed, take);
    seen.retain(|frame| !frame.starts_with("Data"));
    assert_eq!(seen, frames.into_iter().filter(|frame| !frame.starts_with("Data")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_whose_frames_are_not_taken_stops_reading() {
    let many = [Kind::Accepted as u8, 0].repeat(1_000_000);
    let mut reader = Reader::new(&many[..]);
    let mut held = 0;
    while let Ok(count) = reader.fill().await {
        held += count;
        assert!(held <= HEAD_CAP + 9 + 64 * 1024, "{held} bytes held");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_number_is_read_as_it_was_written(number in 0..=varint::MAX, rest in any::<[u8; 3]>()) {
        let mut bytes = Vec::new();
        varint::encode(number, &mut bytes);
        let size = bytes.len();
        bytes.extend(rest);
        prop_assert_eq!(varint::decode(&bytes), Some((number, size)));
        for short in 0..size {
            prop_assert_eq!(varint::decode(&bytes[..short]), None);
        }
    }

    #[test]
    fn a_kept_place_holds_any_length(number in 0u32..1 << 30) {
        prop_assert_eq!(varint::decode(&varint::fixed(number)), Some((number.into(), varint::FIXED)));
    }

    #[test]
    fn a_prefix_is_read_as_it_was_written(kind in 1u8..=8, length in 0..=DATA_CAP) {
        let kind = Kind::try_from(kind).expect("a kind");
        let mut bytes = Vec::new();
        if encode(kind, length, &mut bytes).is_ok() {
            prop_assert_eq!(decode(&bytes), Ok(Some(Prefix { kind, size: bytes.len(), length })));
            for short in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..short]), Ok(None));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_frames_or_an_error(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8)
    ) {
        runtime().block_on(read(pieces)).1.ok();
    }

    #[test]
    fn a_body_arrives_as_it_was_sent_in_any_pieces(
        body in prop::collection::vec((any::<u8>(), 0usize..20_000).prop_map(|(byte, count)| vec![byte; count]), 0..6),
        cuts in prop::collection::vec(1usize..30_000, 1..6),
        most in 1usize..40_000,
    ) {
        let got = runtime().block_on(async {
            let mut writer = Writer::new(Counted::new(most));
            writer.request(opening(0), &request()).expect("a head");
            for part in &body {
                writer.data(part).await.expect("data");
            }
            writer.end(None).expect("an end");
            writer.finish().await.expect("a finish");
            let mut bytes = &writer.into_inner().written[..];
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                let (piece, rest) = bytes.split_at(bytes.len().min(*cut));
                pieces.push(piece.to_vec());
                bytes = rest;
            }
            read(pieces).await
        });
        let sent = body.concat();
        let mut frames = vec!["Head".to_owned()];
        if !sent.is_empty() {
            frames.push(format!("Data({})", sent.escape_ascii()));
        }
        frames.push(name(&Frame::End(b"")));
        prop_assert!(got == (frames, Ok(true)));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}
