//! What a developer's session does about a network that changes under it, and what nobody notices of that.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_client::dial::Rungs;
use culvert_client::session::Session;
use culvert_client::status::Status;
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::flaky::{Flaky, Protocol, Way};
use culvert_loadtest::origin::{Answer, Origin};
use culvert_loadtest::world::{World, leave};
use culvert_protocol::tunnel::Transport;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::TRANSPORTS;

/// For conditions that have no notification.
const PATIENCE: Duration = Duration::from_secs(30);

/// The session's tunnel goes over this by now, or soon.
async fn goes_over(session: &Session, transport: Transport) {
    let moving = async {
        while session.now().is_none_or(|now| now.transport != transport) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, moving).await.unwrap_or_else(|_| panic!("the tunnel never goes over {transport}"));
}

/// Waits until a session says this of itself.
async fn says(session: &Session, what: impl Fn(&Status) -> bool) -> Status {
    let desk = session.desk();
    let mut last = None;
    let saying = async {
        loop {
            let status = desk.status().await.unwrap();
            if what(&status) {
                return status;
            }
            last = Some(status);
            sleep(Duration::from_millis(20)).await;
        }
    };
    let said = timeout(PATIENCE, saying).await;
    said.unwrap_or_else(|_| panic!("the session never says so: {last:#?}"))
}

/// The tunnels of the only replica that are in force, by their transports.
fn tunnels(status: &Status) -> Vec<&str> {
    let all = status.replicas.iter().flat_map(|replica| &replica.tunnels);
    all.filter(|tunnel| tunnel.state == "in force").map(|tunnel| tunnel.transport.as_str()).collect()
}

/// Asks the claimed service for this, in the background.
fn ask(door: SocketAddr, target: &str) -> JoinSet<String> {
    send(door, caller::request(target, &["x-user: alice"]))
}

fn send(door: SocketAddr, request: Vec<u8>) -> JoinSet<String> {
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        let mut caller = Caller::connect(door).await.unwrap();
        caller.exchange(request).await.unwrap().text()
    });
    asking
}

async fn answered(mut asking: JoinSet<String>) -> String {
    timeout(PATIENCE, asking.join_next()).await.expect("an answer").unwrap().unwrap()
}

/// An app whose answer to /slow waits for the gate.
async fn app(gate: &CancellationToken) -> Origin {
    let gate = gate.clone();
    Origin::with(move |request| match request.line().contains("/slow") {
        true => Answer::text("slow").after(&gate),
        false => Answer::text("app"),
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_moves_up_to_quic_and_cuts_nothing() {
    let gate = CancellationToken::new();
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), app(&gate).await);
    let world = World::before(&upstream.url()).await.unwrap();
    let flaky = Flaky::to(world.addresses().tunnel).await.unwrap();
    flaky.blackhole(Protocol::Udp, Way::Up);
    let alice = world.developer_dialling("alice", flaky.address()).await.unwrap();
    let session = alice.intercept("x-user=alice", &app.url(), Rungs::Auto).await.unwrap();
    assert_eq!(session.now().unwrap().transport, Transport::Tls);
    let status = session.desk().status().await.unwrap();
    let missed = &status.replicas[0].not_used;
    assert!(missed.iter().any(|missed| missed.transport == "quic" && !missed.why.is_empty()), "{missed:?}");

    let door = world.door().unwrap();
    let slow = ask(door, "/slow");
    app.arrived(1).await.unwrap();
    flaky.heal();
    goes_over(&session, Transport::Quic).await;
    assert_eq!(answered(ask(door, "/")).await, "app");
    // The old tunnel is there for what is under way on it, and for nothing else.
    let status = says(&session, |status| status.replicas[0].tunnels.len() == 2).await;
    assert_eq!(tunnels(&status), ["quic"]);
    gate.cancel();
    assert_eq!(answered(slow).await, "slow");
    says(&session, |status| status.replicas[0].tunnels.len() == 1).await;
    assert_eq!(upstream.count(), 0);
    leave(session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_that_is_swallowed_in_mid_session_costs_five_seconds_at_most() {
    let gate = CancellationToken::new();
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), app(&gate).await);
    let world = World::before(&upstream.url()).await.unwrap();
    let flaky = Flaky::to(world.addresses().tunnel).await.unwrap();
    let alice = world.developer_dialling("alice", flaky.address()).await.unwrap();
    let session = alice.intercept("x-user=alice", &app.url(), Rungs::Auto).await.unwrap();
    goes_over(&session, Transport::Quic).await;
    flaky.blackhole(Protocol::Udp, Way::Up);
    flaky.blackhole(Protocol::Udp, Way::Down);
    let begun = Instant::now();
    goes_over(&session, Transport::Tls).await;
    while answered(ask(world.door().unwrap(), "/")).await != "app" {}
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    leave(session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_a_few_seconds_costs_an_answer_that_is_under_way_nothing() {
    for transport in TRANSPORTS {
        let gate = CancellationToken::new();
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), app(&gate).await);
        let world = World::before(&upstream.url()).await.unwrap();
        let flaky = Flaky::to(world.addresses().tunnel).await.unwrap();
        let alice = world.developer_dialling("alice", flaky.address()).await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        // The relay knows that the app has it before the app does.
        let request = b"POST /slow HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n";
        let slow = send(world.door().unwrap(), request.to_vec());
        app.arrived(1).await.unwrap();
        flaky.cut();
        // It is doubted, and kept.
        says(&session, |status| !status.in_force).await;
        sleep(Duration::from_secs(2)).await;
        flaky.heal();
        says(&session, |status| status.in_force).await;
        gate.cancel();
        assert_eq!(answered(slow).await, "slow", "{transport:?}");
        assert_eq!(upstream.count(), 0, "{transport:?}");
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_transfer_over_tcp_gets_small_requests_a_tunnel_of_their_own() {
    let upstream = Origin::named("upstream").await.unwrap();
    let large = "x".repeat(8 << 20);
    let app = Origin::with(move |request| match request.line().contains("/large") {
        true => Answer::text(&large),
        false => Answer::text("app"),
    })
    .await
    .unwrap();
    let world = World::before(&upstream.url()).await.unwrap();
    let alice = world.developer("alice").await.unwrap();
    let session = alice.intercept("x-user=alice", &app.url(), Rungs::Tls).await.unwrap();
    let door = world.door().unwrap();
    let mut downloading = JoinSet::new();
    downloading.spawn(async move {
        let mut caller = Caller::connect(door).await.unwrap();
        loop {
            caller.exchange(caller::request("/large", &["x-user: alice"])).await.unwrap();
        }
    });
    let status = says(&session, |status| tunnels(status).len() > 1).await;
    assert!(tunnels(&status).len() <= 4 && tunnels(&status).iter().all(|rung| *rung == "tls"));
    assert_eq!(answered(ask(door, "/")).await, "app");
    downloading.shutdown().await;
    leave(session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_restarts_is_found_again_within_three_seconds() {
    for transport in TRANSPORTS {
        let gate = CancellationToken::new();
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), app(&gate).await);
        let mut world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let mut session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        let _ = world.stop_relay().await.unwrap();
        world.start_relay().await.unwrap();
        let begun = Instant::now();
        culvert_loadtest::world::in_force(&mut session).await.unwrap();
        while answered(ask(world.door().unwrap(), "/")).await != "app" {}
        assert!(begun.elapsed() < Duration::from_secs(3), "{transport:?}: {:?}", begun.elapsed());
        leave(session).await.unwrap();
    }
}
