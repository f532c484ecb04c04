//! How a tunnel gets through: every rung, every proxy, an ingress that ends TLS, and why what does not work does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_client::dial::{DialError, Memory, Network, Proxies, Rungs};
use culvert_loadtest::caller;
use culvert_loadtest::flaky::Flaky;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::path::WithoutUdp;
use culvert_loadtest::proxies::{Asked, Manner, Proxy, Speaks};
use culvert_loadtest::stack::{Stack, Where};
use culvert_loadtest::world::{Developer, World, leave};
use culvert_protocol::tunnel::Transport;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::binaries;

#[tokio::test(flavor = "multi_thread")]
async fn a_rung_that_is_pinned_carries_the_tunnel() {
    let world = world().await;
    let alice = world.developer("alice").await.unwrap();
    for (rungs, transport) in [
        (Rungs::Quic, Transport::Quic),
        (Rungs::Tls, Transport::Tls),
        (Rungs::WebSocket, Transport::WebSocket),
    ] {
        served(&world, &alice, rungs, transport).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_ends_tls_leads_to_the_relay() {
    let world = world().await;
    for relay in [world.addresses().websocket.unwrap(), world.addresses().tunnel] {
        let ingress = Ingress::before(relay, "/team/relay").await;
        let name = format!("alice-{}", relay.port());
        for address in [
            format!("https://{}/team/relay", ingress.address),
            format!("wss://{}/team/relay", ingress.address),
        ] {
            // The login too: nothing else gets through to this relay.
            let alice = world.developer_through(&name, &address, Network::default()).await.unwrap();
            served(&world, &alice, Rungs::Auto, Transport::WebSocket).await;
            served(&world, &alice, Rungs::WebSocket, Transport::WebSocket).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_knows_no_such_path_is_named() {
    let world = world().await;
    let ingress = Ingress::before(world.addresses().tunnel, "/here").await;
    let right = format!("https://{}/here", ingress.address);
    let alice = world.developer_through("alice", &right, Network::default()).await.unwrap();
    let wrong = format!("wss://{}/there", ingress.address).parse().unwrap();
    let error = alice.knowing(wrong).unwrap().dial(Rungs::Auto).await.unwrap_err();
    let error = error.downcast::<DialError>().unwrap();
    assert!(error.to_string().contains("404"), "{error}");
    assert_eq!(error.verdict(), None, "an ingress may come to its senses");
}

/// A name that the proxy knows and this machine does not.
const NAME: &str = "relay.test";

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_gone_through_and_look_up_the_name() {
    let world = world().await;
    let port = world.addresses().tunnel.port();
    let names = [(NAME, Ipv4Addr::LOCALHOST.into())];
    for (speaks, scheme) in [(Speaks::Connect, "http"), (Speaks::Socks5, "socks5")] {
        for (manner, login) in [
            (Manner::Everybody, ""),
            (Manner::Knowing { user: "al ice", password: "hunter:2" }, "al%20ice:hunter%3A2@"),
        ] {
            let proxy = Proxy::with_names(speaks, manner, &names).await.unwrap();
            let network = behind(&format!("{scheme}://{login}{}", proxy.address()), "");
            let name = format!("alice-{}", proxy.address().port());
            let alice = world.developer_through(&name, &format!("{NAME}:{port}"), network).await.unwrap();
            for (rungs, transport) in [
                (Rungs::Auto, Transport::Tls),
                (Rungs::Tls, Transport::Tls),
                (Rungs::WebSocket, Transport::WebSocket),
            ] {
                served(&world, &alice, rungs, transport).await;
            }
            let asked = proxy.asked();
            assert!(asked.len() >= 4, "{asked:?}");
            let there = Asked::Led(format!("{NAME}:{port}"));
            let guessed = Asked::Unreachable(format!("{NAME}:443"));
            assert!(asked.iter().all(|asked| *asked == there || *asked == guessed), "{asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_help_is_told_with_its_reason_and_without_its_password() {
    let world = world().await;
    let alice = world.developer("alice").await.unwrap();
    let knowing = Manner::Knowing { user: "alice", password: "right" };
    for (speaks, scheme) in [(Speaks::Connect, "http"), (Speaks::Socks5, "socks5")] {
        for (manner, login, reason) in [
            (knowing, "", "wants a user and a password"),
            (knowing, "alice:canary-31@", "does not take the user and the password"),
            (Manner::Nobody, "", "the proxy does not connect there"),
            (Manner::Silent, "alice:canary-31@", "no answer within 5 s"),
        ] {
            let proxy = Proxy::start(speaks, manner).await.unwrap();
            let url = format!("{scheme}://{login}{}", proxy.address());
            fails(&alice, &url, &[reason, &format!("through {scheme}://{}", proxy.address())]).await;
        }
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    fails(
        &alice,
        &format!("http://alice:canary-31@{closed}"),
        &["connecting to the proxy: connection refused"],
    )
    .await;
    fails(&alice, "gopher://alice:canary-31@proxy", &["ALL_PROXY is not the URL of a proxy"]).await;
    let upstream = Origin::named("no proxy").await.unwrap();
    fails(&alice, &upstream.url(), &["what answers there is no proxy of this kind"]).await;
    // QUIC needs none of them.
    let network = behind("gopher://proxy", "");
    served(&world, &alice.through(network), Rungs::Auto, Transport::Quic).await;
}

async fn fails(alice: &Developer, proxy: &str, reasons: &[&str]) {
    let alice = alice.clone().through(behind(proxy, ""));
    for rungs in [Rungs::Tls, Rungs::WebSocket] {
        let error = format!("{:#}", alice.dial(rungs).await.unwrap_err());
        for reason in reasons {
            assert!(error.contains(reason), "{rungs:?}: `{reason}` is not in: {error}");
        }
        assert!(!error.contains("canary"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_in_no_proxy_is_dialled_without() {
    let world = world().await;
    let alice = world.developer("alice").await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for no_proxy in [
        "*",
        "127.0.0.1",
        "10.0.0.0/8,127.0.0.0/8",
        &format!("127.0.0.1:{}", world.addresses().tunnel.port()),
    ] {
        let alice = alice.clone().through(behind(&format!("http://{dead}"), no_proxy));
        alice.dial(Rungs::Tls).await.unwrap_or_else(|error| panic!("{no_proxy}: {error:#}"));
    }
    for no_proxy in ["", "10.0.0.0/8", "localhost", "27.0.0.1", "127.0.0.1:1"] {
        let alice = alice.clone().through(behind(&format!("http://{dead}"), no_proxy));
        assert!(alice.dial(Rungs::Tls).await.is_err(), "{no_proxy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_dropped_the_first_request_is_served_within_two_seconds() {
    let world = world().await;
    let path = WithoutUdp::to(world.addresses().tunnel).await.unwrap();
    let alice = world.developer_dialling("alice", path.address()).await.unwrap();
    let state = world.directory().join("state");
    let alice = alice.through(Network { memory: Memory::at(&state), ..Network::default() });
    for _ in 0..2 {
        let begun = Instant::now();
        served(&world, &alice, Rungs::Auto, Transport::Tls).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let kept = state.join(format!("127.0.0.1_{}.rung", path.address().port()));
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "tls\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_the_first_answers_over_udp_pass_the_tunnel_goes_over_tls() {
    for answers in [1, 2, 4] {
        let world = world().await;
        let path = Flaky::to(world.addresses().tunnel).await.unwrap();
        path.first_answers(answers);
        let alice = world.developer_dialling("alice", path.address()).await.unwrap();
        served(&world, &alice, Rungs::Auto, Transport::Tls).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_is_found_again_once_it_works() {
    let world = world().await;
    let state = world.directory().join("state");
    let memory = Memory::at(&state);
    let alice = world.developer("alice").await.unwrap().through(Network { memory, ..Network::default() });
    let kept = state.join(format!("127.0.0.1_{}.rung", world.addresses().tunnel.port()));
    alice.dial(Rungs::Auto).await.unwrap();
    let mut tries = 0;
    // A WebSocket takes three round trips more; on loopback, on a busy machine, it may be the first all the same.
    let carries = loop {
        std::fs::write(&kept, "ws\n").unwrap();
        let line = alice.dial(Rungs::Auto).await.unwrap();
        let (carries, missed) = (line.tunnel.transport(), &line.missed);
        assert!(missed.iter().any(|missed| missed.rung != carries), "{carries} was tried alone: {missed:?}");
        assert_eq!(std::fs::read_to_string(&kept).unwrap().trim(), carries.label());
        tries += 1;
        if carries == Transport::Quic || tries == 20 {
            break carries;
        }
    };
    assert_eq!(carries, Transport::Quic);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_honours_the_environment() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    let knowing = Manner::Knowing { user: "alice", password: "canary-31" };
    let proxy = Proxy::start(Speaks::Connect, knowing).await.unwrap();
    let arguments = ["-vv", "intercept", "--transport", "ws", "orders", &app.url(), "x-user=alice"];
    let mut command = stack.culvert(&home, &arguments);
    command.env("HTTPS_PROXY", format!("http://alice:canary-31@{}", proxy.address()));
    let client = culvert_loadtest::process::Process::start("culvert intercept", command).unwrap();
    let connected = client.line("connected to").await.unwrap();
    assert!(connected.contains(" over ws"), "{connected}");
    let answer = caller::get(stack.door, "/", &["x-user: alice"]).await.unwrap();
    assert_eq!(answer.text(), "app GET / HTTP/1.1\n");
    assert!(!proxy.asked().is_empty());
    let said = client.stdout() + &client.stderr();
    assert!(!said.contains("canary-31"), "{said}");
}

/// A tunnel's own measurements, on each transport.
#[tokio::test(flavor = "multi_thread")]
async fn every_tunnel_knows_its_round_trip_and_its_bytes() {
    let world = world().await;
    let alice = world.developer("alice").await.unwrap();
    for rungs in crate::TRANSPORTS {
        let line = alice.dial(rungs).await.unwrap();
        let measured = async {
            while line.tunnel.rtt().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), measured).await.unwrap();
        let traffic = line.tunnel.traffic();
        assert!(traffic.sent > 0 && traffic.received > 0, "{rungs:?}: {traffic:?}");
        assert_eq!(line.udp_buffers().is_some(), rungs == Rungs::Quic);
    }
}

async fn world() -> World {
    // A claim ends with its session, and so nobody is asked who stands behind.
    World::before("http://127.0.0.1:1").await.unwrap()
}

fn behind(proxy: &str, no_proxy: &str) -> Network {
    Network {
        proxies: Proxies::new([("HTTPS_PROXY", None), ("ALL_PROXY", Some(proxy.to_owned()))], Some(no_proxy)),
        ..Network::default()
    }
}

async fn served(world: &World, alice: &Developer, rungs: Rungs, transport: Transport) {
    let app = Origin::named("app").await.unwrap();
    let session = alice.intercept("x-user=alice", &app.url(), rungs).await.unwrap();
    assert_eq!(session.now().unwrap().transport, transport, "{rungs:?}");
    let answer = caller::get(world.door().unwrap(), "/", &["x-user: alice"]).await.unwrap();
    assert_eq!(answer.text(), "app GET / HTTP/1.1\n", "{rungs:?}");
    leave(session).await.unwrap();
}

/// Ends TLS with a certificate of nobody's, and leads one path to the relay.
struct Ingress {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Ingress {
    async fn before(relay: SocketAddr, path: &'static str) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["ingress.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Who has gone has gone.
                    let _ = lead(acceptor, stream, relay, path).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn lead(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    relay: SocketAddr,
    path: &str,
) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !head.starts_with(&format!("GET {path} HTTP/1.1\r\n")) {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
        return stream.shutdown().await;
    }
    let mut relay = TcpStream::connect(relay).await?;
    // As an ingress does: another path, another host, and who it was.
    let head = head.replacen(path, "/", 1).replacen("\r\n", "\r\nX-Forwarded-For: 203.0.113.9\r\n", 1);
    relay.write_all(head.as_bytes()).await?;
    copy_bidirectional(&mut stream, &mut relay).await.map(drop)
}
