//! TLS configurations. Holds no socket and no handshake of its own. Here, and in `client`, those of the tunnel port; a front
//! door's is in `door`, those toward upstreams and apps are in `origin`. Ring alone, everywhere.
//!
//! On the tunnel port: TLS 1.3 only, our own authority only. Two protocols share the port, told apart by ALPN: the tunnel, which
//! demands a developer's certificate, and the join, which cannot, because it is how one is got. The tunnel is the
//! default, so that nothing that a hello leaves out, splits up or spells differently leads past the demand.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;

use crate::authority::Authority;
use crate::leaf::Leaf;

mod client;
mod door;
mod failure;
mod origin;
mod pem_file;

pub use client::{NotTheTokensRelay, join_client, tunnel_client};
pub use door::{DoorTlsError, door_server};
pub use failure::HandshakeFailure;
pub use origin::{OriginFailure, OriginTlsError, Trust, origin_client};
pub use pem_file::{KeyFile, PemFileError, certificates, private_key};

/// A developer's tunnel; the number changes when two ends that speak different ones could not even say so.
pub const TUNNEL_ALPN: &[u8] = b"culvert/1";
/// The first contact: a join token and a certificate request against a certificate.
pub const JOIN_ALPN: &[u8] = b"culvert-join/1";

/// For the tunnel, on QUIC and on TCP: the client must present a certificate of our authority.
pub fn tunnel_server(authority: &Authority, leaf: &Leaf) -> Result<ServerConfig, TlsError> {
    let roots = authority.roots().map_err(TlsError::Authority)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(verifier)
        // Who has a certificate has the authority's too. Without it what we say in the handshake fits one packet of QUIC.
        .with_cert_resolver(Arc::new(OnlyWithAlpn::new(leaf.alone(), leaf)?));
    Ok(strict(config, TUNNEL_ALPN))
}

/// For the join, on TCP: the client has no certificate yet.
pub fn join_server(leaf: &Leaf) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OnlyWithAlpn::new(leaf.chain(), leaf)?));
    Ok(strict(config, JOIN_ALPN))
}

/// Which of the two a connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Tunnel,
    Join,
}

/// Decides by the hello's ALPN, once rustls has read the hello whole. Only a hello that offers the join and not the
/// tunnel gets the configuration that asks for no certificate; everything else, no ALPN included, gets the tunnel's,
/// which refuses it.
pub fn config_for<'hello>(alpn: Option<impl Iterator<Item = &'hello [u8]>>) -> Choice {
    let mut join = false;
    for protocol in alpn.into_iter().flatten() {
        if protocol == TUNNEL_ALPN {
            return Choice::Tunnel;
        }
        join |= protocol == JOIN_ALPN;
    }
    if join { Choice::Join } else { Choice::Tunnel }
}

/// Common to both servers.
fn strict(mut config: ServerConfig, alpn: &[u8]) -> ServerConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.ignore_client_order = true;
    // A resumed session skips the client's certificate: one that has expired or was revoked since would still come in.
    // Tunnels are few and live long, so that resumption would save next to nothing.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // 0-RTT data can be replayed, and comes before the client is known.
    config.max_early_data_size = 0;
    config
}

/// The fastest first: both AES-GCM are the same on any machine with AES instructions, and ChaCha20 costs half as much
/// again. TLS 1.2 suites are absent, so that no setting can bring it back.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// For whoever speaks HTTP and not our protocol: the same order, and after it TLS 1.2's suites, which in rustls all have
/// forward secrecy and authenticated encryption.
fn web_provider() -> Arc<CryptoProvider> {
    let tls12 = [
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ring::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut provider = CryptoProvider::clone(&provider());
    provider.cipher_suites.extend(tls12);
    Arc::new(provider)
}

/// rustls refuses a hello with the wrong ALPN, but over TCP it lets one without any pass. Here such a hello finds no
/// certificate.
struct OnlyWithAlpn(Arc<CertifiedKey>);

impl OnlyWithAlpn {
    fn new(chain: Vec<CertificateDer<'static>>, leaf: &Leaf) -> Result<Self, TlsError> {
        let key = CertifiedKey::from_der(chain, leaf.key(), &provider()).map_err(TlsError::Leaf)?;
        Ok(Self(Arc::new(key)))
    }
}

impl ResolvesServerCert for OnlyWithAlpn {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.alpn().is_some().then(|| Arc::clone(&self.0))
    }
}

impl fmt::Debug for OnlyWithAlpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyWithAlpn")
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("preparing TLS 1.3")]
    Provider(#[source] rustls::Error),
    #[error("trusting the relay's authority")]
    Authority(#[source] rustls::Error),
    #[error("preparing to verify clients")]
    Verifier(#[from] VerifierBuilderError),
    #[error("using the relay's certificate")]
    Leaf(#[source] rustls::Error),
    #[error("using the developer's certificate: it does not belong to the key")]
    Developer(#[source] rustls::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(alpn: &[&[u8]]) -> Choice {
        config_for(Some(alpn.iter().copied()))
    }

    #[test]
    fn only_a_plain_join_is_let_off_the_certificate() {
        assert_eq!(choice(&[JOIN_ALPN]), Choice::Join);
        assert_eq!(choice(&[b"h2", JOIN_ALPN]), Choice::Join);
        assert_eq!(choice(&[TUNNEL_ALPN]), Choice::Tunnel);
        assert_eq!(choice(&[JOIN_ALPN, TUNNEL_ALPN]), Choice::Tunnel);
        assert_eq!(choice(&[b"CULVERT-JOIN/1"]), Choice::Tunnel);
        assert_eq!(choice(&[b"culvert-join/10"]), Choice::Tunnel);
        assert_eq!(choice(&[b"h2", b"http/1.1"]), Choice::Tunnel);
        assert_eq!(choice(&[]), Choice::Tunnel);
        assert_eq!(config_for(None::<std::iter::Empty<&[u8]>>), Choice::Tunnel);
    }

    #[test]
    fn aes_128_comes_first_and_tls_1_2_is_not_there() {
        let suites: Vec<_> =
            provider().cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
        assert_eq!(
            suites,
            [
                rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
                rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
                rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ]
        );
    }
}
