//! Bodies between two HTTP/1 connections: nothing waits that could be on its way, and nothing is taken for whole that is not.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::http1::{Limits, Reader, Reply, Writer};
use crate::message::{Body, ResponseHead};
use crate::socket;

const IDLE: Idle = Idle { source: Duration::from_secs(60), sink: Duration::from_secs(30) };

/// An app whose response is passed on, and the caller it is passed on to.
struct Between {
    app: DuplexStream,
    caller: DuplexStream,
    reader: Reader<ReadHalf>,
    writer: Writer<WriteHalf>,
}

/// The app has said this much; its head has been read and said again.
fn between(said: &str, room: usize) -> Between {
    let (app, near_app) = duplex(64 * 1024);
    let (near_caller, caller) = duplex(room);
    let (read, _unused) = socket::other(near_app);
    let (_unused, write) = socket::other(near_caller);
    let mut reader = Reader::with_buffer(read, Limits::default(), BytesMut::from(said.as_bytes()));
    let mut writer = Writer::new(write);
    let mut head = ResponseHead::default();
    assert!(reader.response(b"GET", &mut head).unwrap(), "the whole head is given");
    writer.response(&head, Reply { keep_alive: true, ..Reply::default() });
    Between { app, caller, reader, writer }
}

async fn run(reader: &mut Reader<ReadHalf>, writer: &mut Writer<WriteHalf>) -> Result<u64, CopyError> {
    copy(&mut Source::Http1(reader), &mut Sink::Http1(writer), IDLE).await
}

/// What one read brings.
async fn heard(caller: &mut DuplexStream) -> String {
    let mut bytes = vec![0; 64 * 1024];
    let length = caller.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[tokio::test]
async fn a_small_response_arrives_in_one_piece() {
    let mut between = between("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 64 * 1024);
    assert_eq!(run(&mut between.reader, &mut between.writer).await.unwrap(), 5);
    assert_eq!(heard(&mut between.caller).await, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert!(between.reader.is_drained());
}

#[tokio::test(start_paused = true)]
async fn an_event_is_passed_on_before_the_next_one_comes() {
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let Between { mut app, mut caller, mut reader, mut writer } = between(said, 64 * 1024);
    let talk = async {
        assert_eq!(heard(&mut caller).await, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for event in ["1\r\na\r\n", "2\r\nbb\r\n", "3\r\nccc\r\n"] {
            app.write_all(event.as_bytes()).await.unwrap();
            assert_eq!(heard(&mut caller).await, event, "before anything else is said");
        }
        app.write_all(b"0\r\nX-Sum: 6\r\n\r\n").await.unwrap();
        assert_eq!(heard(&mut caller).await, "0\r\nX-Sum: 6\r\n\r\n");
    };
    let (moved, ()) = tokio::join!(run(&mut reader, &mut writer), talk);
    assert_eq!(moved.unwrap(), 6);
}

#[tokio::test]
async fn a_response_that_is_cut_is_not_ended() {
    for (fields, body) in [("Content-Length: 50", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")]
    {
        let said = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}");
        let Between { app, mut caller, mut reader, mut writer } = between(&said, 64 * 1024);
        drop(app);
        let cut = run(&mut reader, &mut writer).await;
        assert!(matches!(cut, Err(CopyError::Source(Cut::Read(http1::ReadError::Cut)))), "{fields}: {cut:?}");
        drop(writer);
        let mut all = Vec::new();
        caller.read_to_end(&mut all).await.unwrap();
        let all = String::from_utf8(all).unwrap();
        assert!(all.ends_with(body), "{fields}: no end was said: {all}");
    }
}

#[tokio::test]
async fn a_malformed_chunk_in_the_middle_stops_what_was_begun() {
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n";
    let mut between = between(said, 64 * 1024);
    let refused = run(&mut between.reader, &mut between.writer).await;
    let Err(CopyError::Source(Cut::Read(http1::ReadError::Refused(refusal)))) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal, http1::Refusal::Chunk);
    assert!(!between.reader.is_drained() && !between.reader.is_between_messages());
}

#[tokio::test]
async fn a_body_of_another_length_than_was_said_is_an_error() {
    for told in [4, 6] {
        let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let mut between = between(said, 64 * 1024);
        let (_, write) = socket::other(between.caller);
        let mut writer = Writer::new(write);
        let head = ResponseHead { status: 200, body: Body::Exact(told), ..ResponseHead::default() };
        writer.response(&head, Reply::default());
        let mismatch = run(&mut between.reader, &mut writer).await;
        assert!(matches!(mismatch, Err(CopyError::Sink(Cut::Length(_)))), "{told}: {mismatch:?}");
    }
}

#[tokio::test]
async fn a_response_to_an_old_caller_ends_with_the_connection() {
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (_app, near_app) = duplex(1024);
    let (near_caller, mut caller) = duplex(1024);
    let (read, _unused) = socket::other(near_app);
    let (_unused, write) = socket::other(near_caller);
    let mut reader = Reader::with_buffer(read, Limits::default(), BytesMut::from(said.as_bytes()));
    let mut writer = Writer::new(write);
    let mut head = ResponseHead::default();
    reader.response(b"GET", &mut head).unwrap();
    writer.response(&head, Reply { version: crate::message::Version::Http10, ..Reply::default() });
    run(&mut reader, &mut writer).await.unwrap();
    let mut all = Vec::new();
    caller.read_to_end(&mut all).await.unwrap();
    assert_eq!(String::from_utf8(all).unwrap(), "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhello");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_falls_silent_is_given_up() {
    let mut between = between("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", 64 * 1024);
    let began = Instant::now();
    let stalled = run(&mut between.reader, &mut between.writer).await;
    assert!(
        matches!(stalled, Err(CopyError::Source(Cut::Stalled(limit))) if limit == IDLE.source),
        "{stalled:?}"
    );
    assert_eq!(began.elapsed().as_secs(), 60);
    assert!(heard(&mut between.caller).await.ends_with("hello"), "what was there went on first");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_speaks_now_and_then_is_not() {
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let Between { mut app, mut reader, mut writer, caller } = between(said, 64 * 1024);
    let drip = async {
        for _ in 0..10 {
            tokio::time::sleep(IDLE.source.mul_f32(0.9)).await;
            app.write_all(b"x").await.unwrap();
        }
    };
    let (moved, ()) = tokio::join!(run(&mut reader, &mut writer), drip);
    assert_eq!(moved.unwrap(), 10);
    drop(caller);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_nothing_is_given_up() {
    let body = "x".repeat(100_000);
    let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut between = between(&said, 1024);
    let stalled = run(&mut between.reader, &mut between.writer).await;
    assert!(
        matches!(stalled, Err(CopyError::Sink(Cut::Stalled(limit))) if limit == IDLE.sink),
        "{stalled:?}"
    );
}
