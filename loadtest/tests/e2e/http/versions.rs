//! Who speaks which version of HTTP to whom.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Way, request};

/// A caller's HTTP/2 connection, by prior knowledge; it ends with the set.
pub(super) async fn http2(door: SocketAddr) -> (SendRequest<Bytes>, JoinSet<()>) {
    let (requests, connection) =
        h2::client::handshake(TcpStream::connect(door).await.unwrap()).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { _ = connection.await });
    let mut requests = requests.ready().await.unwrap();
    // Extended CONNECT is known once the door's settings are here.
    while !requests.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
        requests = requests.ready().await.unwrap();
    }
    (requests, driver)
}

/// A GET that alice's claim takes where there is one.
pub(super) fn get(path: &str) -> Request<()> {
    let request = Request::get(format!("http://orders.example{path}")).header("x-user", "alice");
    request.body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_callers_reach_http2_backends_with_trailers_both_ways() {
    for way in Way::each_with("", "h2c").await {
        let mut caller = way.caller().await;
        let fields =
            ["Transfer-Encoding: chunked", "TE: trailers", "X-Bytes: \u{e9}", "Cookie: a=1", "Cookie: b=2"];
        caller
            .say(request("PUT /a%2Fb//c;d?x=%zz HTTP/1.1", &fields) + "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n")
            .await;

        let mut connection = h2::server::handshake(way.accepted().await.stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { while connection.accept().await.is_some() {} });
        let (parts, mut body) = request.into_parts();
        assert_eq!(parts.uri.to_string(), "http://orders.example/a%2Fb//c;d?x=%zz", "{}", way.name);
        assert_eq!(parts.headers["x-bytes"].as_bytes(), "\u{e9}".as_bytes());
        assert_eq!(parts.headers["te"], "trailers");
        assert_eq!(body.data().await.unwrap().unwrap(), "hi", "{}", way.name);
        let trailers = poll_fn(|cx| body.poll_trailers(cx)).await.unwrap().unwrap();
        assert_eq!(trailers["x-sum"], "1", "{}", way.name);

        respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
        let cookies = Response::builder().header("set-cookie", "a=1").header("set-cookie", "b=2");
        let mut answer = respond.send_response(cookies.body(()).unwrap(), false).unwrap();
        answer.send_data(Bytes::from_static(b"ho"), false).unwrap();
        answer
            .send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "2".parse().unwrap())]))
            .unwrap();
        assert!(caller.head().await.unwrap().starts_with("HTTP/1.1 103 "), "{}", way.name);
        let head = caller.head().await.unwrap();
        assert!(head.contains("set-cookie: a=1\r\nset-cookie: b=2\r\n"), "{}: {head}", way.name);
        let body = caller.until("\r\n\r\n").await.unwrap();
        assert_eq!(body, "2\r\nho\r\n0\r\nx-sum: 2\r\n\r\n", "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_callers_reach_http1_backends_with_trailers_both_ways() {
    for way in Way::each().await {
        let (mut requests, _driver) = http2(way.door()).await;
        let mut upload = get("/a%2Fb//c;d?x=%zz");
        upload.headers_mut().insert("te", "trailers".parse().unwrap());
        let (response, mut stream) = requests.send_request(upload, false).unwrap();
        stream.send_data(Bytes::from_static(b"hi"), false).unwrap();
        stream
            .send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]))
            .unwrap();

        let mut app = way.accepted().await;
        let head = app.head().await.unwrap();
        assert!(
            head.starts_with("GET /a%2Fb//c;d?x=%zz HTTP/1.1\r\nhost: orders.example\r\n"),
            "{}: {head}",
            way.name
        );
        assert_eq!(app.until("\r\n\r\n").await.unwrap(), "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n", "{}", way.name);
        app.say("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n").await;
        app.say("Transfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\nX-Sum: 2\r\n\r\n").await;
        let mut response = response.await.unwrap();
        let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"], "{}", way.name);
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "ho");
        let trailers = poll_fn(|cx| response.body_mut().poll_trailers(cx)).await.unwrap().unwrap();
        assert_eq!(trailers["x-sum"], "2", "{}", way.name);
    }
}
