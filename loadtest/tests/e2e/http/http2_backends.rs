//! Callers and backends that both speak HTTP/2: what passes between them, many at once, resets, and a backend that goes away.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, Way, request, versions};

/// What a backend got, to be answered.
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// A backend that hands on what it gets on any connection. Ends with the test.
struct Backend {
    asked: mpsc::Receiver<Asked>,
    connections: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Backend {
    /// Takes a way's connections from here on.
    fn behind(way: Way) -> (BareWay, Self) {
        let Way { name, world, behind, session } = way;
        let (hand, asked) = mpsc::channel(1024);
        let connections = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        let counted = Arc::clone(&connections);
        running.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = behind.accept().await {
                counted.fetch_add(1, Relaxed);
                let hand = hand.clone();
                serving.spawn(async move {
                    let mut builder = server::Builder::new();
                    builder.max_header_list_size(256 * 1024);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok(asked)) = connection.accept().await {
                        let _ = hand.send(asked).await;
                    }
                });
            }
        });
        let way = BareWay { name, door: world.door().unwrap(), _world: world, _session: session };
        (way, Self { asked, connections, _running: running })
    }

    async fn next(&mut self) -> Asked {
        timeout(PATIENCE, self.asked.recv()).await.expect("a request").unwrap()
    }
}

/// A way whose backend is taken care of elsewhere.
struct BareWay {
    name: &'static str,
    door: std::net::SocketAddr,
    _world: culvert_loadtest::world::World,
    _session: Option<culvert_client::session::Session>,
}

fn trailers(value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static(value))])
}

fn post(path: &str) -> Request<()> {
    let mut request = versions::get(path);
    *request.method_mut() = Method::POST;
    request
}

async fn whole(body: &mut RecvStream) -> Vec<u8> {
    let mut taken = Vec::new();
    while let Some(data) = timeout(PATIENCE, body.data()).await.unwrap() {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        taken.extend_from_slice(&data);
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_between_two_ends_of_http2_is_the_same_on_both() {
    for way in Way::each_with("", "h2c").await {
        let (way, mut backend) = Backend::behind(way);
        let (mut requests, _driver) = versions::http2(way.door).await;
        let mut upload = post("/a%2Fb//c;d?x=%zz");
        let headers = upload.headers_mut();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("x-bytes", HeaderValue::from_bytes(b"\xff\xe9").unwrap());
        headers.insert("x-empty", HeaderValue::from_static(""));
        for value in ["1", "2"] {
            headers.append("x-twice", HeaderValue::from_static(value));
        }
        let (mut response, mut stream) = requests.send_request(upload, false).unwrap();
        stream.send_data(Bytes::from_static(b"hi"), false).unwrap();
        stream.send_trailers(trailers("1")).unwrap();

        let (asked, mut respond) = backend.next().await;
        let (parts, mut body) = asked.into_parts();
        assert_eq!(parts.method, Method::POST, "{}", way.name);
        assert_eq!(parts.uri.to_string(), "http://orders.example/a%2Fb//c;d?x=%zz", "{}", way.name);
        assert_eq!(parts.headers["te"], "trailers", "{}", way.name);
        assert_eq!(parts.headers["x-bytes"].as_bytes(), b"\xff\xe9", "{}", way.name);
        assert_eq!(parts.headers["x-empty"], "", "{}", way.name);
        assert_eq!(parts.headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"], "{}", way.name);
        assert_eq!(whole(&mut body).await, b"hi", "{}", way.name);
        assert_eq!(poll_fn(|cx| body.poll_trailers(cx)).await.unwrap().unwrap(), trailers("1"));

        for number in ["</1>", "</2>"] {
            let hint = Response::builder().status(103).header("link", number).body(()).unwrap();
            respond.send_informational(hint).unwrap();
        }
        let answer = Response::builder().status(299).header("set-cookie", "b=1").header("set-cookie", "a=2");
        let mut answer = respond.send_response(answer.body(()).unwrap(), false).unwrap();
        answer.send_data(Bytes::from_static(b"ho"), false).unwrap();
        answer.send_trailers(trailers("2")).unwrap();
        for number in ["</1>", "</2>"] {
            let hint = timeout(PATIENCE, poll_fn(|cx| response.poll_informational(cx))).await.unwrap();
            let hint = hint.unwrap().unwrap();
            assert_eq!(
                (hint.status().as_u16(), &hint.headers()["link"]),
                (103, &HeaderValue::from_static(number))
            );
        }
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 299, "{}", way.name);
        let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["b=1", "a=2"], "{}", way.name);
        assert_eq!(whole(response.body_mut()).await, b"ho", "{}", way.name);
        let said = poll_fn(|cx| response.body_mut().poll_trailers(cx)).await.unwrap();
        assert_eq!(said.unwrap(), trailers("2"), "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_far_larger_than_a_frame_pass_both_ways() {
    let large = |salt: usize| {
        let value: String =
            (0..6000).map(|at| char::from(b'a' + u8::try_from((at * 7 + salt) % 26).unwrap())).collect();
        HeaderValue::try_from(value).unwrap()
    };
    for way in Way::each_with("", "h2c").await {
        let (way, mut backend) = Backend::behind(way);
        let (mut requests, _driver) = versions::http2(way.door).await;
        let mut asking = versions::get("/");
        for number in 0..8 {
            asking.headers_mut().append("x-large", large(number));
        }
        let (response, _) = requests.send_request(asking, true).unwrap();
        let (asked, mut respond) = backend.next().await;
        let got: Vec<_> = asked.headers().get_all("x-large").iter().cloned().collect();
        assert_eq!(got, (0..8).map(large).collect::<Vec<_>>(), "{}", way.name);
        let mut answer = Response::new(());
        for number in 0..8 {
            answer.headers_mut().append("x-large", large(number + 100));
        }
        respond.send_response(answer, true).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        let got: Vec<_> = response.headers().get_all("x-large").iter().cloned().collect();
        assert_eq!(got, (100..108).map(large).collect::<Vec<_>>(), "{}", way.name);
    }
}

/// As many as the door grants one connection.
const AT_ONCE: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_of_one_connection_are_under_way_at_once() {
    for way in Way::each_with("", "h2c").await {
        let (way, mut backend) = Backend::behind(way);
        let (mut requests, _driver) = versions::http2(way.door).await;
        let mut waiting = JoinSet::new();
        for number in 0..AT_ONCE {
            requests = requests.ready().await.unwrap();
            let (response, mut stream) = requests.send_request(post(&format!("/{number}")), false).unwrap();
            stream.send_data(Bytes::from(format!("body {number}")), true).unwrap();
            waiting.spawn(async move {
                let mut response = response.await.unwrap();
                (number, response.status().as_u16(), whole(response.body_mut()).await)
            });
        }
        // Nobody is answered before the last one is here; then the last one is first.
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(backend.next().await);
        }
        while let Some((asked, mut respond)) = held.pop() {
            let (parts, mut body) = asked.into_parts();
            let said = format!("{} {}", parts.uri.path(), String::from_utf8(whole(&mut body).await).unwrap());
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            answer.send_data(said.into(), true).unwrap();
        }
        while let Some(told) = waiting.join_next().await {
            let (number, status, body) = told.unwrap();
            assert_eq!(
                (status, body),
                (200, format!("/{number} body {number}").into_bytes()),
                "{}",
                way.name
            );
        }
        // Later ones share what is there.
        let before = backend.connections.load(Relaxed);
        for _ in 0..10 {
            let (response, _) = requests.send_request(versions::get("/"), true).unwrap();
            requests = requests.ready().await.unwrap();
            let (_, mut respond) = backend.next().await;
            respond.send_response(Response::new(()), true).unwrap();
            response.await.unwrap();
        }
        assert_eq!(backend.connections.load(Relaxed), before, "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_reaches_the_other_end_and_no_other_stream() {
    for way in Way::each_with("", "h2c").await {
        let (way, mut backend) = Backend::behind(way);
        let (mut requests, _driver) = versions::http2(way.door).await;
        let (bystander, mut upload) = requests.send_request(post("/bystander"), false).unwrap();
        upload.send_data(Bytes::from_static(b"one"), false).unwrap();
        let (mut heard, mut respond) = backend.next().await;

        // The caller's, before the answer and in the middle of it.
        for answered in [false, true] {
            let (response, mut stream) = requests.send_request(post("/"), false).unwrap();
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
            let (_asked, mut respond) = backend.next().await;
            let reason = if answered {
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                answer.send_data(Bytes::from_static(b"half"), false).unwrap();
                let mut body = response.await.unwrap().into_body();
                body.data().await.unwrap().unwrap();
                stream.send_reset(Reason::CANCEL);
                timeout(PATIENCE, poll_fn(|cx| answer.poll_reset(cx))).await
            } else {
                stream.send_reset(Reason::CANCEL);
                timeout(PATIENCE, poll_fn(|cx| respond.poll_reset(cx))).await
            };
            assert!(reason.expect("a reset").is_ok(), "{} {answered}", way.name);
        }
        // The backend's, before its answer and in the middle of it.
        let (response, _) = requests.send_request(post("/"), true).unwrap();
        backend.next().await.1.send_reset(Reason::INTERNAL_ERROR);
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 502, "{}", way.name);
        let (response, _) = requests.send_request(post("/"), true).unwrap();
        let mut answer = backend.next().await.1.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"half"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        answer.send_reset(Reason::INTERNAL_ERROR);
        assert!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().is_err(), "{}", way.name);

        upload.send_data(Bytes::from_static(b"two"), true).unwrap();
        assert_eq!(whole(heard.body_mut()).await, b"onetwo", "{}", way.name);
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(bystander.await.unwrap().status(), 200, "{}", way.name);
        // A connection whose exchange was cut is not used again, and nobody shared it.
        assert_eq!(backend.connections.load(Relaxed), 5, "{}", way.name);
    }
}

/// Serves one connection, which says after so many requests that it takes no more, and is not closed while something may
/// still come that was said before that was heard: a reset would take its last word with it.
async fn goes_away_after(stream: TcpStream, most: usize) {
    let mut connection: server::Connection<_, Bytes> = server::handshake(stream).await.unwrap();
    let (mut served, mut answering) = (0, JoinSet::new());
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        served += 1;
        if served == most {
            connection.graceful_shutdown();
        }
        answering.spawn(async move {
            let mut body = request.into_body();
            let length = whole(&mut body).await.len();
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            answer.send_data(length.to_string().into(), true).unwrap();
        });
    }
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_goes_away_in_order_fails_nobody() {
    const LENGTH: usize = 3000;
    for way in Way::each_with("", "h2c").await {
        let Way { name, world, behind, session } = way;
        let mut backend = JoinSet::new();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        backend.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = behind.accept().await {
                counted.fetch_add(1, Relaxed);
                serving.spawn(goes_away_after(stream, 7));
            }
        });
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let door = world.door().unwrap();
            callers.spawn(async move {
                let (mut requests, _driver) = versions::http2(door).await;
                for _ in 0..25 {
                    requests = requests.ready().await.unwrap();
                    let (response, mut stream) = requests.send_request(post("/"), false).unwrap();
                    stream.send_data(Bytes::from(vec![0; LENGTH]), true).unwrap();
                    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
                    let body = whole(response.body_mut()).await;
                    let body = String::from_utf8(body).unwrap();
                    assert_eq!((response.status().as_u16(), body), (200, LENGTH.to_string()), "{name}");
                }
            });
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
        assert!(connections.load(Relaxed) > 1, "{name}: it went away");
        drop(session);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_on_a_connection_that_goes_away_is_finished_on_it() {
    for way in Way::each_with("", "h2c").await {
        let mut caller = way.caller().await;
        caller.say(request("GET /slow HTTP/1.1", &[])).await;
        let mut first: server::Connection<_, Bytes> =
            server::handshake(way.accepted().await.stream).await.unwrap();
        let (_asked, mut respond) = first.accept().await.unwrap().unwrap();
        first.graceful_shutdown();
        let mut driver = JoinSet::new();
        driver.spawn(async move { assert!(first.accept().await.is_none_or(|asked| asked.is_err())) });

        // Asked for until it is heard on another connection: until the backend's word is here, it still takes some.
        let mut next = way.caller().await;
        next.say(request("GET /next HTTP/1.1", &[])).await;
        let mut second: server::Connection<_, Bytes> =
            server::handshake(way.accepted().await.stream).await.unwrap();
        let (_asked, mut answer) = second.accept().await.unwrap().unwrap();
        answer.send_response(Response::new(()), true).unwrap();
        driver.spawn(async move { while second.accept().await.is_some() {} });
        assert!(next.head().await.unwrap().starts_with("HTTP/1.1 200 "), "{}", way.name);

        respond.send_response(Response::new(()), true).unwrap();
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 200 "), "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_taken_is_asked_again_whole_or_not_at_all() {
    // What is kept of a body can be sent again; what has gone by cannot.
    for (length, again) in [(0, true), (1_000, true), (50_000, true), (1_000_000, false)] {
        let way = Way::new("upstream", None, "", "h2c").await.unwrap();
        let (way, mut backend) = Backend::behind(way);
        let (mut requests, _driver) = versions::http2(way.door).await;
        let (response, _) = requests.send_request(versions::get("/"), true).unwrap();
        backend.next().await.1.send_response(Response::new(()), true).unwrap();
        response.await.unwrap();

        let mut caller = super::Peer::to(way.door).await.unwrap();
        let chunk = format!("{length:x}\r\n{}\r\n", "a".repeat(length));
        let chunk = if length == 0 { String::new() } else { chunk };
        caller.say(request("POST / HTTP/1.1", &["Transfer-Encoding: chunked"]) + &chunk + "0\r\n\r\n").await;
        let (mut asked, mut respond) = backend.next().await;
        let mut taken = 0;
        while taken < length {
            let data = asked.body_mut().data().await.unwrap().unwrap();
            taken += data.len();
            asked.body_mut().flow_control().release_capacity(data.len()).unwrap();
        }
        respond.send_reset(Reason::REFUSED_STREAM);
        if again {
            let (mut asked, mut respond) = backend.next().await;
            assert_eq!(whole(asked.body_mut()).await.len(), length);
            respond.send_response(Response::new(()), true).unwrap();
            assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 200 "), "{length}");
        } else {
            let head = caller.head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 502 "), "{length}: {head}");
            assert!(head.contains("culvert-failure: upstream_not_taken\r\n"), "{length}: {head}");
            assert!(backend.asked.try_recv().is_err(), "nothing came a second time");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_has_gone_by_is_not_left_out_of_another_try() {
    for way in Way::each().await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, _) = requests.send_request(versions::get("/first"), true).unwrap();
        let mut behind = way.accepted().await;
        behind.head().await.unwrap();
        behind.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        response.await.unwrap();

        // The connection that was kept takes it all and closes; the method alone would allow another try.
        let (response, mut stream) = requests.send_request(versions::get("/search"), false).unwrap();
        behind.head().await.unwrap();
        stream.send_data(Bytes::from_static(b"for this"), true).unwrap();
        behind.until("for this\r\n0\r\n\r\n").await.unwrap();
        drop(behind);
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 502, "{}", way.name);
        let (_response, _) = requests.send_request(versions::get("/next"), true).unwrap();
        let head = way.accepted().await.head().await.unwrap();
        assert!(head.starts_with("GET /next "), "{}: {head}", way.name);
    }
}
