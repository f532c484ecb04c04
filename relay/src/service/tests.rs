//! Upstreams of every kind and doors with TLS, over real sockets, as a relay.yaml describes them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::tls::{OriginFailure, Trust, origin_client};
use culvert_protocol::answers::Said;
use culvert_protocol::message::{Body, Fields, RequestHead};
use culvert_protocol::origin::Origin;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Config, Relay, StartError};

const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate authority that nobody knows, and a directory for the files of a test.
struct Authority {
    dir: tempfile::TempDir,
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { dir, certificate, issuer: Issuer::new(params, key) }
    }

    /// A server's certificate, as `tls.crt` and `tls.key`.
    fn certify(&self, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path("tls.crt"), certificate.pem()).unwrap();
        fs::write(self.path("tls.key"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Somebody else's server with this certificate; it chooses among `alpn`.
    fn acceptor(&self, names: &[&str], alpn: &[&str]) -> TlsAcceptor {
        self.certify(names);
        let chain = culvert_certs::tls::certificates(&self.path("tls.crt")).unwrap();
        let key = culvert_certs::tls::private_key(&self.path("tls.key")).unwrap().key;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// An upstream that says in the field `spoke` what it was spoken to in. Ends with the test.
struct Server {
    address: SocketAddr,
    _running: JoinSet<()>,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>, http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                connections.spawn(async move {
                    match tls {
                        None => answer(stream, http2).await,
                        // One that does not believe us, or we it, is of no further interest here.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                answer(stream, http2).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, _running: running }
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, http2: bool) {
    if http2 {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let scheme = request.uri().scheme_str().unwrap_or_default();
            let response = http::Response::builder().header("spoke", format!("h2 {scheme}"));
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        }
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nspoke: http/1.1\r\ncontent-length: 0\r\n\r\n").await;
    }
}

/// A relay.yaml with one service, where the test's files are.
fn config(beside: &Path, service: &str) -> Config {
    let text = format!(
        "tunnel: {{listen: '127.0.0.1:0'}}\nadmin: {{listen: '127.0.0.1:0'}}\n\
         services: [{{name: orders, listen: '127.0.0.1:0', {service}}}]"
    );
    Config::parse(&text, &beside.join("relay.yaml")).unwrap()
}

fn origin(beside: &Path, service: &str) -> Origin {
    let config = config(beside, service);
    let secured = Secured::read(&config).unwrap().remove(0);
    Origin::new(address(&config.services[0].upstream), secured.upstream)
}

/// What the upstream says it was spoken to in, or why it was not spoken to.
async fn spoken(origin: &Origin, upgrades: bool) -> Result<String, String> {
    let connection = timeout(PATIENCE, origin.connect(upgrades)).await.unwrap();
    let connection = connection.map_err(|error| {
        OriginFailure::of(&error).map_or_else(|| error.to_string(), |why| why.to_string())
    })?;
    let fields: Fields = [(&b"host"[..], &b"orders"[..])].into_iter().collect();
    let request = RequestHead {
        method: b"GET".to_vec(),
        target: b"/".to_vec(),
        fields,
        body: Body::Empty,
        keep_alive: true,
        ..RequestHead::default()
    };
    let mut exchange = connection.request(&request).await.unwrap();
    let (mut sink, mut answers, response) = exchange.split(&request);
    sink.end(None).await.unwrap();
    sink.flush().await.unwrap();
    let said = timeout(PATIENCE, answers.next(response)).await.unwrap().unwrap();
    assert_eq!((said, response.status), (Said::Answered, 200));
    Ok(String::from_utf8(response.fields.first("spoke").unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn an_upstream_is_spoken_to_in_what_its_url_says() {
    let beside = Path::new("");
    let plain = Server::start(None, false).await;
    let upstream = format!("upstream: 'http://{}'", plain.address);
    assert_eq!(spoken(&origin(beside, &upstream), false).await.unwrap(), "http/1.1");
    let h2c = Server::start(None, true).await;
    let upstream = format!("upstream: 'h2c://{}'", h2c.address);
    assert_eq!(spoken(&origin(beside, &upstream), false).await.unwrap(), "h2 http");
}

#[tokio::test]
async fn an_upstream_over_tls_chooses_its_version_of_http() {
    let authority = Authority::new("the shop's");
    for (alpn, spoke, upgrading) in [
        (&["h2", "http/1.1"][..], "h2 https", "http/1.1"),
        (&["http/1.1"], "http/1.1", "http/1.1"),
        (&[], "http/1.1", "http/1.1"),
    ] {
        let server = Server::start(Some(authority.acceptor(&["127.0.0.1"], alpn)), false).await;
        let upstream = format!("upstream: 'https://{}', upstream_tls: {{ca: ca.pem}}", server.address);
        let origin = origin(authority.dir.path(), &upstream);
        assert_eq!(spoken(&origin, false).await.unwrap(), spoke, "{alpn:?}");
        assert_eq!(spoken(&origin, true).await.unwrap(), upgrading, "{alpn:?}");
    }
}

#[tokio::test]
async fn an_upstream_is_believed_by_whom_the_configuration_says_and_by_nobody_else() {
    let (right, wrong) = (Authority::new("the shop's"), Authority::new("another"));
    let server = Server::start(Some(right.acceptor(&["127.0.0.1"], &["h2"])), false).await;
    let other_name = Server::start(Some(right.acceptor(&["orders.shop.svc"], &["h2"])), false).await;
    let upstream =
        |server: &Server, tls: &str| format!("upstream: 'https://{}', upstream_tls: {tls}", server.address);
    let asked = |authority: &Authority, server: &Server, tls: &str| {
        let origin = origin(authority.dir.path(), &upstream(server, tls));
        async move { spoken(&origin, false).await }
    };
    assert_eq!(asked(&right, &server, "{ca: ca.pem}").await.unwrap(), "h2 https");
    assert_eq!(
        asked(&wrong, &server, "{ca: ca.pem}").await.unwrap_err(),
        "its certificate is not signed by an authority that is trusted here"
    );
    assert_eq!(asked(&wrong, &server, "{verify: false}").await.unwrap(), "h2 https");
    assert_eq!(
        asked(&right, &other_name, "{ca: ca.pem}").await.unwrap_err(),
        "its certificate is not for 127.0.0.1, only for DnsName(\"orders.shop.svc\")"
    );
    assert_eq!(asked(&right, &other_name, "{ca: ca.pem, name: orders.shop.svc}").await.unwrap(), "h2 https");
    assert_eq!(asked(&wrong, &other_name, "{verify: false}").await.unwrap(), "h2 https");
}

#[tokio::test]
async fn an_upstream_without_tls_behind_an_https_url_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut rude = JoinSet::new();
    rude.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let upstream = format!("upstream: 'https://{address}', upstream_tls: {{verify: false}}");
    assert_eq!(spoken(&origin(Path::new(""), &upstream), false).await.unwrap_err(), "it does not speak TLS");
}

/// What a caller's request is answered with, over TLS.
async fn called(door: SocketAddr, authority: &Authority, alpn: &[&str]) -> (Option<String>, String) {
    let mut config = origin_client(Trust::Authority(vec![authority.certificate.der().clone()])).unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(door).await.unwrap();
    let name = ServerName::try_from("shop.example.com").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let chosen = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
    let spoke = if chosen.as_deref() == Some("h2") {
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { connection.await.unwrap() });
        let request = http::Request::builder().uri("https://shop.example.com/").body(()).unwrap();
        let response = send.send_request(request, true).unwrap().0.await.unwrap();
        response.headers()["spoke"].to_str().unwrap().to_owned()
    } else {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        // Whether the end is announced (close_notify) is the door's affair and not this test's.
        let _ = stream.read_to_string(&mut answer).await;
        answer.lines().find_map(|line| line.strip_prefix("spoke: ")).unwrap_or(&answer).to_owned()
    };
    (chosen, spoke)
}

#[tokio::test]
async fn a_door_with_a_certificate_speaks_both_versions_over_tls() {
    let authority = Authority::new("the shop's");
    authority.certify(&["shop.example.com"]);
    let server = Server::start(None, false).await;
    let service =
        format!("upstream: 'http://{}', tls: {{certificate: tls.crt, key: tls.key}}", server.address);
    let relay = Relay::bind(config(authority.dir.path(), &service)).await.unwrap();
    let door = relay.addresses().services[0].1;
    assert!(
        relay.addresses().to_string().contains(&format!("orders: listening for callers on {door} (https)"))
    );
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(relay.run(stop.clone()));
    for (alpn, chosen) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let called = timeout(PATIENCE, called(door, &authority, alpn)).await.unwrap();
        assert_eq!(called, (chosen.map(str::to_owned), "http/1.1".to_owned()), "{alpn:?}");
    }
    stop.cancel();
    timeout(PATIENCE, running.join_next()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_does_not_fit_stops_the_start_before_anything_is_made() {
    let authority = Authority::new("the shop's");
    let dir = authority.dir.path();
    authority.certify(&["shop.example.com"]);
    fs::rename(authority.path("tls.key"), authority.path("other.key")).unwrap();
    authority.certify(&["shop.example.com"]);
    fs::write(authority.path("empty"), "").unwrap();
    let door = |certificate: &str, key: &str| {
        format!("upstream: 'http://a', tls: {{certificate: {certificate}, key: {key}}}")
    };
    let upstream = |ca: &str| format!("upstream: 'https://a', upstream_tls: {{ca: {ca}}}");
    for (service, said) in [
        (door("absent", "tls.key"), "tls.certificate: reading DIR/absent: No such file or directory"),
        (door("tls.crt", "absent"), "tls.key: reading DIR/absent: No such file or directory"),
        (door("tls.key", "tls.key"), "tls.certificate: reading DIR/tls.key: no certificate in it"),
        (door("tls.crt", "tls.crt"), "tls.key: reading DIR/tls.crt: no private key in it"),
        (door("tls.crt", "empty"), "tls.key: reading DIR/empty: no private key in it"),
        (door(".", "tls.key"), "tls.certificate: reading DIR/.: not a file"),
        (door("tls.crt", "other.key"), "tls: the key does not belong to the certificate"),
        (upstream("absent"), "upstream_tls.ca: reading DIR/absent: No such file or directory"),
        (upstream("empty"), "upstream_tls.ca: reading DIR/empty: no certificate in it"),
        (upstream("tls.key"), "upstream_tls.ca: reading DIR/tls.key: no certificate in it"),
    ] {
        let error = Relay::bind(config(dir, &service)).await.unwrap_err();
        assert!(matches!(error, StartError::Config(_)), "{error}");
        let said = format!("service `orders`: {said}").replace("DIR", &dir.display().to_string());
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.starts_with(&said), "{error}");
        assert!(!authority.path("culvert-data").exists(), "{error}");
    }
}
