//! Why a handshake failed, in the words that a developer can act on. Holds no text for the screen beyond that.

use rustls::{AlertDescription, CertificateError, Error};

/// What went wrong when a client dialled a relay, from the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// Its chain does not lead to the authority we know, or does not hold the one that the token names.
    #[error("this is not the relay that made the token or the certificate: refusing")]
    NotThisRelay,
    /// The right relay, under a name or an address that its certificate does not have.
    #[error("the relay's certificate is for another name than the one that was dialled")]
    NameMismatch,
    /// The relay's certificate is over, or has not begun; one of the two clocks may be wrong.
    #[error("the relay's certificate is not valid now: expired, or one of the two clocks is wrong")]
    Expired,
    /// The relay does not take our certificate: expired, revoked, of another authority, or absent.
    #[error("the relay refuses our certificate: log in again")]
    OurCertificateRefused,
    #[error("the TLS handshake failed")]
    Other,
}

impl HandshakeFailure {
    /// Of a handshake over TCP, or of the first read after it: in TLS 1.3 the client is done before the server has
    /// looked at its certificate.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::AlertReceived(alert) => Self::of_peer_alert(u8::from(*alert)),
            _ => Self::Other,
        }
    }

    /// Of the TLS alert that the relay sent. Over QUIC it is the low byte of a peer's CRYPTO_ERROR (RFC 9001 §4.8).
    pub fn of_peer_alert(alert: u8) -> Self {
        match AlertDescription::from(alert) {
            AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired => Self::OurCertificateRefused,
            // Everything else says nothing about our certificate.
            _ => Self::Other,
        }
    }

    /// Of the TLS alert that we sent. QUIC keeps nothing else of our own verifier's answer.
    pub fn of_own_alert(alert: u8) -> Self {
        match AlertDescription::from(alert) {
            AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError => Self::NotThisRelay,
            AlertDescription::BadCertificate => Self::NameMismatch,
            AlertDescription::CertificateExpired => Self::Expired,
            // Everything else is no judgement of the relay's certificate.
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::NameMismatch
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            // A chain that cannot even be followed leads to our authority as little as one that ends elsewhere: such are the
            // self-signed certificates of those who open TLS on the way.
            _ => Self::NotThisRelay,
        }
    }
}
