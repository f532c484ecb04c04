//! Connections that become another protocol's.

use bytes::Bytes;
use http::Method;

use super::{Way, request, versions};

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: knock/1\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn another_protocols_bytes_pass_and_each_half_ends_on_its_own() {
    let upgrade = request("GET /knock HTTP/1.1", &["Connection: Upgrade", "Upgrade: knock/1"]);
    for way in Way::each().await {
        for caller_first in [true, false] {
            let (mut caller, mut app, head) = way.opened(&upgrade).await;
            assert!(head.to_ascii_lowercase().contains("\r\nupgrade: knock/1\r\n"), "{}: {head}", way.name);
            // What follows the 101 at once belongs to the other protocol.
            app.say(format!("{SWITCHED}welcome\0")).await;
            assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 101 "), "{}", way.name);
            caller.until("welcome\0").await.unwrap();
            caller.say("0\r\n\r\nknock").await;
            app.until("0\r\n\r\nknock").await.unwrap();
            let (first, second) =
                if caller_first { (&mut caller, &mut app) } else { (&mut app, &mut caller) };
            first.say("last").await;
            first.finish().await;
            assert_eq!(second.end().await.unwrap(), "last", "{}", way.name);
            second.say("still here").await;
            first.until("still here").await.unwrap_or_else(|error| panic!("{}: {error:#}", way.name));
            second.finish().await;
            assert_eq!(first.end().await.unwrap(), "", "{}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_that_is_cut_is_cut_on_the_other_side() {
    let upgrade = request("GET /knock HTTP/1.1", &["Connection: Upgrade", "Upgrade: knock/1"]);
    for way in Way::each().await {
        for caller_dies in [true, false] {
            let (mut caller, mut app, _) = way.opened(&upgrade).await;
            app.say(SWITCHED).await;
            caller.head().await.unwrap();
            let (dies, mut stays) = if caller_dies { (caller, app) } else { (app, caller) };
            dies.die();
            let end = stays.end().await;
            assert!(end.is_err(), "{} {caller_dies}: {end:?}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_declined_is_an_answer_like_any_other() {
    let upgrade = request(
        "GET / HTTP/1.1",
        &["Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
    );
    for way in Way::each().await {
        let (mut caller, mut app, _) = way.opened(&upgrade).await;
        app.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 200 "), "{}", way.name);
        caller.until("no").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_http2_reaches_an_app_that_speaks_http1() {
    for way in Way::each().await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let mut request = versions::get("/socket");
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        let (response, mut stream) = requests.send_request(request, false).unwrap();

        let mut app = way.accepted().await;
        let head = app.head().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get /socket http/1.1\r\n"), "{}: {head}", way.name);
        for field in
            ["\r\nupgrade: websocket\r\n", "\r\nsec-websocket-key: ", "\r\nsec-websocket-version: 13\r\n"]
        {
            assert!(head.contains(field), "{} {field}: {head}", way.name);
        }
        app.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n").await;
        app.say("Sec-WebSocket-Accept: whatever\r\n\r\nhello").await;
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{}", way.name);
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "hello");
        stream.send_data(Bytes::from_static(b"and good bye"), true).unwrap();
        assert_eq!(app.end().await.unwrap(), "and good bye", "{}", way.name);
        app.finish().await;
        let rest = response.body_mut().data().await;
        assert!(rest.is_none_or(|rest| rest.unwrap().is_empty()), "{}", way.name);
    }
}
