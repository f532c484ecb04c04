//! Why a TLS handshake with an origin failed, in words that whoever configured it can act on.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What went wrong, as the end of a sentence that says which origin was connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginFailure {
    #[error("its certificate is not signed by an authority that is trusted here")]
    NotTrusted,
    /// Where two authorities bear the same name, one's certificate in the other's place shows as this too.
    #[error(
        "its certificate is signed by another authority of the same name, or the handshake was tampered with"
    )]
    BadSignature,
    #[error("its certificate is not for {wanted}{}", only(presented))]
    NameMismatch { wanted: String, presented: Vec<String> },
    #[error("its certificate has expired, or the clock here is wrong")]
    Expired,
    #[error("its certificate is not valid yet, or the clock here is wrong")]
    NotValidYet,
    /// Valid as a certificate, but not as a server's.
    #[error("its certificate cannot be used: {0}")]
    Certificate(String),
    #[error("it does not speak TLS")]
    NotTls,
    #[error("it refuses the handshake: {0}")]
    Refused(String),
}

impl OriginFailure {
    /// Of the error of a connect over TLS; `None`: it failed for a reason that TLS has no part in, or that is told best
    /// by the error itself.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidCertificate(error) => Some(Self::of_certificate(error)),
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Some(Self::Refused("it asks for a certificate of ours, and there is none".to_owned()))
            }
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Some(Self::Refused("it speaks neither HTTP/2 nor HTTP/1.1".to_owned()))
            }
            Error::AlertReceived(alert) => Some(Self::Refused(format!("alert {alert:?}"))),
            // What a server that speaks plain HTTP answers to a hello is no record of TLS.
            Error::InvalidMessage(_) => Some(Self::NotTls),
            _ => None,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::NotTrusted,
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::NameMismatch { wanted: expected.to_str().into_owned(), presented: presented.clone() }
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            other => Self::Certificate(other.to_string()),
        }
    }
}

/// What the certificate is for instead, as far as a log line has room.
fn only(presented: &[String]) -> String {
    const SHOWN: usize = 4;
    if presented.is_empty() {
        return ", nor for any other name".to_owned();
    }
    let shown = presented.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if presented.len() > SHOWN { " and others" } else { "" };
    format!(", only for {shown}{more}")
}
