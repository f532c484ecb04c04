//! A developer's private key: made on their machine, kept there, and never sent. Holds no certificate.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};
use crate::secret::Secret;

/// A P-256 key. Wiped from memory when it is dropped, except for the form that the signing library holds inside.
pub struct DeveloperKey(Secret<KeyPair>);

impl DeveloperKey {
    pub fn generate() -> Result<Self, DeveloperKeyError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(|key| Self(Secret::new(key)))
            .map_err(DeveloperKeyError::Making)
    }

    /// A certificate request in PEM. It holds the public key and no name: who the developer is, the relay knows from
    /// the join token or from the certificate that is being renewed.
    pub fn request(&self) -> Result<String, DeveloperKeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .serialize_request(self.0.expose())
            .and_then(|request| request.pem())
            .map_err(DeveloperKeyError::Requesting)
    }

    /// As PKCS #8 PEM, for a file of the caller's own (see [`private_file`]).
    pub fn to_pem(&self) -> Secret<String> {
        Secret::new(self.0.expose().serialize_pem())
    }

    pub fn from_pem(pem: &[u8]) -> Result<Self, DeveloperKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| DeveloperKeyError::NotAKey)?;
        let der = Zeroizing::new(der);
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map(|key| Self(Secret::new(key)))
            .map_err(|_| DeveloperKeyError::NotAKey)
    }

    /// Writes the key with mode 0600, in place of an older one; its directory is made with mode 0700.
    pub fn save(&self, path: &Path) -> Result<(), DeveloperKeyError> {
        if let Some(directory) = path.parent().filter(|parent| *parent != Path::new("")) {
            private_file::directory(directory)?;
        }
        Ok(private_file::replace(path, self.to_pem().expose().as_bytes())?)
    }

    /// Refuses a file that other users may read, with the command that closes it.
    pub fn load(path: &Path) -> Result<Self, DeveloperKeyError> {
        let pem =
            private_file::read(path)?.ok_or_else(|| DeveloperKeyError::Absent { path: path.to_owned() })?;
        Self::from_pem(pem.expose()).map_err(|_| DeveloperKeyError::Corrupt { path: path.to_owned() })
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.expose().serialize_der().into())
    }
}

impl fmt::Debug for DeveloperKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeveloperKey(<secret>)")
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeveloperKeyError {
    #[error("making a private key")]
    Making(#[source] rcgen::Error),
    #[error("making a certificate request")]
    Requesting(#[source] rcgen::Error),
    #[error("reading a private key: not a P-256 key in PKCS #8 PEM")]
    NotAKey,
    #[error("reading the private key {}: it is not there: log in again", path.display())]
    Absent { path: PathBuf },
    #[error("reading the private key {}: not a P-256 key in PKCS #8 PEM: log in again", path.display())]
    Corrupt { path: PathBuf },
    #[error(transparent)]
    File(#[from] PrivateFileError),
}
