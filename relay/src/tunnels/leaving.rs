//! Every way in which a connection on the tunnel port ends, and how each is told: to the client, the log and metrics.

use std::io::ErrorKind;
use std::net::SocketAddr;

use culvert_certs::{DeveloperName, NotAnIdentity};
use culvert_protocol::hello::HelloError;
use culvert_protocol::tunnel::{CloseCode, CloseReason, Closed, Lost, StreamError, UpgradeError};
use tracing::{info, warn};

use super::Port;
use super::registry::{Ended, Refused};
use crate::metrics::TunnelMetrics;

/// How a connection ended that became a tunnel, or was to give somebody a certificate and did.
#[derive(Debug, thiserror::Error)]
pub(super) enum Left {
    #[error("{0} has enrolled")]
    Enrolled(DeveloperName),
    #[error("the client left")]
    Asked,
    #[error("{0}")]
    Closed(#[from] Closed),
    #[error("nothing was heard for too long")]
    Silent,
    #[error("the client does not read its control messages")]
    NotReading,
    #[error("the client ended its control stream")]
    NoControl,
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    #[error("the relay is stopping")]
    Stopped,
}

/// Why a connection never became a tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum Turned {
    #[error("the handshake failed: {0}")]
    Handshake(String),
    #[error(transparent)]
    WebSocket(#[from] UpgradeError),
    #[error("the handshake took too long")]
    Slow,
    #[error("not one byte came in time")]
    Mute,
    #[error("too many handshakes of this address are under way")]
    Crowd,
    #[error("no certificate was presented")]
    NoCertificate,
    #[error(transparent)]
    Identity(#[from] NotAnIdentity),
    #[error("no hello came in time")]
    Silent,
    #[error("the first message was not a hello")]
    NoHello,
    #[error("reading the first message: {0}")]
    Hello(#[from] HelloError),
    #[error("no version in common: the relay speaks {ours}, the client {theirs}")]
    Version { ours: String, theirs: String },
    #[error(transparent)]
    Refused(Refused),
    #[error("the client was gone before it was welcomed: {0}")]
    Gone(String),
    #[error("an enrolment was refused: {0}")]
    Join(&'static str),
}

impl Left {
    /// What the client is told. Nothing, where it closed the tunnel itself.
    pub(super) fn reason(&self) -> CloseReason {
        let code = match self {
            Self::Enrolled(_) | Self::Asked | Self::Closed(_) => CloseCode::Shutdown,
            Self::Silent => CloseCode::Idle,
            Self::NotReading | Self::NoControl | Self::Protocol(_) => CloseCode::Protocol,
            Self::Stopped => CloseCode::Drain,
        };
        CloseReason::new(code, &self.to_string())
    }

    /// What that means for its claims: whether their owner is expected back.
    pub(super) fn ended(&self) -> Ended {
        match self {
            Self::Asked => Ended::Left,
            Self::Closed(Closed::ByPeer(reason))
                if matches!(reason.code(), CloseCode::Shutdown | CloseCode::Drain) =>
            {
                Ended::Left
            }
            Self::Closed(_) | Self::Silent | Self::NotReading | Self::NoControl => Ended::Lost,
            Self::Protocol(_) | Self::Enrolled(_) => Ended::Broken,
            Self::Stopped => Ended::Stopped,
        }
    }

    /// Of the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Enrolled(_) => "enrolled",
            Self::Asked => "left",
            Self::Closed(Closed::ByPeer(reason)) => match reason.code() {
                CloseCode::Shutdown | CloseCode::Drain => "left",
                // It heard nothing of the relay, or nothing that it understood.
                CloseCode::Internal | CloseCode::Idle | CloseCode::Protocol => "peer_gave_up",
                CloseCode::Dropped
                | CloseCode::Superseded
                | CloseCode::Revoked
                | CloseCode::Denied
                | CloseCode::Unknown => "peer_closed",
            },
            Self::Closed(Closed::Lost(lost)) => match lost {
                Lost::Silent => "silent",
                Lost::Ended => "peer_closed",
                // What the system says of a process that died.
                Lost::Io(
                    ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof,
                ) => "peer_closed",
                Lost::Io(_) | Lost::Forgotten | Lost::Protocol(_) | Lost::Abandoned => "lost",
            },
            Self::Silent => "silent",
            // The client said on another tunnel that it has lost it.
            Self::Closed(Closed::ByUs(reason)) if reason.code() == CloseCode::Idle => "lost",
            Self::Closed(Closed::ByUs(_)) => "closed",
            Self::NotReading => "not_reading",
            Self::NoControl | Self::Protocol(_) => "protocol",
            Self::Stopped => "stopped",
        }
    }
}

/// An error of the control stream is the end of the tunnel, or the client's mistake.
impl From<HelloError> for Left {
    fn from(error: HelloError) -> Self {
        match error {
            HelloError::Stream(cause) => match cause.get_ref().and_then(|cause| cause.downcast_ref()) {
                Some(StreamError::Tunnel(closed)) => Self::Closed(closed.clone()),
                _ => Self::NoControl,
            },
            HelloError::Cut => Self::NoControl,
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<Closed> for Turned {
    fn from(closed: Closed) -> Self {
        Self::Gone(closed.to_string())
    }
}

impl Turned {
    fn label(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::WebSocket(_) => "websocket",
            Self::Slow => "slow",
            Self::Mute => "mute",
            Self::Crowd => "crowd",
            Self::NoCertificate | Self::Identity(_) => "identity",
            Self::Silent => "silent",
            Self::NoHello | Self::Hello(_) => "hello",
            Self::Version { .. } => "version",
            Self::Refused(_) => "refused",
            Self::Gone(_) => "gone",
            Self::Join(_) => "join",
        }
    }
}

/// Once per connection: one number, and one line unless its address has had one within the minute.
pub(super) fn report(ended: Result<Left, Turned>, remote: SocketAddr, port: &Port) {
    match ended {
        Ok(Left::Enrolled(name)) => info!("{name} has enrolled"),
        Ok(left) => {
            info!("a tunnel is down: {}", left.to_string().escape_debug());
        }
        Err(turned) => {
            port.metrics.refused(turned.label());
            if port.strangers.may_log(remote.ip()) {
                // Parts of it may be a stranger's words.
                warn!("a connection was turned away: {}", turned.to_string().escape_debug());
            }
        }
    }
}

/// Counts a panic of the task that holds it.
#[derive(Debug)]
pub(super) struct CountPanic<'a>(pub(super) &'a TunnelMetrics);

impl Drop for CountPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}
