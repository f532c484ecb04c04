//! Where each request goes, and what is left of it when it arrives.

use anyhow::Context as _;
use bytes::Bytes;
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::origin::{Answer, Origin};
use culvert_loadtest::world::{World, leave};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::TRANSPORTS;

/// As many as would show a decision that is made per connection.
const ALTERNATING: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_one_connection_goes_where_its_own_header_says() {
    for transport in TRANSPORTS {
        let (upstream, app) = (named("upstream").await, named("app").await);
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();

        let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
        for number in 0..ALTERNATING {
            let (fields, wanted): (&[&str], _) =
                if number % 2 == 0 { (&["X-USER: alice"], "app") } else { (&["x-user: bob"], "upstream") };
            let target = format!("/{number}");
            let answer = caller.exchange(caller::request(&target, fields)).await.unwrap();
            assert_eq!(answer.text(), format!("{wanted} GET {target} HTTP/1.1\n"), "{transport:?}");
        }
        assert_eq!((upstream.count(), app.count()), (ALTERNATING / 2, ALTERNATING / 2));
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_one_http2_connection_goes_where_its_own_header_says() {
    for transport in TRANSPORTS {
        let (upstream, app) = (named("upstream").await, named("app").await);
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();

        let stream = TcpStream::connect(world.door().unwrap()).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        for number in 0..ALTERNATING {
            let (user, wanted) = if number % 2 == 0 { ("alice", "app") } else { ("bob", "upstream") };
            let request = Request::get(format!("http://orders.example/{number}")).header("x-user", user);
            requests = requests.ready().await.unwrap();
            let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
            let text = text_of(response.await.unwrap().into_body()).await.unwrap();
            assert_eq!(text, format!("{wanted} GET /{number} HTTP/1.1\n"), "{transport:?}");
        }
        assert_eq!((upstream.count(), app.count()), (ALTERNATING / 2, ALTERNATING / 2));
        leave(session).await.unwrap();
    }
}

/// Everything that a proxy could be tempted to tidy up.
const ODD: &[u8] = b"PATCH /a%2Fb//c;d/../%7e?x=%zz&&y HTTP/1.1\r\nHost: orders.example:8080\r\nx-User: bob\r\nX-Bytes: \xff\xfe\x80\r\n\
    X-Empty: \r\nCookie: a=1\r\nCookie: b=2\r\nX-Last: 1, 2,,3\r\nContent-Length: 5\r\n\r\n\x00\xff\r\n\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_claims_reaches_the_upstream_byte_for_byte() {
    let upstream = named("upstream").await;
    let world = silent_before(&upstream).await;
    let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
    assert_eq!(caller.exchange(ODD).await.unwrap().status(), 200);
    let got = upstream.arrived(1).await.unwrap().remove(0);
    assert_eq!(got.bytes.escape_ascii().to_string(), ODD.escape_ascii().to_string());
}

/// The bytes without the one line that a tunnel adds: which way they went.
fn without(bytes: &[u8], name: &str) -> String {
    let text = bytes.escape_ascii().to_string();
    match text.split_once(&format!("{name}: ")) {
        Some((before, rest)) => {
            let (_, after) = rest.split_once("\\r\\n").unwrap();
            format!("{before}{after}")
        }
        None => text,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_somebody_claims_reaches_the_app_byte_for_byte() {
    for transport in TRANSPORTS {
        let (upstream, app) = (named("upstream").await, named("app").await);
        let world = silent_before(&upstream).await;
        let bob = world.developer("bob").await.unwrap();
        let session = bob.intercept("x-user=bob", &app.url(), transport).await.unwrap();
        let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
        assert_eq!(
            caller.exchange(ODD).await.unwrap().text(),
            "app PATCH /a%2Fb//c;d/../%7e?x=%zz&&y HTTP/1.1\n"
        );
        let got = app.arrived(1).await.unwrap().remove(0);
        assert_eq!(without(&got.bytes, "culvert-via"), ODD.escape_ascii().to_string(), "{transport:?}");
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reaches_the_caller_byte_for_byte() {
    const ANSWER: &[u8] = b"HTTP/1.1 299 Odd Reason\r\nX-Bytes: \xff\xfe\r\nSet-Cookie: a=1\r\nsEt-cOOkie: b=2\r\nX-Empty: \r\n\
        Content-Length: 4\r\n\r\n\x00\xff\r\n";
    for transport in TRANSPORTS {
        let answer = |_: &_| Answer { bytes: ANSWER.to_vec(), ..Answer::default() };
        let (upstream, app) = (Origin::with(answer).await.unwrap(), Origin::with(answer).await.unwrap());
        let world = silent_before(&upstream).await;
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        for fields in [&[][..], &["x-user: alice"]] {
            let got = caller::get(world.door().unwrap(), "/", fields).await.unwrap();
            assert_eq!(
                without(&got.bytes, "culvert-route"),
                ANSWER.escape_ascii().to_string(),
                "{transport:?} {fields:?}"
            );
        }
        assert_eq!((upstream.count(), app.count()), (1, 1));
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_arrives_whole_in_both_directions() {
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    for transport in TRANSPORTS {
        let echo = |request: &culvert_loadtest::message::Message| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            Answer { bytes: [head.as_bytes(), &request.body].concat(), ..Answer::default() }
        };
        let (upstream, app) = (Origin::with(echo).await.unwrap(), Origin::with(echo).await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        for user in ["alice", "bob"] {
            for framing in ["length", "chunks"] {
                let mut request =
                    format!("PUT /{framing} HTTP/1.1\r\nHost: orders.example\r\nx-user: {user}\r\n")
                        .into_bytes();
                if framing == "length" {
                    request.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                    request.extend(&body);
                } else {
                    request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in body.chunks(777_777) {
                        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
                        request.extend(chunk);
                        request.extend(b"\r\n");
                    }
                    request.extend(b"0\r\n\r\n");
                }
                let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
                let answer = caller.exchange(request).await.unwrap();
                assert!(answer.body == body, "{transport:?} {user} {framing}: {} bytes", answer.body.len());
            }
        }
        assert_eq!((upstream.count(), app.count()), (2, 2));
        leave(session).await.unwrap();
    }
}

/// A relay that says nothing of itself or of the caller.
async fn silent_before(upstream: &Origin) -> World {
    let service = format!("name: orders, listen: \"127.0.0.1:0\", upstream: \"{}\"", upstream.url());
    let silent = "forwarded: off, via: false, route_field: never";
    World::with(&format!("services:\n  - {{{service}, {silent}}}\n")).await.unwrap()
}

async fn named(name: &'static str) -> Origin {
    Origin::named(name).await.unwrap()
}

async fn text_of(mut body: h2::RecvStream) -> anyhow::Result<String> {
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data: Bytes = data?;
        body.flow_control().release_capacity(data.len())?;
        text.extend(data);
    }
    String::from_utf8(text).context("not text")
}
