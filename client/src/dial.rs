//! Which rung of the ladder carries the tunnel: QUIC is tried first, TLS over TCP a moment later, a WebSocket after that, each at
//! every address that the relay's name has right now, or through the proxy that the environment names; the first handshake
//! that succeeds wins and the others are closed. Why each rung that was not used was not is kept, for whoever asks why it is
//! slow here; which one was, for the next time.
//!
//! Dials once. Whether to try again, and when, is the session's.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_certs::tls::{HandshakeFailure, OriginTlsError, TlsError};
use culvert_protocol::tunnel::{CloseReason, Closed, Lost, Transport, Tunnel, UpgradeError};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::address::{AddressError, RelayAddress};
use crate::profile::Profile;
use crate::serve::AppTlsError;

mod answers;
mod memory;
mod proxy;
mod quic;
mod race;
mod stream;
pub(crate) mod tls;
mod way;

pub(crate) use answers::Answers;
pub use memory::{Memory, directory};
pub use proxy::{BadProxy, Proxies, ProxyFailure};
pub use quic::UdpBuffers;
pub(crate) use stream::{Outer, Streams};
pub(crate) use way::Way;

/// How long a rung has until the next one is tried beside it. Longer than most handshakes, so that UDP is not doubted
/// where it works; short enough that nobody notices where it does not.
pub(crate) const HEAD_START: Duration = Duration::from_millis(300);

/// The same for an address of a rung (RFC 8305 §5).
const BETWEEN_ADDRESSES: Duration = Duration::from_millis(250);

/// How long one address on one rung may take. A handshake is one round trip, two for TCP, a few more for a WebSocket.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The same for QUIC once the relay has answered: where thousands come back at once it takes in one after the other. Longer than
/// anybody waits in its line.
const ATTEMPT_IN_LINE: Duration = Duration::from_secs(12);

/// How long the other rungs stand back for QUIC once the relay has answered there: packets get through, and a relay that is busy
/// because thousands come back at once is not helped by a second attempt of each. Not for long, because an answer may be all that
/// gets through.
const STAND_BACK: Duration = Duration::from_secs(3);

/// The same from the start, where the relay has just said over QUIC that it knows nothing of the last tunnel: as long as the
/// attempt lasts, and as long again where it answers that one, too.
const STAND_BACK_LONGER: Duration = ATTEMPT;

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
    /// The best that gets through: QUIC, TLS over TCP, or a WebSocket
    #[default]
    Auto,
    /// Only QUIC (UDP)
    Quic,
    /// Only TLS over TCP
    Tls,
    /// Only a WebSocket, for ways that let nothing but HTTP pass
    #[value(name = "ws")]
    WebSocket,
}

/// What stands between this machine and every relay, and what was learnt of it.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub proxies: Proxies,
    pub memory: Memory,
    /// Which of this machine's addresses relays are dialled from; where there is none, the system chooses.
    pub source: Option<IpAddr>,
}

/// Dials one relay as one developer, as often as it is asked to.
#[derive(Debug)]
pub struct Dialler {
    relay: RelayAddress,
    rungs: Rungs,
    network: Network,
    quic: quic::Rung,
    tls: tls::Rung,
    learnt: Arc<Learnt>,
}

/// What the tunnels so far have shown of QUIC.
#[derive(Debug, Default)]
struct Learnt {
    /// The relay was restarted and has said so over QUIC, about the last tunnel.
    forgotten: AtomicBool,
    /// A handshake succeeded, and nothing was heard after it: something lets the first packets through and no more.
    mute: AtomicBool,
}

impl Dialler {
    pub fn new(profile: &Profile, rungs: Rungs) -> Result<Self, SetupError> {
        Self::to(&profile.relay, profile, rungs)
    }

    /// At another of the relay's addresses.
    pub(crate) fn to(relay: &RelayAddress, profile: &Profile, rungs: Rungs) -> Result<Self, SetupError> {
        let config = profile.tls()?;
        Ok(Self {
            relay: relay.clone(),
            rungs,
            network: profile.network.clone(),
            quic: quic::Rung::new(config.clone(), profile.network.source)?,
            tls: tls::Rung::new(config, Streams::new(relay, profile.network.source)?),
            learnt: Arc::default(),
        })
    }

    pub fn relay(&self) -> &RelayAddress {
        &self.relay
    }

    /// Bounded: 5 s for the name, and then 5 s for each address and rung, which overlap; 12 s over QUIC once it was answered.
    pub async fn dial(&self) -> Result<Line, DialError> {
        self.dial_elsewhere(&[]).await
    }

    /// The same, but where the name has further addresses than those that are `taken`, these come last: for who looks for
    /// another replica.
    pub(crate) async fn dial_elsewhere(&self, taken: &[IpAddr]) -> Result<Line, DialError> {
        let memory = &self.network.memory;
        let worked = memory.recall(&self.relay).await;
        let order = if self.learnt.mute.load(Ordering::Relaxed) { QUIC_LAST.to_vec() } else { order(worked) };
        let rungs = order.into_iter().filter(|(rung, _)| self.rungs.allows(*rung));
        let answers = &match self.learnt.forgotten.swap(false, Ordering::Relaxed) {
            true => Answers::expected(STAND_BACK_LONGER),
            false => Answers::awaited(STAND_BACK),
        };
        let climbed = climb(&self.relay, &self.network.proxies, taken, rungs, answers, |way| {
            Box::pin(async move {
                let (tunnel, carrier) = match &way {
                    Way::Quic(address) => {
                        let (tunnel, carrier) =
                            self.quic.connect(*address, self.relay.host(), answers).await?;
                        (tunnel, Carrier::Quic(carrier))
                    }
                    Way::Tls(_) | Way::WebSocket(..) => {
                        let (tunnel, carrier) = self.tls.connect(&way).await?;
                        (tunnel, Carrier::Tls(carrier))
                    }
                };
                Ok((tunnel, carrier, way))
            })
        })
        .await;
        let (won, mut missed) = climbed;
        for rung in Transport::ALL {
            if !self.rungs.allows(rung) {
                missed.push(Missed { rung, place: None, why: Why::NotWanted });
            }
        }
        let Some((tunnel, carrier, way)) = won else { return Err(no_rung(&self.relay, missed)) };
        // What was pinned says nothing about the others.
        if self.rungs == Rungs::Auto && worked != Some(way.rung()) {
            memory.remember(&self.relay, way.rung()).await;
        }
        let learnt = Arc::clone(&self.learnt);
        Ok(Line { tunnel, address: way.address(), missed, carrier, learnt })
    }
}

/// Where QUIC shakes hands and says nothing more.
const QUIC_LAST: [(Transport, Duration); 3] =
    [(Transport::Tls, HEAD_START), (Transport::WebSocket, HEAD_START), (Transport::Quic, HEAD_START)];

/// Every rung, and the head start that the one before it has. One that had to stand in for QUIC the last time is begun
/// first, and QUIC at the same moment: where it works again, it is faster by a round trip.
fn order(worked: Option<Transport>) -> Vec<(Transport, Duration)> {
    let Some(worked) = worked.filter(|worked| *worked != Transport::Quic) else {
        return Transport::ALL.map(|rung| (rung, HEAD_START)).to_vec();
    };
    let mut order = vec![(worked, HEAD_START), (Transport::Quic, Duration::ZERO)];
    let others = Transport::ALL.into_iter().filter(|rung| *rung != worked && *rung != Transport::Quic);
    order.extend(others.map(|rung| (rung, HEAD_START)));
    order
}

/// What a rung's ways are tried with.
pub(crate) type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T, Why>> + Send + 'a>>;

/// Races the rungs, and on each of them its ways. What did not win is told, in the order in which it was begun.
pub(crate) async fn climb<'a, T: Send>(
    relay: &RelayAddress,
    proxies: &Proxies,
    taken: &[IpAddr],
    rungs: impl IntoIterator<Item = (Transport, Duration)>,
    answers: &Answers,
    connect: impl Fn(Way) -> Attempt<'a, T> + Sync,
) -> (Option<T>, Vec<Missed>) {
    let mut found = resolve(relay).await;
    if let Ok(addresses) = &mut found {
        addresses.sort_by_key(|address| taken.contains(address));
    }
    let tried = Mutex::new(Vec::<Tried>::new());
    let (tried, connect) = (&tried, &connect);
    let last_chance = || if answers.is_answering() { ATTEMPT_IN_LINE } else { LAST_CHANCE };
    let mut racing = Vec::new();
    let mut wayless = Vec::new();
    for (rung, head_start) in rungs {
        match way::of(rung, relay, &found, proxies) {
            Err(why) => wayless.push(Missed { rung, place: None, why }),
            Ok(ways) => {
                let attempts = ways.into_iter().map(|way| {
                    let attempt = async move {
                        if rung != Transport::Quic {
                            answers.stand_back().await;
                        }
                        let number = Tried::begin(tried, &way);
                        let mut connecting = connect(way);
                        let mut outcome = timeout(ATTEMPT, &mut connecting).await;
                        if rung == Transport::Quic {
                            if outcome.is_err() && answers.is_answering() {
                                outcome = timeout(ATTEMPT_IN_LINE - ATTEMPT, connecting).await;
                            }
                            answers.over();
                        }
                        let outcome = outcome.unwrap_or(Err(Why::Silent));
                        let (won, why) = match outcome {
                            Ok(won) => (Ok((number, won)), None),
                            Err(why) => (Err(()), Some(why)),
                        };
                        Tried::end(tried, number, why);
                        won
                    };
                    (BETWEEN_ADDRESSES, Box::pin(attempt))
                });
                let attempts = attempts.collect();
                let rung = Box::pin(async move { race::first(attempts, last_chance).await.ok_or(()) });
                racing.push((head_start, rung));
            }
        }
    }
    let (winner, won) = race::first(racing, last_chance).await.unzip();
    let still_running = || if won.is_some() { Why::Outrun } else { Why::GivenUp };
    let tried = std::mem::take(&mut *tried.lock()).into_iter().enumerate().filter_map(|(number, tried)| {
        let why = match tried.outcome {
            Some(Some(why)) => why,
            Some(None) if Some(number) == winner => return None,
            Some(None) => Why::Outrun,
            None => still_running(),
        };
        Some(Missed { rung: tried.rung, place: Some(tried.place), why })
    });
    let missed = tried.chain(wayless).collect();
    (won, missed)
}

/// A way that was begun.
struct Tried {
    rung: Transport,
    place: String,
    /// None while it runs; why not, or that it succeeded.
    outcome: Option<Option<Why>>,
}

impl Tried {
    fn begin(all: &Mutex<Vec<Self>>, way: &Way) -> usize {
        let mut all = all.lock();
        all.push(Self { rung: way.rung(), place: way.to_string(), outcome: None });
        all.len() - 1
    }

    fn end(all: &Mutex<Vec<Self>>, number: usize, why: Option<Why>) {
        if let Some(tried) = all.lock().get_mut(number) {
            tried.outcome = Some(why);
        }
    }
}

/// A name that leads nowhere is told as such, where nothing else is wrong.
pub(crate) fn no_rung(relay: &RelayAddress, missed: Vec<Missed>) -> DialError {
    let unresolved =
        |missed: &Missed| matches!(missed.why, Why::Unresolved(_) | Why::NotWanted | Why::OnlyWeb);
    let cause = missed.iter().find_map(|missed| match &missed.why {
        Why::Unresolved(cause) => Some(cause.clone()),
        _ => None,
    });
    match cause {
        Some(cause) if missed.iter().all(unresolved) => DialError::Resolve { relay: relay.clone(), cause },
        _ => DialError::NoRung { relay: relay.clone(), missed },
    }
}

impl Rungs {
    fn allows(self, rung: Transport) -> bool {
        match self {
            Self::Auto => true,
            Self::Quic => rung == Transport::Quic,
            Self::Tls => rung == Transport::Tls,
            Self::WebSocket => rung == Transport::WebSocket,
        }
    }
}

/// A tunnel whose relay is the right one, and what carries it. In TLS 1.3 that is all a client knows by then: whether
/// the relay takes *us* shows when it is spoken to.
#[derive(Debug)]
pub struct Line {
    pub tunnel: Tunnel,
    /// The relay's, or its ingress'. None behind a proxy, which alone knows.
    pub address: Option<SocketAddr>,
    /// The rungs and addresses that were not used, and why.
    pub missed: Vec<Missed>,
    carrier: Carrier,
    /// The dialler's.
    learnt: Arc<Learnt>,
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

    /// Has the next dial know what the end of this tunnel tells of QUIC.
    pub(crate) fn ended(&self, closed: &Closed) {
        let forgotten = matches!(closed, Closed::Lost(Lost::Forgotten));
        self.learnt.forgotten.store(forgotten, Ordering::Relaxed);
    }

    /// A word came on this tunnel once it was up.
    pub(crate) fn heard(&self) {
        self.learns(false);
    }

    /// None did. Returns whether the next dial begins otherwise for that.
    pub(crate) fn unheard(&self) -> bool {
        self.learns(true)
    }

    /// Of QUIC alone. Returns whether it is new.
    fn learns(&self, mute: bool) -> bool {
        self.tunnel.transport() == Transport::Quic && self.learnt.mute.swap(mute, Ordering::Relaxed) != mute
    }

    /// Goes on from another UDP port, where it goes over one; a TCP connection stays what it is.
    pub(crate) fn rebind(&self) -> io::Result<()> {
        match &self.carrier {
            Carrier::Quic(carrier) => carrier.rebind(),
            Carrier::Tls(_) => Ok(()),
        }
    }

    /// Waits until the relay's address says over UDP that a relay has come back there: reason to ask, and proof of nothing.
    pub(crate) async fn knocked(&self) {
        match &self.carrier {
            Carrier::Quic(carrier) => carrier.knocked().await,
            Carrier::Tls(_) => std::future::pending().await,
        }
    }

    /// What the system granted, over QUIC.
    pub fn udp_buffers(&self) -> Option<UdpBuffers> {
        match &self.carrier {
            Carrier::Quic(carrier) => Some(carrier.buffers()),
            Carrier::Tls(_) => None,
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

/// Every address that the name has now, the families in turns.
async fn resolve(relay: &RelayAddress) -> Result<Vec<IpAddr>, Unresolved> {
    let lookup = timeout(RESOLVE, tokio::net::lookup_host((relay.host(), relay.port()))).await;
    let found = lookup.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found = found.map_err(|error| Unresolved(plain(&error)))?;
    let addresses = way::in_turns(found.map(|address| address.ip()), ADDRESSES);
    if addresses.is_empty() { Err(Unresolved("the name has no address".to_owned())) } else { Ok(addresses) }
}

/// Why a name has no address, in the resolver's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unresolved(String);

/// A rung that does not carry the tunnel.
#[derive(Debug)]
pub struct Missed {
    pub rung: Transport,
    /// Which address, and by way of what. None when it was not tried at all.
    pub place: Option<String>,
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
    #[error("the relay's address is a WebSocket's")]
    OnlyWeb,
    #[error("resolving the name: {0}")]
    Unresolved(Unresolved),
    #[error(transparent)]
    ProxySetting(BadProxy),
    #[error(transparent)]
    Proxy(ProxyFailure),
    #[error("{0} (nothing there speaks culvert)")]
    WebSocket(UpgradeError),
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
        if let Some(place) = &self.place {
            write!(f, " to {place}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    #[error("resolving {}: {cause}", relay.host())]
    Resolve { relay: RelayAddress, cause: Unresolved },
    #[error("connecting to the relay {relay}: {}", list(missed))]
    NoRung { relay: RelayAddress, missed: Vec<Missed> },
}

impl DialError {
    /// What the relay's certificate says that no further attempt will change. Behind an ingress only what was said inside a
    /// WebSocket is the relay's: outside of it the ingress speaks for itself.
    pub fn verdict(&self) -> Option<HandshakeFailure> {
        let Self::NoRung { relay, missed } = self else { return None };
        let of_relay = |missed: &&Missed| missed.rung == Transport::WebSocket || !relay.is_behind_ingress();
        missed.iter().filter(of_relay).find_map(|missed| match missed.why {
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

    /// TCP is refused wherever it gets to, and nothing answers over UDP.
    pub(crate) fn nobody_listens(&self) -> bool {
        let Self::NoRung { missed, .. } = self else { return false };
        let refused =
            |why: &Why| matches!(why, Why::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        let silent = |why: &Why| matches!(why, Why::Silent | Why::GivenUp | Why::NotWanted);
        missed.iter().any(|missed| refused(&missed.why))
            && missed.iter().all(|missed| refused(&missed.why) || silent(&missed.why))
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
    #[error("preparing the TLS of WebSockets")]
    OuterTls(#[source] OriginTlsError),
    #[error(transparent)]
    App(#[from] AppTlsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_in_for_quic_is_begun_first_and_quic_with_it() {
        use Transport::*;
        let at_once = Duration::ZERO;
        for worked in [None, Some(Quic)] {
            assert_eq!(order(worked), [(Quic, HEAD_START), (Tls, HEAD_START), (WebSocket, HEAD_START)]);
        }
        assert_eq!(order(Some(Tls)), [(Tls, HEAD_START), (Quic, at_once), (WebSocket, HEAD_START)]);
        assert_eq!(order(Some(WebSocket)), [(WebSocket, HEAD_START), (Quic, at_once), (Tls, HEAD_START)]);
    }

    #[test]
    fn an_ingress_is_no_proof_of_a_wrong_relay() {
        let verdict = |relay: &str, rung| {
            let why = Why::Handshake(HandshakeFailure::NotThisRelay);
            no_rung(&relay.parse().unwrap(), vec![Missed { rung, place: None, why }]).verdict().is_some()
        };
        for rung in Transport::ALL {
            assert!(verdict("https://relay", rung));
            assert_eq!(verdict("https://relay/path", rung), rung == Transport::WebSocket);
        }
    }
}
