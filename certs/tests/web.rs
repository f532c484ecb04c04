//! TLS with those who are no developers: callers at a door, and the upstreams and apps that we dial. Real handshakes, in
//! memory.

#![expect(clippy::unwrap_used, reason = "these are tests; clippy only sees that in the functions marked so")]

use std::fs;
use std::io;
use std::ops::DerefMut;
use std::sync::Arc;

use culvert_certs::tls::{
    DoorTlsError, OriginFailure, OriginTlsError, Trust, certificates, door_server, origin_client, private_key,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, ProtocolVersion, ServerConfig, ServerConnection,
    SideData,
};

const NAME: &str = "orders.shop.svc";

/// Somebody's certificate authority, not ours.
struct World {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl World {
    fn new() -> Self {
        Self::named("an authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    fn trust(&self) -> Trust {
        Trust::Authority(vec![self.certificate.der().clone()])
    }

    fn leaf(&self, fill: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        fill(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn door_with(&self, fill: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let (certificate, key) = self.leaf(fill);
        door_server(vec![certificate.into()], key.into()).unwrap()
    }

    fn door(&self) -> ServerConfig {
        self.door_with(|_| {})
    }
}

fn offering(mut client: ClientConfig, alpn: &[&str]) -> ClientConfig {
    client.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    client
}

fn meet_as(
    client: ClientConfig,
    server: ServerConfig,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    loop {
        let there = pass(&mut client, &mut server);
        let back = pass(&mut server, &mut client)?;
        if !there.as_ref().is_ok_and(|passed| *passed) && !back {
            there?;
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok((client, server));
        }
    }
}

fn meet(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    meet_as(client, server, NAME)
}

/// Carries what one side has to say; whether there was anything.
fn pass<A: SideData, B: SideData>(
    from: &mut impl DerefMut<Target = ConnectionCommon<A>>,
    to: &mut impl DerefMut<Target = ConnectionCommon<B>>,
) -> Result<bool, rustls::Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(!wire.is_empty())
}

fn why(met: Result<(ClientConnection, ServerConnection), rustls::Error>) -> String {
    OriginFailure::of(&io::Error::other(met.unwrap_err())).unwrap().to_string()
}

#[test]
fn a_door_and_its_caller_agree_on_the_version_and_the_protocol() {
    let world = World::new();
    let client = || origin_client(world.trust()).unwrap();
    for (offered, taken) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.0", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let (client, server) = meet(offering(client(), offered), world.door()).unwrap();
        assert_eq!(client.alpn_protocol(), taken.map(str::as_bytes), "{offered:?}");
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
    assert_eq!(
        why(meet(offering(client(), &["imap"]), world.door())),
        "it refuses the handshake: it speaks neither HTTP/2 nor HTTP/1.1"
    );
}

#[test]
fn an_older_peer_is_met_with_tls_1_2() {
    let world = World::new();
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.certificate.der().clone()).unwrap();
    let old_caller = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (_, server) = meet(old_caller, world.door()).unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_2));

    for trust in [world.trust(), Trust::Nobody] {
        let (certificate, key) = world.leaf(|_| {});
        let old_origin = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key.into())
            .unwrap();
        let (client, _) = meet(origin_client(trust).unwrap(), old_origin).unwrap();
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    }
}

#[test]
fn a_door_has_no_time_for_early_data() {
    assert_eq!(World::new().door().max_early_data_size, 0);
}

#[test]
fn an_origin_that_cannot_be_believed_is_refused_with_the_reason() {
    let (world, other) = (World::new(), World::named("another authority"));
    let client = || origin_client(world.trust()).unwrap();
    assert!(meet(client(), world.door()).is_ok());

    assert!(why(meet(client(), World::new().door())).contains("another authority of the same name"));
    assert_eq!(
        why(meet(client(), other.door())),
        "its certificate is not signed by an authority that is trusted here"
    );
    let wrong_name = why(meet_as(client(), world.door(), "carts.shop.svc"));
    assert!(wrong_name.starts_with("its certificate is not for carts.shop.svc, only for "), "{wrong_name}");
    assert!(wrong_name.contains(NAME), "{wrong_name}");
    assert_eq!(
        why(meet(client(), world.door_with(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1)))),
        "its certificate has expired, or the clock here is wrong"
    );
    assert_eq!(
        why(meet(client(), world.door_with(|params| params.not_before = rcgen::date_time_ymd(3001, 1, 1)))),
        "its certificate is not valid yet, or the clock here is wrong"
    );
    let clients = world.door_with(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let not_a_servers = why(meet(client(), clients));
    assert!(not_a_servers.starts_with("its certificate cannot be used: "), "{not_a_servers}");
    let nameless = why(meet(client(), world.door_with(|params| params.subject_alt_names.clear())));
    assert_eq!(nameless, format!("its certificate is not for {NAME}, nor for any other name"));
}

#[test]
fn a_server_that_speaks_no_tls_is_told_from_one_that_is_not_believed() {
    let client = origin_client(Trust::Nobody).unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    client.read_tls(&mut &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..]).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert_eq!(OriginFailure::of(&io::Error::other(error)), Some(OriginFailure::NotTls));
    assert_eq!(OriginFailure::of(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    assert_eq!(OriginFailure::of(&io::Error::other("something else")), None);
}

#[test]
fn without_verification_any_certificate_will_do() {
    let (world, other) = (World::new(), World::new());
    let client = || origin_client(Trust::Nobody).unwrap();
    assert!(meet(client(), world.door()).is_ok());
    assert!(meet(client(), other.door()).is_ok());
    assert!(meet_as(client(), world.door(), "carts.shop.svc").is_ok());
    assert!(
        meet(client(), world.door_with(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1))).is_ok()
    );
}

/// A server that shows another's certificate, which is public, and signs with its own key.
#[test]
fn without_verification_a_server_must_still_have_its_certificates_key() {
    let world = World::new();
    let (certificate, _) = world.leaf(|_| {});
    let (_, thief) = world.leaf(|_| {});
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = provider.key_provider.load_private_key(PrivateKeyDer::from(thief_key(&thief))).unwrap();
        let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        let met = meet(origin_client(Trust::Nobody).unwrap(), server);
        assert_eq!(met.unwrap_err(), rustls::CertificateError::BadSignature.into(), "{version:?}");
    }
}

fn thief_key(key: &KeyPair) -> rustls::pki_types::PrivatePkcs8KeyDer<'static> {
    key.serialize_der().into()
}

#[test]
fn what_is_no_authority_is_not_trusted() {
    let refused = |trust| origin_client(trust).unwrap_err();
    assert!(matches!(refused(Trust::Authority(Vec::new())), OriginTlsError::NoAuthorities));
    let world = World::new();
    let garbage = CertificateDer::from(vec![0x30, 0x00]);
    let second = refused(Trust::Authority(vec![world.certificate.der().clone(), garbage]));
    assert_eq!(second.to_string(), "trusting certificate 2 of the file");
}

#[test]
fn a_certificate_and_a_key_that_make_no_door_are_told_apart() {
    let world = World::new();
    let (certificate, key) = world.leaf(|_| {});
    let (_, other) = world.leaf(|_| {});
    let chain = || vec![certificate.der().clone()];
    assert!(matches!(door_server(chain(), other.into()), Err(DoorTlsError::Mismatch)));
    let garbage = PrivateKeyDer::Pkcs8(vec![1, 2, 3].into());
    assert!(matches!(door_server(chain(), garbage), Err(DoorTlsError::Key(_))));
    // The chain the wrong way round: the authority's certificate first.
    let turned = vec![world.certificate.der().clone(), certificate.der().clone()];
    assert!(matches!(door_server(turned, thief_key(&key).into()), Err(DoorTlsError::Mismatch)));
    assert!(matches!(door_server(Vec::new(), thief_key(&key).into()), Err(DoorTlsError::Certificate(_))));
    let garbage = vec![CertificateDer::from(vec![0x30, 0x00])];
    assert!(matches!(door_server(garbage, key.into()), Err(DoorTlsError::Certificate(_))));
}

#[test]
fn a_caller_without_a_server_name_is_served() {
    let world = World::new();
    let mut client = origin_client(world.trust()).unwrap();
    client.enable_sni = false;
    assert!(meet(client, world.door()).is_ok());
}

#[test]
fn a_file_that_holds_something_else_is_refused_by_its_name() {
    let world = World::new();
    let (certificate, key) = world.leaf(|_| {});
    let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
    let dir = tempfile::tempdir().unwrap();
    let file = |contents: &str| {
        let path = dir.path().join("file.pem");
        fs::write(&path, contents).unwrap();
        path
    };

    let chain = format!("# the door's\n{pem}\n{key_pem}{}", world.certificate.pem());
    let read = certificates(&file(&chain)).unwrap();
    assert_eq!(read, [certificate.der().clone(), world.certificate.der().clone()]);
    assert!(private_key(&file(&chain)).is_ok(), "both may stand in one file");

    let (begin, _) = pem.split_at(pem.len() / 2);
    for (contents, said) in [
        (String::new(), "no certificate in it: it must be PEM"),
        ("hello".to_owned(), "no certificate in it: it must be PEM"),
        (key_pem, "no certificate in it: it must be PEM"),
        (begin.to_owned(), "not PEM: a section does not end: the file was cut short"),
        (
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n".to_owned(),
            "not PEM: a section is not base64",
        ),
        (
            format!("{pem}-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"),
            "certificate 2 in it is not an X.509 certificate",
        ),
        ("x".repeat(2 << 20), "larger than 1 MiB"),
    ] {
        let path = file(&contents);
        let error = certificates(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("reading {}: {said}", path.display())), "{error}");
    }
    for (contents, said) in [
        (String::new(), "no private key in it: it must be PEM"),
        (pem.clone(), "no private key in it: it must be PEM"),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .to_owned(),
            "the key is encrypted",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n".to_owned(),
            "not PEM: a section is not base64",
        ),
    ] {
        let path = file(&contents);
        let error = private_key(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("reading {}: {said}", path.display())), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for path in [dir.path().to_owned(), dir.path().join("absent")] {
        let error = certificates(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("reading {}", path.display()));
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_taken_and_told() {
    use std::os::unix::fs::PermissionsExt;
    let (_, key) = World::new().leaf(|_| {});
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tls.key");
    fs::write(&path, key.serialize_pem()).unwrap();
    for (mode, told) in [(0o600, None), (0o400, None), (0o640, Some(0o640)), (0o644, Some(0o644))] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(private_key(&path).unwrap().open_to_others, told, "{mode:o}");
    }
}
