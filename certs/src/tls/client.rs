//! The client's side of the tunnel port: whom it believes to be its relay, and how it shows who it is.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use super::{JOIN_ALPN, TUNNEL_ALPN, TlsError, provider};
use crate::developer::DeveloperKey;
use crate::fingerprint::{Fingerprint, find_authority};

/// For the tunnel: the relay must lead to one of `authorities` and bear the name that was dialled. No other root counts,
/// the operating system's least of all.
pub fn tunnel_client(
    authorities: &[CertificateDer<'static>],
    key: &DeveloperKey,
    certificate: &CertificateDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(TlsError::Authority)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![certificate.clone()], key.der())
        .map_err(TlsError::Developer)?;
    Ok(strict(config, TUNNEL_ALPN))
}

/// For the first contact: the relay must present the authority with this fingerprint, lead to it, and bear the name
/// that was dialled. Afterwards [`find_authority`] finds the certificate to keep among those that the peer presented.
pub fn join_client(fingerprint: Fingerprint) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(FingerprintVerifier { fingerprint }))
        .with_no_client_auth();
    Ok(strict(config, JOIN_ALPN))
}

fn strict(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config
}

/// The fingerprint only says which certificate to trust as the root. All that a chain must be is then checked against
/// that root as against any other.
#[derive(Debug)]
struct FingerprintVerifier {
    fingerprint: Fingerprint,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The relay's own certificate is never the authority, so it is not looked at.
        let authority = find_authority(intermediates, &self.fingerprint)
            .ok_or_else(|| CertificateError::Other(OtherError(Arc::new(NotTheTokensRelay))))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What the verifier says when the fingerprint is nowhere in the chain; [`super::HandshakeFailure::of`] knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the relay that made the token: refusing")]
pub struct NotTheTokensRelay;
