//! Certificates as text, for files and for the answer to a join. Holds no private key: those stay in the files that
//! own them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Certificates here are under 1 KiB; the bound keeps a wrong or hostile file from being decoded at all.
const MAX_PEM: usize = 64 * 1024;

/// One certificate as PEM, with a line break at the end.
pub fn encode_certificate(certificate: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(certificate.as_ref());
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    // RFC 7468 §2: 64 characters a line. The body is ASCII, so every index is a character's boundary.
    while let Some((line, more)) = rest.split_at_checked(64) {
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    if !rest.is_empty() {
        pem.push_str(rest);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The only certificate in a PEM text. More than one, or one that is not a certificate inside, is refused: which of
/// them was meant would be a guess.
pub fn decode_certificate(pem: &[u8]) -> Result<CertificateDer<'static>, NotACertificate> {
    if pem.len() > MAX_PEM {
        return Err(NotACertificate);
    }
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    let certificate = certificates.next().ok_or(NotACertificate)?.map_err(|_| NotACertificate)?;
    if certificates.next().is_some() {
        return Err(NotACertificate);
    }
    match x509_parser::parse_x509_certificate(&certificate) {
        Ok(([], _)) => {}
        Ok(_) | Err(_) => return Err(NotACertificate),
    }
    Ok(certificate)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one certificate in PEM")]
pub struct NotACertificate;
