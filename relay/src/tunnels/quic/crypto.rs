//! The TLS of a tunnel over QUIC. quinn's own keeps rustls' connection for as long as the tunnel lives: five kilobytes of keys,
//! buffers and certificates that nothing reads again. This one keeps what a tunnel still needs after its handshake, which is who
//! is there and the secret of the next keys. Decides nothing: who is let in is said by the configuration that rustls has.

use std::any::Any;
use std::sync::Arc;

use culvert_certs::tls::TlsError;
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::pki_types::CertificateDer;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Suite, Version};
use rustls::{AlertDescription, CipherSuite};

/// RFC 9000. What else quinn lets in are the drafts before it.
const VERSION_1: u32 = 1;

/// What every connection is begun with.
pub(in crate::tunnels) struct Crypto {
    tls: Arc<rustls::ServerConfig>,
    /// For all that comes before there is a session.
    quinn: Arc<QuicServerConfig>,
    /// Of the first packets, which QUIC encrypts with it whatever is agreed on later.
    initial: Suite,
}

impl Crypto {
    pub(in crate::tunnels) fn new(tls: Arc<rustls::ServerConfig>) -> Result<Self, TlsError> {
        let unfit = || TlsError::Provider(rustls::Error::General("no suite for QUIC".into()));
        let suites = &tls.crypto_provider().cipher_suites;
        let initial = suites.iter().find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        let initial = initial.and_then(|suite| suite.tls13()?.quic_suite()).ok_or_else(unfit)?;
        let quinn = QuicServerConfig::with_initial(Arc::clone(&tls), initial).map_err(|_| unfit())?;
        Ok(Self { tls, quinn: Arc::new(quinn), initial })
    }
}

impl ServerConfig for Crypto {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.quinn.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.quinn.retry_tag(version, id, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        let version = if version == VERSION_1 { Version::V1 } else { Version::V1Draft };
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        // Fails for a configuration without TLS 1.3 alone. Nobody gets in with it: see `read_handshake`.
        let tls = match ServerConnection::new(Arc::clone(&self.tls), version, encoded) {
            Ok(tls) => Tls::Shaking(Box::new(tls)),
            Err(_) => Tls::Over { presented: Mutex::default() },
        };
        Box::new(Connected { tls, version, initial: self.initial, next: None })
    }
}

struct Connected {
    tls: Tls,
    version: Version,
    initial: Suite,
    /// What the next keys are made from: they are changed every few million packets, or when the peer changes its own.
    next: Option<Secrets>,
}

enum Tls {
    Shaking(Box<ServerConnection>),
    /// What the client has shown goes to whoever asks first.
    Over {
        presented: Mutex<Option<Vec<CertificateDer<'static>>>>,
    },
}

impl Session for Connected {
    fn initial_keys(&self, id: &ConnectionId, _: Side) -> Keys {
        boxed(self.initial.keys(id, rustls::Side::Server, self.version))
    }

    /// Nothing that is not in the certificate: each port of the relay has one configuration and one protocol.
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    /// A `Vec<CertificateDer<'static>>`, as quinn's own gives it.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let presented = match &self.tls {
            Tls::Shaking(tls) => presented(tls),
            Tls::Over { presented } => presented.lock().take(),
        };
        presented.map(|chain| Box::new(chain) as Box<dyn Any>)
    }

    /// None: what comes before the handshake can be replayed, and is from nobody yet.
    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        matches!(&self.tls, Tls::Shaking(tls) if tls.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let failed = |alert: AlertDescription, reason: String| TransportError {
            code: TransportErrorCode::crypto(alert.into()),
            frame: None,
            reason,
        };
        match &mut self.tls {
            Tls::Shaking(tls) => match tls.read_hs(bytes) {
                Ok(()) => Ok(false),
                Err(error) => {
                    Err(failed(tls.alert().unwrap_or(AlertDescription::InternalError), error.to_string()))
                }
            },
            // A client has nothing to say in TLS any more: it gets no tickets, and keys change in QUIC itself (RFC 9001
            // section 6).
            Tls::Over { .. } => {
                let after = "a handshake message after the handshake".to_owned();
                Err(failed(AlertDescription::UnexpectedMessage, after))
            }
        }
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Tls::Shaking(tls) = &self.tls else { return Ok(None) };
        let parameters = tls.quic_transport_parameters();
        Ok(parameters.map(|mut bytes| TransportParameters::read(Side::Server, &mut bytes)).transpose()?)
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        let Tls::Shaking(tls) = &mut self.tls else { return None };
        match tls.write_hs(bytes) {
            Some(KeyChange::Handshake { keys }) => Some(boxed(keys)),
            Some(KeyChange::OneRtt { keys, next }) => {
                self.next = Some(next);
                Some(boxed(keys))
            }
            None => {
                // The client's last word was taken and there is nothing left to say to it.
                if bytes.is_empty() && !tls.is_handshaking() {
                    self.tls = Tls::Over { presented: Mutex::new(presented(tls)) };
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    /// Clients get retries, and a relay is none.
    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    /// Nothing in the protocol uses any.
    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

/// What the client has shown, once it was verified.
fn presented(tls: &ServerConnection) -> Option<Vec<CertificateDer<'static>>> {
    let chain = tls.peer_certificates()?;
    Some(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

fn boxed(keys: rustls::quic::Keys) -> Keys {
    let rustls::quic::Keys { local, remote } = keys;
    Keys {
        header: KeyPair { local: Box::new(local.header), remote: Box::new(remote.header) },
        packet: KeyPair { local: Box::new(local.packet), remote: Box::new(remote.packet) },
    }
}
