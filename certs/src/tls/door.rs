//! The TLS of a service's front door, toward callers of every kind. Its certificate comes from outside; ours is for
//! developers alone.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

use super::web_provider;

/// TLS 1.2 and 1.3, and by ALPN HTTP/2 or HTTP/1.1, for whatever name a caller asks. `chain` begins with the door's own
/// certificate, and `key` must be that one's.
pub fn door_server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, DoorTlsError> {
    let provider = web_provider();
    let key = provider.key_provider.load_private_key(key).map_err(DoorTlsError::Key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(DoorTlsError::Mismatch),
        Err(cause) => return Err(DoorTlsError::Certificate(cause)),
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(DoorTlsError::Provider)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    // HTTP/1.0 is registered too (RFC 7301 §6), and who offers only that is served.
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).to_vec();
    // 0-RTT data can be replayed, and a door does not know which requests bear that.
    config.max_early_data_size = 0;
    Ok(config)
}

/// Why a certificate and a key make no door.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorTlsError {
    #[error("preparing TLS")]
    Provider(#[source] rustls::Error),
    #[error("using the certificate")]
    Certificate(#[source] rustls::Error),
    #[error("using the key")]
    Key(#[source] rustls::Error),
    #[error("the key does not belong to the certificate (the first in its file)")]
    Mismatch,
}
