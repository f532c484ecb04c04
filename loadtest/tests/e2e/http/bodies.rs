//! Bodies, what is said before them, and what is said after them.

use super::{Way, plain, request};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_before_the_next_is_written() {
    for way in Way::each().await {
        let (mut caller, mut app, _) = way.opened(&request("GET /events HTTP/1.1", &[])).await;
        app.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        caller.head().await.unwrap();
        for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            app.say(format!("{:x}\r\n{event}\r\n", event.len())).await;
            caller.until(event).await.unwrap_or_else(|error| panic!("{}: {error:#}", way.name));
        }
        app.say("0\r\n\r\n").await;
        caller.until("\r\n0\r\n\r\n").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_answers_before_the_upload_ends() {
    for way in Way::each().await {
        let upload = request("POST /echo HTTP/1.1", &["Transfer-Encoding: chunked"]);
        let (mut caller, mut app, _) = way.opened(&format!("{upload}4\r\nping\r\n")).await;
        app.until("ping\r\n").await.unwrap();
        app.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n").await;
        caller.until("ping\r\n").await.unwrap();
        caller.say("4\r\npong\r\n").await;
        app.until("pong\r\n").await.unwrap();
        app.say("4\r\npong\r\n0\r\n\r\n").await;
        caller.until("pong\r\n0\r\n\r\n").await.unwrap_or_else(|error| panic!("{}: {error:#}", way.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    for way in Way::each().await {
        let fields = ["Transfer-Encoding: chunked", "TE: trailers", "Trailer: x-sum"];
        let upload = request("POST / HTTP/1.1", &fields);
        let (mut caller, mut app, head) =
            way.opened(&format!("{upload}2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n")).await;
        assert!(head.to_ascii_lowercase().contains("\r\nte: trailers\r\n"), "{}: {head}", way.name);
        app.until("\r\n0\r\nx-sum: 1\r\n\r\n").await.unwrap();
        app.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\nX-Sum: 2\r\nX-Late: é\r\n\r\n").await;
        caller
            .until("\r\n0\r\nX-Sum: 2\r\nX-Late: é\r\n\r\n")
            .await
            .unwrap_or_else(|error| panic!("{}: {error:#}", way.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_answers_pass_and_are_never_invented() {
    for way in Way::each().await {
        let upload = request("PUT / HTTP/1.1", &["Content-Length: 2", "Expect: 100-continue"]);
        let (mut caller, mut app, _) = way.opened(&upload).await;
        app.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 417 "), "{}", way.name);

        let (mut caller, mut app, head) = way.opened(&upload).await;
        assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{}: {head}", way.name);
        app.say("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            .await;
        let hints = caller.head().await.unwrap();
        assert!(
            hints.starts_with("HTTP/1.1 103 ") && hints.contains("Link: </a>; rel=preload\r\n"),
            "{hints}"
        );
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 100 "), "{}", way.name);
        caller.say("hi").await;
        app.until("hi").await.unwrap();
        app.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 204 "), "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_leaves_the_connection_as_it_was() {
    let answers = [
        ("HEAD /", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("GET /", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 1000\r\n\r\n"),
        ("OPTIONS *", "HTTP/1.1 200 OK\r\nAllow: GET, PURGE\r\nContent-Length: 0\r\n\r\n"),
        ("PURGE /", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    for way in Way::each().await {
        let mut caller = way.caller().await;
        let mut app = None;
        for (line, answer) in answers {
            caller.say(request(&format!("{line} HTTP/1.1"), &[])).await;
            let app = match &mut app {
                Some(app) => app,
                None => app.insert(way.accepted().await),
            };
            let asked = app.head().await.unwrap_or_else(|error| panic!("{} {line}: {error:#}", way.name));
            assert!(asked.starts_with(&format!("{line} HTTP/1.1\r\n")), "{}: {asked}", way.name);
            app.say(answer).await;
            let heard = caller.head().await.unwrap();
            assert_eq!(plain(&heard), answer, "{} {line}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_connection_ends_is_whole_where_it_ends_properly() {
    for way in Way::each().await {
        for version in ["1.1", "1.0"] {
            let (mut caller, mut app, _) = way.opened(&request(&format!("GET / HTTP/{version}"), &[])).await;
            app.say("HTTP/1.0 200 OK\r\n\r\nhel").await;
            app.say("lo").await;
            app.finish().await;
            let head = caller.head().await.unwrap();
            assert!(
                head.starts_with(&format!("HTTP/{version} 200 OK\r\n")),
                "{} {version}: {head}",
                way.name
            );
            match version {
                "1.0" => assert_eq!(caller.end().await.unwrap(), "hello", "{}", way.name),
                _ => _ = caller.until("\r\n0\r\n\r\n").await.unwrap(),
            }
        }
    }
}
