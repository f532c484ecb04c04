//! Apps of every kind, over real sockets, as they are declared on the command line.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_certs::tls::Trust;
use culvert_protocol::answers::{Answers, Said};
use culvert_protocol::message::ResponseHead;
use culvert_protocol::tunnel::{IDLE_LIMIT, Limits, Side};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An app over TLS that says nothing of itself, and whom it is to be believed by. Ends with the test.
struct Secure {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    _running: JoinSet<()>,
}

impl Secure {
    async fn start(authority: &str, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, authority);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().der().clone();
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
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                });
            }
        });
        Self { address, authority, _running: running }
    }

    /// Whether a connection to it is good for requests, and why not.
    async fn believed_by(&self, trust: Trust) -> Result<(), String> {
        let mut app = format!("https://{}", self.address).parse().unwrap();
        if let App::Https { trust: believed, .. } = &mut app {
            *believed = trust;
        }
        let apps = Apps::new([(1, app)]).unwrap();
        app::connect(apps.0.get(&1).unwrap(), false).await.map(drop)
    }
}

#[tokio::test]
async fn an_app_over_https_is_believed_by_whom_the_developer_says_and_by_nobody_else() {
    let app = Secure::start("mine", "127.0.0.1").await;
    let (other, other_name) =
        (Secure::start("other", "127.0.0.1").await, Secure::start("mine", "app.test").await);
    let trust = |app: &Secure| Trust::Authority(vec![app.authority.clone()]);
    app.believed_by(trust(&app)).await.unwrap();
    app.believed_by(Trust::Nobody).await.unwrap();
    other_name.believed_by(Trust::Nobody).await.unwrap();
    assert_eq!(
        app.believed_by(trust(&other)).await.unwrap_err(),
        format!(
            "connecting to {}: its certificate is not signed by an authority that is trusted here",
            app.address
        )
    );
    let refused = other_name.believed_by(trust(&other_name)).await.unwrap_err();
    assert!(refused.contains("its certificate is not for 127.0.0.1, only for"), "{refused}");
}

#[tokio::test]
async fn an_app_over_h2c_is_spoken_to_in_http_2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = format!("h2c://{}", listener.local_addr().unwrap()).parse().unwrap();
    let apps = Apps::new([(7, app)]).unwrap();
    let first = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        preface
    };
    let (connected, preface) = tokio::join!(app::connect(apps.0.get(&7).unwrap(), false), first);
    assert!(connected.is_ok());
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[test]
fn an_app_whose_authorities_are_none_is_refused_before_any_request() {
    let mut app = "https://localhost:1".parse().unwrap();
    if let App::Https { trust, .. } = &mut app {
        *trust = Trust::Authority(Vec::new());
    }
    let error = Apps::new([(1, app)]).unwrap_err();
    assert_eq!(
        crate::screen::because(&error),
        "preparing TLS to the app https://localhost:1: no certificate authority to trust"
    );
}

#[tokio::test]
async fn what_was_confirmed_while_the_client_was_stopped_is_the_apps() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = App::local(listener.local_addr().unwrap().port());
    let (near, far) = duplex(64 * 1024);
    let (ours, near) = Tunnel::yamux(near, Side::Dialer, Limits::of(Side::Dialer));
    let (relay, far) = Tunnel::yamux(far, Side::Listener, Limits::of(Side::Listener));
    let mut running = JoinSet::new();
    running.spawn(async move { drop(near.await) });
    running.spawn(async move { drop(far.await) });
    let apps = Arc::new(Apps::new([(1, app)]).unwrap());
    running.spawn(accept(ours, apps, Screen::silent(), CancellationToken::new()));

    let (read, write) = relay.open().await.unwrap().split();
    let (mut frames, mut answers) = (frame::Writer::new(write), TunnelReader::new(read));
    let mut head = RequestHead::default();
    head.method.extend_from_slice(b"POST");
    head.target.extend_from_slice(b"/");
    head.fields.push(b"host", b"orders.example");
    frames.request(Opening::Http { claim: 1, peer: None, confirm: true }, &head).unwrap();
    frames.flush().await.unwrap();
    let mut response = ResponseHead::default();
    let said = Answers::Tunnel(&mut answers).next(&mut response).await.unwrap();
    assert_eq!(said, Said::Accepted);
    // The clock goes on, and nobody here does.
    tokio::time::pause();
    tokio::time::advance(IDLE_LIMIT).await;
    tokio::time::resume();
    frames.confirmed().unwrap();
    frames.end(None).unwrap();
    frames.flush().await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut first = [0; 4];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"POST");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let said = Answers::Tunnel(&mut answers).next(&mut response).await.unwrap();
    assert_eq!((said, response.status), (Said::Answered, 204));
}
