//! The relay's certificate authority: made on the first start, opened on every later one. Holds no policy about who is
//! signed for; what is signed is in `leaf`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;
use crate::hex;
use crate::pem::{decode_certificate, encode_certificate};
use crate::private_file::{self, PrivateFileError};
use crate::secret::{NoRandomness, Secret, random};
use crate::serial::Serial;
use crate::validity::{Validity, from_asn1};

/// Ten years: clients pin it, so that a short-lived authority would mean that everybody logs in again.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

const KEY_FILE: &str = "authority.key";
const CERTIFICATE_FILE: &str = "authority.pem";
const LOCK_FILE: &str = "authority.lock";
const COMMON_NAME: &str = "culvert relay authority ";

/// Signs the relay's own certificates and its developers'. Its key never leaves the relay's data directory.
pub struct Authority {
    key: Secret<KeyPair>,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
    id: String,
    not_after: SystemTime,
}

impl Authority {
    /// Opens the authority in `dir`, or makes one there when `dir` holds none.
    ///
    /// `dir` is made with mode 0700 when it is absent. Two processes that start at once end with the same authority.
    /// What is damaged or half there is an error and never made anew: every login so far depends on it.
    pub fn open_or_create(dir: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        private_file::directory(dir)?;
        // First without the lock: an authority that exists may lie on a read-only mount.
        if let Files::Whole(authority) = Self::open(dir)? {
            return Ok(*authority);
        }
        let _held = private_file::lock(&dir.join(LOCK_FILE))?;
        match Self::open(dir)? {
            Files::Whole(authority) => Ok(*authority),
            Files::None => Self::create(dir, now),
            // Only now: without the lock it may have been another process between its two files.
            Files::Half { present, missing } => Err(AuthorityError::HalfPresent { present, missing }),
        }
    }

    fn open(dir: &Path) -> Result<Files, AuthorityError> {
        let (key_path, certificate_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let key = private_file::read(&key_path)?;
        let certificate = private_file::read_public(&certificate_path)?;
        match (key, certificate) {
            (None, None) => Ok(Files::None),
            (Some(_), None) => Ok(Files::Half { present: key_path, missing: certificate_path }),
            (None, Some(_)) => Ok(Files::Half { present: certificate_path, missing: key_path }),
            (Some(key), Some(certificate)) => {
                let key = parse_key(key.expose()).ok_or(AuthorityError::Corrupt {
                    path: key_path,
                    expected: "a P-256 private key in PEM",
                })?;
                let corrupt = |expected| AuthorityError::Corrupt { path: certificate_path.clone(), expected };
                let certificate = decode_certificate(certificate.expose())
                    .map_err(|_| corrupt("one certificate in PEM"))?;
                let authority = Self::from_parts(key, certificate).map_err(corrupt)?;
                Ok(Files::Whole(Box::new(authority)))
            }
        }
    }

    fn create(dir: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let validity = Validity::starting(now, LIFETIME, None).ok_or(AuthorityError::Clock)?;
        let id = hex::encode(&random::<4>()?);
        let mut params = CertificateParams::default();
        validity.apply(&mut params);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{COMMON_NAME}{id}"));
        params.serial_number = Some(Serial::random()?.into());
        // Signs leaves and nothing else. That a leaf signs nothing is said in the leaf too (CA:FALSE), because not
        // every verifier reads a root's own path length; rustls does not.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Making)?;
        let certificate = params.self_signed(&key).map_err(AuthorityError::Making)?;

        let key_path = dir.join(KEY_FILE);
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let key_pem = Zeroizing::new(key.serialize_pem());
        let appeared = |path| AuthorityError::Appeared { path };
        if !private_file::create(&key_path, key_pem.as_bytes())? {
            return Err(appeared(key_path));
        }
        if !private_file::create(&certificate_path, encode_certificate(certificate.der()).as_bytes())? {
            return Err(appeared(certificate_path));
        }
        Self::from_parts(Secret::new(key), certificate.into())
            .map_err(|expected| AuthorityError::Corrupt { path: certificate_path, expected })
    }

    /// Fails with what the certificate should have been.
    fn from_parts(key: Secret<KeyPair>, certificate: CertificateDer<'static>) -> Result<Self, &'static str> {
        let expected = "the certificate of a culvert relay authority";
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| expected)?;
        if parsed.public_key().raw != key.expose().subject_public_key_info() {
            return Err("the certificate that belongs to authority.key");
        }
        let id = parsed
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok()?.strip_prefix(COMMON_NAME))
            .filter(|id| is_authority_id(id))
            .ok_or(expected)?
            .to_owned();
        if !parsed.is_ca() || parsed.verify_signature(None).is_err() {
            return Err(expected);
        }
        let not_after = from_asn1(parsed.validity().not_after).ok_or(expected)?;
        let fingerprint = Fingerprint::of(&certificate);
        Ok(Self { key, certificate, fingerprint, id, not_after })
    }

    /// What a join token carries, so that a client knows this authority before it has ever met it.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The short random id in the authority's name and in every identity that it signs.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Nothing that it signs holds longer than this.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A key of its own for each purpose, the same at every relay that has this authority.
    pub fn derive(&self, purpose: &str) -> Secret<[u8; 32]> {
        let key = Zeroizing::new(self.key.expose().serialize_der());
        let mut hash = Sha256::new();
        for part in [purpose.as_bytes(), key.as_slice()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Secret::new(hash.finalize().into())
    }

    /// The authorities whose certificates are accepted from developers. A list, because a change of authority needs
    /// the old and the new one at once.
    pub(crate) fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        Ok(roots)
    }

    pub(crate) fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_der(&self.certificate, self.key.expose())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("id", &self.id)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

enum Files {
    None,
    Half { present: PathBuf, missing: PathBuf },
    Whole(Box<Authority>),
}

fn parse_key(pem: &[u8]) -> Option<Secret<KeyPair>> {
    let der = Zeroizing::new(PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).ok().map(Secret::new)
}

pub(crate) fn is_authority_id(id: &str) -> bool {
    hex::decode::<4>(id).is_some() && !id.bytes().any(|digit| digit.is_ascii_uppercase())
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error(
        "opening the relay's authority: {} is there but {} is not: restore it from a backup, or, only if nobody \
         has logged in with this relay yet, remove {} so that a new authority is made",
        present.display(), missing.display(), present.display()
    )]
    HalfPresent { present: PathBuf, missing: PathBuf },
    #[error(
        "opening the relay's authority: {} does not hold {expected}: restore it from a backup; it is not made anew, \
         because every login depends on it",
        path.display()
    )]
    Corrupt { path: PathBuf, expected: &'static str },
    #[error("making the relay's authority: {} appeared meanwhile: start again", path.display())]
    Appeared { path: PathBuf },
    #[error("making the relay's authority: the clock is before 1970 or after 9999")]
    Clock,
    #[error("making the relay's authority")]
    Making(#[source] rcgen::Error),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}
