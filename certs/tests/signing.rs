//! What the authority signs, and what it does not.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; clippy only sees that in the functions marked so"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_certs::{
    Authority, CsrRefused, DeveloperKey, DeveloperName, Identity, Issued, LeafError, NotAnIdentity, Serial,
    decode_certificate, encode_certificate, tls,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

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

    fn sign(&self, request: &[u8]) -> Result<Issued, CsrRefused> {
        match self.authority.sign_csr(request, &alice(), 24 * HOUR, now()) {
            Ok(issued) => Ok(issued),
            Err(LeafError::Refused(refused)) => Err(refused),
            Err(other) => panic!("{other}"),
        }
    }
}

fn alice() -> DeveloperName {
    "alice".parse().unwrap()
}

/// A request of somebody who does not use our client.
fn request(fill: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    request_with(fill, Vec::new())
}

fn request_with(fill: impl FnOnce(&mut CertificateParams), attributes: Vec<rcgen::Attribute>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    fill(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request_with_attributes(&key, attributes).unwrap().der().to_vec()
}

#[test]
fn a_developer_gets_a_certificate_that_says_who_they_are() {
    let world = World::new();
    let key = DeveloperKey::generate().unwrap();
    let issued = world.sign(key.request().unwrap().as_bytes()).unwrap();
    let identity = Identity::from_verified(&issued.certificate).unwrap();
    assert_eq!(identity.name, alice());
    assert_eq!(identity.serial, issued.serial);
    assert_eq!(identity.not_after, now() + 24 * HOUR);
    assert_eq!(issued.not_after, identity.not_after);

    let (_, certificate) = parse_x509_certificate(&issued.certificate).unwrap();
    assert!(!certificate.is_ca());
    assert!(certificate.basic_constraints().unwrap().is_some(), "CA:FALSE is said aloud");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].to_string(), format!("URI(culvert://{}/user/alice)", world.authority.id()));
    let not_before = u64::try_from(certificate.validity().not_before.timestamp()).unwrap();
    assert_eq!(UNIX_EPOCH + Duration::from_secs(not_before), now() - Duration::from_secs(300));
    // The certificate fits the key: rustls checks it when the two are put together.
    tls::tunnel_client(&[world.authority.certificate().clone()], &key, &issued.certificate).unwrap();
    let other = DeveloperKey::generate().unwrap();
    assert!(
        tls::tunnel_client(&[world.authority.certificate().clone()], &other, &issued.certificate).is_err()
    );
}

#[test]
fn a_certificate_survives_being_text() {
    let world = World::new();
    let issued = world.sign(DeveloperKey::generate().unwrap().request().unwrap().as_bytes()).unwrap();
    assert_eq!(decode_certificate(issued.pem().as_bytes()).unwrap(), issued.certificate);
    assert!(issued.pem().lines().all(|line| line.len() <= 64));
    let twice = issued.pem() + &encode_certificate(world.authority.certificate());
    for wrong in [twice.as_bytes(), b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(decode_certificate(wrong).is_err());
    }
}

#[test]
fn every_certificate_has_its_own_serial() {
    let world = World::new();
    let request = DeveloperKey::generate().unwrap().request().unwrap();
    let mut serials: Vec<Serial> = (0..64)
        .map(|_| world.sign(request.as_bytes()).unwrap())
        .map(|issued| {
            // Also those that begin with zeros or a set bit, which DER writes in other lengths.
            assert_eq!(Identity::from_verified(&issued.certificate).unwrap().serial, issued.serial);
            assert_eq!(issued.serial.to_string().parse(), Ok(issued.serial));
            issued.serial
        })
        .collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 64);
}

#[test]
fn requests_in_pem_and_der_with_a_p256_or_ed25519_key_are_signed() {
    let world = World::new();
    world.sign(include_bytes!("requests/ed25519.pem")).unwrap();
    world.sign(&request(|_| ())).unwrap();
    world.sign(&request(|params| params.distinguished_name.push(DnType::CommonName, "alice"))).unwrap();
    world.sign(&request(|params| params.is_ca = IsCa::ExplicitNoCa)).unwrap();
    world.sign(&request(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature])).unwrap();
}

#[test]
fn a_request_with_a_weak_key_is_refused() {
    let world = World::new();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = CertificateParams::default().serialize_request(&p384).unwrap().pem().unwrap();
    let (small, large) = (include_bytes!("requests/rsa-1024.pem"), include_bytes!("requests/rsa-2048.pem"));
    let other_curve = include_bytes!("requests/secp256k1.pem");
    for request in [small.as_slice(), large, other_curve, p384.as_bytes()] {
        let refused = world.sign(request).unwrap_err();
        assert!(matches!(refused, CsrRefused::Key { .. }), "{refused}");
    }
    assert!(world.sign(small).unwrap_err().to_string().contains("an RSA key"));
}

#[test]
fn a_request_whose_sender_does_not_hold_the_key_is_refused() {
    let world = World::new();
    let mut forged = request(|_| ());
    // Inside the signature's second number, so that it still is a signature.
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(world.sign(&forged).unwrap_err(), CsrRefused::Signature);
}

#[test]
fn a_request_for_another_name_is_refused() {
    let world = World::new();
    let asking: [fn(&mut CertificateParams); 6] = [
        |params| params.distinguished_name.push(DnType::CommonName, "bob"),
        |params| params.distinguished_name.push(DnType::CommonName, "alice\0"),
        |params| {
            params.distinguished_name.push(DnType::CommonName, "alice");
            params.distinguished_name.push(DnType::OrganizationName, "admins");
        },
        |params| {
            params.subject_alt_names = vec![SanType::URI("culvert://0a1b2c3d/user/bob".try_into().unwrap())]
        },
        |params| params.subject_alt_names = vec![SanType::DnsName("relay.example.com".try_into().unwrap())],
        |params| params.subject_alt_names = vec![SanType::Rfc822Name("bob@example.com".try_into().unwrap())],
    ];
    for fill in asking {
        assert_eq!(world.sign(&request(fill)).unwrap_err(), CsrRefused::OtherName);
    }
}

#[test]
fn a_request_to_be_an_authority_is_refused() {
    let world = World::new();
    let asking: [fn(&mut CertificateParams); 4] = [
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign],
        |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ];
    for fill in asking {
        assert_eq!(world.sign(&request(fill)).unwrap_err(), CsrRefused::AuthorityAsked);
    }
}

#[test]
fn a_second_list_of_extensions_hides_nothing() {
    let world = World::new();
    // SET { SEQUENCE OF Extension { basicConstraints, critical, SEQUENCE { cA TRUE } } }
    let values = b"\x31\x13\x30\x11\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff";
    let attribute = rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 14], values: values.to_vec() };
    let smuggled =
        request_with(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature], vec![attribute]);
    assert_eq!(world.sign(&smuggled).unwrap_err(), CsrRefused::AuthorityAsked);
}

#[test]
fn a_request_for_other_extensions_is_refused() {
    let world = World::new();
    let server = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(world.sign(&request(server)).unwrap_err(), CsrRefused::Extension);
    let custom = |params: &mut CertificateParams| {
        params.custom_extensions =
            vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0])];
    };
    assert_eq!(world.sign(&request(custom)).unwrap_err(), CsrRefused::Extension);
}

#[test]
fn a_request_that_is_too_large_or_none_at_all_is_refused() {
    let world = World::new();
    let mut padded = DeveloperKey::generate().unwrap().request().unwrap().into_bytes();
    padded.resize(16 * 1024, b'\n');
    world.sign(&padded).unwrap();
    padded.push(b'\n');
    assert_eq!(world.sign(&padded).unwrap_err(), CsrRefused::TooLarge { size: 16 * 1024 + 1 });
    let whole = request(|_| ());
    let trailing = [whole.as_slice(), b"\0"].concat();
    let certificate = encode_certificate(world.authority.certificate());
    for wrong in
        [b"".as_slice(), b"hello", b"\x30", b"\x30\x84\xff\xff\xff\xff", &trailing, certificate.as_bytes()]
    {
        assert_eq!(world.sign(wrong).unwrap_err(), CsrRefused::Malformed);
    }
    for end in 0..whole.len() {
        world.sign(&whole[..end]).unwrap_err();
    }
}

#[test]
fn no_certificate_outlives_the_authority() {
    let world = World::new();
    let request = DeveloperKey::generate().unwrap().request().unwrap();
    let end = world.authority.not_after();
    let issued = world.authority.sign_csr(request.as_bytes(), &alice(), 24 * HOUR, end - HOUR).unwrap();
    assert_eq!(issued.not_after, end);
    let leaf = world.authority.server_leaf(&["localhost".to_owned()], end - HOUR).unwrap();
    assert_eq!(leaf.not_after(), end);
    for (lifetime, when) in [(24 * HOUR, end), (Duration::ZERO, now()), (HOUR, UNIX_EPOCH - HOUR)] {
        let refused = world.authority.sign_csr(request.as_bytes(), &alice(), lifetime, when);
        assert!(matches!(refused, Err(LeafError::NothingLeft)));
    }
}

#[test]
fn the_relay_is_certified_for_names_and_addresses_and_nothing_else() {
    let world = World::new();
    let leaf = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        world.authority.server_leaf(&names, now())
    };
    let made = leaf(&["relay.example.com", "127.0.0.1", "::1"]).unwrap();
    assert_eq!(made.not_after(), now() + 90 * 24 * HOUR);
    assert!(matches!(leaf(&[]), Err(LeafError::NoNames)));
    for wrong in ["", "a b", "https://relay", "relay:4433", "[::1]", "relay\0", "*.example.com"] {
        assert!(
            matches!(leaf(&["localhost", wrong]), Err(LeafError::NotAHost { name }) if name == wrong),
            "{wrong}"
        );
    }
}

#[test]
fn a_certificate_that_does_not_name_one_developer_is_nobody() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let certificate = |names: Vec<SanType>| -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.serial_number = Some(7_u64.into());
        params.self_signed(&key).unwrap().into()
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let alice = || uri("culvert://0a1b2c3d/user/alice");
    assert_eq!(Identity::from_verified(&certificate(vec![alice()])).unwrap().name.as_str(), "alice");
    for names in [
        vec![],
        vec![SanType::DnsName("alice".try_into().unwrap())],
        vec![alice(), uri("culvert://0a1b2c3d/user/bob")],
        vec![alice(), SanType::DnsName("alice".try_into().unwrap())],
        vec![uri("culvert://0a1b2c3d/user/alice\0.example.com")],
        vec![uri("culvert://0a1b2c3d/user/Alice")],
        vec![uri("https://0a1b2c3d/user/alice")],
    ] {
        assert_eq!(Identity::from_verified(&certificate(names)), Err(NotAnIdentity::NoName));
    }
    assert_eq!(Identity::from_verified(world.authority.certificate()), Err(NotAnIdentity::NoName));
    let trailing = [certificate(vec![alice()]).as_ref(), b"\0"].concat();
    let mut long_serial = CertificateParams::default();
    long_serial.subject_alt_names = vec![alice()];
    long_serial.serial_number = Some(rcgen::SerialNumber::from_slice(&[1; 17]));
    let long_serial = long_serial.self_signed(&key).unwrap();
    assert_eq!(Identity::from_verified(long_serial.der()), Err(NotAnIdentity::Malformed));
    for wrong in [b"".as_slice(), b"\x30\x00", &trailing] {
        assert_eq!(Identity::from_verified(&CertificateDer::from(wrong)), Err(NotAnIdentity::Malformed));
    }
}

#[test]
fn a_developers_key_is_kept_private_and_survives_a_restart() {
    let world = World::new();
    let path = world.root.path().join("config/culvert/developer.key");
    let key = DeveloperKey::generate().unwrap();
    key.save(&path).unwrap();
    let loaded = DeveloperKey::load(&path).unwrap();
    assert_eq!(key.to_pem().expose(), loaded.to_pem().expose());
    DeveloperKey::generate().unwrap().save(&path).unwrap();
    assert_ne!(DeveloperKey::load(&path).unwrap().to_pem().expose(), key.to_pem().expose());
    let shown = format!("{key:?} {:?}", key.to_pem());
    assert_eq!(shown, "DeveloperKey(<secret>) <secret>");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = DeveloperKey::load(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("run `chmod 600 {}`", path.display())), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(&path, "not a key").unwrap();
    assert!(DeveloperKey::load(&path).unwrap_err().to_string().contains("developer.key"));
    std::fs::remove_file(&path).unwrap();
    assert!(DeveloperKey::load(&path).unwrap_err().to_string().ends_with("log in again"));
}
