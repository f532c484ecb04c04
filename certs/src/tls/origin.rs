//! The TLS toward the HTTP servers that we dial, upstreams and apps: whom we believe to be the one that was meant.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::{ClientConfig, VerifierBuilderError, WebPkiServerVerifier};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};

use super::web_provider;

mod failure;
mod unverified;

pub use failure::OriginFailure;
use unverified::Unverified;

/// Whose word counts on who an origin is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The authorities that this machine trusts.
    System,
    /// These, and no other.
    Authority(Vec<CertificateDer<'static>>),
    /// Nobody's: any certificate will do, as long as the server has its key. Whoever is in between can read and change
    /// everything.
    Nobody,
}

/// TLS 1.2 and 1.3. What is offered by ALPN is the user's to say. Reads files for [`Trust::System`], so that it may take
/// some tens of milliseconds.
pub fn origin_client(trust: Trust) -> Result<ClientConfig, OriginTlsError> {
    let config = ClientConfig::builder_with_provider(web_provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(OriginTlsError::Provider)?;
    let roots = match trust {
        Trust::System => system_roots()?,
        Trust::Authority(authorities) => roots(authorities)?,
        Trust::Nobody => {
            let verifier = Arc::new(Unverified::new(web_provider()));
            return Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), web_provider()).build()?;
    Ok(config.with_webpki_verifier(verifier).with_no_client_auth())
}

fn system_roots() -> Result<RootCertStore, OriginTlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that nobody can use; they are not what makes the others worthless.
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    match (taken, found.errors.into_iter().next()) {
        (0, cause) => Err(OriginTlsError::NoSystemAuthorities(cause)),
        _ => Ok(roots),
    }
}

fn roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, OriginTlsError> {
    if authorities.is_empty() {
        return Err(OriginTlsError::NoAuthorities);
    }
    let mut roots = RootCertStore::empty();
    for (authority, number) in authorities.into_iter().zip(1..) {
        roots.add(authority).map_err(|cause| OriginTlsError::Authority { number, cause })?;
    }
    Ok(roots)
}

/// Why there is no TLS toward an origin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginTlsError {
    #[error("preparing TLS")]
    Provider(#[source] rustls::Error),
    #[error(
        "this system trusts no certificate authority at all: install some (the package ca-certificates), or name a file with the one to trust"
    )]
    NoSystemAuthorities(#[source] Option<rustls_native_certs::Error>),
    #[error("no certificate authority to trust")]
    NoAuthorities,
    #[error("trusting certificate {number} of the file")]
    Authority { number: usize, cause: rustls::Error },
    #[error("preparing to verify origins")]
    Verifier(#[from] VerifierBuilderError),
}
