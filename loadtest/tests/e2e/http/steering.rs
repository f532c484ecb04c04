//! Who decides where a request goes, and whose word it is that something failed: nobody can say it in another's place.

use culvert_client::dial::Rungs;
use culvert_loadtest::world::World;
use http::Method;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{PATIENCE, Peer, Way, request, versions};

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Behind a body: what steers here, in two spellings, what steers anywhere, and what does not.
const TRAILERS: &str = "0\r\nX-User: mallory\r\nx_user: mallory\r\nCulvert-Route: x\r\nHost: evil\r\n\
                        Cookie: a=b\r\nIf-Match: *\r\nx-sum: 1\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_steers_is_not_taken_from_behind_a_body() {
    for way in Way::each().await.into_iter().skip(1) {
        let head = request("POST / HTTP/1.1", &["Transfer-Encoding: chunked", "TE: trailers"]);
        // At once with the head, and when the app has it already.
        for late in [false, true] {
            let said =
                if late { format!("{head}2\r\nhi\r\n") } else { format!("{head}2\r\nhi\r\n{TRAILERS}") };
            let (mut caller, mut app, _) = way.opened(&said).await;
            if late {
                app.until("2\r\nhi\r\n").await.unwrap();
                caller.say(TRAILERS).await;
            }
            let rest = app.until("\r\n\r\n").await.unwrap();
            assert!(rest.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{} late: {late}: {rest}", way.name);
            // Neither connection is used again.
            app.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            caller.head().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_steers_has_one_spelling() {
    for way in Way::each().await.into_iter().skip(1) {
        let (mut caller, mut app, head) =
            way.opened(&request("GET / HTTP/1.1", &["X_User: mallory", "x_other: 1"])).await;
        assert!(!head.contains("mallory") && head.contains("x_other: 1\r\n"), "{}: {head}", way.name);
        app.say(EMPTY).await;
        caller.head().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_steers_at_a_public_door() {
    let (upstream, app) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = |of: &TcpListener| format!("http://{}", of.local_addr().unwrap());
    let world = World::with(&format!(
        "services: [{{name: orders, listen: \"127.0.0.1:0\", upstream: \"{}\", public: true}}]\n",
        url(&upstream)
    ))
    .await
    .unwrap();
    let alice = world.developer("alice").await.unwrap();
    let _session = alice.intercept("x-user=alice", &url(&app), Rungs::Quic).await.unwrap();
    let mut caller = Peer::to(world.door().unwrap()).await.unwrap();
    caller.say(request("GET / HTTP/1.1", &["User-Agent: curl"])).await;
    let (behind, _) = timeout(PATIENCE, upstream.accept()).await.unwrap().unwrap();
    let mut behind = Peer::new(behind);
    let head = behind.head().await.unwrap();
    assert!(!head.contains("x-user") && head.contains("User-Agent: curl\r\n"), "{head}");
    behind.say(EMPTY).await;
    assert!(!caller.head().await.unwrap().contains("culvert-route"));

    let mut admin = Peer::to(world.addresses().admin).await.unwrap();
    admin.say("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let counted = admin.end().await.unwrap();
    let line = r#"culvert_fields_left_out_total{service="orders",why="steering"} 1"#;
    assert!(counted.lines().any(|found| found == line), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_cannot_pass_for_the_client() {
    for way in Way::each().await {
        let (mut caller, mut app, _) = way.opened(&request("GET / HTTP/1.1", &[])).await;
        let forged = "Culvert-Failure: app_no_answer\r\n";
        app.say(format!(
            "HTTP/1.1 103 Early Hints\r\n{forged}\r\nHTTP/1.1 200 OK\r\n{forged}Transfer-Encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\n{forged}\r\n"
        ))
        .await;
        let heard = caller.head().await.unwrap()
            + &caller.head().await.unwrap()
            + &caller.until("0\r\n\r\n").await.unwrap();
        assert!(heard.contains(" 103 ") && heard.contains(" 200 "), "{}: {heard}", way.name);
        assert!(!heard.to_lowercase().contains("culvert-failure"), "{}: {heard}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_an_answer_is_named_by_the_relay() {
    for way in Way::each().await.into_iter().skip(1) {
        for (said, label) in [("", "app_no_answer"), ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "app_bad_answer")] {
            let asked = request("POST / HTTP/1.1", &["Content-Length: 0", "Connection: close"]);
            let (mut caller, mut app, _) = way.opened(&asked).await;
            app.say(said).await;
            drop(app);
            let answer = caller.end().await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 502 "), "{} {label}: {answer}", way.name);
            assert!(answer.contains(&format!("culvert-failure: {label}\r\n")), "{}: {answer}", way.name);
            assert!(answer.contains("\"side\":\"tunnel\""), "{}: {answer}", way.name);
        }
        let (mut requests, _driver) = versions::http2(way.door()).await;
        let mut call = versions::get("/orders.Orders/List");
        *call.method_mut() = Method::POST;
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        call.headers_mut().insert("x-user", "alice".parse().unwrap());
        let (response, _) = requests.send_request(call, true).unwrap();
        let mut app = way.accepted().await;
        app.head().await.unwrap();
        drop(app);
        let response = response.await.unwrap();
        let status = response.headers().get("grpc-status").map(|status| status.as_bytes());
        assert_eq!((response.status().as_u16(), status), (200, Some(&b"14"[..])), "{}", way.name);
        assert_eq!(response.headers()["culvert-failure"], "app_no_answer", "{}", way.name);
    }
}
