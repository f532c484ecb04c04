//! Real TLS handshakes between the configurations, in memory.

#![expect(clippy::unwrap_used, reason = "these are tests; clippy only sees that in the functions marked so")]

use std::ops::DerefMut;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_certs::tls::{
    Choice, HandshakeFailure, JOIN_ALPN, TUNNEL_ALPN, config_for, join_client, join_server, tunnel_client,
    tunnel_server,
};
use culvert_certs::{Authority, DeveloperKey, Fingerprint, Identity, Leaf, find_authority};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const RELAY: &str = "relay.example.com";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// A relay's authority, and where its key lies, for certificates that it would never sign.
struct World {
    root: tempfile::TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&root.path().join("data"), now()).unwrap();
        Self { root, authority }
    }

    fn leaf(&self) -> Leaf {
        self.leaf_at(now())
    }

    fn leaf_at(&self, when: SystemTime) -> Leaf {
        let names = [RELAY.to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        self.authority.server_leaf(&names, when).unwrap()
    }

    fn tunnel_server(&self) -> ServerConfig {
        tunnel_server(&self.authority, &self.leaf()).unwrap()
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.certificate().clone()]
    }

    /// Alice, whose certificate was signed at `when` for a day.
    fn alice_at(&self, when: SystemTime) -> ClientConfig {
        let key = DeveloperKey::generate().unwrap();
        let request = key.request().unwrap();
        let name = "alice".parse().unwrap();
        let issued = self.authority.sign_csr(request.as_bytes(), &name, DAY, when).unwrap();
        tunnel_client(&self.roots(), &key, &issued.certificate).unwrap()
    }

    fn alice(&self) -> ClientConfig {
        self.alice_at(now())
    }

    /// A certificate with the authority's signature under whatever `fill` says.
    fn forge(&self, fill: impl FnOnce(&mut CertificateParams)) -> ClientConfig {
        let pem = std::fs::read_to_string(self.root.path().join("data/authority.key")).unwrap();
        let issuer =
            Issuer::from_ca_cert_der(self.authority.certificate(), KeyPair::from_pem(&pem).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI(format!("culvert://{}/user/alice", self.authority.id()).try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        fill(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        self.presenting(vec![certificate.into()], key.into())
    }

    /// A client that knows the relay, and shows it any chain at all.
    fn presenting(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if chain.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder.with_client_auth_cert(chain, key).unwrap()
        };
        config.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
        config
    }

    fn nobody(&self) -> ClientConfig {
        self.presenting(Vec::new(), KeyPair::generate().unwrap().into())
    }
}

#[derive(Debug)]
struct At(SystemTime);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

struct Met {
    client: Result<ClientConnection, rustls::Error>,
    server: Result<ServerConnection, rustls::Error>,
}

impl Met {
    fn refused_by_relay(&self) -> &rustls::Error {
        assert_eq!(
            self.client.as_ref().map_err(HandshakeFailure::of).err(),
            Some(HandshakeFailure::OurCertificateRefused),
            "{:?}",
            self.server
        );
        self.server.as_ref().unwrap_err()
    }

    fn refused_by_client(&self) -> HandshakeFailure {
        assert!(matches!(self.server, Err(rustls::Error::AlertReceived(_))), "{:?}", self.server);
        HandshakeFailure::of(self.client.as_ref().unwrap_err())
    }
}

fn meet(client: ClientConfig, server: ServerConfig) -> Met {
    meet_as(client, server, RELAY)
}

fn meet_as(mut client: ClientConfig, mut server: ServerConfig, name: &str) -> Met {
    client.time_provider = Arc::new(At(now()));
    server.time_provider = Arc::new(At(now()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    carry(client, server)
}

/// Carries bytes both ways until neither side has more to say.
fn carry(mut client: ClientConnection, mut server: ServerConnection) -> Met {
    let (mut client_error, mut server_error) = (None, None);
    loop {
        let there = pass(&mut client, &mut server, &mut server_error);
        let back = pass(&mut server, &mut client, &mut client_error);
        if !there && !back {
            break;
        }
    }
    let done = |error: Option<rustls::Error>, handshaking: bool| match error {
        Some(error) => Err(error),
        None if handshaking => Err(rustls::Error::HandshakeNotComplete),
        None => Ok(()),
    };
    Met {
        client: done(client_error, client.is_handshaking()).map(|()| client),
        server: done(server_error, server.is_handshaking()).map(|()| server),
    }
}

fn pass<A: SideData, B: SideData>(
    from: &mut impl DerefMut<Target = ConnectionCommon<A>>,
    to: &mut impl DerefMut<Target = ConnectionCommon<B>>,
    error: &mut Option<rustls::Error>,
) -> bool {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while error.is_none() && !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        *error = to.process_new_packets().err();
    }
    !wire.is_empty()
}

#[test]
fn a_developer_and_their_relay_know_each_other() {
    let world = World::new();
    let met = meet(world.alice(), world.tunnel_server());
    let (client, server) = (met.client.unwrap(), met.server.unwrap());
    assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(
        server.negotiated_cipher_suite().unwrap().suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    assert_eq!(client.alpn_protocol(), Some(TUNNEL_ALPN));
    let identity = Identity::from_verified(&server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(identity.name.as_str(), "alice");
    assert_eq!(identity.not_after, now() + DAY);
    assert_eq!(client.tls13_tickets_received(), 0, "nothing to resume with");
}

#[test]
fn the_relay_is_met_under_its_address_too() {
    let world = World::new();
    for name in ["127.0.0.1", "::1", "RELAY.Example.COM"] {
        let met = meet_as(world.alice(), world.tunnel_server(), name);
        assert!(met.client.is_ok() && met.server.is_ok(), "{name}");
    }
}

#[test]
fn nobody_gets_in_without_a_certificate() {
    let world = World::new();
    let met = meet(world.nobody(), world.tunnel_server());
    assert_eq!(*met.refused_by_relay(), rustls::Error::NoCertificatesPresented);
}

#[test]
fn a_hello_without_a_server_name_leads_past_nothing() {
    let world = World::new();
    let mut client = world.nobody();
    client.enable_sni = false;
    assert_eq!(
        *meet(client, world.tunnel_server()).refused_by_relay(),
        rustls::Error::NoCertificatesPresented
    );
    let mut client = world.alice();
    client.enable_sni = false;
    assert!(meet(client, world.tunnel_server()).server.is_ok());
}

#[test]
fn a_certificate_of_another_relay_is_refused() {
    let (world, other) = (World::new(), World::new());
    // One that trusts this relay, but was signed by the other.
    let key = DeveloperKey::generate().unwrap();
    let request = key.request().unwrap();
    let issued = other.authority.sign_csr(request.as_bytes(), &"alice".parse().unwrap(), DAY, now()).unwrap();
    let client = tunnel_client(&world.roots(), &key, &issued.certificate).unwrap();
    let met = meet(client, world.tunnel_server());
    assert!(matches!(
        met.refused_by_relay(),
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
    ));
}

#[test]
fn a_certificate_is_good_only_in_its_time() {
    let world = World::new();
    for (when, welcome) in [
        (now() - DAY - HOUR, false),
        (now() - DAY - Duration::from_secs(1), false),
        (now() - DAY + HOUR, true),
        // A relay whose clock is a little behind the one that signed.
        (now() + Duration::from_secs(299), true),
        (now() + Duration::from_secs(301), false),
        (now() + HOUR, false),
    ] {
        let met = meet(world.alice_at(when), world.tunnel_server());
        if welcome {
            assert!(met.server.is_ok(), "{:?}", met.server);
        } else {
            assert!(matches!(
                met.refused_by_relay(),
                rustls::Error::InvalidCertificate(
                    rustls::CertificateError::ExpiredContext { .. }
                        | rustls::CertificateError::NotValidYetContext { .. }
                )
            ));
        }
    }
}

#[test]
fn a_relays_certificate_does_not_make_a_developer() {
    let world = World::new();
    let client = world.forge(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(matches!(
        meet(client, world.tunnel_server()).refused_by_relay(),
        rustls::Error::InvalidCertificate(rustls::CertificateError::InvalidPurposeContext { .. })
    ));
}

#[test]
fn a_certificate_that_is_an_authority_is_refused() {
    let world = World::new();
    let client = world.forge(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(
        meet(client, world.tunnel_server()).refused_by_relay(),
        rustls::Error::InvalidCertificate(_)
    ));
}

#[test]
fn a_developer_cannot_sign_another_one() {
    let world = World::new();
    let pem = std::fs::read_to_string(world.root.path().join("data/authority.key")).unwrap();
    let issuer =
        Issuer::from_ca_cert_der(world.authority.certificate(), KeyPair::from_pem(&pem).unwrap()).unwrap();
    let mut mallory = CertificateParams::default();
    mallory.distinguished_name.push(rcgen::DnType::CommonName, "mallory");
    mallory.is_ca = IsCa::ExplicitNoCa;
    let mallory_key = KeyPair::generate().unwrap();
    let mallory_certificate = mallory.signed_by(&mallory_key, &issuer).unwrap();
    let mut bob = CertificateParams::default();
    bob.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let bob_key = KeyPair::generate().unwrap();
    let bob = bob.signed_by(&bob_key, &Issuer::from_params(&mallory, &mallory_key)).unwrap();
    let client = world.presenting(vec![bob.into(), mallory_certificate.into()], bob_key.into());
    let met = meet(client, world.tunnel_server());
    assert!(matches!(met.server, Err(rustls::Error::InvalidCertificate(_))), "{:?}", met.server);
}

#[test]
fn a_verified_certificate_without_a_name_is_still_nobody() {
    let world = World::new();
    let client = world.forge(|params| params.subject_alt_names.clear());
    let server = meet(client, world.tunnel_server()).server.unwrap();
    assert!(Identity::from_verified(&server.peer_certificates().unwrap()[0]).is_err());
}

#[test]
fn a_client_refuses_a_relay_that_is_not_its_own() {
    let (world, other) = (World::new(), World::new());
    let met = meet(world.alice(), other.tunnel_server());
    assert_eq!(met.refused_by_client(), HandshakeFailure::NotThisRelay);
}

#[test]
fn a_client_refuses_its_relay_under_another_name() {
    let world = World::new();
    for name in ["other.example.com", "127.0.0.2", "::2"] {
        let met = meet_as(world.alice(), world.tunnel_server(), name);
        assert_eq!(met.refused_by_client(), HandshakeFailure::NameMismatch, "{name}");
    }
}

#[test]
fn a_client_refuses_a_relay_whose_certificate_is_over() {
    let world = World::new();
    for when in [now() - 91 * DAY, now() + DAY] {
        let server = tunnel_server(&world.authority, &world.leaf_at(when)).unwrap();
        assert_eq!(meet(world.alice(), server).refused_by_client(), HandshakeFailure::Expired);
    }
}

#[test]
fn a_client_refuses_a_developer_who_plays_the_relay() {
    let world = World::new();
    let pem = std::fs::read_to_string(world.root.path().join("data/authority.key")).unwrap();
    let issuer =
        Issuer::from_ca_cert_der(world.authority.certificate(), KeyPair::from_pem(&pem).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec![RELAY.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let chain = vec![params.signed_by(&key, &issuer).unwrap().into(), world.authority.certificate().clone()];
    let server = |alpn: &[u8]| {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain.clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
                .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    };
    assert_eq!(meet(world.alice(), server(TUNNEL_ALPN)).refused_by_client(), HandshakeFailure::NotThisRelay);
    let joining = join_client(world.authority.fingerprint()).unwrap();
    assert_eq!(meet(joining, server(JOIN_ALPN)).refused_by_client(), HandshakeFailure::NotThisRelay);
}

#[test]
fn a_joining_client_finds_the_authority_by_its_fingerprint() {
    let world = World::new();
    let fingerprint = world.authority.fingerprint();
    for name in [RELAY, "127.0.0.1"] {
        let met = meet_as(join_client(fingerprint).unwrap(), join_server(&world.leaf()).unwrap(), name);
        let client = met.client.unwrap();
        assert_eq!(met.server.unwrap().alpn_protocol(), Some(JOIN_ALPN));
        let found = find_authority(client.peer_certificates().unwrap(), &fingerprint).unwrap();
        assert_eq!(found, world.authority.certificate());
    }
}

#[test]
fn a_joining_client_refuses_a_relay_that_did_not_make_the_token() {
    let (world, other) = (World::new(), World::new());
    let met = meet(join_client(other.authority.fingerprint()).unwrap(), join_server(&world.leaf()).unwrap());
    assert_eq!(met.refused_by_client(), HandshakeFailure::NotThisRelay);
    let said = match met.client.unwrap_err() {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(error)) => error.0.to_string(),
        other => other.to_string(),
    };
    assert_eq!(said, "this is not the relay that made the token: refusing");
}

#[test]
fn showing_the_right_authority_beside_a_certificate_of_ones_own_is_not_enough() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![RELAY.to_owned()]).unwrap().self_signed(&key).unwrap();
    let chain = vec![own.into(), world.authority.certificate().clone()];
    let mut server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    server.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    let met = meet(join_client(world.authority.fingerprint()).unwrap(), server);
    assert_eq!(met.refused_by_client(), HandshakeFailure::NotThisRelay);
}

#[test]
fn the_fingerprint_of_the_relays_own_certificate_is_no_authority() {
    let world = World::new();
    let first =
        meet(join_client(world.authority.fingerprint()).unwrap(), join_server(&world.leaf()).unwrap());
    let leaf = Fingerprint::of(&first.client.unwrap().peer_certificates().unwrap()[0]);
    let met = meet(join_client(leaf).unwrap(), join_server(&world.leaf()).unwrap());
    assert_eq!(met.refused_by_client(), HandshakeFailure::NotThisRelay);
}

#[test]
fn a_joining_client_still_checks_the_name_and_the_time() {
    let world = World::new();
    let joining = || join_client(world.authority.fingerprint()).unwrap();
    let met = meet_as(joining(), join_server(&world.leaf()).unwrap(), "other.example.com");
    assert_eq!(met.refused_by_client(), HandshakeFailure::NameMismatch);
    let met = meet(joining(), join_server(&world.leaf_at(now() - 91 * DAY)).unwrap());
    assert_eq!(met.refused_by_client(), HandshakeFailure::Expired);
}

#[test]
fn the_wrong_protocol_or_none_is_refused() {
    let world = World::new();
    for alpn in [vec![b"h2".to_vec(), b"http/1.1".to_vec()], vec![JOIN_ALPN.to_vec()], vec![]] {
        let mut client = world.alice();
        client.alpn_protocols = alpn.clone();
        let met = meet(client, world.tunnel_server());
        assert!(met.server.is_err() && met.client.is_err(), "{alpn:?}");
    }
    for alpn in [vec![b"h2".to_vec()], vec![TUNNEL_ALPN.to_vec()], vec![]] {
        let mut client = join_client(world.authority.fingerprint()).unwrap();
        client.alpn_protocols = alpn.clone();
        let met = meet(client, join_server(&world.leaf()).unwrap());
        assert!(met.server.is_err() && met.client.is_err(), "{alpn:?}");
    }
}

#[test]
fn tls_1_2_is_refused() {
    let world = World::new();
    for server in [world.tunnel_server(), join_server(&world.leaf()).unwrap()] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(world.authority.certificate().clone()).unwrap();
        let mut client =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        client.alpn_protocols = server.alpn_protocols.clone();
        let met = meet(client, server);
        assert!(matches!(met.server, Err(rustls::Error::PeerIncompatible(_))), "{:?}", met.server);
    }
}

#[test]
fn early_data_and_resumption_are_off() {
    let world = World::new();
    for server in [world.tunnel_server(), join_server(&world.leaf()).unwrap()] {
        assert_eq!(
            (server.max_early_data_size, server.send_tls13_tickets, server.max_tls13_tickets),
            (0, 0, 0)
        );
        assert!(!server.session_storage.can_cache());
    }
    assert!(!world.alice().enable_early_data);
}

/// As the listener does it: the hello is read whole, however it arrives, and only then is a configuration chosen.
fn accept_in_pieces(client: ClientConfig, world: &World, piece: usize) -> (Choice, Met) {
    let mut client = client;
    client.time_provider = Arc::new(At(now()));
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(RELAY).unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut acceptor = Acceptor::default();
    let mut accepted = None;
    for mut bytes in hello.chunks(piece) {
        assert!(accepted.is_none(), "accepted before the hello was whole");
        acceptor.read_tls(&mut bytes).unwrap();
        accepted = acceptor.accept().map_err(|(error, _)| error).unwrap();
    }
    let accepted = accepted.unwrap();
    let choice = config_for(accepted.client_hello().alpn());
    let mut config = match choice {
        Choice::Tunnel => world.tunnel_server(),
        Choice::Join => join_server(&world.leaf()).unwrap(),
    };
    config.time_provider = Arc::new(At(now()));
    let server = accepted.into_connection(Arc::new(config)).map_err(|(error, _)| error);
    let met = match server {
        Ok(server) => carry(client, server),
        Err(error) => Met { client: Err(rustls::Error::HandshakeNotComplete), server: Err(error) },
    };
    (choice, met)
}

#[test]
fn a_hello_in_pieces_gets_the_same_treatment() {
    let world = World::new();
    for piece in [1, 5, 6, 100, 100_000] {
        let (choice, met) = accept_in_pieces(world.alice(), &world, piece);
        assert!(choice == Choice::Tunnel && met.server.is_ok(), "{piece}");

        let (choice, met) = accept_in_pieces(world.nobody(), &world, piece);
        assert!(choice == Choice::Tunnel && met.server.is_err(), "{piece}");

        let joining = join_client(world.authority.fingerprint()).unwrap();
        let (choice, met) = accept_in_pieces(joining, &world, piece);
        assert!(choice == Choice::Join && met.server.is_ok(), "{piece}");

        let mut silent = world.nobody();
        silent.alpn_protocols.clear();
        let (choice, met) = accept_in_pieces(silent, &world, piece);
        assert!(choice == Choice::Tunnel && met.server.is_err(), "{piece}");
    }
}

#[test]
fn the_alerts_that_quic_reports_say_the_same() {
    for alert in [42, 43, 44, 45, 46, 48, 49, 116] {
        assert_eq!(
            HandshakeFailure::of_peer_alert(alert),
            HandshakeFailure::OurCertificateRefused,
            "{alert}"
        );
    }
    for alert in [0, 40, 70, 80, 120, 255] {
        assert_eq!(HandshakeFailure::of_peer_alert(alert), HandshakeFailure::Other, "{alert}");
        assert_eq!(HandshakeFailure::of_own_alert(alert), HandshakeFailure::Other, "{alert}");
    }
    assert_eq!(HandshakeFailure::of_own_alert(48), HandshakeFailure::NotThisRelay);
    assert_eq!(HandshakeFailure::of_own_alert(42), HandshakeFailure::NameMismatch);
    assert_eq!(HandshakeFailure::of_own_alert(45), HandshakeFailure::Expired);
}

#[test]
fn a_certificate_that_leads_nowhere_is_not_the_relays_however_it_is_wrong() {
    use rustls::CertificateError::{BadEncoding, InvalidPurpose, UnknownIssuer};
    for wrong in [UnknownIssuer, BadEncoding, InvalidPurpose] {
        let error = rustls::Error::InvalidCertificate(wrong);
        assert_eq!(HandshakeFailure::of(&error), HandshakeFailure::NotThisRelay, "{error}");
    }
}
