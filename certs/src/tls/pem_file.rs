//! Certificates and keys that somebody else made, in files that somebody else put there: a door's, and the authorities
//! of origins. Our own are in files that nobody else may read ([`crate::private_file`]).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Whole systems' bundles are a quarter of this; a larger file is some other file.
const MAX_SIZE: u64 = 1024 * 1024;

/// A private key, and whether others on the machine can read it too.
#[derive(Debug)]
pub struct KeyFile {
    pub key: PrivateKeyDer<'static>,
    /// The file's mode, when it lets others than the owner read or write it. That is how Kubernetes mounts a secret,
    /// which nobody else in the container sees; elsewhere it is a mistake.
    pub open_to_others: Option<u32>,
}

/// All certificates in a PEM file, in its order: at least one. Whatever else is in the file is passed over.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let (text, _) = read(path)?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| broken(path, &error))?;
        match x509_parser::parse_x509_certificate(&certificate) {
            Ok(([], _)) => certificates.push(certificate),
            Ok(_) | Err(_) => {
                let number = certificates.len() + 1;
                return Err(PemFileError::NotACertificate { path: path.to_owned(), number });
            }
        }
    }
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(PemFileError::Nothing { path: path.to_owned(), wanted: "certificate" }),
    }
}

/// The first private key in a PEM file: PKCS#8, PKCS#1 or SEC1, not encrypted.
pub fn private_key(path: &Path) -> Result<KeyFile, PemFileError> {
    let (text, mode) = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(KeyFile { key, open_to_others: mode.filter(|mode| mode & 0o077 != 0) }),
        Err(pem::Error::NoItemsFound) if contains(&text, b"ENCRYPTED") => {
            Err(PemFileError::Encrypted { path: path.to_owned() })
        }
        Err(pem::Error::NoItemsFound) => {
            Err(PemFileError::Nothing { path: path.to_owned(), wanted: "private key" })
        }
        Err(error) => Err(broken(path, &error)),
    }
}

/// Contents and mode.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Option<u32>), PemFileError> {
    let failed = |source| PemFileError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    // Opening a pipe would wait for its writer, for ever.
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a file")));
    }
    let file = File::open(path).map_err(failed)?;
    let too_large = || PemFileError::TooLarge { path: path.to_owned() };
    // Reserved at once: a vector that grows would leave copies of a key in freed memory.
    let reserve = usize::try_from(metadata.len().min(MAX_SIZE)).map_err(|_| too_large())?.saturating_add(1);
    let mut text = Zeroizing::new(Vec::with_capacity(reserve));
    file.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(too_large());
    }
    Ok((text, mode(&metadata)))
}

#[cfg(unix)]
fn mode(metadata: &fs::Metadata) -> Option<u32> {
    Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777)
}

#[cfg(not(unix))]
fn mode(_: &fs::Metadata) -> Option<u32> {
    None
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The parser's own words may quote the file, which may be a key.
fn broken(path: &Path, error: &pem::Error) -> PemFileError {
    let problem = match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end: the file was cut short",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is not complete",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "damaged",
    };
    PemFileError::Broken { path: path.to_owned(), problem }
}

/// Why a file is not what was looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemFileError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("reading {}: larger than 1 MiB, so it is neither a certificate nor a key", path.display())]
    TooLarge { path: PathBuf },
    #[error("reading {}: no {wanted} in it: it must be PEM, with a line -----BEGIN …-----", path.display())]
    Nothing { path: PathBuf, wanted: &'static str },
    #[error("reading {}: not PEM: {problem}", path.display())]
    Broken { path: PathBuf, problem: &'static str },
    #[error("reading {}: certificate {number} in it is not an X.509 certificate", path.display())]
    NotACertificate { path: PathBuf, number: usize },
    #[error("reading {}: the key is encrypted, and nobody is asked for its passphrase: store it without one", path.display())]
    Encrypted { path: PathBuf },
}
