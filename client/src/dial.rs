//! Which rung of the ladder carries the tunnel: QUIC is tried first, TLS over TCP a moment later, at every address that
//! the relay's name has right now; the first handshake that succeeds wins and the others are closed. Why each rung
//! that was not used was not is kept, for whoever asks why it is slow here.
//!
//! Dials once. Whether to try again, and when, is the session's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use culvert_certs::tls::{HandshakeFailure, TlsError};
use culvert_protocol::tunnel::{CloseReason, Transport, Tunnel};
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use crate::address::{AddressError, RelayAddress};
use crate::profile::Profile;
use crate::serve::AppTlsError;

mod quic;
mod race;
pub(crate) mod tls;

/// How long a rung has until the next one is tried beside it. Longer than most handshakes, so that UDP is not doubted
/// where it works; short enough that nobody notices where it does not.
const HEAD_START: Duration = Duration::from_millis(300);

/// How long one address on one rung may take. A handshake is one round trip, two for TCP.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a silent rung is waited for once another one was refused. A handshake that takes longer has a round trip of
/// more than a second; a relay that is being restarted is found back so much sooner.
const LAST_CHANCE: Duration = Duration::from_millis(1500);

/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(5);

/// How many of a name's addresses are tried: more would only be a longer wait.
const ADDRESSES: usize = 8;

/// How long the reason for a close may take to get out.
pub(crate) const FAREWELL: Duration = Duration::from_millis(300);

/// Which rungs may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Rungs {
    /// QUIC, and TLS over TCP where QUIC does not get through
    #[default]
    Auto,
    /// Only QUIC (UDP)
    Quic,
    /// Only TLS over TCP
    Tls,
}

/// Dials one relay as one developer, as often as it is asked to.
#[derive(Debug)]
pub struct Dialler {
    relay: RelayAddress,
    name: ServerName<'static>,
    rungs: Rungs,
    quic: quic::Rung,
    tls: tls::Rung,
}

impl Dialler {
    pub fn new(profile: &Profile, rungs: Rungs) -> Result<Self, SetupError> {
        let config = profile.tls()?;
        Ok(Self {
            relay: profile.relay.clone(),
            name: profile.relay.server_name()?,
            rungs,
            quic: quic::Rung::new(config.clone())?,
            tls: tls::Rung::new(config),
        })
    }

    pub fn relay(&self) -> &RelayAddress {
        &self.relay
    }

    /// Bounded: 5 s for the name, and then 5 s for each address and rung, which overlap.
    pub async fn dial(&self) -> Result<Line, DialError> {
        let addresses = resolve(&self.relay).await?;
        let mut attempts = Vec::new();
        for address in addresses {
            for rung in [Transport::Quic, Transport::Tls] {
                if self.rungs.allows(rung) {
                    attempts.push(((rung, address), self.attempt(rung, address)));
                }
            }
        }
        let (won, lost) = race::first(attempts, HEAD_START, LAST_CHANCE).await;
        let still_running = || if won.is_some() { Why::Outrun } else { Why::GivenUp };
        let mut missed: Vec<Missed> = lost
            .into_iter()
            .map(|((rung, address), why)| Missed {
                rung,
                address: Some(address),
                why: why.unwrap_or_else(still_running),
            })
            .collect();
        for rung in [Transport::Quic, Transport::Tls] {
            if !self.rungs.allows(rung) {
                missed.push(Missed { rung, address: None, why: Why::NotWanted });
            }
        }
        match won {
            Some((tunnel, carrier, address)) => Ok(Line { tunnel, address, missed, carrier }),
            None => Err(DialError::NoRung { relay: self.relay.clone(), missed }),
        }
    }

    fn attempt(&self, rung: Transport, address: SocketAddr) -> Attempt<'_> {
        Box::pin(async move {
            let connecting = async {
                match rung {
                    Transport::Quic => {
                        let (tunnel, carrier) = self.quic.connect(address, self.relay.host()).await?;
                        Ok((tunnel, Carrier::Quic(carrier), address))
                    }
                    Transport::Tls => {
                        let (tunnel, carrier) = self.tls.connect(address, &self.name).await?;
                        Ok((tunnel, Carrier::Tls(carrier), address))
                    }
                }
            };
            timeout(ATTEMPT, connecting).await.unwrap_or(Err(Why::Silent))
        })
    }
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<(Tunnel, Carrier, SocketAddr), Why>> + Send + 'a>>;

impl Rungs {
    fn allows(self, rung: Transport) -> bool {
        match self {
            Self::Auto => true,
            Self::Quic => rung == Transport::Quic,
            Self::Tls => rung == Transport::Tls,
        }
    }
}

/// A tunnel whose relay is the right one, and what carries it. In TLS 1.3 that is all a client knows by then: whether
/// the relay takes *us* shows when it is spoken to.
#[derive(Debug)]
pub struct Line {
    pub tunnel: Tunnel,
    pub address: SocketAddr,
    /// The rungs and addresses that were not used, and why.
    pub missed: Vec<Missed>,
    carrier: Carrier,
}

#[derive(Debug)]
enum Carrier {
    Quic(quic::Carrier),
    Tls(tls::Carrier),
}

impl Line {
    /// What the relay's end of the handshake said of our certificate, once the tunnel has ended with it.
    pub fn refusal(&self) -> Option<HandshakeFailure> {
        match &self.carrier {
            Carrier::Quic(carrier) => carrier.refusal(),
            Carrier::Tls(carrier) => carrier.refusal(),
        }
    }

    /// Closes the tunnel and waits shortly until the relay can know why.
    pub async fn close(self, reason: &CloseReason) {
        self.tunnel.close(reason);
        let gone = async {
            match self.carrier {
                Carrier::Quic(carrier) => carrier.gone().await,
                Carrier::Tls(carrier) => carrier.gone().await,
            }
        };
        // Past that the relay finds out by itself.
        let _ = timeout(FAREWELL, gone).await;
    }
}

/// Every address that the name has now, in the resolver's order.
pub(crate) async fn resolve(relay: &RelayAddress) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |cause| DialError::Resolve { relay: relay.clone(), cause };
    let lookup = timeout(RESOLVE, tokio::net::lookup_host((relay.host(), relay.port()))).await;
    let found = lookup.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(addresses)
}

/// A rung that does not carry the tunnel.
#[derive(Debug)]
pub struct Missed {
    pub rung: Transport,
    /// None when it was not tried at all.
    pub address: Option<SocketAddr>,
    pub why: Why,
}

/// Why one address on one rung does not carry the tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    #[error("no answer within {} s", ATTEMPT.as_secs())]
    Silent,
    #[error("no answer")]
    GivenUp,
    #[error("slower than the one in use")]
    Outrun,
    #[error("another transport was asked for")]
    NotWanted,
    #[error(transparent)]
    Handshake(HandshakeFailure),
    #[error("{}", plain(.0))]
    Io(io::Error),
    /// Something took the connection, and its answer is no relay's.
    #[error("{} (nothing there speaks culvert)", plain(.0))]
    Foreign(io::Error),
    /// Something took the connection and said nothing.
    #[error("no answer within {} s (nothing there speaks culvert)", tls::HANDSHAKE.as_secs())]
    Mute,
    #[error("{0}")]
    Quic(String),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rung)?;
        if let Some(address) = self.address {
            write!(f, " to {address}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    #[error("resolving {}: {}", relay.host(), plain(cause))]
    Resolve { relay: RelayAddress, cause: io::Error },
    #[error("connecting to the relay {relay}: {}", list(missed))]
    NoRung { relay: RelayAddress, missed: Vec<Missed> },
}

impl DialError {
    /// What the relay's certificate says that no further attempt will change.
    pub fn verdict(&self) -> Option<HandshakeFailure> {
        let Self::NoRung { missed, .. } = self else { return None };
        missed.iter().find_map(|missed| match missed.why {
            Why::Handshake(failure) if is_final(failure) => Some(failure),
            _ => None,
        })
    }
}

impl DialError {
    pub fn relay(&self) -> &RelayAddress {
        match self {
            Self::Resolve { relay, .. } | Self::NoRung { relay, .. } => relay,
        }
    }

    /// What to try where there is no verdict.
    pub(crate) fn advice(&self) -> String {
        format!("another network, or ask whoever runs {} whether it is up", self.relay())
    }
}

/// Whether trying again cannot help. An expired certificate of the relay's may be a wrong clock, here or there, and
/// both are corrected while we wait.
pub(crate) fn is_final(failure: HandshakeFailure) -> bool {
    match failure {
        HandshakeFailure::NotThisRelay
        | HandshakeFailure::NameMismatch
        | HandshakeFailure::OurCertificateRefused => true,
        HandshakeFailure::Expired | HandshakeFailure::Other => false,
        _ => false,
    }
}

/// Without the system's number, which says nothing that the words do not.
fn plain(error: &io::Error) -> String {
    match (error.raw_os_error(), error.to_string()) {
        (Some(number), text) => {
            text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text).to_lowercase()
        }
        (None, text) => text,
    }
}

fn list(missed: &[Missed]) -> String {
    missed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why nothing can be dialled, neither a relay nor an app, from what this machine has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("preparing QUIC: {0}")]
    Quic(&'static str),
    #[error(transparent)]
    App(#[from] AppTlsError),
}
