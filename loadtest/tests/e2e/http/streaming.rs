//! Time in bodies: what was written is there at once, however much or little it is, and nothing waits for the end of anything.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::property::patient;
use super::versions::{get, http2};
use super::{PATIENCE, Peer, Way, request};

/// 50 ms are promised from the app's write to the caller; these machines may be busy with other things.
const AT_ONCE: Duration = Duration::from_millis(250);
const STREAMS: usize = 5;
const EVENTS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_there_at_once() {
    for way in Way::each().await {
        let (mut firsts, mut later) = (Vec::new(), Vec::new());
        for stream in 0..STREAMS {
            let (mut caller, mut app, _) = way.opened(&request("GET /events HTTP/1.1", &[])).await;
            app.say(EVENT_STREAM).await;
            for event in 0..EVENTS {
                let event = format!("data: {stream}.{event}\n\n");
                let written = Instant::now();
                app.say(chunk(&event)).await;
                caller.until(&event).await.unwrap_or_else(|error| panic!("{}: {error:#}", way.name));
                if firsts.len() == stream { &mut firsts } else { &mut later }.push(written.elapsed());
            }
        }
        let (first, later) = (median(firsts), median(later));
        println!("{}: first event after {first:?}, later ones after {later:?}", way.name);
        assert!(first < AT_ONCE && later < AT_ONCE, "{}: {first:?}, {later:?}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_there_at_once_in_http2() {
    for way in Way::each().await {
        let (mut requests, _driver) = http2(way.door()).await;
        let (mut firsts, mut later) = (Vec::new(), Vec::new());
        for stream in 0..STREAMS {
            let (response, _) = requests.send_request(get("/events"), true).unwrap();
            let mut app = way.accepted().await;
            app.head().await.unwrap();
            app.say(EVENT_STREAM).await;
            let mut body = None;
            let mut response = Some(response);
            for event in 0..EVENTS {
                let event = format!("data: {stream}.{event}\n\n");
                let written = Instant::now();
                app.say(chunk(&event)).await;
                if let Some(response) = response.take() {
                    body = Some(timeout(PATIENCE, response).await.unwrap().unwrap().into_body());
                }
                let heard = timeout(PATIENCE, body.as_mut().unwrap().data()).await;
                assert_eq!(heard.unwrap().unwrap().unwrap(), event, "{}", way.name);
                if firsts.len() == stream { &mut firsts } else { &mut later }.push(written.elapsed());
            }
        }
        let (first, later) = (median(firsts), median(later));
        println!("{}: HTTP/2: first event after {first:?}, later ones after {later:?}", way.name);
        assert!(first < AT_ONCE && later < AT_ONCE, "{}: {first:?}, {later:?}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_be_long_in_coming() {
    let mut polls = JoinSet::new();
    for way in Way::each().await {
        polls.spawn(async move {
            let (mut caller, mut app, _) = way.opened(&request("GET /poll HTTP/1.1", &[])).await;
            let (mut requests, _driver) = http2(way.door()).await;
            let (response, _) = requests.send_request(get("/poll"), true).unwrap();
            let mut other = way.accepted().await;
            other.head().await.unwrap();
            // Longer than a tunnel's app may be silent before the relay is told that it has the request.
            sleep(Duration::from_secs(5)).await;
            for app in [&mut app, &mut other] {
                app.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnews").await;
            }
            let answer = caller.until("news").await;
            assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK\r\n"), "{}", way.name);
            let response = timeout(PATIENCE, response).await.unwrap().unwrap();
            assert_eq!(response.status(), 200, "{}", way.name);
            assert_eq!(response.into_body().data().await.unwrap().unwrap(), "news", "{}", way.name);
        });
    }
    polls.join_all().await;
}

/// More than all windows, buffers and sockets on the way hold together: whoever waited for the end would wait for ever.
const ECHOED: usize = 48 << 20;
const PIECE: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_may_be_larger_than_everything_between() {
    for way in Way::each().await {
        let upload = request("POST /echo HTTP/1.1", &[&format!("Content-Length: {ECHOED}")]);
        let (caller, app, _) = way.opened(&upload).await;
        let echo = echo(app);
        let calling = async {
            let Peer { stream, mut heard } = caller;
            let (mut read, mut write) = stream.into_split();
            let up = async {
                for number in 0..ECHOED / PIECE {
                    write.write_all(&piece(number)).await.unwrap();
                }
            };
            let down = async {
                let mut at = None;
                let mut came = 0;
                while came < ECHOED {
                    let read = tokio::io::AsyncReadExt::read_buf(&mut read, &mut heard).await.unwrap();
                    assert_ne!(read, 0, "{}: the end after {came} bytes", way.name);
                    if at.is_none() {
                        at = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n");
                        let Some(end) = at else { continue };
                        heard.drain(..end + 4);
                    }
                    came = expect(&mut heard, came);
                }
            };
            tokio::join!(up, down);
        };
        let both = timeout(3 * PATIENCE, async { tokio::join!(calling, echo) }).await;
        both.unwrap_or_else(|_| panic!("{}: stuck", way.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_may_be_larger_than_everything_between_in_http2() {
    for way in Way::each().await {
        let (mut requests, _driver) = http2(way.door()).await;
        let mut upload = get("/echo");
        *upload.method_mut() = http::Method::POST;
        upload.headers_mut().insert("content-length", ECHOED.into());
        let (response, mut upload) = requests.send_request(upload, false).unwrap();
        let mut app = way.accepted().await;
        app.head().await.unwrap();
        let echo = echo(app);
        let calling = async {
            let up = async {
                for number in 0..ECHOED / PIECE {
                    send(&mut upload, piece(number)).await;
                }
            };
            let down = async {
                let mut body = response.await.unwrap().into_body();
                let (mut heard, mut came) = (Vec::new(), 0);
                while let Some(data) = next(&mut body).await {
                    heard.extend_from_slice(&data);
                    came = expect(&mut heard, came);
                }
                assert_eq!(came, ECHOED, "{}", way.name);
            };
            tokio::join!(up, down);
        };
        let both = timeout(3 * PATIENCE, async { tokio::join!(calling, echo) }).await;
        both.unwrap_or_else(|_| panic!("{}: stuck", way.name));
    }
}

/// So many callers take nothing more of an answer, each of which is larger than what waits for it on the way.
const STALLED: usize = 24;
const LARGE: usize = 8 << 20;
/// Small messages: less than every window of bytes, and more than there is room for as messages.
const MESSAGES: usize = 20_000;
const MESSAGE: &[u8] = b"message\n";

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_take_nothing_are_in_nobodys_way() {
    stalled_callers_harm_nobody("/large", STALLED, "h2c").await;
    stalled_callers_harm_nobody("/large", STALLED, "http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_takes_no_small_messages_is_in_nobodys_way() {
    stalled_callers_harm_nobody("/messages", 1, "h2c").await;
}

async fn stalled_callers_harm_nobody(path: &str, count: usize, scheme: &'static str) {
    for Way { name, world, behind, session } in Way::each_with("", scheme).await {
        let mut serving = JoinSet::new();
        serving.spawn(serve(behind, scheme));
        let door = world.door().unwrap();
        let mut stalled = Vec::new();
        for _ in 0..count {
            let (mut requests, driver) = patient(door).await;
            let (response, _) = requests.send_request(get(path), true).unwrap();
            let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
            // It has begun, and comes no further than this end lets it.
            let first = timeout(PATIENCE, body.data()).await;
            let first =
                first.unwrap_or_else(|_| panic!("{name}, {scheme}: stalled behind {}", stalled.len()));
            let first = first.unwrap().unwrap().len();
            stalled.push((body, first, requests, driver));
        }
        // As often as it takes for everything to be where it waits.
        for number in 0..30 {
            let (mut requests, _driver) = patient(door).await;
            let (response, _) = requests.send_request(get("/bystander"), true).unwrap();
            let heard = timeout(PATIENCE, async { response.await.unwrap().into_body().data().await }).await;
            let heard = heard.unwrap_or_else(|_| panic!("{name}, {scheme}: bystander {number} waits"));
            assert_eq!(heard.unwrap().unwrap(), "here", "{name}, {scheme}: bystander {number}");
        }
        // Nothing is lost, once it is wanted.
        let (mut body, mut came, _requests, _driver) = stalled.pop().unwrap();
        body.flow_control().release_capacity(came).unwrap();
        while let Some(data) = timeout(PATIENCE, next(&mut body)).await.unwrap() {
            came += data.len();
        }
        let whole = if path == "/large" { LARGE } else { MESSAGES * MESSAGE.len() };
        assert_eq!(came, whole, "{name}, {scheme}");
        drop(session);
    }
}

/// Stands behind, for any number of connections and requests.
async fn serve(behind: TcpListener, scheme: &str) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = behind.accept().await {
        match scheme {
            "h2c" => _ = connections.spawn(serve_http2(stream)),
            _ => _ = connections.spawn(serve_http1(Peer::new(stream))),
        }
    }
}

async fn serve_http1(mut peer: Peer) {
    while let Ok(head) = peer.head().await {
        let large = head.starts_with("GET /large ");
        let body = if large { vec![b'l'; LARGE] } else { b"here".to_vec() };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = [head.as_bytes(), &body].concat();
        // It is not taken for long, and may be cut in the end.
        if peer.stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn serve_http2(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut answers = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
        match request.uri().path() {
            // At once: none of them leaves before the last is said.
            "/messages" => queue(&mut answer),
            "/large" => {
                _ = answers.spawn(async move {
                    for _ in 0..LARGE / PIECE {
                        send(&mut answer, vec![b'l'; PIECE]).await;
                    }
                    answer.send_data(Bytes::new(), true).unwrap();
                })
            }
            _ => answer.send_data(Bytes::from_static(b"here"), true).unwrap(),
        }
    }
}

fn queue(messages: &mut SendStream<Bytes>) {
    for _ in 0..MESSAGES {
        messages.send_data(Bytes::from_static(MESSAGE), false).unwrap();
    }
    messages.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_small_messages_from_a_caller_is_no_flood() {
    for way in Way::each().await {
        let stream = TcpStream::connect(way.door()).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        let mut upload = get("/burst");
        *upload.method_mut() = http::Method::POST;
        let (response, mut upload) = requests.send_request(upload, false).unwrap();
        queue(&mut upload);
        let mut driver = JoinSet::new();
        driver.spawn(async move { _ = connection.await });
        let mut app = way.accepted().await;
        app.head().await.unwrap();
        app.until("\r\n0\r\n\r\n").await.unwrap_or_else(|error| panic!("{}: {error:#}", way.name));
        app.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        let response = timeout(PATIENCE, response).await.unwrap();
        assert_eq!(response.unwrap().status(), 204, "{}", way.name);
    }
}

/// Answers with what it is sent, as it is sent it. It takes nothing more while the answer is not taken.
async fn echo(app: Peer) {
    let Peer { mut stream, heard } = app;
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {ECHOED}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream.write_all(&heard).await.unwrap();
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut tokio::io::AsyncReadExt::take(&mut read, (ECHOED - heard.len()) as u64), &mut write)
        .await
        .unwrap();
}

/// No two pieces are the same.
fn piece(number: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(PIECE / size_of::<usize>())
}

/// Takes the pieces that are whole off what was heard from `came` on.
fn expect(heard: &mut Vec<u8>, mut came: usize) -> usize {
    while heard.len() >= PIECE {
        let rest = heard.split_off(PIECE);
        assert!(*heard == piece(came / PIECE), "another piece than number {}", came / PIECE);
        *heard = rest;
        came += PIECE;
    }
    came
}

/// Waits for the windows. Whoever does not want it any more gets no more of it.
async fn send(upload: &mut SendStream<Bytes>, piece: Vec<u8>) {
    let mut piece = Bytes::from(piece);
    while !piece.is_empty() {
        upload.reserve_capacity(piece.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await else { return };
        if upload.send_data(piece.split_to(room.min(piece.len())), false).is_err() {
            return;
        }
    }
}

async fn next(body: &mut RecvStream) -> Option<Bytes> {
    let data = body.data().await?.unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    Some(data)
}

const EVENT_STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
