//! The codec on a byte stream: what is left for the next message, and what is not.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::message::{Body, Version};

const GET: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
const POISON: &[u8] = b"GET /poison HTTP/1.1\r\nHost: a\r\n\r\n";

/// A reader, and who writes to it.
fn connection() -> (Reader<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(1024 * 1024);
    (Reader::new(near, Limits::default()), far)
}

async fn next_request(reader: &mut Reader<DuplexStream>) -> Result<RequestHead, ReadError> {
    let mut head = RequestHead::default();
    while !reader.request(&mut head)? {
        reader.fill().await.unwrap();
    }
    Ok(head)
}

async fn next_response(reader: &mut Reader<DuplexStream>) -> Result<ResponseHead, ReadError> {
    let mut head = ResponseHead::default();
    while !reader.response(b"GET", &mut head)? {
        reader.fill().await.unwrap();
    }
    Ok(head)
}

/// The body to its end, with its trailers.
async fn rest_of_body(reader: &mut Reader<DuplexStream>) -> Result<(Vec<u8>, Fields), ReadError> {
    let mut body = Vec::new();
    loop {
        match reader.piece()? {
            Some(Piece::Data(data)) => body.extend_from_slice(data),
            Some(Piece::End(trailers)) => return Ok((body, trailers.cloned().unwrap_or_default())),
            None => _ = reader.fill().await.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_connection_carries_one_exchange_after_another() {
    let (near, far) = duplex(64);
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    let caller = async move {
        let (mut reader, mut writer) = (Reader::new(near_read, Limits::default()), Writer::new(near_write));
        for number in 0..20u8 {
            let body = vec![number; usize::from(number) * 20];
            let mut head = RequestHead { method: b"POST".into(), ..RequestHead::default() };
            head.target = format!("/{number}").into();
            head.fields.push(b"host", b"a");
            head.body = if number % 2 == 0 { Body::Exact(body.len() as u64) } else { Body::Streamed };
            writer.request(&head);
            writer.data(&body).await.unwrap();
            writer.end(None).unwrap();
            writer.flush().await.unwrap();
            let mut statuses = Vec::new();
            let mut response = ResponseHead::default();
            while statuses.last() != Some(&200) {
                while !reader.response(b"POST", &mut response).unwrap() {
                    reader.fill().await.unwrap();
                }
                statuses.push(response.status);
            }
            assert_eq!(statuses, [103, 200]);
            let mut answered = Vec::new();
            let trailers = loop {
                match reader.piece().unwrap() {
                    Some(Piece::Data(data)) => answered.extend_from_slice(data),
                    Some(Piece::End(trailers)) => break trailers.cloned(),
                    None => _ = reader.fill().await.unwrap(),
                }
            };
            assert_eq!(answered, body);
            assert_eq!(trailers.is_some(), number % 2 == 1, "trailers pass where there is a place for them");
            assert!(reader.is_drained());
        }
    };
    let server = async move {
        let (mut reader, mut writer) = (Reader::new(far_read, Limits::default()), Writer::new(far_write));
        for number in 0..20u8 {
            let mut head = RequestHead::default();
            while !reader.request(&mut head).unwrap() {
                reader.fill().await.unwrap();
            }
            assert_eq!(head.target, format!("/{number}").into_bytes());
            let mut body = Vec::new();
            loop {
                match reader.piece().unwrap() {
                    Some(Piece::Data(data)) => body.extend_from_slice(data),
                    Some(Piece::End(_)) => break,
                    None => _ = reader.fill().await.unwrap(),
                }
            }
            let reply = Reply::to(&head);
            writer.inform(&ResponseHead { status: 103, ..ResponseHead::default() }, reply);
            let response = ResponseHead { status: 200, body: head.body, ..ResponseHead::default() };
            assert!(writer.response(&response, reply));
            writer.data(&body).await.unwrap();
            let trailers: Fields = [(&b"x-sum"[..], &b"1"[..])].into_iter().collect();
            writer.end(Some(&trailers)).unwrap();
            writer.flush().await.unwrap();
        }
    };
    tokio::join!(caller, server);
}

#[tokio::test]
async fn body_bytes_that_were_handed_out_are_never_read_as_a_request() {
    let (mut reader, mut far) = connection();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", POISON.len());
    far.write_all(&[head.as_bytes(), POISON, GET].concat()).await.unwrap();
    next_request(&mut reader).await.unwrap();
    // The body is here whole, and its reader did not come back for the end.
    assert_eq!(reader.piece().unwrap(), Some(Piece::Data(POISON)));
    assert!(reader.is_between_messages());
    assert_eq!(next_request(&mut reader).await.unwrap().target, b"/1");
}

#[tokio::test]
async fn body_bytes_that_were_handed_out_are_never_read_as_a_response() {
    let (mut reader, mut far) = connection();
    let inner = "HTTP/1.1 200 Poison\r\nContent-Length: 0\r\n\r\n";
    let outer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    far.write_all(outer.as_bytes()).await.unwrap();
    next_response(&mut reader).await.unwrap();
    assert!(matches!(reader.piece(), Ok(Some(Piece::Data(_)))));
    assert!(reader.is_drained());
    far.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(next_response(&mut reader).await.unwrap().status, 404);
}

#[tokio::test]
async fn pipelined_requests_wait_while_one_is_listened_for_hanging_up() {
    let (mut reader, mut far) = connection();
    far.write_all(GET).await.unwrap();
    next_request(&mut reader).await.unwrap();
    assert_eq!(reader.piece().unwrap(), Some(Piece::End(None)));

    let mut hung_up = Box::pin(reader.hung_up());
    far.write_all(POISON).await.unwrap();
    assert!(hung_up.as_mut().now_or_never().is_none(), "it is still there");
    far.write_all(GET).await.unwrap();
    assert!(hung_up.as_mut().now_or_never().is_none());
    drop(far);
    hung_up.await;

    assert_eq!(next_request(&mut reader).await.unwrap().target, b"/poison");
    assert_eq!(next_request(&mut reader).await.unwrap().target, b"/1");
    assert!(matches!(next_request(&mut reader).await, Err(ReadError::Cut)));
}

#[tokio::test]
async fn a_caller_that_floods_while_it_is_answered_is_kept_waiting() {
    let (mut reader, mut far) = connection();
    let flood = vec![b'x'; 512 * 1024];
    far.write_all(&flood).await.unwrap();
    assert!(reader.hung_up().now_or_never().is_none());
    assert!(reader.buffer.len() <= Limits::default().head + LARGE_READ, "{}", reader.buffer.len());
}

#[tokio::test]
async fn bytes_behind_an_upgrade_belong_to_the_new_protocol() {
    let (mut reader, mut far) = connection();
    far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0early")
        .await
        .unwrap();
    next_request(&mut reader).await.unwrap();
    assert_eq!(reader.piece().unwrap(), Some(Piece::End(None)), "nothing of it is a body");
    reader.upgrade();
    assert_eq!(reader.piece().unwrap(), Some(Piece::Data(b"\0early")));
    assert_eq!(reader.piece().unwrap(), None);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(far);
    assert_eq!(rest_of_body(&mut reader).await.unwrap().0, b"GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn a_connection_with_stray_bytes_is_not_drained() {
    for (behind, drained) in [(&b""[..], true), (b"X", false), (b"\r\n", false)] {
        let (mut reader, mut far) = connection();
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        far.write_all(behind).await.unwrap();
        next_response(&mut reader).await.unwrap();
        assert!(!reader.is_drained(), "its body was not taken");
        rest_of_body(&mut reader).await.unwrap();
        assert_eq!(reader.is_drained(), drained, "{behind:?}");
    }
    let (mut reader, mut far) = connection();
    far.write_all(b"HTTP/1.1 200 OK\r\n\r\nok").await.unwrap();
    drop(far);
    next_response(&mut reader).await.unwrap();
    assert_eq!(rest_of_body(&mut reader).await.unwrap().0, b"ok");
    assert!(!reader.is_drained(), "it has ended");
}

#[tokio::test]
async fn what_is_discarded_is_not_kept() {
    let (mut reader, mut far) = connection();
    far.write_all(&vec![b'x'; 100_000]).await.unwrap();
    drop(far);
    let mut heard = 0;
    loop {
        match reader.discard().await.unwrap() {
            0 => break,
            read => heard += read,
        }
        assert!(reader.buffer.len() <= LARGE_READ);
    }
    assert_eq!(heard, 100_000);
}

#[tokio::test]
async fn an_idle_connection_holds_no_memory_and_loses_nothing() {
    let (mut reader, mut far) = connection();
    far.write_all(GET).await.unwrap();
    next_request(&mut reader).await.unwrap();
    reader.rest();
    assert_eq!(reader.buffer.capacity(), 0);

    far.write_all(&GET[..10]).await.unwrap();
    reader.fill().await.unwrap();
    reader.rest();
    far.write_all(&GET[10..]).await.unwrap();
    assert_eq!(next_request(&mut reader).await.unwrap().target, b"/1", "what has begun is kept");

    let mut writer = Writer::new(Vec::new());
    writer.response(&ResponseHead { status: 200, ..ResponseHead::default() }, Reply::default());
    writer.rest();
    assert!(!writer.buffer.is_empty(), "what waits is kept");
    writer.flush().await.unwrap();
    writer.rest();
    assert_eq!(writer.buffer.capacity(), 0);
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let (mut reader, mut far) = connection();
    let mut heads = Vec::new();
    let mut head = RequestHead::default();
    for byte in [GET, POISON].concat() {
        assert!(reader.fill().now_or_never().is_none());
        far.write_all(&[byte]).await.unwrap();
        reader.fill().await.unwrap();
        if reader.request(&mut head).unwrap() {
            heads.push(head.target.clone());
        }
    }
    assert_eq!(heads, [&b"/1"[..], b"/poison"]);
}

/// Remembers what each write brought, and takes no more than so much of it.
struct Writes {
    most: usize,
    seen: Vec<Vec<u8>>,
}

impl AsyncWrite for &mut Writes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut taken: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        taken.truncate(self.most);
        let length = taken.len();
        self.seen.push(taken);
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_head_leaves_with_its_body() {
    for (body, writes) in [(10, 1), (COALESCE / 2, 1), (COALESCE * 4, 2)] {
        for framing in [Body::Exact(body as u64), Body::Streamed] {
            let mut socket = Writes { most: usize::MAX, seen: Vec::new() };
            let mut writer = Writer::new(&mut socket);
            let head = ResponseHead { status: 200, body: framing, ..ResponseHead::default() };
            writer.response(&head, Reply::default());
            writer.data(&vec![b'x'; body]).await.unwrap();
            writer.end(None).unwrap();
            writer.flush().await.unwrap();
            let wanted = if framing == Body::Streamed { writes } else { 1 };
            assert_eq!(
                socket.seen.len(),
                wanted,
                "{framing:?}: only a large body's last chunk comes after it"
            );
        }
    }
}

#[tokio::test]
async fn a_socket_that_takes_little_gets_everything_in_order() {
    let mut socket = Writes { most: 1000, seen: Vec::new() };
    let mut writer = Writer::new(&mut socket);
    let body: Vec<u8> = (0..100_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let head = ResponseHead { status: 200, body: Body::Streamed, ..ResponseHead::default() };
    writer.response(&head, Reply { version: Version::Http11, to_head: false, keep_alive: true });
    for piece in body.chunks(30_000) {
        writer.data(piece).await.unwrap();
    }
    writer.end(None).unwrap();
    writer.flush().await.unwrap();

    let said = socket.seen.concat();
    let mut reader = Reader::new(&said[..], Limits::default());
    let mut again = ResponseHead::default();
    while !reader.response(b"GET", &mut again).unwrap() {
        reader.fill().await.unwrap();
    }
    let mut seen = Vec::new();
    loop {
        match reader.piece().unwrap() {
            Some(Piece::Data(data)) => seen.extend_from_slice(data),
            Some(Piece::End(_)) => break,
            None => _ = reader.fill().await.unwrap(),
        }
    }
    assert!(seen == body);
}
