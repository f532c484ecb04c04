//! The other end of the tunnel port, for tests: as honest as a client, or as wrong as a test wants it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_certs::tls::{join_client, tunnel_client};
use culvert_certs::{Authority, DeveloperKey, Fingerprint, Identity, JoinToken, decode_certificate};
use culvert_protocol::hello::{
    FromClient, FromJoiner, FromRelay, Hello, InstanceId, Join, JoinSecret, Messages, ToJoiner, UnixMillis,
    VERSIONS, write_message,
};
use culvert_protocol::intercept::{Intercept, Matcher};
use culvert_protocol::tunnel::{
    Closed, Limits, RecvHalf, SendHalf, Side, Transport, Tunnel, WebSocket, quic_transport,
};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::metrics::TunnelMetrics;
use crate::tunnels::Peer;
use crate::tunnels::session::{Session, Start};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A claim as the CLI would make it. No text: all traffic.
pub(crate) fn intercept(name: &str, service: &str, matching: &str) -> Intercept {
    let conditions = (!matching.is_empty()).then(|| matching.parse().unwrap());
    Intercept {
        name: name.parse().unwrap(),
        service: service.parse().unwrap(),
        matcher: Matcher::new(conditions).unwrap(),
        mode: Default::default(),
        on_unreachable: Default::default(),
        action: Default::default(),
        ttl: None,
    }
}

/// Identities and sessions of an authority that no relay has, for what looks at nothing but them.
pub(crate) struct People {
    authority: Authority,
    _dir: tempfile::TempDir,
}

impl People {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&dir.path().join("data"), SystemTime::now()).unwrap();
        Self { authority, _dir: dir }
    }

    pub(crate) fn login(&self, name: &str) -> Login {
        let key = DeveloperKey::generate().unwrap();
        let request = key.request().unwrap();
        let lifetime = Duration::from_secs(3600);
        let issued = self
            .authority
            .sign_csr(request.as_bytes(), &name.parse().unwrap(), lifetime, SystemTime::now())
            .unwrap();
        Login { key, certificate: issued.certificate, authority: self.authority.certificate().clone() }
    }

    /// With a tunnel that leads nowhere. Of two instances the greater was started later.
    pub(crate) fn session(&self, name: &str, host: &str, instance: u128) -> Arc<Session> {
        let identity = Identity::from_verified(&self.login(name).certificate).unwrap();
        let (ours, _theirs) = tokio::io::duplex(64);
        let (tunnel, _driver) = Tunnel::yamux(ours, Side::Listener, Limits::of(Side::Listener));
        let start = Start { at: UnixMillis(0), relay: "r1".to_owned(), instance: InstanceId::new(instance) };
        Session::new(Peer { tunnel, identity }, &hello(host, instance), start, &TunnelMetrics::default())
    }
}

pub(crate) fn hello(host: &str, instance: u128) -> Hello {
    Hello {
        versions: VERSIONS.to_vec(),
        client_version: "0.0.0-test".to_owned(),
        host: host.to_owned(),
        user: None,
        process: 1,
        instance: InstanceId::new(instance),
        tunnel: None,
        began: None,
    }
}

/// What a developer has after logging in.
pub(crate) struct Login {
    pub(crate) key: DeveloperKey,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) authority: CertificateDer<'static>,
}

/// Shows a token, as its text, to whoever has an authority with this fingerprint.
pub(crate) async fn join(
    relay: SocketAddr,
    fingerprint: Fingerprint,
    id: &str,
    token: &str,
    request: &str,
) -> ToJoiner {
    let tls = TlsConnector::from(Arc::new(join_client(fingerprint).unwrap()));
    let stream = TcpStream::connect(relay).await.unwrap();
    let mut stream = tls.connect(server_name(), stream).await.unwrap();
    let secret = JoinSecret::new(token.to_owned());
    let join = FromJoiner::Join(Join { token_id: id.to_owned(), secret, csr: request.to_owned() });
    write_message(&mut stream, &join).await.unwrap();
    let mut messages = Messages::new(stream);
    timeout(PATIENCE, messages.next()).await.unwrap().unwrap().unwrap()
}

/// Logs in with a token as the client does.
pub(crate) async fn login(relay: SocketAddr, token: &JoinToken) -> Result<Login, ToJoiner> {
    let key = DeveloperKey::generate().unwrap();
    let (id, text) = (token.id().to_string(), token.reveal());
    match join(relay, token.authority(), &id, text.expose(), &key.request().unwrap()).await {
        ToJoiner::Joined(joined) => Ok(Login {
            key,
            certificate: decode_certificate(joined.certificate.as_bytes()).unwrap(),
            authority: decode_certificate(joined.authority.as_bytes()).unwrap(),
        }),
        refused => Err(refused),
    }
}

/// A tunnel that is up, with everything that keeps it so.
pub(crate) struct Dialled {
    pub(crate) tunnel: Tunnel,
    _tasks: JoinSet<Closed>,
    /// Over QUIC.
    connection: Option<quinn::Connection>,
}

impl Dialled {
    /// Another generation of keys, where it is QUIC (RFC 9001 section 6).
    pub(crate) fn change_keys(&self) {
        self.connection.as_ref().unwrap().force_key_update();
    }
}

pub(crate) async fn dial(relay: SocketAddr, login: &Login, transport: Transport) -> Result<Dialled, String> {
    dial_from(Ipv4Addr::LOCALHOST, relay, login, transport).await
}

/// From one of this machine's many addresses.
pub(crate) async fn connect_from(here: Ipv4Addr, relay: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((here, 0).into())?;
    socket.connect(relay).await
}

pub(crate) async fn dial_from(
    here: Ipv4Addr,
    relay: SocketAddr,
    login: &Login,
    transport: Transport,
) -> Result<Dialled, String> {
    let tls = tunnel_client(std::slice::from_ref(&login.authority), &login.key, &login.certificate).unwrap();
    let mut tasks = JoinSet::new();
    match transport {
        Transport::Tls => {
            let stream = connect_from(here, relay).await.map_err(|error| error.to_string())?;
            let connecting = TlsConnector::from(Arc::new(tls)).connect(server_name(), stream);
            let stream = connecting.await.map_err(|error| error.to_string())?;
            let (tunnel, driver) = Tunnel::yamux(stream, Side::Dialer, Limits::of(Side::Dialer));
            tasks.spawn(driver);
            Ok(Dialled { tunnel, _tasks: tasks, connection: None })
        }
        Transport::WebSocket => {
            let stream = connect_from(here, relay).await.map_err(|error| error.to_string())?;
            let dialling = WebSocket::dial(stream, "elsewhere.example.com", "/any/path");
            let stream = dialling.await.map_err(|error| error.to_string())?;
            let connecting = TlsConnector::from(Arc::new(tls)).connect(server_name(), stream);
            let stream = connecting.await.map_err(|error| error.to_string())?;
            let side = Side::Dialer;
            let (tunnel, driver) = Tunnel::yamux_over(Transport::WebSocket, stream, side, Limits::of(side));
            tasks.spawn(driver);
            Ok(Dialled { tunnel, _tasks: tasks, connection: None })
        }
        Transport::Quic => {
            let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
            config.transport_config(Arc::new(quic_transport(Side::Dialer)));
            let endpoint = quinn::Endpoint::client((here, 0).into()).unwrap();
            let connecting = endpoint.connect_with(config, relay, "127.0.0.1").unwrap();
            let connection = connecting.await.map_err(|error| error.to_string())?;
            let tunnel = Tunnel::quic(connection.clone());
            Ok(Dialled { tunnel, _tasks: tasks, connection: Some(connection) })
        }
    }
}

/// The control stream's other end.
pub(crate) struct Client {
    pub(crate) dialled: Dialled,
    messages: Messages<RecvHalf>,
    write: SendHalf,
}

impl Client {
    /// Opens the control stream and says hello.
    pub(crate) async fn greet(dialled: Dialled, hello: Hello) -> Self {
        let (read, write) = dialled.tunnel.open().await.unwrap().split();
        let mut client = Self { dialled, messages: Messages::new(read), write };
        client.say(FromClient::Hello(hello)).await;
        client
    }

    /// Up to the welcome.
    pub(crate) async fn up(relay: SocketAddr, login: &Login, transport: Transport, instance: u128) -> Self {
        let dialled = dial(relay, login, transport).await.unwrap();
        let mut client = Self::greet(dialled, hello("laptop", instance)).await;
        let welcome = client.hear().await;
        assert!(matches!(welcome, FromRelay::Welcome(_)), "{welcome:?}");
        client
    }

    pub(crate) async fn say(&mut self, message: FromClient) {
        write_message(&mut self.write, &message).await.unwrap();
    }

    /// Any JSON, as a message.
    pub(crate) async fn raw(&mut self, json: &[u8]) {
        self.bytes(&u32::try_from(json.len()).unwrap().to_be_bytes()).await;
        self.bytes(json).await;
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
    }

    /// The next message that is no ping; pings are answered.
    pub(crate) async fn hear(&mut self) -> FromRelay {
        loop {
            let message = timeout(PATIENCE, self.messages.next()).await.unwrap().unwrap().unwrap();
            match message {
                FromRelay::Ping { n } => self.say(FromClient::Pong { n }).await,
                other => return other,
            }
        }
    }

    pub(crate) async fn announce(&mut self, claim: u64, intercept: Intercept) -> FromRelay {
        self.say(FromClient::Announce { claim, intercept: Box::new(intercept), stamp: None }).await;
        self.hear().await
    }

    /// Returns when everything said before has been dealt with.
    pub(crate) async fn settle(&mut self) {
        self.say(FromClient::Ping { n: 77 }).await;
        assert_eq!(self.hear().await, FromRelay::Pong { n: 77 });
    }
}

pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}
