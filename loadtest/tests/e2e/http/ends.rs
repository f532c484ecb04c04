//! Who hangs up or dies is seen to have done so on the other side, and what was never executed is tried again.

use std::future::poll_fn;

use super::cancel::is_whole;
use super::{Way, request, versions};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_aborts_the_apps_request() {
    for way in Way::each().await {
        let (caller, mut app, _) = way.opened(&request("GET /slow HTTP/1.1", &[])).await;
        drop(caller);
        assert!(app.gone().await, "{}: before the answer", way.name);

        let (mut caller, mut app, _) = way.opened(&request("GET /slow HTTP/1.1", &[])).await;
        app.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
        caller.until("one").await.unwrap();
        drop(caller);
        assert!(app.gone().await, "{}: in the middle of the answer", way.name);

        let (mut caller, mut app, _) =
            way.opened(&request("PUT /slow HTTP/1.1", &["Content-Length: 100"])).await;
        caller.say("half").await;
        app.until("half").await.unwrap();
        caller.die();
        assert!(app.gone().await, "{}: in the middle of the upload", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_caller_that_resets_its_stream_aborts_the_apps_request() {
    for way in Way::each().await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, stream) = requests.send_request(versions::get("/slow"), true).unwrap();
        let mut app = way.accepted().await;
        app.head().await.unwrap();
        drop((response, stream));
        assert!(app.gone().await, "{}", way.name);
    }
}

/// What an app says before it dies, and whether the way that it dies is a reset.
const DEATHS: [(&str, &str, bool); 5] = [
    ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", false),
    ("chunked, reset", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", true),
    ("length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none", false),
    ("length, reset", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none", true),
    ("until the end, reset", "HTTP/1.0 200 OK\r\n\r\none", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_dies_in_its_answer_never_looks_like_one_that_ended_it() {
    for way in Way::each().await {
        for (what, said, reset) in DEATHS {
            for version in ["1.1", "1.0"] {
                let (mut caller, mut app, _) =
                    way.opened(&request(&format!("GET / HTTP/{version}"), &[])).await;
                app.say(said).await;
                let head = caller.head().await.unwrap();
                caller.until("one").await.unwrap();
                if reset {
                    app.die()
                } else {
                    drop(app)
                }
                let end = caller.end().await;
                assert!(!is_whole(&head, &end), "{} {what} to HTTP/{version}: {end:?}", way.name);
            }
            let (mut requests, _driver) = versions::http2(way.door()).await;
            let (response, _) = requests.send_request(versions::get("/"), true).unwrap();
            let mut app = way.accepted().await;
            app.head().await.unwrap();
            app.say(said).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "one");
            if reset {
                app.die()
            } else {
                drop(app)
            }
            assert!(body.data().await.is_none_or(|data| data.is_err()), "{} {what} to HTTP/2", way.name);
            assert!(!body.is_end_stream(), "{} {what} to HTTP/2", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_was_closed_is_noticed_by_nobody_but_who_might_act_twice() {
    for way in Way::each().await {
        let (mut caller, mut app, _) = way.opened(&request("GET /1 HTTP/1.1", &[])).await;
        app.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        caller.head().await.unwrap();

        // It takes the next request, and closes without a word.
        caller.say(request("GET /2 HTTP/1.1", &[])).await;
        app.head().await.unwrap();
        drop(app);
        let mut app = way.accepted().await;
        assert!(app.head().await.unwrap().starts_with("GET /2 "), "{}", way.name);
        app.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 200 "), "{}", way.name);

        caller.say(request("POST /3 HTTP/1.1", &["Content-Length: 2"]) + "hi").await;
        app.until("hi").await.unwrap();
        drop(app);
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 502 "), "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_caller_gets_a_failure_as_a_status() {
    let way = Way::new("upstream", None, "", "h2c").await.unwrap();
    let (mut requests, _driver) = versions::http2(way.door()).await;
    drop(way.behind);
    let mut request = versions::get("/orders.Orders/List");
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    let (response, _) = requests.send_request(request, true).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let trailers = poll_fn(|cx| response.body_mut().poll_trailers(cx)).await.unwrap();
    let fields = trailers.as_ref().unwrap_or_else(|| response.headers());
    assert_eq!(fields["grpc-status"], "14");
    assert!(!fields["grpc-message"].is_empty());
}
