//! What callers see when the way to a developer breaks, and what was executed: the rows of docs/failure.md, on every transport.

use std::time::Duration;

use culvert_client::dial::Rungs;
use culvert_client::session::Session;
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::flaky::{Flaky, Protocol, Way};
use culvert_loadtest::message::Message;
use culvert_loadtest::origin::{Answer, Origin};
use culvert_loadtest::world::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::TRANSPORTS;

/// For conditions that have no notification, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// No caller waits longer for a dead tunnel; and a busy machine.
const DEAD: Duration = Duration::from_secs(3 + 1);

/// alice, with a way to her that breaks when it is told to.
struct Scene {
    upstream: Origin,
    app: Origin,
    world: World,
    way: Flaky,
    session: Session,
    transport: Rungs,
}

impl Scene {
    async fn each(policy: &str) -> Vec<Self> {
        let mut scenes = Vec::new();
        for transport in TRANSPORTS {
            scenes.push(Self::with(policy, transport, Origin::named("app").await.unwrap()).await);
        }
        scenes
    }

    async fn with(policy: &str, transport: Rungs, app: Origin) -> Self {
        Self::limited(policy, transport, app, "{}").await
    }

    /// With these limits of the service.
    async fn limited(policy: &str, transport: Rungs, app: Origin, limits: &str) -> Self {
        let upstream = Origin::named("upstream").await.unwrap();
        let service = format!(
            "services:\n  - {{name: orders, listen: \"127.0.0.1:0\", upstream: \"{}\", limits: {limits}}}\n",
            upstream.url()
        );
        let world = World::with(&service).await.unwrap();
        let way = Flaky::to(world.addresses().tunnel).await.unwrap();
        let alice = world.developer_dialling("alice", way.address()).await.unwrap();
        let session = alice.intercept_or(policy, "x-user=alice", &app.url(), transport).await.unwrap();
        let scene = Self { upstream, app, world, way, session, transport };
        assert_eq!(scene.ask("GET", "/before").await.text(), "app GET /before HTTP/1.1\n");
        scene
    }

    async fn ask(&self, method: &str, path: &str) -> Message {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: orders.example\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n"
        );
        let mut caller = Caller::connect(self.world.door().unwrap()).await.unwrap();
        caller.exchange(request).await.unwrap()
    }

    /// How often each side executed what has this path.
    fn executed(&self, path: &str) -> (usize, usize) {
        let count = |origin: &Origin| {
            origin.requests().iter().filter(|request| request.line().contains(&format!(" {path} "))).count()
        };
        (count(&self.app), count(&self.upstream))
    }

    async fn metrics(&self) -> String {
        caller::get(self.world.addresses().admin, "/metrics", &[]).await.unwrap().text()
    }

    /// One direction is dead.
    fn deafen(&self, way: Way) {
        self.way.blackhole(Protocol::Udp, way);
        self.way.blackhole(Protocol::Tcp, way);
    }
}

async fn until<F: Future<Output = bool>>(what: &str, met: impl Fn() -> F) {
    let begun = Instant::now();
    while !met().await {
        assert!(begun.elapsed() < PATIENCE, "waiting until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_cable_costs_a_caller_three_seconds_once_and_the_next_one_nothing() {
    for scene in Scene::each("upstream").await {
        scene.way.cut();
        let begun = Instant::now();
        let (get, post) = tokio::join!(scene.ask("GET", "/1"), scene.ask("POST", "/2"));
        assert!(begun.elapsed() < DEAD, "{:?}: {:?}", scene.transport, begun.elapsed());
        assert_eq!(get.text(), "upstream GET /1 HTTP/1.1\n", "{:?}", scene.transport);
        assert_eq!(post.text(), "upstream POST /2 HTTP/1.1\n", "{:?}", scene.transport);
        assert!(post.field("culvert-route").unwrap().starts_with("upstream; unreachable"));
        let begun = Instant::now();
        assert_eq!(scene.ask("POST", "/3").await.text(), "upstream POST /3 HTTP/1.1\n");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}: {:?}", scene.transport, begun.elapsed());
        let metrics = scene.metrics().await;
        let down = r#"culvert_tunnel_down_total{reason="liveness"} 1"#;
        assert!(metrics.contains(down), "{:?}: {metrics}", scene.transport);
        scene.way.heal();
        until("alice is asked again", async || scene.ask("GET", "/4").await.text().starts_with("app ")).await;
        // What waited in the network has come by now.
        assert_eq!((scene.executed("/2"), scene.executed("/3")), ((0, 1), (0, 1)), "{:?}", scene.transport);
    }
}

/// The client gets every request and says that it accepts it; nothing of that reaches the relay.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_is_lost_on_the_way_executes_nothing_twice() {
    for scene in Scene::each("upstream").await {
        scene.deafen(Way::Up);
        let begun = Instant::now();
        let answers =
            tokio::join!(scene.ask("POST", "/1"), scene.ask("DELETE", "/2"), scene.ask("PUT", "/3"));
        assert!(begun.elapsed() < DEAD, "{:?}: {:?}", scene.transport, begun.elapsed());
        for answer in [answers.0, answers.1, answers.2] {
            assert!(answer.text().starts_with("upstream "), "{:?}", scene.transport);
        }
        scene.way.heal();
        until("alice is asked again", async || scene.ask("GET", "/4").await.text().starts_with("app ")).await;
        for path in ["/1", "/2", "/3"] {
            assert_eq!(scene.executed(path), (0, 1), "{:?} {path}", scene.transport);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_held_is_answered_by_the_developer_who_comes_back() {
    for scene in Scene::each("hold:20s").await {
        scene.way.cut();
        let begun = Instant::now();
        let asking = async { tokio::join!(scene.ask("GET", "/1"), scene.ask("POST", "/2")) };
        let healing = async {
            until("callers are held", async || {
                scene.metrics().await.contains(r#"culvert_held_requests{service="orders"} 2"#)
            })
            .await;
            scene.way.heal();
        };
        let ((get, post), ()) = tokio::join!(asking, healing);
        assert_eq!(get.text(), "app GET /1 HTTP/1.1\n", "{:?}", scene.transport);
        assert_eq!(post.text(), "app POST /2 HTTP/1.1\n", "{:?}", scene.transport);
        assert!(begun.elapsed() < Duration::from_secs(18), "{:?}: {:?}", scene.transport, begun.elapsed());
        assert_eq!(scene.executed("/2"), (1, 0), "{:?}", scene.transport);
        let metrics = scene.metrics().await;
        assert!(metrics.contains(r#"culvert_held_requests{service="orders"} 0"#), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_held_no_longer_than_was_said_and_then_gets_the_upstream() {
    for scene in Scene::each("hold:1s").await {
        scene.way.cut();
        let begun = Instant::now();
        assert_eq!(scene.ask("POST", "/1").await.text(), "upstream POST /1 HTTP/1.1\n");
        assert!(begun.elapsed() < DEAD, "{:?}: {:?}", scene.transport, begun.elapsed());
        // Its time counts from the loss, and is over.
        let begun = Instant::now();
        assert_eq!(scene.ask("POST", "/2").await.text(), "upstream POST /2 HTTP/1.1\n");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}: {:?}", scene.transport, begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_while_it_is_held_leaves_nothing_behind() {
    let scenes = Scene::each("hold:1m").await;
    let scene = scenes.first().unwrap();
    scene.way.cut();
    let held = |count: usize| async move {
        scene.metrics().await.contains(&format!("culvert_held_requests{{service=\"orders\"}} {count}\n"))
    };
    let asking = scene.ask("GET", "/1");
    tokio::select! {
        _ = asking => panic!("it was answered"),
        () = until("it is held", || held(1)) => {}
    }
    until("it is let go of", || held(0)).await;
    assert_eq!(scene.executed("/1"), (0, 0));
}

/// The most that a service holds at once.
const HELD: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_after_a_thousand_that_are_held_gets_the_upstream() {
    let app = Origin::named("app").await.unwrap();
    let limits = format!("{{connections_per_address: {}}}", HELD * 2);
    let scene = Scene::limited("hold:1m", Rungs::Quic, app, &limits).await;
    scene.way.cut();
    let door = scene.world.door().unwrap();
    let mut held = JoinSet::new();
    for _ in 0..HELD {
        held.spawn(async move { caller::get(door, "/held", &["x-user: alice"]).await.unwrap().text() });
    }
    let full = format!("culvert_held_requests{{service=\"orders\"}} {HELD}\n");
    until("a thousand are held", async || scene.metrics().await.contains(&full)).await;
    for method in ["GET", "POST"] {
        assert_eq!(scene.ask(method, "/late").await.text(), format!("upstream {method} /late HTTP/1.1\n"));
    }
    scene.way.heal();
    let answers = held.join_all().await;
    let others: Vec<_> = answers.iter().filter(|text| *text != "app GET /held HTTP/1.1\n").collect();
    assert!(others.is_empty(), "{} got something else: {:?}", others.len(), others.first());
    assert_eq!(scene.upstream.count(), 2);
}

/// As in a lift: whoever asks meanwhile waits, and nobody gets anything else.
#[tokio::test(flavor = "multi_thread")]
async fn three_seconds_without_a_network_cost_callers_a_wait_and_nothing_else() {
    const SILENCE: Duration = Duration::from_secs(3);
    // What is promised is a second more than the silence; and a busy machine.
    const LONGEST: Duration = Duration::from_secs(4 + 2);
    let mut lifts = JoinSet::new();
    for scene in Scene::each("hold:5s").await {
        lifts.spawn(async move {
            let (door, transport) = (scene.world.door().unwrap(), scene.transport);
            let over = CancellationToken::new();
            let mut callers = JoinSet::new();
            for caller in 0..4 {
                let over = over.clone();
                callers.spawn(async move {
                    let mut asked = Vec::new();
                    while !over.is_cancelled() {
                        let method = if asked.len() % 2 == 0 { "GET" } else { "POST" };
                        let path = format!("/{caller}-{}", asked.len());
                        let begun = Instant::now();
                        let request = format!(
                            "{method} {path} HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n"
                        );
                        let answer = Caller::connect(door).await.unwrap().exchange(request).await.unwrap();
                        assert_eq!(answer.text(), format!("app {method} {path} HTTP/1.1\n"), "{transport:?}");
                        assert!(begun.elapsed() < LONGEST, "{transport:?}: {:?}", begun.elapsed());
                        asked.push(path);
                        sleep(Duration::from_millis(20)).await;
                    }
                    asked
                });
            }
            scene.app.arrived(10).await.unwrap();
            scene.way.cut();
            sleep(SILENCE).await;
            scene.way.heal();
            let before = scene.app.count();
            scene.app.arrived(before + 10).await.unwrap();
            over.cancel();
            for path in callers.join_all().await.into_iter().flatten() {
                let (app, upstream) = scene.executed(&path);
                assert_eq!(upstream, 0, "{transport:?} {path}");
                // The first of each caller, and every other one, changes nothing.
                let is_post = path.ends_with(['1', '3', '5', '7', '9']);
                assert!(app == 1 || app > 1 && !is_post, "{transport:?} {path}: {app} times");
            }
        });
    }
    lifts.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_upstream_gets_a_503_and_is_told_when_to_come_again() {
    for scene in Scene::each("503").await {
        scene.way.cut();
        let begun = Instant::now();
        let (get, post) = tokio::join!(scene.ask("GET", "/1"), scene.ask("POST", "/2"));
        assert!(begun.elapsed() < DEAD, "{:?}: {:?}", scene.transport, begun.elapsed());
        assert_eq!((get.status(), get.field("retry-after").as_deref()), (503, Some("1")));
        assert_eq!(get.field("culvert-failure").as_deref(), Some("developer_unreachable"));
        // Without a confirmation, the app may have had it.
        assert_eq!(post.status(), 502);
        assert_eq!(post.field("culvert-failure").as_deref(), Some("tunnel_lost"));
        let next = scene.ask("POST", "/3").await;
        assert_eq!((next.status(), next.field("retry-after").as_deref()), (503, Some("1")));
        assert_eq!(scene.upstream.count(), 0, "{:?}", scene.transport);
    }
}

/// The app has a request and thinks; then the tunnel is gone for good.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_has_begun_is_asked_for_elsewhere_only_if_it_changes_nothing() {
    for transport in TRANSPORTS {
        let gate = CancellationToken::new();
        let held = gate.clone();
        let app = Origin::with(move |request| {
            let answer = Answer::text(&format!("app {}\n", request.line()));
            if request.line().contains("/before") { answer } else { answer.after(&held) }
        });
        let mut scene = Scene::with("upstream", transport, app.await.unwrap()).await;
        let door = scene.world.door().unwrap();
        let ask = |line: &'static str| async move {
            let request = format!("{line} HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n");
            Caller::connect(door).await.unwrap().exchange(request).await.unwrap()
        };
        let breaking = async {
            scene.app.arrived(3).await.unwrap();
            scene.session.cut();
            let _ = timeout(PATIENCE, scene.session.ended()).await.unwrap();
        };
        let (get, post, ()) = tokio::join!(ask("GET /1"), ask("POST /2"), breaking);
        assert_eq!(get.text(), "upstream GET /1 HTTP/1.1\n", "{transport:?}");
        assert_eq!(post.status(), 502, "{transport:?}");
        assert_eq!(post.field("culvert-failure").as_deref(), Some("tunnel_lost"), "{transport:?}");
        assert_eq!(scene.executed("/2"), (1, 0), "{transport:?}");
    }
}

/// The way to the client forgets its connection, so that only the client hears of it: it dials again, and says what it has lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_on_a_tunnel_that_only_the_client_lost_ends_when_it_is_back() {
    for transport in [Rungs::Tls, Rungs::WebSocket] {
        for policy in ["upstream", "hold:5s", "503"] {
            let gate = CancellationToken::new();
            let held = gate.clone();
            let app = Origin::with(move |request| {
                let answer = Answer::text(&format!("app {}\n", request.line()));
                if request.line().contains("/before") { answer } else { answer.after(&held) }
            });
            let scene = Scene::with(policy, transport, app.await.unwrap()).await;
            let posting = async {
                let answer = scene.ask("POST", "/2").await;
                (answer, Instant::now())
            };
            let breaking = async {
                scene.app.arrived(3).await.unwrap();
                scene.way.new_source_port();
                let broken = Instant::now();
                // What changes nothing is asked for again, on the new tunnel.
                scene.app.arrived(4).await.unwrap();
                gate.cancel();
                broken
            };
            let (get, (post, answered), broken) = tokio::join!(scene.ask("GET", "/1"), posting, breaking);
            assert_eq!(get.text(), "app GET /1 HTTP/1.1\n", "{transport:?} {policy}");
            assert_eq!(post.status(), 502, "{transport:?} {policy}");
            assert_eq!(
                post.field("culvert-failure").as_deref(),
                Some("tunnel_lost"),
                "{transport:?} {policy}"
            );
            assert_eq!(scene.executed("/2"), (1, 0), "{transport:?} {policy}");
            let took = answered - broken;
            assert!(took < DEAD, "{transport:?} {policy}: {took:?}");
            let metrics = scene.metrics().await;
            assert!(metrics.contains(r#"culvert_tunnel_down_total{reason="lost"} 1"#), "{metrics}");
        }
    }
}

/// Answers with an event every 0.2 s, for ever.
async fn ticking(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut said = stream.write_all(head.as_bytes()).await;
            while said.is_ok() {
                sleep(Duration::from_millis(200)).await;
                said = stream.write_all(b"9\r\ndata: x\n\n\r\n").await;
            }
        });
    }
}

/// A word now and then, of the client's pings or of an answer under way, does not show that the client hears anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_from_a_client_that_hears_nothing_makes_no_caller_wait_for_it() {
    for transport in TRANSPORTS {
        let upstream = Origin::named("upstream").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = format!("http://{}", listener.local_addr().unwrap());
        let mut ticks = JoinSet::new();
        ticks.spawn(ticking(listener));
        let world = World::before(&upstream.url()).await.unwrap();
        let way = Flaky::to(world.addresses().tunnel).await.unwrap();
        let alice = world.developer_dialling("alice", way.address()).await.unwrap();
        let _session = alice.intercept_or("upstream", "x-user=alice", &app, transport).await.unwrap();
        let door = world.door().unwrap();
        let mut events = TcpStream::connect(door).await.unwrap();
        events.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n").await.unwrap();
        let mut heard = [0; 1024];
        assert!(timeout(PATIENCE, events.read(&mut heard)).await.unwrap().unwrap() > 0);

        way.blackhole(Protocol::Udp, Way::Down);
        way.blackhole(Protocol::Tcp, Way::Down);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            let answer = caller::get(door, "/", &["x-user: alice"]).await.unwrap();
            assert_eq!(answer.text(), "upstream GET / HTTP/1.1\n", "{transport:?}");
            assert!(asked.elapsed() < DEAD, "{transport:?}: {:?}", asked.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
    }
}
