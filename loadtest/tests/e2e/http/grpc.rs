//! gRPC calls that fail on the way: nobody but culvert can answer them, and it answers in the only words that a gRPC
//! library understands.

use std::future::poll_fn;

use bytes::Bytes;
use culvert_client::session::Session;
use culvert_loadtest::caller;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, Way, versions};
use crate::TRANSPORTS;

/// One message of four bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x04ping";

fn call() -> Request<()> {
    let mut request = versions::get("/orders.Orders/Watch");
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("te", "trailers".parse().unwrap());
    request
}

/// The status that a call ended with, in trailers or instead of an answer, and the label of culvert's own failure.
async fn status(response: Response<h2::RecvStream>) -> (String, Option<String>) {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (parts, mut body) = response.into_parts();
    while let Some(data) = timeout(PATIENCE, body.data()).await.unwrap() {
        data.unwrap();
    }
    let trailers = timeout(PATIENCE, poll_fn(|cx| body.poll_trailers(cx))).await.unwrap().unwrap();
    let fields: HeaderMap = trailers.unwrap_or(parts.headers);
    assert!(!fields["grpc-message"].is_empty());
    let label = fields.get("culvert-failure").map(|label| label.to_str().unwrap().to_owned());
    (fields["grpc-status"].to_str().unwrap().to_owned(), label)
}

async fn tunnels(keys: &str) -> Vec<Way> {
    let mut ways = Vec::new();
    for transport in TRANSPORTS {
        ways.push(Way::new("app", Some(transport), keys, "h2c").await.unwrap());
    }
    ways
}

/// The next call as the backend got it, and the connection that it came on, for as long as it is held.
async fn taken(way: &Way) -> (Request<h2::RecvStream>, SendResponse<Bytes>, JoinSet<()>) {
    let mut backend = h2::server::handshake(way.accepted().await.stream).await.unwrap();
    let (asked, respond) = backend.accept().await.unwrap().unwrap();
    let mut connection = JoinSet::new();
    connection.spawn(async move { while backend.accept().await.is_some() {} });
    (asked, respond, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_app_and_upstream_are_down_is_unavailable() {
    for way in tunnels("").await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let Way { behind, session: _session, world: _world, .. } = way;
        drop(behind);
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        // It may be answered already.
        let _ = stream.send_data(Bytes::from_static(MESSAGE), true);
        let (status, label) = status(response.await.unwrap()).await;
        assert_eq!((status.as_str(), label.as_deref()), ("14", Some("upstream_unreachable")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_app_dies_before_it_answers_is_unavailable() {
    for way in tunnels("").await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(MESSAGE), true).unwrap();
        let mut backend: h2::server::Connection<_, Bytes> =
            h2::server::handshake(way.accepted().await.stream).await.unwrap();
        let asked = backend.accept().await.unwrap().unwrap();
        drop(backend);
        drop(asked);
        let (status, label) = status(response.await.unwrap()).await;
        assert_eq!((status.as_str(), label.as_deref()), ("14", Some("app_no_answer")));
    }
}

/// Whom a developer's going takes with it.
fn killed(session: Option<Session>) {
    session.unwrap().cut();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_developer_is_killed_before_the_app_answers_is_unavailable() {
    for way in tunnels("").await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(MESSAGE), true).unwrap();
        let (asked, _respond, _connection) = taken(&way).await;
        // It has the whole call.
        let mut body = asked.into_body();
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        killed(way.session);
        let (status, label) = status(timeout(PATIENCE, response).await.unwrap().unwrap()).await;
        assert_eq!((status.as_str(), label.as_deref()), ("14", Some("tunnel_lost")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_developer_is_killed_in_the_middle_of_a_stream_is_unavailable() {
    for way in tunnels("").await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        let (_asked, mut respond, _connection) = taken(&way).await;
        let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut answer = respond.send_response(answer, false).unwrap();
        answer.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), MESSAGE);
        killed(way.session);
        assert_eq!(status(response).await.0, "14");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_answers_in_time_has_exceeded_its_deadline() {
    let keys = "limits: {response_head: 300ms, response_idle: 300ms}";
    for way in Way::each_with(keys, "h2c").await {
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(MESSAGE), true).unwrap();
        let (_asked, _respond, _connection) = taken(&way).await;
        let (status, label) = status(timeout(PATIENCE, response).await.unwrap().unwrap()).await;
        let wanted = if way.name == "upstream" { "upstream_timeout" } else { "app_timeout" };
        assert_eq!((status.as_str(), label.as_deref()), ("4", Some(wanted)), "{}", way.name);
        let metrics = caller::get(way.world.addresses().admin, "/metrics", &[]).await.unwrap().text();
        assert!(metrics.contains(&format!("\"{wanted}\"")), "{}", way.name);
    }
}
