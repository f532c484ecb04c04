//! The tunnel port as developers and strangers meet it, over real sockets.

pub(crate) mod dialer;

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use culvert_certs::{DeveloperKey, JoinToken};
use culvert_protocol::hello::{DeniedCode, FromClient, FromRelay, Hello, RefusedCode, RejectCode, ToJoiner};
use culvert_protocol::message::{Fields, RequestHead};
use culvert_protocol::tunnel::{CloseCode, CloseReason, Closed, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::{Config, Drained, Enrolment, Relay};
use dialer::{Client, Login, PATIENCE, People, dial, dial_from, hello, intercept, join, login};

const TRANSPORTS: [Transport; 3] = Transport::ALL;
const HOUR: Duration = Duration::from_secs(3600);

/// A relay that runs, with one service.
struct World {
    tunnel: SocketAddr,
    admin: SocketAddr,
    enrolment: Enrolment,
    port: Arc<Port>,
    stop: CancellationToken,
    running: JoinSet<Drained>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = "
            tunnel: {listen: '127.0.0.1:0'}
            admin: {listen: '127.0.0.1:0'}
            services: [{name: orders, listen: '127.0.0.1:0', upstream: 'http://127.0.0.1:1'}]
        ";
        let config = Config::parse(text, &dir.path().join("relay.yaml")).unwrap();
        let relay = Relay::bind(config).await.unwrap();
        let (tunnel, admin) = (relay.addresses().tunnel, relay.addresses().admin);
        let (enrolment, port) = (relay.enrolment(), relay.port());
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(relay.run(stop.clone()));
        Self { tunnel, admin, enrolment, port, stop, running, _dir: dir }
    }

    async fn token(&self, name: &str) -> JoinToken {
        self.enrolment.mint(name.parse().unwrap(), HOUR, 1).await.unwrap()
    }

    async fn login(&self, name: &str) -> Login {
        login(self.tunnel, &self.token(name).await).await.unwrap()
    }

    /// Whose session a request with `x-user: VALUE` goes to.
    fn goes_to(&self, value: &str) -> Option<String> {
        let fields: Fields = [(&b"x-user"[..], value.as_bytes())].into_iter().collect();
        let request = RequestHead { fields, ..RequestHead::default() };
        let routes = self.port.registry.table(&"orders".parse().unwrap()).load_full();
        routes.pick(&request).map(|claim| claim.owner.to_string())
    }

    /// How many tunnels have ended so, as dashboards read it.
    async fn down(&self, reason: &str) -> u64 {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let name = format!("culvert_tunnel_down_total{{reason=\"{reason}\"}} ");
        page.lines()
            .find_map(|line| line.strip_prefix(&name))
            .map_or(0, |count| count.trim().parse().unwrap())
    }

    async fn until(&self, what: &str, met: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !met(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[tokio::test]
async fn a_developer_enrols_claims_and_leaves() {
    let world = World::new().await;
    for transport in TRANSPORTS {
        let alice = world.login("alice").await;
        let mut client = Client::up(world.tunnel, &alice, transport, 1).await;
        let answer = client.announce(5, intercept("a", "orders", "x-user=alice")).await;
        let FromRelay::Accepted { claim: 5, generation: 1, listen, .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(listen.len(), 1);
        assert_eq!(world.goes_to("alice").as_deref(), Some("alice"));
        assert_eq!(world.goes_to("bob"), None);

        client.say(FromClient::List).await;
        let FromRelay::Listing { intercepts, .. } = client.hear().await else { panic!() };
        assert_eq!(intercepts[0].holder.owner, "alice");

        client.say(FromClient::Leave).await;
        client.settle().await;
        assert_eq!(world.goes_to("alice"), None, "the next request goes to the upstream at once");
        let answer = client.announce(6, intercept("b", "orders", "x-user=alice")).await;
        assert!(matches!(answer, FromRelay::Denied { code: DeniedCode::Invalid, .. }), "{answer:?}");
    }
}

#[tokio::test]
async fn a_tunnel_over_quic_changes_its_keys_as_often_as_its_client_wants() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let mut client = Client::up(world.tunnel, &alice, Transport::Quic, 1).await;
    for _ in 0..5 {
        client.dialled.change_keys();
        client.settle().await;
    }
    let answer = client.announce(1, intercept("a", "orders", "x-user=alice")).await;
    assert!(matches!(answer, FromRelay::Accepted { .. }), "{answer:?}");
}

#[tokio::test]
async fn a_tunnel_that_is_gone_takes_its_claims_with_it() {
    let world = World::new().await;
    for transport in TRANSPORTS {
        let alice = world.login("alice").await;
        let mut client = Client::up(world.tunnel, &alice, transport, 1).await;
        client.announce(1, intercept("a", "orders", "x-user=alice")).await;
        assert!(world.goes_to("alice").is_some());
        drop(client);
        world.until("the route is gone", |world| world.goes_to("alice").is_none()).await;
    }
}

#[tokio::test]
async fn a_client_that_left_one_that_was_killed_and_one_that_gave_up_are_counted_apart() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    for (code, reason) in [
        (Some(CloseCode::Shutdown), "left"),
        (Some(CloseCode::Drain), "left"),
        // What a client says that has heard nothing of the relay for too long.
        (Some(CloseCode::Internal), "peer_gave_up"),
        // Its process is gone.
        (None, "peer_closed"),
    ] {
        for transport in TRANSPORTS {
            let before = world.down(reason).await;
            let mut client = Client::up(world.tunnel, &alice, transport, 1).await;
            client.settle().await;
            match code {
                Some(code) => client.dialled.tunnel.close(&CloseReason::new(code, "a test")),
                None => drop(client),
            }
            let counted = async {
                while world.down(reason).await == before {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = timeout(PATIENCE, counted).await;
            assert!(waited.is_ok(), "never counted as {reason}: {code:?} over {transport}");
            assert_eq!(world.down(reason).await, before + 1, "{code:?} over {transport}");
        }
    }
}

/// The log, as whoever runs the relay reads it.
#[derive(Clone, Debug, Default)]
struct Paper(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_names_an_account_only_where_the_client_did() {
    let paper = Paper::default();
    let written = paper.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
    // With one alone, what a line means would be decided by the thread that comes by first, which may be another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    // Of this thread, on which everything of this test runs.
    let _logging = tracing::subscriber::set_default(log);
    let world = World::new().await;
    let alice = world.login("alice").await;
    for (user, instance) in [(None, 1), (Some("al".to_owned()), 2)] {
        let dialled = dial(world.tunnel, &alice, Transport::Tls).await.unwrap();
        let mut client = Client::greet(dialled, Hello { user, ..hello("laptop", instance) }).await;
        assert!(matches!(client.hear().await, FromRelay::Welcome(_)));
        client.settle().await;
    }
    let log = String::from_utf8(paper.0.lock().clone()).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("a tunnel is up")).collect();
    let [without, with] = lines[..] else { panic!("{log}") };
    assert!(
        without.contains("host=laptop") && !without.contains("user=") && !without.contains('?'),
        "{without}"
    );
    assert!(with.contains(r#"user="al""#), "{with}");
}

#[tokio::test]
async fn a_second_process_of_mine_takes_over_and_the_first_is_told() {
    let world = World::new().await;
    let (alice, bob) = (world.login("alice").await, world.login("bob").await);
    let mut first = Client::up(world.tunnel, &alice, Transport::Quic, 1).await;
    first.announce(3, intercept("a", "orders", "x-user=alice")).await;
    let mut second = Client::up(world.tunnel, &alice, Transport::Tls, 2).await;
    let answer = second.announce(1, intercept("a", "orders", "x-user=alice")).await;
    assert!(matches!(answer, FromRelay::Accepted { generation: 2, .. }), "{answer:?}");
    let told = first.hear().await;
    assert!(matches!(told, FromRelay::Superseded { claim: 3, .. }), "{told:?}");

    let mut other = Client::up(world.tunnel, &bob, Transport::Quic, 3).await;
    let answer = other.announce(1, intercept("b", "orders", "x-user=alice")).await;
    let FromRelay::Denied { code: DeniedCode::Conflict, holder: Some(holder), .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((holder.owner.as_str(), holder.host.as_str()), ("alice", "laptop"));
    first.settle().await;
    drop(first);
    second.settle().await;
    assert!(world.goes_to("alice").is_some());
}

#[tokio::test]
async fn a_wrong_token_learns_nothing_and_a_late_one_is_told() {
    let world = World::new().await;
    let foreign = JoinToken::mint("ab".repeat(32).parse().unwrap(), "").unwrap();
    let (good, other) = (world.token("alice").await, world.token("bob").await);
    let ours = good.authority();
    let unknown = JoinToken::mint(ours, "").unwrap();
    let request = DeveloperKey::generate().unwrap().request().unwrap();
    let mut answers = Vec::new();
    for (id, token) in [(good.id(), &other), (unknown.id(), &unknown), (foreign.id(), &foreign)] {
        let text = token.reveal();
        answers.push(join(world.tunnel, ours, &id.to_string(), text.expose(), &request).await);
    }
    answers.push(join(world.tunnel, ours, "", "", &request).await);
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
        assert!(matches!(answer, ToJoiner::Refused { code: RefusedCode::Denied, .. }), "{answer:?}");
    }

    assert!(login(world.tunnel, &good).await.is_ok());
    let Err(ToJoiner::Refused { code: RefusedCode::Denied, message }) = login(world.tunnel, &good).await
    else {
        panic!("a token was used twice")
    };
    assert!(message.contains("used up"), "{message}");
}

#[tokio::test]
async fn a_stranger_who_guesses_tokens_keeps_nobody_behind_the_same_address_from_logging_in() {
    let world = World::new().await;
    let (mine, late) = (world.token("alice").await, world.token("bob").await);
    let wrong = JoinToken::mint(mine.authority(), "").unwrap();
    let mut codes = Vec::new();
    for _ in 0..7 {
        let Err(ToJoiner::Refused { code, .. }) = login(world.tunnel, &wrong).await else { panic!() };
        codes.push(code);
    }
    assert_eq!(codes[..5], [RefusedCode::Denied; 5]);
    assert_eq!(codes[5..], [RefusedCode::Busy; 2], "over the limit nothing is said about the token");

    assert!(login(world.tunnel, &mine).await.is_ok());
    assert!(login(world.tunnel, &late).await.is_ok());
    let Err(ToJoiner::Refused { code: RefusedCode::Denied, message }) = login(world.tunnel, &late).await
    else {
        panic!("a token was used twice")
    };
    assert!(message.contains("used up"), "who has the token is told what is wrong with it: {message}");
    let Err(ToJoiner::Refused { code, .. }) = login(world.tunnel, &wrong).await else { panic!() };
    assert_eq!(code, RefusedCode::Busy, "a login that succeeds gives a stranger no more tries");
}

#[tokio::test]
async fn an_expired_token_says_so() {
    let world = World::new().await;
    let token = world.enrolment.mint("alice".parse().unwrap(), Duration::ZERO, 1).await.unwrap();
    let Err(ToJoiner::Refused { code: RefusedCode::Denied, message }) = login(world.tunnel, &token).await
    else {
        panic!("an expired token let somebody in")
    };
    assert!(message.contains("expired"), "{message}");
}

#[tokio::test]
async fn a_bad_certificate_request_does_not_burn_the_token() {
    let world = World::new().await;
    let token = world.token("alice").await;
    let (id, text) = (token.id().to_string(), token.reveal());
    let long = "A".repeat(10_000);
    for request in ["", "not a request", long.as_str()] {
        let answer = join(world.tunnel, token.authority(), &id, text.expose(), request).await;
        assert!(matches!(answer, ToJoiner::Refused { code: RefusedCode::Request, .. }), "{answer:?}");
    }
    assert!(login(world.tunnel, &token).await.is_ok());
}

#[tokio::test]
async fn a_certificate_of_another_relay_opens_nothing() {
    let world = World::new().await;
    let authority = world.login("alice").await.authority;
    let stranger = Login { authority, ..People::new().login("alice") };
    for transport in TRANSPORTS {
        // In TLS 1.3 a client hears of it after its own handshake is done.
        if let Ok(dialled) = dial(world.tunnel, &stranger, transport).await {
            let closed = timeout(PATIENCE, dialled.tunnel.closed()).await.unwrap();
            assert!(!matches!(closed, Closed::ByUs(_)), "{closed:?}");
        }
    }
    let alice = world.login("alice").await;
    Client::up(world.tunnel, &alice, Transport::Quic, 1).await.settle().await;
}

#[tokio::test]
async fn another_version_is_turned_away_with_both_versions_named() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    for transport in TRANSPORTS {
        let dialled = dial(world.tunnel, &alice, transport).await.unwrap();
        let hello = Hello { versions: vec![98, 99], ..hello("laptop", 1) };
        let mut client = Client::greet(dialled, hello).await;
        let FromRelay::Reject { code: RejectCode::Version, message, versions } = client.hear().await else {
            panic!("a version that does not exist was taken")
        };
        assert_eq!(versions, [1]);
        assert!(message.contains("version 1 of the protocol, the client 98, 99"), "{message}");
        let closed = timeout(PATIENCE, client.dialled.tunnel.closed()).await.unwrap();
        let Closed::ByPeer(reason) = closed else { panic!("{closed:?}") };
        assert_eq!(reason.code(), CloseCode::Denied);
    }
}

#[tokio::test]
async fn a_client_of_a_newer_release_is_understood_as_far_as_possible() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let dialled = dial(world.tunnel, &alice, Transport::Tls).await.unwrap();
    let mut client = Client::greet(dialled, Hello { versions: vec![1, 99], ..hello("laptop", 1) }).await;
    assert!(matches!(client.hear().await, FromRelay::Welcome(welcome) if welcome.version == 1));
    client.raw(br#"{"type":"levitate","height":3}"#).await;
    client.raw(br#"{"type":"ping","n":1,"mood":"good"}"#).await;
    assert_eq!(client.hear().await, FromRelay::Pong { n: 1 });
    client.raw(br#"{"type":"announce","claim":4,"intercept":{"name":"a","service":"orders","matcher":{"all":[{"path":"/x"}]}}}"#).await;
    let answer = client.hear().await;
    assert!(matches!(answer, FromRelay::Denied { claim: 4, code: DeniedCode::Invalid, .. }), "{answer:?}");
    assert_eq!(world.goes_to("alice"), None, "a claim that was half understood must not be in force");
}

#[tokio::test]
async fn garbage_is_cut_off_within_a_second_and_nobody_else_notices() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let mut bystander = Client::up(world.tunnel, &alice, Transport::Tls, 1).await;
    bystander.announce(1, intercept("a", "orders", "x-user=alice")).await;
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let noise: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for garbage in [http, noise, vec![0; 70_000], vec![0x16; 70_000], vec![0xff; 5]] {
        let mut stream = TcpStream::connect(world.tunnel).await.unwrap();
        // The relay may have closed before it took all of it.
        let _ = stream.write_all(&garbage).await;
        let since = Instant::now();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("garbage was not cut off");
        assert!(since.elapsed() < Duration::from_secs(1), "{:?} for {:?}", since.elapsed(), &garbage[..5]);
    }
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in [1, 20, 1_200, 60_000] {
        udp.send_to(&vec![0xc3; size], world.tunnel).await.unwrap();
    }
    bystander.settle().await;
    assert!(world.goes_to("alice").is_some());
    world.login("bob").await;
}

#[tokio::test]
async fn garbage_on_the_control_stream_ends_that_tunnel_and_no_other() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let mut bystander = Client::up(world.tunnel, &alice, Transport::Tls, 1).await;
    for transport in TRANSPORTS {
        for garbage in [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x02{]", b"\x00\x00\x40\x01"] {
            let dialled = dial(world.tunnel, &alice, transport).await.unwrap();
            let mut control = dialled.tunnel.open().await.unwrap();
            control.write_all(garbage).await.unwrap();
            timeout(Duration::from_secs(2), dialled.tunnel.closed()).await.expect("the tunnel lives on");

            let mut client = Client::up(world.tunnel, &alice, transport, 2).await;
            client.bytes(garbage).await;
            if garbage.first() == Some(&0xff) || garbage.get(4).is_some() {
                let closed = timeout(Duration::from_secs(2), client.dialled.tunnel.closed()).await;
                let Ok(Closed::ByPeer(reason)) = closed else { panic!("{closed:?}") };
                assert_eq!(reason.code(), CloseCode::Protocol);
            }
        }
    }
    bystander.settle().await;
}

#[tokio::test]
async fn who_says_nothing_is_let_go_after_five_seconds() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let silent_hello = async {
        let dialled = dial(world.tunnel, &alice, Transport::Tls).await.unwrap();
        let mut control = dialled.tunnel.open().await.unwrap();
        control.write_all(&[0, 0, 0, 90, b'{']).await.unwrap();
        timeout(Duration::from_secs(8), dialled.tunnel.closed()).await.expect("a silent client was kept");
    };
    let silent_handshake = async {
        let mut stream = TcpStream::connect(world.tunnel).await.unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        let closed =
            timeout(Duration::from_secs(8), stream.read_u8()).await.expect("a silent stranger was kept");
        assert!(closed.is_err());
    };
    tokio::join!(silent_hello, silent_handshake);
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_else_out() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(world.tunnel).await.unwrap());
    }
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    for (here, transport) in [(elsewhere, Transport::Tls), (Ipv4Addr::LOCALHOST, Transport::Quic)] {
        let getting_in = async {
            let dialled = dial_from(here, world.tunnel, &alice, transport).await.unwrap();
            let mut client = Client::greet(dialled, hello("laptop", 1)).await;
            assert!(matches!(client.hear().await, FromRelay::Welcome(_)));
        };
        timeout(Duration::from_secs(2), getting_in).await.unwrap_or_else(|_| panic!("{transport} is shut"));
    }
    // And whoever of them was let sit is not let sit for long.
    for mut stream in silent {
        let gone = timeout(Duration::from_secs(3), stream.read_u8()).await;
        assert!(gone.expect("a stranger that says nothing was kept").is_err());
    }
    Client::up(world.tunnel, &alice, Transport::Tls, 2).await;
}

#[tokio::test]
async fn claims_that_change_too_fast_are_denied_and_the_tunnel_stays() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let mut client = Client::up(world.tunnel, &alice, Transport::Tls, 1).await;
    let mut denied = 0;
    // Far faster than 20 a second, on any machine.
    for claim in 0..1_000 {
        match client.announce(claim, intercept("a", "orders", "x-user=alice")).await {
            FromRelay::Accepted { .. } => client.say(FromClient::Withdraw { claim }).await,
            FromRelay::Denied { code: DeniedCode::TooFast, message, .. } => {
                assert!(message.contains("too fast"), "{message}");
                denied += 1;
            }
            answer => panic!("{answer:?}"),
        }
    }
    assert!(denied > 0, "a loop of claims and withdrawals is served for ever");
    client.settle().await;
    assert_eq!(world.goes_to("alice"), None, "a withdrawal was not heard");
    // And it is let in again, at the pace that is allowed.
    let let_in = async {
        let mut claim = 1_000;
        while let FromRelay::Denied { .. } =
            client.announce(claim, intercept("a", "orders", "x-user=alice")).await
        {
            claim += 1;
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, let_in).await.unwrap();
    assert_eq!(world.goes_to("alice").as_deref(), Some("alice"));
}

#[tokio::test]
async fn streams_that_a_client_opens_lead_nowhere() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    for transport in TRANSPORTS {
        let mut client = Client::up(world.tunnel, &alice, transport, 1).await;
        for _ in 0..40 {
            let mut stray = timeout(PATIENCE, client.dialled.tunnel.open()).await.unwrap().unwrap();
            stray.write_all(b"connect me to the metadata service").await.unwrap();
            let mut answer = Vec::new();
            let read = timeout(PATIENCE, stray.read_to_end(&mut answer)).await.unwrap();
            assert!(read.is_err() && answer.is_empty(), "{read:?} {answer:?}");
        }
        client.settle().await;
    }
}

#[tokio::test]
async fn a_stopping_relay_tells_its_tunnels_and_then_closes_them() {
    for transport in TRANSPORTS {
        let mut world = World::new().await;
        let alice = world.login("alice").await;
        let mut client = Client::up(world.tunnel, &alice, transport, 1).await;
        // As while an exchange is under way; without one the reason for closing says the same, at once.
        world.port.drain.cancel();
        let told = client.hear().await;
        assert!(matches!(told, FromRelay::Drain { grace_ms: 30_000, .. }), "{told:?}");
        client.settle().await;
        world.stop.cancel();
        let closed = timeout(PATIENCE, client.dialled.tunnel.closed()).await.unwrap();
        let Closed::ByPeer(reason) = closed else { panic!("{closed:?}") };
        assert_eq!(reason.code(), CloseCode::Drain);
        drop(client);
        let drained = timeout(PATIENCE, world.running.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(drained, Drained::Whole);
        assert!(TcpStream::connect(world.tunnel).await.is_err());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listening = |tunnel: &str, admin: &str, service: &str| {
        format!(
            "{{tunnel: {{listen: '{tunnel}'}}, admin: {{listen: '{admin}'}},
              services: [{{name: orders, listen: '{service}', upstream: 'http://127.0.0.1:1'}}]}}"
        )
    };
    let (any, taken) = ("127.0.0.1:0", address.to_string());
    for (text, what) in [
        (listening(&taken, any, any), "tunnels (TCP)"),
        (listening(any, &taken, any), "the admin port"),
        (listening(any, any, &taken), "service `orders`"),
    ] {
        let config = Config::parse(&text, &dir.path().join("relay.yaml")).unwrap();
        let error = Relay::bind(config).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("listening for {what} on {address}: ")), "{error}");
        assert!(
            error.ends_with("another process listens there: stop it, or choose another address"),
            "{error}"
        );
    }
}

/// What the clock says has nothing to do with how long a certificate is good for: it is a day.
#[tokio::test]
async fn a_certificate_holds_a_day() {
    let world = World::new().await;
    let alice = world.login("alice").await;
    let identity = Identity::from_verified(&alice.certificate).unwrap();
    let left = identity.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left > 23 * HOUR && left <= 24 * HOUR, "{left:?}");
}
