//! SHA-256 of a certificate: how a join token names the relay's authority. Holds no verification: see `tls::client`.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::hex;

/// SHA-256 of a certificate's DER. Written as 64 lower-case hexadecimal digits, compared in constant time.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; Self::LENGTH]);

impl Fingerprint {
    pub(crate) const LENGTH: usize = 32;

    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }

    pub(crate) const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// The certificate with this fingerprint among those that a relay presented. It is the authority to keep after a join:
/// the handshake has then already checked that the rest of the chain leads to it.
pub fn find_authority<'chain, 'der>(
    presented: &'chain [CertificateDer<'der>],
    fingerprint: &Fingerprint,
) -> Option<&'chain CertificateDer<'der>> {
    presented.iter().find(|certificate| Fingerprint::of(certificate) == *fingerprint)
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Fingerprint {}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text).map(Self).ok_or(NotAFingerprint)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate fingerprint is 64 hexadecimal digits")]
pub struct NotAFingerprint;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back_as_it_was_written() {
        let fingerprint = Fingerprint::of(&CertificateDer::from(b"abc".as_slice()));
        let text = fingerprint.to_string();
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().parse(), Ok(fingerprint));
        assert_eq!(text.get(1..).unwrap().parse::<Fingerprint>(), Err(NotAFingerprint));
    }

    #[test]
    fn one_other_bit_is_another_fingerprint() {
        let one = Fingerprint::from_bytes([7; 32]);
        let mut bytes = [7; 32];
        bytes[31] ^= 1;
        assert_ne!(one, Fingerprint::from_bytes(bytes));
    }
}
