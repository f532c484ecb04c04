//! Parts that are down, go down, or come back.

use std::time::Duration;

use culvert_client::dial::Rungs;
use culvert_client::screen::Screen;
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::origin::{Answer, Origin};
use culvert_loadtest::path::WithoutUdp;
use culvert_loadtest::stack::{Stack, Where};
use culvert_loadtest::world::{World, in_force, leave};
use culvert_protocol::tunnel::{KNOCK, Transport};
use culvert_relay::Drained;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{TRANSPORTS, binaries};

/// For conditions that have no notification.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_app_is_down_is_answered_by_the_upstream() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        let address = app.address();
        app.stop().await;
        let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
        for body in ["", "once"] {
            let length = body.len();
            let request = format!(
                "POST /{length} HTTP/1.1\r\nHost: orders.example\r\nx-user: alice\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let answer = caller.exchange(request).await.unwrap();
            assert_eq!(answer.text(), format!("upstream POST /{length} HTTP/1.1\n"), "{transport:?}");
        }
        assert_eq!(upstream.requests().last().unwrap().text(), "once");
        // It is asked again for each request.
        let app = Origin::at(address, |_| Answer::text("back")).await.unwrap();
        assert_eq!(caller.exchange(caller::request("/", &["x-user: alice"])).await.unwrap().text(), "back");
        assert_eq!(app.count(), 1);
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_down_is_said_once_and_not_for_every_request() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    let (address, url) = (app.address(), app.url());
    let client = stack.intercept(&home, &["orders", &url, "x-user=alice"]).await.unwrap();
    let ask = async |path: &str| caller::get(stack.door, path, &["x-user: alice"]).await.unwrap().text();
    app.stop().await;
    let down = "Connection refused";
    for times in 1..=2 {
        for _ in 0..5 {
            assert_eq!(ask("/down").await, "upstream GET /down HTTP/1.1\n");
        }
        let app = Origin::at(address, |_| Answer::text("back")).await.unwrap();
        assert_eq!(ask("/back").await, "back");
        // Lines come in order: by then the others would be there.
        client.lines(" /back 200 ", times).await.unwrap();
        assert_eq!(
            client.lines(down, times).await.unwrap().len(),
            times,
            "once for each time that it is down"
        );
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_named_in_the_answer() {
    let upstream = Origin::named("upstream").await.unwrap();
    let world = World::before(&upstream.url()).await.unwrap();
    upstream.stop().await;
    let answer = caller::get(world.door().unwrap(), "/", &[]).await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.field("culvert-failure").as_deref(), Some("upstream_unreachable"));
    let told: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(
        (told["failure"].as_str(), told["side"].as_str()),
        (Some("upstream_unreachable"), Some("upstream"))
    );
    assert_eq!(answer.text().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_developer_who_leaves_takes_no_further_request() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
        let request = caller::request("/", &["x-user: alice"]);
        assert_eq!(caller.exchange(&request).await.unwrap().text(), "app GET / HTTP/1.1\n");
        leave(session).await.unwrap();
        assert_eq!(
            caller.exchange(&request).await.unwrap().text(),
            "upstream GET / HTTP/1.1\n",
            "{transport:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_comes_back_when_its_relay_does() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let mut world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let mut session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        assert_eq!(world.stop_relay().await.unwrap(), Drained::Whole);
        until("the session notices", || session.now().is_none()).await;
        world.start_relay().await.unwrap();
        in_force(&mut session).await.unwrap();
        let answer = caller::get(world.door().unwrap(), "/", &["x-user: alice"]).await.unwrap();
        assert_eq!(answer.text(), "app GET / HTTP/1.1\n", "{transport:?}");
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_starts_before_its_relay_waits_for_it() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let mut world = World::before(&upstream.url()).await.unwrap();
    let alice = world.developer("alice").await.unwrap();
    let _ = world.stop_relay().await.unwrap();
    let mut session = alice.claim("x-user=alice", &app.url(), Rungs::Auto, Screen::silent()).unwrap();
    world.start_relay().await.unwrap();
    in_force(&mut session).await.unwrap();
    leave(session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_udp_is_crossed_over_tls() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let world = World::before(&upstream.url()).await.unwrap();
    let path = WithoutUdp::to(world.addresses().tunnel).await.unwrap();
    let alice = world.developer_dialling("alice", path.address()).await.unwrap();
    let begun = Instant::now();
    let session = alice.intercept("x-user=alice", &app.url(), Rungs::Auto).await.unwrap();
    assert_eq!(session.now().unwrap().transport, Transport::Tls);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let answer = caller::get(world.door().unwrap(), "/", &["x-user: alice"]).await.unwrap();
    assert_eq!(answer.text(), "app GET / HTTP/1.1\n");
    leave(session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_told_to_stop_finishes_what_is_under_way() {
    for transport in ["quic", "tls"] {
        let gate = CancellationToken::new();
        let held = gate.clone();
        let slow = move |_: &_| Answer::text("finished").after(&held);
        let (upstream, app) = (Origin::with(slow.clone()).await.unwrap(), Origin::with(slow).await.unwrap());
        let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
        let home = stack.developer("alice").await.unwrap();
        let app_url = app.url();
        let arguments = ["--transport", transport, "orders", &app_url, "x-user=alice"];
        let client = stack.intercept(&home, &arguments).await.unwrap();
        assert_eq!(caller::get(stack.admin, "/ready", &[]).await.unwrap().status(), 200);

        let (mut through, mut past) =
            (Caller::connect(stack.door).await.unwrap(), Caller::connect(stack.door).await.unwrap());
        through.send(caller::request("/", &["x-user: alice"])).await.unwrap();
        past.send(caller::request("/", &[])).await.unwrap();
        app.arrived(1).await.unwrap();
        upstream.arrived(1).await.unwrap();

        stack.relay.signal("TERM").await.unwrap();
        stack.relay.line("draining").await.unwrap();
        let ready = caller::get(stack.admin, "/ready", &[]).await.unwrap();
        assert_eq!(ready.status(), 503, "{}", ready.text());
        assert_eq!(caller::get(stack.admin, "/live", &[]).await.unwrap().status(), 200);
        refused(stack.door).await;

        gate.cancel();
        for caller in [&mut through, &mut past] {
            let answer = caller.answer().await.unwrap();
            assert_eq!((answer.status(), answer.text().as_str()), (200, "finished"), "{transport}");
            assert_eq!(caller.rest().await.unwrap(), b"", "the connection ends with the answer");
        }
        let Stack { relay, .. } = stack;
        let ended = relay.ended().await.unwrap();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        client.line("the relay is going away").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_is_found_again_by_its_clients() {
    for transport in ["quic", "tls"] {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let mut stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
        let home = stack.developer("alice").await.unwrap();
        let app_url = app.url();
        let arguments = ["--transport", transport, "orders", &app_url, "x-user=alice"];
        let client = stack.intercept(&home, &arguments).await.unwrap();
        stack.relay.signal("KILL").await.unwrap();
        stack.start_relay().await.unwrap();
        // Once for each connection.
        client.lines(" -> ", 2).await.unwrap();
        let answer = caller::get(stack.door, "/", &["x-user: alice"]).await.unwrap();
        assert_eq!(answer.text(), "app GET / HTTP/1.1\n", "{transport}");
        assert_eq!(client.lines("the relay is lost", 1).await.unwrap().len(), 1, "said once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_at_rest_is_served_again_right_after_a_killed_relay_is_back() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let mut stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    let arguments = ["--transport", "quic", "orders", &app.url(), "x-user=alice"];
    let _client = stack.intercept(&home, &arguments).await.unwrap();
    // After five seconds it asks every other second.
    sleep(Duration::from_secs(6)).await;
    let file = stack.directory().join("data/quic.addresses");
    let mut seen = std::fs::read_to_string(&file).unwrap();
    assert_eq!(seen.lines().count(), 2, "the client's under the first line: {seen}");
    stack.relay.signal("KILL").await.unwrap();
    // Somebody else who had a tunnel, and is told no more than that.
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    seen.push_str(&format!("{}\n", other.local_addr().unwrap()));
    std::fs::write(&file, seen).unwrap();
    let begun = Instant::now();
    stack.start_relay().await.unwrap();
    let served = async {
        while caller::get(stack.door, "/", &["x-user: alice"]).await.unwrap().text() != "app GET / HTTP/1.1\n"
        {
        }
    };
    timeout(PATIENCE, served).await.expect("the app answers");
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    let mut said = [0; 64];
    let (length, from) = timeout(PATIENCE, other.recv_from(&mut said)).await.unwrap().unwrap();
    assert_eq!((&said[..length], from), (&KNOCK[..], stack.tunnel));
    assert!(other.try_recv(&mut said).is_err(), "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_keep_where_its_tunnels_are_says_so_and_serves() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let mut stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    stack.relay.signal("KILL").await.unwrap();
    let file = stack.directory().join("data/quic.addresses");
    std::fs::write(&file, "an essay\n").unwrap();
    stack.start_relay().await.unwrap();
    stack.relay.line("quic.addresses: it is not what a relay writes there").await.unwrap();
    stack.relay.signal("KILL").await.unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    stack.start_relay().await.unwrap();
    let arguments = ["--transport", "quic", "orders", &app.url(), "x-user=alice"];
    let _client = stack.intercept(&home, &arguments).await.unwrap();
    stack.relay.line("after a restart clients will take seconds longer to notice it").await.unwrap();
    let answer = caller::get(stack.door, "/", &["x-user: alice"]).await.unwrap();
    assert_eq!(answer.text(), "app GET / HTTP/1.1\n");
}

/// The port takes no more connections, soon.
async fn refused(address: std::net::SocketAddr) {
    let closing = async {
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, closing).await.expect("a port that is closed");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}
