//! What the authority signs: the relay's own certificate and its developers'. Holds no file and no revocation.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::authority::Authority;
use crate::csr::{self, CsrRefused};
use crate::identity::DeveloperName;
use crate::pem::encode_certificate;
use crate::secret::{NoRandomness, Secret};
use crate::serial::Serial;
use crate::validity::Validity;

/// A relay makes a new one at each start, and can make another while it runs. 90 days bound the worth of a stolen one
/// and outlast the time that a relay usually runs.
const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

impl Authority {
    /// The relay's own certificate for these host names and addresses (DNS or IP, as clients dial them). Its key is made
    /// here and lives in memory only.
    pub fn server_leaf(&self, names: &[String], now: SystemTime) -> Result<Leaf, LeafError> {
        if names.is_empty() {
            return Err(LeafError::NoNames);
        }
        let (mut params, validity, _) = self.leaf_params(SERVER_LIFETIME, now)?;
        params.subject_alt_names = names.iter().map(|name| host(name)).collect::<Result<_, _>>()?;
        params.distinguished_name.push(DnType::CommonName, "culvert relay");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = Secret::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(LeafError::Signing)?);
        let certificate = self
            .issuer()
            .and_then(|issuer| params.signed_by(key.expose(), &issuer))
            .map_err(LeafError::Signing)?;
        // The authority goes along, though a TLS server may leave its root out: a client that joins knows only the
        // root's fingerprint, and finds the certificate with it here.
        let chain = vec![certificate.into(), self.certificate().clone()];
        let key = Secret::new(PrivateKeyDer::Pkcs8(key.expose().serialize_der().into()));
        Ok(Leaf { chain, key, not_after: validity.not_after() })
    }

    /// Signs a developer's key. Of the request (PEM or DER, at most 16 KiB) only the public key is taken; every word of
    /// the certificate comes from the arguments.
    pub fn sign_csr(
        &self,
        request: &[u8],
        name: &DeveloperName,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, LeafError> {
        let key = csr::requested_key(request, name)?;
        let (mut params, validity, serial) = self.leaf_params(lifetime, now)?;
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        let identity = format!("culvert://{}/user/{name}", self.id());
        params.subject_alt_names = vec![SanType::URI(identity.try_into().map_err(LeafError::Signing)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate =
            self.issuer().and_then(|issuer| params.signed_by(&key, &issuer)).map_err(LeafError::Signing)?;
        Ok(Issued { certificate: certificate.into(), serial, not_after: validity.not_after() })
    }

    fn leaf_params(
        &self,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(CertificateParams, Validity, Serial), LeafError> {
        // Verifiers do not look at a root's own end, so that it has to be held here.
        let validity =
            Validity::starting(now, lifetime, Some(self.not_after())).ok_or(LeafError::NothingLeft)?;
        let serial = Serial::random()?;
        let mut params = CertificateParams::default();
        validity.apply(&mut params);
        params.serial_number = Some(serial.into());
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok((params, validity, serial))
    }
}

/// The relay's own certificate, with the authority after it, and its key.
#[derive(Debug)]
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: Secret<PrivateKeyDer<'static>>,
    not_after: SystemTime,
}

impl Leaf {
    /// Make another one well before this.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// Without the authority.
    pub(crate) fn alone(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().take(1).cloned().collect()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.expose().clone_key()
    }
}

/// A certificate that was just signed for a developer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    pub serial: Serial,
    pub not_after: SystemTime,
}

impl Issued {
    pub fn pem(&self) -> String {
        encode_certificate(&self.certificate)
    }
}

fn host(name: &str) -> Result<SanType, LeafError> {
    let wrong = || LeafError::NotAHost { name: name.to_owned() };
    match ServerName::try_from(name).map_err(|_| wrong())? {
        ServerName::DnsName(name) => {
            name.as_ref().to_owned().try_into().map(SanType::DnsName).map_err(|_| wrong())
        }
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(IpAddr::from(address))),
        _ => Err(wrong()),
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    #[error("making the relay's certificate: no name or address that clients dial was given")]
    NoNames,
    #[error("making the relay's certificate: {name:?} is neither a host name nor an ip address")]
    NotAHost { name: String },
    /// The only one that is the client's fault.
    #[error(transparent)]
    Refused(#[from] CsrRefused),
    #[error("signing a certificate: the authority or the lifetime asked for ends now, or the clock is wrong")]
    NothingLeft,
    #[error("signing a certificate")]
    Signing(#[source] rcgen::Error),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}
