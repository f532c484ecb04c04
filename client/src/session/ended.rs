//! Why a connection is over, and whether that is for good. The only place that decides between again and never.

use std::fmt;
use std::time::{Duration, SystemTime};

use culvert_certs::tls::HandshakeFailure;
use culvert_protocol::hello::{DeniedCode, Holder, RejectCode, UnixMillis, VERSIONS};
use culvert_protocol::intercept::{Intercept, InterceptName, ServiceName, Ttl};
use culvert_protocol::tunnel::{CloseCode, CloseReason, Closed, Lost};
use jiff::Timestamp;
use tokio::time::timeout;

use super::control::GreetError;
use crate::address::RelayAddress;
use crate::dial::{DialError, FAREWELL, Line, is_final};
use crate::exit::Exit;
use crate::profile::login_again;
use crate::screen::{ago, because};

/// How one connection ended.
#[derive(Debug)]
pub(crate) enum Over {
    /// We were asked to.
    Stopped,
    /// Another lane has the claims.
    Moved,
    /// The relay is going away, and lets what is under way take so long.
    Drained {
        grace: Duration,
    },
    /// This heals, or may.
    Again(String),
    /// The same, and nobody listens there: the relay is away.
    Away(String),
    /// The relay was started again: it is there right now.
    Forgotten(String),
    Never(SessionError),
}

impl Over {
    pub(crate) fn of_dial(error: DialError) -> Self {
        match error.verdict() {
            Some(_) => Self::Never(SessionError::Dial(error)),
            None if error.nobody_listens() => Self::Away(error.to_string()),
            None => Self::Again(error.to_string()),
        }
    }

    pub(crate) async fn of_greeting(error: GreetError, line: &Line, relay: &RelayAddress) -> Self {
        match error {
            GreetError::Rejected { code, message, versions } => of_rejection(code, message, versions, relay),
            GreetError::Closed(closed) => Self::of_closed(&closed, line, relay),
            // The stream mostly fails because the tunnel did, which then knows why.
            GreetError::Stream(error) => match timeout(FAREWELL, line.tunnel.closed()).await {
                Ok(closed) => Self::of_closed(&closed, line, relay),
                Err(_) => Self::Again(format!("greeting {relay}: {}", because(&error))),
            },
            GreetError::Silent { .. } => {
                Self::Again(format!("greeting {relay} over {}: {error}", line.tunnel.transport()))
            }
        }
    }

    pub(crate) fn of_closed(closed: &Closed, line: &Line, relay: &RelayAddress) -> Self {
        if let Some(failure) = line.refusal().filter(|failure| is_final(*failure)) {
            return Self::Never(SessionError::Refused { relay: relay.clone(), failure });
        }
        match closed {
            Closed::ByPeer(reason) => match reason.code() {
                CloseCode::Superseded | CloseCode::Revoked | CloseCode::Denied => {
                    Self::Never(SessionError::Closed { relay: relay.clone(), reason: reason.clone() })
                }
                CloseCode::Dropped
                | CloseCode::Shutdown
                | CloseCode::Drain
                | CloseCode::Protocol
                | CloseCode::Idle
                | CloseCode::Internal
                | CloseCode::Unknown => Self::Again(closed.to_string()),
            },
            Closed::Lost(Lost::Forgotten) => Self::Forgotten(closed.to_string()),
            Closed::ByUs(_) | Closed::Lost(_) => Self::Again(closed.to_string()),
        }
    }

    /// What the relay is told when we close because of this.
    pub(crate) fn as_reason(&self) -> CloseReason {
        match self {
            Self::Stopped => CloseReason::new(CloseCode::Shutdown, "the client was stopped"),
            Self::Moved => CloseReason::new(CloseCode::Drain, "the client has another tunnel"),
            Self::Drained { .. } => CloseReason::new(CloseCode::Drain, "the client has finished"),
            Self::Again(why) | Self::Away(why) | Self::Forgotten(why) => {
                CloseReason::new(CloseCode::Internal, why)
            }
            Self::Never(_) => CloseReason::new(CloseCode::Shutdown, "the client cannot go on"),
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Moved => f.write_str("moved"),
            Self::Drained { .. } => f.write_str("the relay is going away"),
            Self::Again(why) | Self::Away(why) | Self::Forgotten(why) => f.write_str(why),
            Self::Never(error) => write!(f, "{}", because(error)),
        }
    }
}

fn of_rejection(code: RejectCode, message: String, versions: Vec<u16>, relay: &RelayAddress) -> Over {
    let relay = relay.clone();
    match code {
        RejectCode::Busy => Over::Again(format!("the relay {relay} has no room now: {message}")),
        RejectCode::Version => Over::Never(SessionError::Version { relay, theirs: versions }),
        RejectCode::Protocol | RejectCode::NotAllowed | RejectCode::Revoked | RejectCode::Other => {
            Over::Never(SessionError::Rejected { relay, code, message })
        }
    }
}

pub(super) fn of_denial(
    intercept: &Intercept,
    code: DeniedCode,
    message: String,
    holder: Option<Holder>,
) -> SessionError {
    let service = intercept.service.clone();
    let claim = format!("{service} with {}", intercept.matcher);
    match code {
        DeniedCode::Conflict => SessionError::Conflict { claim, message, holder: holder.map(Box::new) },
        DeniedCode::NoSuchService => SessionError::NoSuchService { service, message },
        DeniedCode::Invalid => SessionError::Invalid { claim, message },
        DeniedCode::Expired => SessionError::TimeIsOver { claim, ttl: intercept.ttl },
        DeniedCode::NotAllowed | DeniedCode::TooMany | DeniedCode::TooFast | DeniedCode::Other => {
            SessionError::Denied { claim, message }
        }
    }
}

/// Why a session cannot go on. Texts in it may be the relay's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    #[error(transparent)]
    Dial(DialError),
    #[error("connecting to the relay {relay}: {failure}")]
    Refused { relay: RelayAddress, failure: HandshakeFailure },
    #[error("connecting to the relay {relay}: the login of this machine ended at {}", moment(*.not_after))]
    Expired { relay: RelayAddress, not_after: SystemTime },
    #[error(
        "greeting the relay {relay}: it speaks version {} of the protocol, and this client {}",
        list(theirs),
        list(VERSIONS)
    )]
    Version { relay: RelayAddress, theirs: Vec<u16> },
    #[error("greeting the relay {relay}: it turns us away: {message}")]
    Rejected { relay: RelayAddress, code: RejectCode, message: String },
    #[error("the relay {relay} closed the tunnel: {reason}")]
    Closed { relay: RelayAddress, reason: CloseReason },
    #[error("claiming {claim}: denied: {message}")]
    Denied { claim: String, message: String },
    #[error("the claim of {claim} has ended: its time{} is over", option(*.ttl))]
    TimeIsOver { claim: String, ttl: Option<Ttl> },
    #[error("claiming {claim}: {}", held(message, holder.as_deref()))]
    Conflict { claim: String, message: String, holder: Option<Box<Holder>> },
    #[error("claiming requests of {service}: {message}")]
    NoSuchService { service: ServiceName, message: String },
    #[error(
        "claiming requests of {service}: the relay listens for it on port {}, not on {asked}",
        list(ports)
    )]
    OtherPort { service: ServiceName, asked: u16, ports: Vec<u16> },
    #[error("claiming {claim}: the relay cannot do that: {message}")]
    Invalid { claim: String, message: String },
    #[error("the intercept `{name}` was taken over by a newer session of yours on {}", by.host)]
    Superseded { name: InterceptName, by: Box<Holder> },
    #[error("the session stopped by a fault of its own")]
    Broken,
}

impl SessionError {
    /// Whether this may be said by something else that stands in the way for a while, as in a hotel: nothing that the relay
    /// itself has said.
    pub(super) fn may_be_a_portal(&self) -> bool {
        match self {
            Self::Dial(error) => matches!(
                error.verdict(),
                Some(HandshakeFailure::NotThisRelay | HandshakeFailure::NameMismatch)
            ),
            _ => false,
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Dial(_) | Self::Refused { .. } | Self::Expired { .. } => Exit::Denied,
            Self::Denied { .. } | Self::TimeIsOver { .. } => Exit::Denied,
            Self::Rejected { code: RejectCode::Protocol, .. } | Self::Broken => Exit::Internal,
            Self::Rejected { .. } => Exit::Denied,
            Self::Version { .. } | Self::Invalid { .. } => Exit::Usage,
            Self::Closed { reason, .. } if reason.code() == CloseCode::Superseded => Exit::Conflict,
            Self::Closed { .. } => Exit::Denied,
            Self::Conflict { .. } | Self::Superseded { .. } => Exit::Conflict,
            Self::NoSuchService { .. } | Self::OtherPort { .. } => Exit::NoSuchService,
        }
    }

    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Dial(error) => match error.verdict() {
                Some(HandshakeFailure::NameMismatch) => {
                    Some("one of the names in the relay's `tunnel.names`, or add this one there".to_owned())
                }
                Some(_) => Some(login_again(&error.relay().to_string())),
                None => None,
            },
            Self::Refused { relay, .. } | Self::Expired { relay, .. } => {
                Some(login_again(&relay.to_string()))
            }
            Self::Version { theirs, .. } => Some(match theirs.iter().max() > VERSIONS.iter().max() {
                true => "a newer client (`culvert --version` shows this one's)".to_owned(),
                false => {
                    "a newer relay, or an older client (`culvert --version` shows this one's)".to_owned()
                }
            }),
            Self::Conflict { .. } => {
                Some("another match, or ask its owner; `culvert ls` shows who holds what".to_owned())
            }
            Self::OtherPort { service, ports, .. } => {
                ports.first().map(|port| format!("culvert intercept {service}:{port} …"))
            }
            Self::NoSuchService { .. } | Self::Superseded { .. } => Some("culvert ls".to_owned()),
            Self::TimeIsOver { .. } => Some("the same again, with a longer --ttl or without".to_owned()),
            Self::Rejected { .. }
            | Self::Closed { .. }
            | Self::Denied { .. }
            | Self::Invalid { .. }
            | Self::Broken => None,
        }
    }
}

fn option(ttl: Option<Ttl>) -> String {
    ttl.map_or_else(String::new, |ttl| format!(" (--ttl {ttl})"))
}

fn held(message: &str, holder: Option<&Holder>) -> String {
    let Some(holder) = holder else { return message.to_owned() };
    let now = UnixMillis::from(SystemTime::now());
    format!(
        "{} on {} holds it since {} ({}; last seen {})",
        holder.owner,
        holder.host,
        i64::try_from(holder.since.0)
            .ok()
            .and_then(|since| Timestamp::from_millisecond(since).ok())
            .map_or_else(|| "an unknown time".to_owned(), |since| format!("{since:.0}")),
        ago(holder.since, now),
        ago(holder.last_seen, now),
    )
}

fn moment(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| format!("{time:.0}"))
}

fn list(versions: &[u16]) -> String {
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
