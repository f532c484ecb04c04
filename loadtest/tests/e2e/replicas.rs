//! Several relays of one authority: a client has a tunnel to each, and each serves any caller alone.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use culvert_client::dial::Rungs;
use culvert_client::screen::Screen;
use culvert_client::session::Session;
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::flaky::Flaky;
use culvert_loadtest::origin::{Answer, Origin};
use culvert_loadtest::process::Process;
use culvert_loadtest::soak::{self, Effort, fleet::Fleet};
use culvert_loadtest::stack::{Stack, Where};
use culvert_loadtest::world::{Developer, World, ended, in_force, leave};
use culvert_protocol::tunnel::IDLE_LIMIT;
use culvert_relay::{Config, Drained, Relay};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::binaries;

const PATIENCE: Duration = Duration::from_secs(30);

/// One more relay beside that of a world, with its authority.
struct Replica {
    door: SocketAddr,
    tunnel: SocketAddr,
    running: JoinSet<Drained>,
    stop: CancellationToken,
}

impl Replica {
    async fn beside(world: &World, upstream: &Origin) -> Self {
        let home = world.directory().join("replica");
        culvert_certs::private_file::directory(&home.join("data")).unwrap();
        for file in ["authority.key", "authority.pem"] {
            fs::copy(world.directory().join("data").join(file), home.join("data").join(file)).unwrap();
        }
        let text = format!(
            "data: data\ntunnel: {{listen: \"127.0.0.1:0\", names: [\"127.0.0.1\"], replicas: 2}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             services:\n  - {{name: orders, listen: \"127.0.0.1:0\", upstream: \"{}\"}}\n",
            upstream.url()
        );
        let config = Config::parse(&text, &home.join("relay.yaml")).unwrap();
        let relay = Relay::bind(config).await.unwrap();
        let (door, tunnel) = (relay.addresses().services[0].1, relay.addresses().tunnel);
        let (mut running, stop) = (JoinSet::new(), CancellationToken::new());
        running.spawn(relay.run(stop.clone()));
        Self { door, tunnel, running, stop }
    }

    async fn drain(mut self) {
        self.stop.cancel();
        let _ = timeout(PATIENCE, self.running.join_next()).await.unwrap().unwrap().unwrap();
    }
}

struct Scene {
    _upstream: Origin,
    app: Origin,
    world: World,
    replica: Replica,
    /// Leads new connections to one of both.
    balancer: Flaky,
}

impl Scene {
    async fn set() -> Self {
        let upstream = Origin::named("upstream").await.unwrap();
        let app = Origin::named("app").await.unwrap();
        let world = World::replicated(&upstream.url(), 2).await.unwrap();
        let replica = Replica::beside(&world, &upstream).await;
        let balancer = Flaky::to(world.addresses().tunnel).await.unwrap();
        Self { _upstream: upstream, app, world, replica, balancer }
    }

    async fn alice(&self) -> Developer {
        self.world.developer_dialling("alice", self.balancer.address()).await.unwrap()
    }

    /// Waits until callers of this door get the app's answer.
    async fn served_at(&self, door: SocketAddr) {
        let serving = async {
            while caller::get(door, "/", &["x-user: alice"]).await.unwrap().text() != "app GET / HTTP/1.1\n" {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, serving).await.expect("the app answers at every replica");
    }
}

async fn reached(session: &Session, replicas: usize) {
    let reaching = async {
        loop {
            let status = session.desk().status().await.unwrap();
            if status.replicas.iter().filter(|replica| replica.transport.is_some()).count() == replicas {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, reaching).await.expect("as many replicas are reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_dialled_until_every_replica_has_a_tunnel() {
    for rungs in [Rungs::Quic, Rungs::Tls] {
        let scene = Scene::set().await;
        let alice = scene.alice().await;
        let mut session = alice.claim("x-user=alice", &scene.app.url(), rungs, Screen::silent()).unwrap();
        // In force at those that can be reached is enough.
        in_force(&mut session).await.unwrap();
        scene.served_at(scene.world.door().unwrap()).await;
        scene.balancer.lead_to(scene.replica.tunnel);
        reached(&session, 2).await;
        scene.served_at(scene.replica.door).await;
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_drains_takes_nothing_from_the_other() {
    let scene = Scene::set().await;
    let alice = scene.alice().await;
    let session = alice.intercept("x-user=alice", &scene.app.url(), Rungs::Auto).await.unwrap();
    scene.balancer.lead_to(scene.replica.tunnel);
    reached(&session, 2).await;
    scene.served_at(scene.replica.door).await;
    let door = scene.world.door().unwrap();
    let asking = async {
        loop {
            let answer = caller::get(door, "/", &["x-user: alice"]).await.unwrap();
            assert_eq!(answer.text(), "app GET / HTTP/1.1\n");
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = scene.replica.drain() => {}
        () = asking => {}
    }
    assert!(session.now().is_some());
    reached(&session, 1).await;
    leave(session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_claim_wins_at_every_replica_and_the_loser_is_told() {
    let scene = Scene::set().await;
    let alice = scene.alice().await;
    let alices = alice.intercept("x-user=alice", &scene.app.url(), Rungs::Quic).await.unwrap();
    // Bob is at the other replica only, where nobody has heard of Alice yet.
    let bob = scene.world.developer_dialling("bob", scene.world.addresses().tunnel).await.unwrap();
    let around = Flaky::to(scene.replica.tunnel).await.unwrap();
    let bob = bob.dialling(around.address()).unwrap();
    let mut bobs = bob.intercept("x-user=alice", &scene.app.url(), Rungs::Quic).await.unwrap();
    scene.balancer.lead_to(scene.replica.tunnel);
    let lost = ended(&mut bobs).await.unwrap_err().to_string();
    assert!(lost.contains("alice on "), "{lost}");
    reached(&alices, 2).await;
    leave(alices).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_restarted_one_by_one_lose_no_request() {
    for transport in [Rungs::Quic, Rungs::Tls] {
        let effort = Effort { seconds: 15, rate: 50, transport, relays: 3 };
        let report = Box::pin(soak::run(binaries().await, effort)).await.unwrap();
        report.verdict().unwrap_or_else(|error| panic!("{transport:?}: {error}\n{}", report.text()));
        assert!(report.drained && report.by_app.count > 0, "{transport:?}: {}", report.text());
    }
}

/// Two relays as processes, and a developer's client with a tunnel to each.
struct Pair {
    fleet: Fleet,
    client: Process,
    _stack: Stack,
    /// Leads new tunnels to one of both.
    link: Flaky,
}

impl Pair {
    async fn serving(upstream: &Origin, app: &Origin, transport: &str) -> Self {
        let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
        let link = Flaky::to(stack.tunnel).await.unwrap();
        let home = stack.developer_dialling("alice", link.address()).await.unwrap();
        let fleet = Fleet::beside(&stack, binaries().await, &upstream.url(), 2).await.unwrap();
        let app = app.url();
        let arguments =
            ["--transport", transport, "--on-unreachable", "upstream", "orders", &app, "x-user=alice"];
        link.lead_to(fleet.relays()[0].tunnel);
        let client = stack.intercept(&home, &arguments).await.unwrap();
        link.lead_to(fleet.relays()[1].tunnel);
        for door in fleet.doors() {
            answered_by("app", door).await;
        }
        Self { fleet, client, _stack: stack, link }
    }
}

/// Waits until callers of this door get the answer of one side.
async fn answered_by(side: &str, door: SocketAddr) {
    let asking = async {
        while caller::get(door, "/probe", &["x-user: alice"]).await.unwrap().text() != side {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{door}: the {side} does not answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_froze_owns_nothing_when_it_thaws() {
    let says = |side: &'static str| Origin::with(move |_| Answer::text(side));
    let (upstream, app) = (says("upstream").await.unwrap(), says("app").await.unwrap());
    for transport in ["quic", "tls"] {
        let pair = Pair::serving(&upstream, &app, transport).await;
        let [frozen, other] = pair.fleet.relays() else { panic!("two relays") };
        frozen.process.signal("STOP").await.unwrap();
        let since = Instant::now();
        // Longer than its tunnel lives.
        while since.elapsed() < IDLE_LIMIT + Duration::from_secs(2) {
            let answer = caller::get(other.door, "/", &["x-user: alice"]).await.unwrap();
            assert_eq!(answer.text(), "app", "{transport}: the other replica goes on");
            sleep(Duration::from_millis(50)).await;
        }
        pair.link.lead_to(frozen.tunnel);
        frozen.process.signal("CONT").await.unwrap();
        // Not by the tunnel that was given up: by a new one.
        frozen.process.line("a tunnel is down").await.unwrap();
        answered_by("app", frozen.door).await;
        // What is given back is given back everywhere, and nobody else's is left.
        pair.client.signal("TERM").await.unwrap();
        for door in pair.fleet.doors() {
            answered_by("upstream", door).await;
        }
        assert_eq!(pair.client.ended().await.unwrap().code, Some(0), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_told_to_stop_finishes_what_is_under_way_at_every_replica() {
    for (transport, signal) in [("quic", "INT"), ("tls", "TERM")] {
        let gate = CancellationToken::new();
        let held = gate.clone();
        let app = Origin::with(move |request| {
            let answer = Answer::text("app");
            if request.line().contains("/slow") { answer.after(&held) } else { answer }
        });
        let (upstream, app) = (Origin::with(|_| Answer::text("upstream")).await.unwrap(), app.await.unwrap());
        let pair = Pair::serving(&upstream, &app, transport).await;
        let before = app.count();
        let mut under_way = Vec::new();
        for door in pair.fleet.doors() {
            let mut caller = Caller::connect(door).await.unwrap();
            caller.send(caller::request("/slow", &["x-user: alice"])).await.unwrap();
            under_way.push(caller);
        }
        app.arrived(before + under_way.len()).await.unwrap();
        pair.client.signal(signal).await.unwrap();
        for door in pair.fleet.doors() {
            answered_by("upstream", door).await;
        }
        gate.cancel();
        for caller in &mut under_way {
            assert_eq!(caller.answer().await.unwrap().text(), "app", "{transport}");
        }
        assert_eq!(pair.client.ended().await.unwrap().code, Some(0), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_that_is_given_is_dialled_and_one_that_is_dead_keeps_nobody() {
    let says = |side: &'static str| Origin::with(move |_| Answer::text(side));
    let (upstream, app) = (says("upstream").await.unwrap(), says("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    let fleet = Fleet::beside(&stack, binaries().await, &upstream.url(), 2).await.unwrap();
    // Where the login was made, and nobody is any more.
    stack.relay.signal("KILL").await.unwrap();
    let addresses = [vec![stack.tunnel], fleet.tunnels()].concat();
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let claim = ["--relay", &addresses.join(","), "orders", &app.url(), "x-user=alice"];
    let client = stack.intercept(&home, &claim).await.unwrap();
    for door in fleet.doors() {
        answered_by("app", door).await;
    }
    drop(client);
}
