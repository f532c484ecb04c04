//! A certificate request, as a stranger sends it: its public key, or why it is refused. Holds no signing.
//!
//! What a request asks for beside its key is never granted, so ignoring it would be safe. It is refused all the same:
//! whoever asks to be somebody else should hear "no", and not find out later.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519, OID_X509_COMMON_NAME,
};

use crate::identity::DeveloperName;

/// A request for a P-256 key takes under 600 bytes as PEM; this leaves room for other people's tools.
const MAX_REQUEST: usize = 16 * 1024;

/// The key to sign, once the request has proved that its sender holds it and asks for nothing else.
pub(crate) fn requested_key(
    request: &[u8],
    name: &DeveloperName,
) -> Result<SubjectPublicKeyInfo, CsrRefused> {
    if request.len() > MAX_REQUEST {
        return Err(CsrRefused::TooLarge { size: request.len() });
    }
    let der = match request.first() {
        Some(0x30) => CertificateSigningRequestDer::from(request),
        Some(_) | None => {
            CertificateSigningRequestDer::from_pem_slice(request).map_err(|_| CsrRefused::Malformed)?
        }
    };
    let (rest, parsed) = X509CertificationRequest::from_der(&der).map_err(|_| CsrRefused::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrRefused::Malformed);
    }
    let info = &parsed.certification_request_info;
    // Before the signature: a weak key is named as such, and no odd algorithm is ever run.
    refuse_weak_key(info)?;
    parsed.verify_signature().map_err(|_| CsrRefused::Signature)?;
    refuse_other_subject(info, name)?;
    refuse_extensions(info)?;
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_| CsrRefused::Key { found: "a key that cannot be read" })
}

fn refuse_weak_key(info: &X509CertificationRequestInfo<'_>) -> Result<(), CsrRefused> {
    let algorithm = &info.subject_pki.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return Err(CsrRefused::Key { found: "an RSA key" });
    }
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(CsrRefused::Key { found: "a key of another kind" });
    }
    match algorithm.parameters.as_ref().map(|curve| curve.as_oid()) {
        Some(Ok(curve)) if curve == OID_EC_P256 => Ok(()),
        Some(_) | None => Err(CsrRefused::Key { found: "a key on another curve" }),
    }
}

/// A client that joins need not know its name, so no subject at all is fine.
fn refuse_other_subject(
    info: &X509CertificationRequestInfo<'_>,
    name: &DeveloperName,
) -> Result<(), CsrRefused> {
    let ours = info.subject.iter_attributes().all(|attribute| {
        *attribute.attr_type() == OID_X509_COMMON_NAME
            && attribute.as_str().is_ok_and(|value| value == name.as_str())
    });
    if ours { Ok(()) } else { Err(CsrRefused::OtherName) }
}

/// Over every attribute, not only the first that asks for extensions: the second would be the smuggler's.
fn refuse_extensions(info: &X509CertificationRequestInfo<'_>) -> Result<(), CsrRefused> {
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { continue };
        for extension in &wanted.extensions {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) if !constraints.ca => {}
                ParsedExtension::BasicConstraints(_) => return Err(CsrRefused::AuthorityAsked),
                ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                    return Err(CsrRefused::AuthorityAsked);
                }
                ParsedExtension::KeyUsage(_) => {}
                ParsedExtension::SubjectAlternativeName(_) => return Err(CsrRefused::OtherName),
                _ => return Err(CsrRefused::Extension),
            }
        }
    }
    Ok(())
}

/// Why a certificate request was not signed. Always the sender's doing, and nothing of what it sent is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrRefused {
    #[error("refusing a certificate request: {size} bytes, more than {MAX_REQUEST}")]
    TooLarge { size: usize },
    #[error("refusing a certificate request: neither PEM nor DER of a PKCS #10 request")]
    Malformed,
    #[error("refusing a certificate request: {found}, where only P-256 and Ed25519 are signed")]
    Key { found: &'static str },
    #[error("refusing a certificate request: not signed with the key in it")]
    Signature,
    #[error("refusing a certificate request: it asks for another name")]
    OtherName,
    #[error("refusing a certificate request: it asks to be an authority")]
    AuthorityAsked,
    #[error("refusing a certificate request: it asks for an extension that nobody is given")]
    Extension,
}
