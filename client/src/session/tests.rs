//! A session against a relay that says what each test wants: real sockets, real certificates, no requests.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use culvert_certs::tls::{join_server, tunnel_server};
use culvert_certs::{Authority, DeveloperKey};
use culvert_protocol::frame;
use culvert_protocol::head::Opening;
use culvert_protocol::hello::{
    DeniedCode, FromClient, FromJoiner, FromRelay, Holder, Joined, Messages, RefusedCode, RejectCode,
    RelayInformation, ToJoiner, UnixMillis, Welcome, listings, write_message,
};
use culvert_protocol::intercept::Matcher;
use culvert_protocol::message::RequestHead;
use culvert_protocol::tunnel::{
    CloseCode, Closed, KNOCK, Limits, RecvHalf, SendHalf, Side, Tunnel, quic_transport,
};
use quinn::crypto::rustls::QuicServerConfig;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::dial::{Dialler, Rungs};
use crate::exit::Exit;
use crate::list::list;
use crate::login::login;
use crate::profile::Profiles;
use crate::screen::Look;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

const ALICE: &str = "alice";

struct FakeRelay {
    directory: TempDir,
    authority: Authority,
    tls: rustls::ServerConfig,
    tcp: TcpListener,
    quic: Option<quinn::Endpoint>,
    /// The endpoint's.
    udp: Option<UdpSocket>,
    address: SocketAddr,
}

/// One developer's tunnel, from the relay's end.
struct Developer {
    tunnel: Tunnel,
    messages: Messages<RecvHalf>,
    send: SendHalf,
    _driver: JoinSet<()>,
}

impl FakeRelay {
    async fn start(with_quic: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&directory.path().join("data"), SystemTime::now()).unwrap();
        let leaf = authority.server_leaf(&["127.0.0.1".to_owned()], SystemTime::now()).unwrap();
        let tls = tunnel_server(&authority, &leaf).unwrap();
        Self::start_with(directory, authority, tls, with_quic).await
    }

    async fn start_with(
        directory: TempDir,
        authority: Authority,
        tls: rustls::ServerConfig,
        with_quic: bool,
    ) -> Self {
        let (tcp, udp) = Self::one_port(with_quic).await;
        let quic = udp.as_ref().map(|udp| endpoint(&tls, udp.try_clone().unwrap()));
        let address = tcp.local_addr().unwrap();
        Self { directory, authority, tls, tcp, quic, udp, address }
    }

    /// A port that is free for TCP is mostly free for UDP too.
    async fn one_port(with_quic: bool) -> (TcpListener, Option<UdpSocket>) {
        const TRIES: usize = 32;
        for _ in 0..TRIES {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if !with_quic {
                return (tcp, None);
            }
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                return (tcp, Some(udp));
            }
        }
        panic!("of {TRIES} ports, none is free for both TCP and UDP");
    }

    fn relay(&self) -> crate::RelayAddress {
        self.address.to_string().parse().unwrap()
    }

    fn profile_for(&self, lifetime: Duration, now: SystemTime) -> Profile {
        let key = DeveloperKey::generate().unwrap();
        let request = key.request().unwrap();
        let name = ALICE.parse().unwrap();
        let issued = self.authority.sign_csr(request.as_bytes(), &name, lifetime, now).unwrap();
        let authorities = vec![self.authority.certificate().clone()];
        Profile::new(self.relay(), key, issued.certificate, authorities).unwrap()
    }

    fn profile(&self) -> Profile {
        self.profile_for(Duration::from_secs(3600), SystemTime::now())
    }

    fn session(&self) -> Session {
        self.session_with(self.profile(), Screen::silent())
    }

    fn session_with(&self, profile: Profile, screen: Screen) -> Session {
        let claims = vec![claim()];
        let rungs = if self.quic.is_some() { Rungs::Quic } else { Rungs::Tls };
        Session::start(Options { profile, rungs, claims, screen, grace: PATIENCE }).unwrap()
    }

    async fn accept(&self) -> Developer {
        let accepting = async {
            let mut driver = JoinSet::new();
            let tunnel = match &self.quic {
                Some(endpoint) => Tunnel::quic(endpoint.accept().await.unwrap().await.unwrap()),
                None => {
                    let (tcp, _) = self.tcp.accept().await.unwrap();
                    let tls = TlsAcceptor::from(Arc::new(self.tls.clone())).accept(tcp).await.unwrap();
                    let (tunnel, run) = Tunnel::yamux(tls, Side::Listener, Limits::of(Side::Listener));
                    driver.spawn(async move { drop(run.await) });
                    tunnel
                }
            };
            let (recv, send) = tunnel.accept().await.unwrap().split();
            Developer { tunnel, messages: Messages::new(recv), send, _driver: driver }
        };
        timeout(PATIENCE, accepting).await.expect("a client dials")
    }

    /// Up to the announcement.
    async fn welcome(&self) -> Developer {
        let mut developer = self.accept().await;
        let FromClient::Hello(hello) = developer.hear().await else { panic!("no hello") };
        assert_eq!(hello.process, std::process::id());
        developer.say(welcome()).await;
        let FromClient::Announce { claim: 1, intercept, .. } = developer.hear().await else {
            panic!("no announce")
        };
        assert_eq!(*intercept, claim().intercept);
        developer
    }

    async fn ready(&self, session: &mut Session) -> (Developer, Arc<Ready>) {
        let mut developer = self.welcome().await;
        developer.say(accepted()).await;
        let ready = timeout(PATIENCE, session.ready()).await.unwrap().unwrap();
        (developer, ready)
    }
}

impl Developer {
    async fn say(&mut self, message: FromRelay) {
        write_message(&mut self.send, &message).await.unwrap();
    }

    /// The next message that is no ping; pings are answered.
    async fn hear(&mut self) -> FromClient {
        loop {
            let heard = timeout(PATIENCE, self.messages.next()).await.expect("the client says something");
            match heard.unwrap().expect("the client says more") {
                FromClient::Ping { n } => self.say(FromRelay::Pong { n }).await,
                message => return message,
            }
        }
    }
}

fn endpoint(tls: &rustls::ServerConfig, udp: UdpSocket) -> quinn::Endpoint {
    let crypto = QuicServerConfig::try_from(tls.clone()).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(quic_transport(Side::Listener)));
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), udp, runtime).unwrap()
}

fn claim() -> Claim {
    Claim {
        intercept: Intercept {
            name: "mine".parse().unwrap(),
            service: "orders".parse().unwrap(),
            matcher: Matcher::header_exact("x-user", b"alice").unwrap(),
            mode: Default::default(),
            on_unreachable: Default::default(),
            action: Default::default(),
            ttl: None,
        },
        app: App::local(9),
    }
}

fn welcome() -> FromRelay {
    FromRelay::Welcome(Welcome {
        version: 1,
        relay: "r1".to_owned(),
        replicas: 1,
        identity: ALICE.to_owned(),
        cluster: None,
        began: None,
    })
}

fn accepted() -> FromRelay {
    FromRelay::Accepted { claim: 1, generation: 1, listen: vec!["127.0.0.1:8080".to_owned()], stamp: None }
}

fn bob() -> Holder {
    let now = UnixMillis::from(SystemTime::now());
    Holder { owner: "bob".to_owned(), host: "bobs-laptop".to_owned(), since: now, last_seen: now }
}

async fn ended(session: &mut Session) -> Result<(), SessionError> {
    timeout(PATIENCE, session.ended()).await.expect("the session ends")
}

/// What a screen has printed so far.
#[derive(Clone, Default)]
pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_claim_is_in_force_when_the_relay_says_so() {
    for with_quic in [true, false] {
        let relay = FakeRelay::start(with_quic).await;
        let mut session = relay.session();
        assert_eq!(session.now(), None);
        let (_developer, ready) = relay.ready(&mut session).await;
        assert_eq!(ready.identity, ALICE);
        assert_eq!(ready.transport, if with_quic { Transport::Quic } else { Transport::Tls });
        assert_eq!(ready.listen, [["127.0.0.1:8080"]]);
        assert_eq!(session.now(), Some(ready));
    }
}

#[tokio::test]
async fn stopping_gives_the_claims_back_before_anything_else() {
    for with_quic in [true, false] {
        let relay = FakeRelay::start(with_quic).await;
        let mut session = relay.session();
        let (mut developer, _) = relay.ready(&mut session).await;
        session.stop();
        assert_eq!(developer.hear().await, FromClient::Withdraw { claim: 1 });
        assert_eq!(developer.hear().await, FromClient::Leave);
        let closed = timeout(PATIENCE, developer.tunnel.closed()).await.unwrap();
        let Closed::ByPeer(reason) = closed else { panic!("{closed}") };
        assert_eq!(reason.code(), CloseCode::Shutdown);
        ended(&mut session).await.unwrap();
    }
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_relay_that_is_not_there() {
    let relay = FakeRelay::start(false).await;
    let mut session = relay.session();
    session.stop();
    ended(&mut session).await.unwrap();
}

#[tokio::test]
async fn a_lost_relay_is_dialled_again_and_everything_announced_again() {
    for with_quic in [true, false] {
        let relay = FakeRelay::start(with_quic).await;
        let mut session = relay.session();
        let (developer, _) = relay.ready(&mut session).await;
        developer.tunnel.close(&CloseCode::Internal.into());
        let (_developer, ready) = relay.ready(&mut session).await;
        assert_eq!(ready.relay, "r1");
    }
}

#[tokio::test]
async fn a_relay_that_drains_is_left_for_the_next_one() {
    let relay = FakeRelay::start(true).await;
    let mut session = relay.session();
    let (mut leaving, _) = relay.ready(&mut session).await;
    leaving.say(FromRelay::Drain { grace_ms: 20_000, reason: "restart".to_owned() }).await;
    let (mut next, _) = relay.ready(&mut session).await;
    // Nothing was under way: the old tunnel is not kept for its whole grace.
    assert_eq!(leaving.hear().await, FromClient::Leave);
    session.stop();
    assert_eq!(next.hear().await, FromClient::Withdraw { claim: 1 });
    assert_eq!(next.hear().await, FromClient::Leave);
    ended(&mut session).await.unwrap();
}

#[tokio::test]
async fn a_denial_ends_the_session_with_its_own_exit_code() {
    let relay = FakeRelay::start(false).await;
    for (code, exit) in [
        (DeniedCode::Conflict, Exit::Conflict),
        (DeniedCode::NoSuchService, Exit::NoSuchService),
        (DeniedCode::NotAllowed, Exit::Denied),
        (DeniedCode::TooMany, Exit::Denied),
        (DeniedCode::Expired, Exit::Denied),
        (DeniedCode::Other, Exit::Denied),
        (DeniedCode::Invalid, Exit::Usage),
    ] {
        let mut session = relay.session();
        let mut developer = relay.welcome().await;
        let holder = (code == DeniedCode::Conflict).then(bob);
        let message = "the relay's own words".to_owned();
        developer.say(FromRelay::Denied { claim: 1, code, message, holder }).await;
        let error = ended(&mut session).await.unwrap_err();
        assert_eq!(error.exit(), exit, "{error}");
        let said = error.to_string();
        match code {
            DeniedCode::Conflict => assert!(said.contains("bob on bobs-laptop holds it since"), "{said}"),
            DeniedCode::Expired => {
                assert_eq!(said, "the claim of orders with x-user=alice has ended: its time is over")
            }
            _ => assert!(said.ends_with("the relay's own words"), "{said}"),
        }
    }
}

#[tokio::test]
async fn a_service_on_another_port_than_it_was_named_with_is_none() {
    let relay = FakeRelay::start(true).await;
    let options = || {
        let (profile, screen) = (relay.profile(), Screen::silent());
        Options { profile, rungs: Rungs::Quic, claims: vec![claim()], screen, grace: PATIENCE }
    };
    let mut session = Session::start_at_ports(options(), vec![Some(80)]).unwrap();
    let mut developer = relay.welcome().await;
    developer.say(accepted()).await;
    // The relay had put it in force with that.
    assert_eq!(developer.hear().await, FromClient::Withdraw { claim: 1 });
    assert_eq!(developer.hear().await, FromClient::Leave);
    let error = ended(&mut session).await.unwrap_err();
    assert_eq!(error.exit(), Exit::NoSuchService);
    let said = error.to_string();
    assert_eq!(said, "claiming requests of orders: the relay listens for it on port 8080, not on 80");
    assert!(error.advice().unwrap().contains("orders:8080"));
    assert_eq!(session.now(), None);

    for ports in [vec![Some(8080)], vec![None], vec![]] {
        let mut session = Session::start_at_ports(options(), ports).unwrap();
        relay.ready(&mut session).await;
    }
}

#[tokio::test]
async fn a_newer_session_of_ours_ends_the_older_one() {
    let relay = FakeRelay::start(true).await;
    let mut session = relay.session();
    let (mut developer, _) = relay.ready(&mut session).await;
    developer.say(FromRelay::Superseded { claim: 1, by: bob() }).await;
    assert_eq!(developer.hear().await, FromClient::Withdraw { claim: 1 });
    assert_eq!(developer.hear().await, FromClient::Leave);
    let error = ended(&mut session).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Conflict);
    assert!(error.to_string().contains("`mine` was taken over by a newer session of yours on bobs-laptop"));
}

#[tokio::test]
async fn a_request_under_way_is_answered_after_a_newer_session_took_over() {
    for with_quic in [true, false] {
        let relay = FakeRelay::start(with_quic).await;
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let claims = vec![Claim { app: App::local(app.local_addr().unwrap().port()), ..claim() }];
        let rungs = if with_quic { Rungs::Quic } else { Rungs::Tls };
        let (profile, screen) = (relay.profile(), Screen::silent());
        let mut session =
            Session::start(Options { profile, rungs, claims, screen, grace: PATIENCE }).unwrap();
        let (mut developer, _) = relay.ready(&mut session).await;

        let (reading, writing) = developer.tunnel.open().await.unwrap().split();
        let mut request = frame::Writer::new(writing);
        let head = RequestHead {
            method: "GET".into(),
            target: b"/slow".to_vec(),
            fields: [(&b"host"[..], &b"orders"[..])].into_iter().collect(),
            ..RequestHead::default()
        };
        request.request(Opening::Http { claim: 1, peer: None, confirm: false }, &head).unwrap();
        request.end(None).unwrap();
        request.flush().await.unwrap();
        let (mut app, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
        let mut asked = [0; 9];
        app.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"GET /slow");

        developer.say(FromRelay::Superseded { claim: 1, by: bob() }).await;
        // What else it held is given back first.
        assert_eq!(developer.hear().await, FromClient::Withdraw { claim: 1 });
        app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nafter").await.unwrap();
        let answered = async {
            let mut answer = frame::Reader::new(reading);
            loop {
                match answer.frame().expect("frames") {
                    Some(frame::Frame::Data(body)) => return body.to_vec(),
                    Some(_) => {}
                    None => assert!(answer.fill().await.expect("the answer goes on") > 0, "no answer"),
                }
            }
        };
        let (body, leaving) = tokio::join!(timeout(PATIENCE, answered), developer.hear());
        assert_eq!(body.unwrap(), b"after");
        assert_eq!(leaving, FromClient::Leave);
        assert_eq!(ended(&mut session).await.unwrap_err().exit(), Exit::Conflict);
    }
}

#[tokio::test]
async fn being_turned_away_for_good_ends_the_session() {
    let relay = FakeRelay::start(true).await;
    for (code, exit, said) in [
        (RejectCode::Version, Exit::Usage, "it speaks version 7, 8 of the protocol, and this client 1"),
        (RejectCode::NotAllowed, Exit::Denied, "not today"),
        (RejectCode::Revoked, Exit::Denied, "not today"),
        (RejectCode::Protocol, Exit::Internal, "not today"),
    ] {
        let mut session = relay.session();
        let mut developer = relay.accept().await;
        developer.hear().await;
        let message = "not today".to_owned();
        developer.say(FromRelay::Reject { code, message, versions: vec![7, 8] }).await;
        let error = ended(&mut session).await.unwrap_err();
        assert_eq!(error.exit(), exit);
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_busy_relay_is_asked_again() {
    let relay = FakeRelay::start(false).await;
    let mut session = relay.session();
    let mut developer = relay.accept().await;
    developer.hear().await;
    let message = "full".to_owned();
    developer.say(FromRelay::Reject { code: RejectCode::Busy, message, versions: vec![1] }).await;
    relay.ready(&mut session).await;
}

#[tokio::test]
async fn a_claim_that_came_too_fast_is_made_again() {
    let relay = FakeRelay::start(false).await;
    let mut session = relay.session();
    let mut developer = relay.welcome().await;
    let message = "your claims change too fast".to_owned();
    developer.say(FromRelay::Denied { claim: 1, code: DeniedCode::TooFast, message, holder: None }).await;
    relay.ready(&mut session).await;
}

#[tokio::test]
async fn another_relay_at_the_same_address_is_refused() {
    for with_quic in [true, false] {
        let relay = FakeRelay::start(with_quic).await;
        let mut profile = FakeRelay::start(false).await.profile();
        profile.relay = relay.relay();
        let mut session = relay.session_with(profile, Screen::silent());
        let (error, ()) = tokio::join!(ended(&mut session), refuse(&relay));
        let error = error.unwrap_err();
        assert_eq!(error.exit(), Exit::Denied);
        assert!(error.to_string().contains("this is not the relay"), "{error}");
        assert!(error.advice().unwrap().starts_with("culvert login 127.0.0.1"));
    }
}

#[tokio::test]
async fn something_in_the_way_that_is_not_the_relay_does_not_end_a_session_that_was_good() {
    let relay = FakeRelay::start(false).await;
    let portal = FakeRelay::start(false).await;
    let mut session = relay.session();
    let (developer, _) = relay.ready(&mut session).await;
    developer.tunnel.close(&CloseCode::Internal.into());
    let (tcp, _) = timeout(PATIENCE, relay.tcp.accept()).await.unwrap().unwrap();
    assert!(TlsAcceptor::from(Arc::new(portal.tls.clone())).accept(tcp).await.is_err());
    relay.ready(&mut session).await;
}

#[tokio::test]
async fn a_silent_relay_is_dialled_beside_and_what_it_said_later_counts_again() {
    for with_quic in [true, false] {
        let relay = FakeRelay::start(with_quic).await;
        let mut session = relay.session();
        // Answers no ping from here on.
        let (mut silent, _) = relay.ready(&mut session).await;
        let mut beside = relay.welcome().await;
        assert!(session.now().is_none(), "a relay in doubt is none");
        beside.say(accepted()).await;
        timeout(PATIENCE, session.ready()).await.unwrap().unwrap();
        // The old tunnel is still there, for what is under way.
        silent.say(FromRelay::Ping { n: 1 }).await;
        assert!(matches!(silent.hear().await, FromClient::Pong { n: 1 }));
    }
}

#[tokio::test]
async fn a_relay_that_knocks_is_asked_at_once_and_no_more_than_once_a_second() {
    let relay = FakeRelay::start(true).await;
    let mut session = relay.session();
    let (mut developer, _) = relay.ready(&mut session).await;
    let udp = relay.udp.as_ref().unwrap();
    let client = developer.tunnel.remote_address().unwrap();
    let mut ping = async || {
        loop {
            let heard = timeout(PATIENCE, developer.messages.next()).await.expect("the client asks");
            if let FromClient::Ping { n } = heard.unwrap().expect("the client says more") {
                developer.say(FromRelay::Pong { n }).await;
                return Instant::now();
            }
        }
    };
    // The first comes with the tunnel, and the next one that was due by itself would be a second after this.
    ping().await;
    let before = ping().await;
    udp.send_to(&KNOCK, client).unwrap();
    let asked = ping().await - before;
    assert!(asked < Duration::from_millis(700), "{asked:?}");

    let (begun, mut pings) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_millis(2_500) {
        udp.send_to(&KNOCK, client).unwrap();
        pings += usize::from(timeout(Duration::from_millis(20), ping()).await.is_ok());
    }
    assert!(pings <= 6, "three for so many knocks, and three that were due: {pings}");
    assert!(session.now().is_some(), "and nothing else comes of it");
}

#[tokio::test]
async fn every_replica_gets_a_tunnel() {
    let relay = FakeRelay::start(true).await;
    let mut session = relay.session();
    let mut kept = Vec::new();
    for (name, wanted) in [("r1", true), ("r1", false), ("r2", true)] {
        let mut developer = relay.accept().await;
        developer.hear().await;
        let FromRelay::Welcome(said) = welcome() else { panic!() };
        developer.say(FromRelay::Welcome(Welcome { relay: name.to_owned(), replicas: 2, ..said })).await;
        if wanted {
            let FromClient::Announce { .. } = developer.hear().await else { panic!("no announce") };
            developer.say(accepted()).await;
            kept.push(developer);
        } else {
            // One that was there already: nothing is announced.
            timeout(PATIENCE, developer.tunnel.closed()).await.unwrap();
        }
    }
    timeout(PATIENCE, session.ready()).await.unwrap().unwrap();
    let status = session.desk().status().await.unwrap();
    let reached: Vec<_> = status.replicas.iter().map(|replica| replica.id.as_str()).collect();
    assert_eq!(reached, ["r1", "r2"]);
    session.stop();
    for developer in &mut kept {
        assert_eq!(developer.hear().await, FromClient::Withdraw { claim: 1 });
    }
}

#[tokio::test]
async fn a_certificate_that_the_relay_does_not_take_ends_the_session() {
    for with_quic in [true, false] {
        // The relay's own certificate is still the old authority's; developers are taken from the new one only.
        let old = FakeRelay::start(false).await;
        let leaf = old.authority.server_leaf(&["127.0.0.1".to_owned()], SystemTime::now()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let new = Authority::open_or_create(&directory.path().join("data"), SystemTime::now()).unwrap();
        let tls = tunnel_server(&new, &leaf).unwrap();
        let relay = FakeRelay::start_with(directory, new, tls, with_quic).await;
        let mut profile = old.profile();
        profile.relay = relay.relay();
        let mut session = relay.session_with(profile, Screen::silent());
        let (error, ()) = tokio::join!(ended(&mut session), refuse(&relay));
        let error = error.unwrap_err();
        assert_eq!(error.exit(), Exit::Denied);
        assert!(error.to_string().contains("the relay refuses our certificate"), "{error}");
        assert!(error.advice().unwrap().starts_with("culvert login 127.0.0.1"));
    }
}

/// A handshake that fails.
async fn refuse(relay: &FakeRelay) {
    match &relay.quic {
        Some(endpoint) => assert!(endpoint.accept().await.unwrap().await.is_err()),
        None => {
            let (tcp, _) = relay.tcp.accept().await.unwrap();
            assert!(TlsAcceptor::from(Arc::new(relay.tls.clone())).accept(tcp).await.is_err());
        }
    }
}

#[tokio::test]
async fn a_login_that_is_over_is_not_even_tried() {
    let relay = FakeRelay::start(false).await;
    let past = SystemTime::now() - Duration::from_secs(7200);
    let profile = relay.profile_for(Duration::from_secs(3600), past);
    let mut session = relay.session_with(profile, Screen::silent());
    let error = ended(&mut session).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Denied);
    assert!(error.to_string().contains("the login of this machine ended at "), "{error}");
    assert!(error.advice().unwrap().starts_with("culvert login "));
}

#[tokio::test]
async fn a_relay_that_is_away_is_told_once_and_tried_until_it_is_back() {
    let relay = FakeRelay::start(false).await;
    let paper = Paper::default();
    let screen = Screen::new(Look::default(), paper.clone()).unwrap();
    let mut session = relay.session_with(relay.profile(), screen);
    for _ in 0..4 {
        // Accepted and dropped: a relay that is just starting, or a port that is somebody else's.
        drop(timeout(PATIENCE, relay.tcp.accept()).await.unwrap().unwrap());
    }
    let (developer, _) = relay.ready(&mut session).await;
    developer.tunnel.close(&CloseCode::Internal.into());
    let (mut developer, _) = relay.ready(&mut session).await;
    session.stop();
    developer.hear().await;
    developer.hear().await;
    ended(&mut session).await.unwrap();
    let printed = paper.text();
    assert_eq!(printed.matches("trying again until it works").count(), 1, "{printed}");
    assert_eq!(printed.matches("the relay is lost").count(), 1, "{printed}");
    assert_eq!(printed.matches("connected to 127.0.0.1").count(), 2, "{printed}");
    assert!(printed.contains("orders (127.0.0.1:8080): x-user=alice -> 127.0.0.1:9"), "{printed}");
}

#[tokio::test]
async fn where_udp_is_swallowed_the_tunnel_goes_over_tls() {
    let relay = FakeRelay::start(false).await;
    // Takes every datagram and answers none.
    let _swallowing = tokio::net::UdpSocket::bind(relay.address).await.unwrap();
    let claims = vec![claim()];
    let (profile, screen) = (relay.profile(), Screen::silent());
    let mut session =
        Session::start(Options { profile, rungs: Rungs::Auto, claims, screen, grace: PATIENCE }).unwrap();
    let (_developer, ready) = relay.ready(&mut session).await;
    assert_eq!(ready.transport, Transport::Tls);
}

#[tokio::test]
async fn what_there_is_can_be_listed_in_any_number_of_parts() {
    let relay = FakeRelay::start(true).await;
    let dialler = Dialler::new(&relay.profile(), Rungs::Quic).unwrap();
    let service = |number: usize| culvert_protocol::hello::ListedService {
        name: format!("service-{number}"),
        listen: vec!["0.0.0.0:8080".to_owned()],
    };
    let services: Vec<_> = (0..3000).map(service).collect();
    let answer = async {
        let mut developer = relay.accept().await;
        developer.hear().await;
        developer.say(welcome()).await;
        assert_eq!(developer.hear().await, FromClient::List);
        let parts = listings(services.clone(), Vec::new());
        assert!(parts.len() > 1);
        for part in parts {
            developer.say(part).await;
        }
        timeout(PATIENCE, developer.tunnel.closed()).await.unwrap();
    };
    let (listing, ()) = tokio::join!(list(&dialler), answer);
    let listing = listing.unwrap();
    assert_eq!(listing.identity, ALICE);
    assert_eq!(listing.services, services);
}

/// The relay's end of one login.
async fn answer_join(relay: &FakeRelay, answer: impl FnOnce(&FakeRelay, &str) -> ToJoiner) {
    let leaf = relay.authority.server_leaf(&["127.0.0.1".to_owned()], SystemTime::now()).unwrap();
    let (tcp, _) = relay.tcp.accept().await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(join_server(&leaf).unwrap()));
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    let mut messages = Messages::new(&mut stream);
    let FromJoiner::Join(join) = messages.next().await.unwrap().unwrap() else { panic!() };
    drop(messages);
    write_message(&mut stream, &answer(relay, &join.csr)).await.unwrap();
}

fn sign(relay: &FakeRelay, csr: &str) -> ToJoiner {
    let name = ALICE.parse().unwrap();
    let lifetime = Duration::from_secs(3600);
    let issued = relay.authority.sign_csr(csr.as_bytes(), &name, lifetime, SystemTime::now()).unwrap();
    ToJoiner::Joined(Joined {
        certificate: issued.pem(),
        authority: "not looked at".to_owned(),
        name: ALICE.to_owned(),
        relay: RelayInformation { id: "r1".to_owned(), names: Vec::new() },
    })
}

#[tokio::test]
async fn a_token_becomes_a_login_that_a_session_can_use() {
    let relay = FakeRelay::start(true).await;
    let token = culvert_certs::JoinToken::mint(relay.authority.fingerprint(), "").unwrap();
    let address = relay.relay();
    let (profile, ()) = tokio::join!(login(&address, &token), answer_join(&relay, sign));
    let profile = profile.unwrap();
    assert_eq!(profile.identity.name.as_str(), ALICE);
    let profiles = Profiles::at(relay.directory.path().join("config"));
    profiles.save(&profile).unwrap();
    let mut session = relay.session_with(profiles.load(&address).unwrap(), Screen::silent());
    relay.ready(&mut session).await;
}

#[tokio::test]
async fn a_token_that_is_refused_exits_denied() {
    let relay = FakeRelay::start(false).await;
    let token = culvert_certs::JoinToken::mint(relay.authority.fingerprint(), "").unwrap();
    let refuse = |_: &FakeRelay, _: &str| ToJoiner::Refused {
        code: RefusedCode::Denied,
        message: "the token is wrong, expired or used".to_owned(),
    };
    let address = relay.relay();
    let (error, ()) = tokio::join!(login(&address, &token), answer_join(&relay, refuse));
    let error = error.unwrap_err();
    assert_eq!(error.exit(), Exit::Denied);
    assert!(error.to_string().ends_with("the relay refuses: the token is wrong, expired or used"), "{error}");
}

#[tokio::test]
async fn a_token_is_never_shown_to_another_relay() {
    let relay = FakeRelay::start(false).await;
    let other = FakeRelay::start(false).await;
    let token = culvert_certs::JoinToken::mint(other.authority.fingerprint(), "").unwrap();
    let heard = |_: &FakeRelay, _: &str| -> ToJoiner { panic!("the token was shown") };
    let address = relay.relay();
    let (error, ()) = tokio::join!(login(&address, &token), answer_join(&relay, heard));
    let error = error.unwrap_err();
    assert_eq!(error.exit(), Exit::Denied);
    assert!(error.to_string().contains("this is not the relay that made the token: refusing"), "{error}");
}

#[tokio::test]
async fn a_relay_that_is_not_there_exits_unreachable() {
    let relay = FakeRelay::start(false).await;
    let token = culvert_certs::JoinToken::mint(relay.authority.fingerprint(), "").unwrap();
    let profile = relay.profile();
    let address = relay.relay();
    drop(relay);
    let error = login(&address, &token).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Unreachable);
    assert!(
        error.to_string().starts_with(&format!("connecting to the relay {address}: tls to {address}: ")),
        "{error}"
    );
    let error = list(&Dialler::new(&profile, Rungs::Tls).unwrap()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Unreachable);
}

#[tokio::test]
async fn a_port_that_is_somebody_elses_is_named_as_that() {
    for answer in [&b"SSH-2.0-OpenSSH_9.6\r\n"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"silence"] {
        let relay = FakeRelay::start(false).await;
        let token = culvert_certs::JoinToken::mint(relay.authority.fingerprint(), "").unwrap();
        let (profile, address) = (relay.profile(), relay.relay());
        let answering = async {
            let mut taken = Vec::new();
            loop {
                let (mut tcp, _) = relay.tcp.accept().await.unwrap();
                let mut hello = [0];
                tcp.read_exact(&mut hello).await.unwrap();
                if answer != b"silence" {
                    tcp.write_all(answer).await.unwrap();
                    tcp.shutdown().await.unwrap();
                }
                taken.push(tcp);
            }
        };
        let dialling = async {
            let error = timeout(PATIENCE, login(&address, &token)).await.unwrap().unwrap_err();
            let dialler = Dialler::new(&profile, Rungs::Tls).unwrap();
            (error, timeout(PATIENCE, dialler.dial()).await.unwrap().unwrap_err())
        };
        let (login, dial) = tokio::select! {
            errors = dialling => errors,
            () = answering => unreachable!(),
        };
        assert_eq!(login.exit(), Exit::Unreachable);
        for said in [login.to_string(), dial.to_string()] {
            assert!(
                said.starts_with(&format!("connecting to the relay {address}: tls to {address}: ")),
                "{said}"
            );
            assert!(said.contains(" (nothing there speaks culvert)"), "{said}");
        }
    }
}
