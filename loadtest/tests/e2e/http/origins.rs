//! Upstreams and apps over TLS and Unix sockets: whose word counts on who they are, what they are spoken to in, and what
//! callers get where they are not believed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use culvert_certs::tls::Trust;
use culvert_client::App;
use culvert_client::dial::Rungs;
use culvert_client::login::login;
use culvert_client::screen::Screen;
use culvert_client::session::{Claim, Options, Session};
use culvert_loadtest::caller;
use culvert_loadtest::message::Message;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::world::{World, in_force, intercept};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{PATIENCE, Peer, request};
use crate::TRANSPORTS;

/// A server over TLS that says in the field `spoke` what it was spoken to in. Ends with the test.
struct Secure {
    port: u16,
    asked: Arc<AtomicUsize>,
    authority: CertificateDer<'static>,
    directory: TempDir,
    _running: JoinSet<()>,
}

impl Secure {
    async fn start(name: &str, alpn: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the shop's");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.into()], key.into())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        let counted = Arc::clone(&asked);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                connections.spawn(async move {
                    // One that does not believe us is of no further interest here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    answer(stream, http2, &counted).await;
                });
            }
        });
        Self { port, asked, authority: authority.der().clone(), directory, _running: running }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn trust(&self) -> Trust {
        Trust::Authority(vec![self.authority.clone()])
    }

    /// How many requests it got.
    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, http2: bool, asked: &AtomicUsize) {
    if http2 {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            asked.fetch_add(1, Relaxed);
            let scheme = request.uri().scheme_str().unwrap_or_default();
            let response = http::Response::builder().header("spoke", format!("h2 {scheme}"));
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        }
        return;
    }
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            asked.fetch_add(1, Relaxed);
            head.clear();
            let said = b"HTTP/1.1 200 OK\r\nspoke: http/1.1\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(said).await.is_err() {
                return;
            }
        }
    }
}

/// A world whose service has these keys (`upstream: …` among them).
async fn world(keys: &str) -> World {
    let service = format!("services:\n  - {{name: orders, listen: \"127.0.0.1:0\", {keys}}}\n");
    World::with(&service).await.unwrap()
}

/// Alice's claim, served by an app that no text on a command line names by itself.
async fn claimed(world: &World, app: App, rungs: Rungs) -> Session {
    let token = world.token("alice", Duration::from_secs(60), 1).await.unwrap();
    let relay = world.addresses().tunnel.to_string().parse().unwrap();
    let mut session = Session::start(Options {
        profile: login(&relay, &token).await.unwrap(),
        rungs,
        claims: vec![Claim { intercept: intercept("x-user=alice").unwrap(), app }],
        screen: Screen::silent(),
        grace: PATIENCE,
    })
    .unwrap();
    in_force(&mut session).await.unwrap();
    session
}

fn https(app: &Secure, believed: Trust) -> App {
    let mut app = app.url().parse().unwrap();
    if let App::Https { trust, .. } = &mut app {
        *trust = believed;
    }
    app
}

async fn asked(world: &World) -> Message {
    caller::get(world.door().unwrap(), "/", &["x-user: alice"]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_over_tls_is_asked_where_the_configuration_believes_it_and_nowhere_else() {
    let (right, other) =
        (Secure::start("127.0.0.1", &["h2"]).await, Secure::start("127.0.0.1", &["h2"]).await);
    let named = Secure::start("orders.shop.svc", &["h2"]).await;
    let (right_ca, other_ca, named_ca) = (right.ca(), other.ca(), named.ca());
    for (upstream, tls, believed) in [
        (&right, format!("{{ca: {right_ca:?}}}"), true),
        (&right, format!("{{ca: {other_ca:?}}}"), false),
        // The system's authorities have never heard of it.
        (&right, "{verify: true}".to_owned(), false),
        (&right, "{verify: false}".to_owned(), true),
        (&named, format!("{{ca: {named_ca:?}}}"), false),
        (&named, format!("{{ca: {named_ca:?}, name: orders.shop.svc}}"), true),
    ] {
        let before = upstream.asked();
        let world = world(&format!("upstream: \"{}\", upstream_tls: {tls}", upstream.url())).await;
        let answer = asked(&world).await;
        if believed {
            assert_eq!((answer.status(), answer.field("spoke").as_deref()), (200, Some("h2 https")), "{tls}");
        } else {
            assert_eq!(answer.status(), 502, "{tls}");
            assert_eq!(answer.field("culvert-failure").as_deref(), Some("upstream_unreachable"), "{tls}");
            assert!(!answer.text().contains(&upstream.port.to_string()), "{}", answer.text());
        }
        assert_eq!(upstream.asked() - before, usize::from(believed), "{tls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_over_tls_is_asked_where_its_developer_believes_it_and_else_the_upstream_is() {
    for transport in TRANSPORTS {
        let upstream = Origin::named("upstream").await.unwrap();
        let (right, other) =
            (Secure::start("127.0.0.1", &["h2"]).await, Secure::start("127.0.0.1", &["h2"]).await);
        let named = Secure::start("app.test", &["h2"]).await;
        for (what, app, trust, believed) in [
            ("its authority", &right, right.trust(), true),
            ("another authority", &right, other.trust(), false),
            ("nobody", &right, Trust::Nobody, true),
            ("its authority, another name", &named, named.trust(), false),
            ("nobody, another name", &named, Trust::Nobody, true),
        ] {
            let before = app.asked();
            let world = world(&format!("upstream: \"{}\"", upstream.url())).await;
            let _session = claimed(&world, https(app, trust), transport).await;
            let answer = asked(&world).await;
            assert_eq!(answer.status(), 200, "{transport:?} {what}");
            let spoke = answer.field("spoke");
            assert_eq!(spoke.as_deref(), believed.then_some("h2 https"), "{transport:?} {what}");
            let route = answer.field("culvert-route").unwrap();
            assert_eq!(route.contains("refused"), !believed, "{transport:?} {what}: {route}");
            assert_eq!(app.asked() - before, usize::from(believed), "{transport:?} {what}");
        }
        assert_eq!(upstream.count(), 2, "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoken_over_tls_is_what_the_backend_chooses() {
    for (alpn, spoke) in
        [(&["h2", "http/1.1"][..], "h2 https"), (&["http/1.1"], "http/1.1"), (&[], "http/1.1")]
    {
        let backend = Secure::start("127.0.0.1", alpn).await;
        let keys = format!("upstream: \"{}\", upstream_tls: {{ca: {:?}}}", backend.url(), backend.ca());
        let direct = world(&keys).await;
        // Twice, so that a connection that was kept is used too.
        for _ in 0..2 {
            assert_eq!(asked(&direct).await.field("spoke").as_deref(), Some(spoke), "{alpn:?}");
        }
        for transport in TRANSPORTS {
            let world = world("upstream: \"http://127.0.0.1:1\"").await;
            let _session = claimed(&world, https(&backend, backend.trust()), transport).await;
            for _ in 0..2 {
                let answer = asked(&world).await;
                assert_eq!(answer.field("spoke").as_deref(), Some(spoke), "{transport:?} {alpn:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_and_an_app_on_unix_sockets_are_spoken_to_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let (upstream, app) = (directory.path().join("upstream.sock"), directory.path().join("app.sock"));
    let behind = UnixListener::bind(&upstream).unwrap();
    let mine = UnixListener::bind(&app).unwrap();
    let world = world(&format!("upstream: \"unix:{}\"", upstream.display())).await;
    let claims = |transport| claimed(&world, App::Unix(app.clone()), transport);
    let asked = request("PUT /a%2Fb?c HTTP/1.1", &["Transfer-Encoding: chunked"]) + "2\r\nhi\r\n0\r\n\r\n";
    for rungs in [None, Some(Rungs::Quic), Some(Rungs::Tls)] {
        let session = match rungs {
            Some(rungs) => Some(claims(rungs).await),
            None => None,
        };
        let listener = if session.is_some() { &mine } else { &behind };
        let mut caller = Peer::to(world.door().unwrap()).await.unwrap();
        caller.say(&asked).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"0\r\n\r\n") {
            heard.push(stream.read_u8().await.unwrap());
        }
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("PUT /a%2Fb?c HTTP/1.1\r\nHost: orders.example\r\n"), "{rungs:?}: {heard}");
        assert!(heard.ends_with("\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), "{rungs:?}: {heard}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nho").await.unwrap();
        caller.head().await.unwrap();
        caller.until("ho").await.unwrap();
        drop(session);
    }
    // Nobody listens there any more.
    drop(behind);
    std::fs::remove_file(&upstream).unwrap();
    let mut caller = Peer::to(world.door().unwrap()).await.unwrap();
    caller.say(request("GET / HTTP/1.1", &[])).await;
    let head = caller.head().await.unwrap();
    assert!(head.contains("culvert-failure: upstream_unreachable\r\n"), "{head}");
}
