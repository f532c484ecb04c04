//! What is waited for and what is not: heads before their bodies, apps that think, apps that speak something else, and
//! developers who say nothing or do not want a request any more.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use culvert_client::dial::{Line, Rungs};
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::message::Message;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::world::{Developer, World, intercept};
use culvert_protocol::frame::{self, Refusal};
use culvert_protocol::hello::{FromClient, FromRelay, Hello, InstanceId, Messages, VERSIONS, write_message};
use culvert_protocol::tunnel::{RecvHalf, SendHalf, Stream};
use http::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, Way, request, versions};
use crate::TRANSPORTS;

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_request_is_on_its_way_before_any_of_its_body_is_there() {
    for way in Way::each().await {
        for length in [None, Some("2")] {
            let (mut requests, _driver) = versions::http2(way.door()).await;
            let mut upload = versions::get("/");
            *upload.method_mut() = Method::PUT;
            if let Some(length) = length {
                upload.headers_mut().insert("content-length", length.parse().unwrap());
            }
            let (response, mut stream) = requests.send_request(upload, false).unwrap();
            let mut behind = way.accepted().await;
            let head =
                behind.head().await.unwrap_or_else(|error| panic!("{} {length:?}: {error:#}", way.name));
            assert!(head.starts_with("PUT / "), "{}: {head}", way.name);
            stream.send_data(Bytes::from_static(b"hi"), true).unwrap();
            behind.until(if length.is_some() { "hi" } else { "2\r\nhi\r\n0\r\n\r\n" }).await.unwrap();
            behind.say(EMPTY).await;
            assert_eq!(response.await.unwrap().status(), 200, "{}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_not_counted_as_a_slow_answer() {
    let limit = Duration::from_millis(600);
    let way = Way::new("upstream", None, "limits: {response_head: 600ms}", "http").await.unwrap();
    let (mut caller, mut behind, _) =
        way.opened(&(request("PUT / HTTP/1.1", &["Content-Length: 4"]) + "ab")).await;
    behind.until("ab").await.unwrap();
    // The upload takes longer than the answer may.
    sleep(limit * 2).await;
    caller.say("cd").await;
    behind.until("cd").await.unwrap();
    behind.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    let head = caller.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    // And an answer that does not come is not waited for without end: from the upload's end on.
    let (mut caller, mut behind, _) =
        way.opened(&(request("PUT / HTTP/1.1", &["Content-Length: 4"]) + "ab")).await;
    sleep(limit / 2).await;
    let sent = Instant::now();
    caller.say("cd").await;
    behind.until("abcd").await.unwrap();
    let head = caller.head().await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 504 ") && head.contains("culvert-failure: upstream_timeout"),
        "{head}"
    );
    assert!(sent.elapsed() >= limit, "{:?}", sent.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_thinks_closes_and_thinks_again_answers_all_the_same() {
    // Longer than a client waits before it tells the relay that the app has the request.
    let thought = Duration::from_millis(100);
    for way in Way::each().await.into_iter().skip(1) {
        let (mut caller, mut app, _) = way.opened(&request("GET /1 HTTP/1.1", &[])).await;
        app.say(EMPTY).await;
        caller.head().await.unwrap();
        // The kept connection takes the next request, and closes without an answer.
        caller.say(request("GET /2 HTTP/1.1", &[])).await;
        app.head().await.unwrap();
        sleep(thought).await;
        drop(app);
        let mut app = way.accepted().await;
        assert!(app.head().await.unwrap().starts_with("GET /2 "), "{}", way.name);
        sleep(thought).await;
        app.say(EMPTY).await;
        let head = caller.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{}: {head}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_answers_with_something_else_is_named_as_the_one_at_fault() {
    for way in Way::each().await {
        for garbage in [
            "SSH-2.0-OpenSSH_9.6\r\n\r\n",
            "HTTP/1.1 20O OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n Folded: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: nobody/asked\r\n\r\n",
            "\x15\x03\x01\0\x02\x02\x16\r\n\r\n",
        ] {
            let (mut caller, mut app, _) = way.opened(&request("GET / HTTP/1.1", &[])).await;
            app.say(garbage).await;
            let head = caller.head().await.unwrap();
            let label = if way.name == "upstream" { "upstream_bad_answer" } else { "app_bad_answer" };
            assert!(head.starts_with("HTTP/1.1 502 "), "{} {garbage:?}: {head}", way.name);
            let line = format!("culvert-failure: {label}\r\n");
            assert!(head.contains(&line), "{} {garbage:?}: {head}", way.name);
        }
    }
}

/// A developer whose tunnel a test speaks itself, with alice's claim in force.
struct Spoken {
    line: Line,
    /// The tunnel ends with it.
    _control: (Messages<RecvHalf>, SendHalf),
}

impl Spoken {
    async fn claiming(developer: &Developer, transport: Rungs) -> Self {
        let line = developer.dial(transport).await.unwrap();
        let (read, mut write) = line.tunnel.open().await.unwrap().split();
        let mut messages = Messages::new(read);
        let hello = Hello {
            versions: VERSIONS.to_vec(),
            client_version: "test".to_owned(),
            host: "test".to_owned(),
            user: None,
            process: 1,
            instance: InstanceId::new(1),
            tunnel: None,
            began: None,
        };
        write_message(&mut write, &FromClient::Hello(hello)).await.unwrap();
        let intercept = Box::new(intercept("x-user=alice").unwrap());
        write_message(&mut write, &FromClient::Announce { claim: 1, intercept, stamp: None }).await.unwrap();
        loop {
            let message = timeout(PATIENCE, messages.next()).await.expect("a message").unwrap().unwrap();
            if let FromRelay::Accepted { .. } = message {
                return Self { line, _control: (messages, write) };
            }
        }
    }

    /// The next request's stream.
    async fn stream(&self) -> Stream {
        timeout(PATIENCE, self.line.tunnel.accept()).await.expect("a stream").unwrap()
    }
}

async fn ask(door: SocketAddr, request: String) -> Message {
    let mut caller = Caller::connect(door).await.unwrap();
    caller.exchange(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_developer_refuses_is_answered_by_the_upstream() {
    for transport in TRANSPORTS {
        let upstream = Origin::named("upstream").await.unwrap();
        let world = World::before(&upstream.url()).await.unwrap();
        let spoken = Spoken::claiming(&world.developer("alice").await.unwrap(), transport).await;
        let door = world.door().unwrap();
        for why in [Refusal::Draining, Refusal::Busy, Refusal::AppUnreachable, Refusal::NoSuchClaim] {
            for (method, fields, body) in [("GET", &[][..], ""), ("POST", &["Content-Length: 2"], "hi")] {
                let asked = request(&format!("{method} / HTTP/1.1"), fields) + body;
                let mut asking = JoinSet::new();
                asking.spawn(ask(door, asked));
                let (_read, write) = spoken.stream().await.split();
                let mut answers = frame::Writer::new(write);
                answers.refused(why, "a test").unwrap();
                answers.finish().await.unwrap();
                let answer = asking.join_next().await.unwrap().unwrap();
                assert_eq!(answer.status(), 200, "{transport:?} {why:?} {method}");
                assert_eq!(answer.text(), format!("upstream {method} / HTTP/1.1\n"), "{transport:?} {why:?}");
                let route = answer.field("culvert-route").unwrap();
                assert!(route.contains("refused"), "{transport:?} {why:?}: {route}");
                assert_eq!(upstream.requests().last().unwrap().text(), body);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_reaches_a_developer_who_leaves_is_answered_by_the_upstream() {
    for transport in TRANSPORTS {
        let way = Way::new("app", Some(transport), "", "http").await.unwrap();
        let (mut slow, mut app, _) = way.opened(&request("GET /slow HTTP/1.1", &[])).await;
        way.session.as_ref().unwrap().stop();
        // The claim goes before the tunnel does: whichever comes first, nobody asks the app any more.
        let door = way.door();
        let gone = async {
            loop {
                let answer = caller::get(door, "/next", &["x-user: alice"]).await.unwrap();
                let label = answer.field("culvert-failure");
                // The upstream of this world is down; that it was asked is what counts.
                assert_eq!(label.as_deref(), Some("upstream_unreachable"), "{transport:?}");
                if answer.field("culvert-route").is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            () = gone => {}
            _ = way.accepted() => {}
        }
        app.say(EMPTY).await;
        assert!(slow.head().await.unwrap().starts_with("HTTP/1.1 200 "), "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tunnel_is_given_up_for_whatever_was_not_confirmed() {
    for transport in TRANSPORTS {
        let upstream = Origin::named("upstream").await.unwrap();
        let world = World::before(&upstream.url()).await.unwrap();
        let spoken = Spoken::claiming(&world.developer("alice").await.unwrap(), transport).await;
        let door = world.door().unwrap();
        let begun = Instant::now();
        let taking = async {
            let mut streams = Vec::new();
            loop {
                // Held, and never answered.
                streams.push(spoken.stream().await);
                if streams.len() == 4 {
                    std::future::pending::<()>().await;
                }
            }
        };
        let asking = async {
            let safe = async {
                for line in ["GET / HTTP/1.1", "OPTIONS * HTTP/1.1"] {
                    let answer = ask(door, request(line, &[])).await;
                    assert_eq!(answer.status(), 200, "{transport:?} {line}");
                    assert_eq!(answer.text(), format!("upstream {line}\n"), "{transport:?}");
                }
                // Three seconds each, and a busy machine.
                assert!(begun.elapsed() < Duration::from_secs(15 * 2), "{:?}", begun.elapsed());
            };
            let unsafe_ = async {
                let (empty, with_body) = tokio::join!(
                    ask(door, request("POST /1 HTTP/1.1", &["Content-Length: 0"])),
                    ask(door, request("PUT /2 HTTP/1.1", &["Content-Length: 2"]) + "hi"),
                );
                // Nothing was confirmed: the developer may not have begun with them.
                for (answer, line) in [(empty, "POST /1"), (with_body, "PUT /2")] {
                    assert_eq!(answer.text(), format!("upstream {line} HTTP/1.1\n"), "{transport:?}");
                }
            };
            tokio::join!(safe, unsafe_);
        };
        tokio::select! {
            () = asking => {}
            () = taking => {}
        }
        let mut lines: Vec<_> = upstream.requests().iter().map(Message::line).collect();
        lines.sort();
        let asked = ["GET / HTTP/1.1", "OPTIONS * HTTP/1.1", "POST /1 HTTP/1.1", "PUT /2 HTTP/1.1"];
        assert_eq!(lines, asked, "{transport:?}");
    }
}
