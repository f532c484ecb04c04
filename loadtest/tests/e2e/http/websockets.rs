//! WebSockets where one side or both speak HTTP/2 (RFC 8441), and backends that do not play along.

use bytes::Bytes;
use h2::server;
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Way, request, versions};

const SOCKET: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// What RFC 6455 answers to that key.
const AGREED: &str = "\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

fn connect() -> Request<()> {
    let mut request = versions::get("/socket?a=%2F");
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "chat, superchat".parse().unwrap());
    request
}

/// A backend that speaks HTTP/2, and whether it knows extended CONNECT.
async fn backend(stream: TcpStream, extended: bool) -> server::Connection<TcpStream, Bytes> {
    let mut builder = server::Builder::new();
    if extended {
        builder.enable_connect_protocol();
    }
    builder.handshake(stream).await.unwrap()
}

/// Agrees to what must be the WebSocket above, says hello and echoes until its end.
async fn echo(way: &Way, stream: TcpStream) -> JoinSet<()> {
    let mut connection = backend(stream, true).await;
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(request.method(), Method::CONNECT, "{}", way.name);
    assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
    assert_eq!(request.uri().path_and_query().unwrap(), "/socket?a=%2F", "{}", way.name);
    assert_eq!(request.headers()["sec-websocket-version"], "13", "{}", way.name);
    for hop in ["connection", "upgrade", "sec-websocket-key"] {
        assert!(!request.headers().contains_key(hop), "{} {hop}", way.name);
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while connection.accept().await.is_some() {} });
    tasks.spawn(async move {
        let response = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
        let mut answer = respond.send_response(response, false).unwrap();
        answer.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            answer.send_data(data, false).unwrap();
        }
        answer.send_data(Bytes::from_static(b"good bye"), true).unwrap();
    });
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_http2_reaches_a_backend_that_speaks_http2() {
    for way in Way::each_with("", "h2c").await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, mut stream) = requests.send_request(connect(), false).unwrap();
        let _backend = echo(&way, way.accepted().await.stream).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{}", way.name);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat", "{}", way.name);
        assert!(!response.headers().contains_key("sec-websocket-accept"), "{}", way.name);
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello", "{}", way.name);
        stream.send_data(Bytes::from_static(b"\x81\x02hi"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), &b"\x81\x02hi"[..], "{}", way.name);
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "good bye", "{}", way.name);
        assert!(body.data().await.is_none_or(|rest| rest.unwrap().is_empty()), "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_http1_reaches_a_backend_that_speaks_http2() {
    for way in Way::each_with("", "h2c").await {
        let mut caller = way.caller().await;
        caller.say(request("GET /socket?a=%2F HTTP/1.1", &SOCKET)).await;
        let _backend = echo(&way, way.accepted().await.stream).await;
        let head = caller.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{}: {head}", way.name);
        let lower = head.to_ascii_lowercase();
        for line in [
            "\r\nupgrade: websocket\r\n",
            "\r\nconnection: upgrade\r\n",
            "\r\nsec-websocket-protocol: chat\r\n",
        ] {
            assert!(lower.contains(line), "{} {line}: {head}", way.name);
        }
        assert!(head.contains(AGREED), "{}: {head}", way.name);
        caller.until("hello").await.unwrap();
        caller.say("ping").await;
        caller.until("ping").await.unwrap();
        caller.finish().await;
        assert_eq!(caller.end().await.unwrap(), "good bye", "{}", way.name);
    }
}

/// Answers what comes on further connections in the same way, without end.
async fn serve_others(way: &Way) {
    let mut connections = Vec::new();
    loop {
        connections.push(ordinary(way.behind.accept().await.unwrap().0).await);
    }
}

/// An ordinary HTTP/2 server, which knows no WebSocket.
async fn ordinary(stream: TcpStream) -> JoinSet<()> {
    let mut connection = backend(stream, false).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(accepted) = connection.accept().await {
            let Ok((request, mut respond)) = accepted else { continue };
            let status = if request.uri().path() == "/" { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let response = Response::builder().status(status).body(()).unwrap();
            let _ = respond.send_response(response, true);
        }
    });
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_to_a_backend_that_knows_none_is_refused_in_so_many_words() {
    for way in Way::each_with("", "h2c").await {
        let label = if way.name == "upstream" { "upstream_no_upgrade" } else { "app_no_upgrade" };
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, _stream) = requests.send_request(connect(), false).unwrap();
        let _first = ordinary(way.accepted().await.stream).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 502, "{}", way.name);
        assert_eq!(response.headers()["culvert-failure"], label, "{}", way.name);

        let mut caller = way.caller().await;
        caller.say(request("GET /socket HTTP/1.1", &SOCKET)).await;
        let asked = async {
            let head = caller.head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 502 "), "{}: {head}", way.name);
            assert!(head.contains(&format!("\r\nculvert-failure: {label}\r\n")), "{}: {head}", way.name);
        };
        // On the connection that is there, or on another one.
        tokio::select! {
            () = asked => {}
            () = serve_others(&way) => {}
        }
        // Who asks for nothing of the kind notices nothing of it.
        let (response, _) = requests.send_request(versions::get("/"), true).unwrap();
        tokio::select! {
            response = response => assert_eq!(response.unwrap().status(), 200, "{}", way.name),
            () = serve_others(&way) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_ignores_the_upgrade_does_not_look_to_an_http2_caller_as_if_it_had_agreed() {
    for way in Way::each().await {
        for (said, told) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 502),
            ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 5\r\n\r\nhello", 426),
            ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302),
        ] {
            let (mut requests, _driver) = versions::http2(way.door()).await;
            let (response, _stream) = requests.send_request(connect(), false).unwrap();
            let mut behind = way.accepted().await;
            behind.head().await.unwrap();
            behind.say(said).await;
            let response = response.await.unwrap();
            assert_eq!(response.status(), told, "{} {said}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_of_another_http_to_a_backend_that_speaks_http2_is_passed_over() {
    let offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    for way in Way::each_with("", "h2c").await {
        let mut caller = way.caller().await;
        caller.say(request("GET / HTTP/1.1", &offer)).await;
        let _backend = ordinary(way.accepted().await.stream).await;
        tokio::select! {
            head = caller.head() => assert!(head.unwrap().starts_with("HTTP/1.1 200 "), "{}", way.name),
            () = serve_others(&way) => {}
        }
    }
}
