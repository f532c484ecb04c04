//! An authenticated tunnel and what is known of its end. Holds no claim: those are the registry's, and its guards.

mod health;
mod load;
mod mail;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use culvert_certs::Identity;
use culvert_protocol::hello::{FromRelay, Hello, Holder, InstanceId, UnixMillis};
use culvert_protocol::tunnel::{CloseCode, CloseReason, Transport, Tunnel};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Peer;
use super::claim::{Claim, Lane};
use crate::metrics::TunnelMetrics;
use health::Health;
use load::Load;
use mail::Mail;

pub(crate) use health::DOUBT;
pub(crate) use load::Carried;

/// As much of a name that a client gives itself as is kept and shown.
const SHOWN: usize = 64;

/// One tunnel's number, never used again while the relay runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

/// A start of a client. In this order: of two starts of one owner's the later one takes over, on every replica alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    /// When a relay first welcomed it.
    pub(crate) at: UnixMillis,
    /// Which one did.
    pub(crate) relay: String,
    pub(crate) instance: InstanceId,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// From the verified certificate and from nothing that was said.
    pub(crate) identity: Identity,
    /// What the developer's machine calls itself; printable, and proof of nothing.
    pub(crate) host: String,
    /// The account that the client runs under, likewise.
    pub(crate) user: Option<String>,
    /// Which start of the client this is: one process may have several tunnels.
    pub(crate) start: Start,
    /// What the client calls it.
    number: Option<u64>,
    pub(crate) tunnel: Tunnel,
    pub(crate) transport: Transport,
    pub(crate) since: SystemTime,
    pub(crate) load: Load,
    health: Health,
    metrics: TunnelMetrics,
    /// The claims that it is a lane of, for their callers to be woken when it can be reached again.
    claims: Mutex<Vec<Weak<Claim>>>,
    mail: Mail,
}

impl Session {
    pub(super) fn new(peer: Peer, hello: &Hello, start: Start, metrics: &TunnelMetrics) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Peer { tunnel, identity } = peer;
        Arc::new(Self {
            id: SessionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            identity,
            host: printable(&hello.host),
            user: hello.user.as_deref().map(printable),
            start,
            number: hello.tunnel,
            transport: tunnel.transport(),
            tunnel,
            since: SystemTime::now(),
            load: Load::default(),
            health: Health::new(),
            metrics: metrics.clone(),
            claims: Mutex::default(),
            mail: Mail::default(),
        })
    }

    /// Says something to the client from another task. Does not wait: a client that lets its mail pile up does not read,
    /// and could not be told anything else either.
    pub(crate) fn tell(&self, message: FromRelay) {
        if !self.mail.post(message) {
            self.tunnel.close(&CloseReason::new(CloseCode::Protocol, "control messages are not being read"));
        }
    }

    /// What another task has to say. For the session's own task alone.
    pub(super) async fn told(&self) -> FromRelay {
        self.mail.next().await
    }

    #[cfg(test)]
    pub(super) fn mail(&self) -> Vec<FromRelay> {
        std::iter::from_fn(|| self.mail.take()).collect()
    }

    /// A word came on the tunnel, whichever: its end is there.
    pub(crate) fn heard(&self) {
        if self.health.hear() {
            self.metrics.revived();
            info!(session = %self.id, identity = %self.identity.name, "a tunnel can be reached again");
            for claim in self.claims.lock().iter().filter_map(Weak::upgrade) {
                claim.wake();
            }
        }
    }

    /// No word came although one was due: new requests keep off until there is one.
    pub(crate) fn doubt(&self) {
        if self.health.doubt() {
            self.metrics.down("liveness");
            let silent = self.heard_at().elapsed();
            warn!(session = %self.id, identity = %self.identity.name, ?silent, "a tunnel is silent");
            for claim in self.claims.lock().iter().filter_map(Weak::upgrade) {
                claim.wake();
            }
        }
    }

    /// The client speaks, and has answered no ping for long: a way that leads back only.
    pub(crate) fn deaf(&self) {
        self.health.set_deaf(true);
        self.doubt();
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.health.is_deaf()
    }

    /// When it is, if it goes on to answer no ping that was sent since then.
    pub(super) fn deaf_from(&self, unanswered: Instant) -> Instant {
        self.health.deaf_from(unanswered)
    }

    /// The client has answered.
    pub(super) fn hears(&self) {
        self.health.answer();
        self.health.set_deaf(false);
        self.heard();
    }

    /// The client has answered something that was sent at that moment, or later.
    pub(crate) fn heard_what_was_said(&self, then: Instant) {
        self.health.answer_to(then);
        self.heard();
    }

    /// Whether the client has shown since then that it hears us.
    pub(crate) fn answered_since(&self, then: Instant) -> bool {
        self.health.answered_since(then)
    }

    /// Once a second: whether bodies move.
    pub(super) fn look(&self) {
        self.health.look();
    }

    /// Since when its end may be gone.
    pub(crate) fn doubted(&self) -> Option<Instant> {
        self.health.doubted()
    }

    /// An exchange was cut: perhaps with the tunnel, a moment before its own task hears of that.
    pub(crate) fn check(&self) {
        if self.tunnel.closed().now_or_never().is_some() {
            self.health.lose();
        }
    }

    /// It was counted as down.
    pub(super) fn is_silent(&self) -> bool {
        self.health.is_silent()
    }

    pub(crate) fn heard_since(&self, then: Instant) -> bool {
        self.health.heard_since(then)
    }

    pub(crate) fn heard_at(&self) -> Instant {
        self.health.heard()
    }

    /// How long the first word on a request, or the answer to a ping, may take before it is missed.
    pub(crate) fn patience(&self) -> Duration {
        self.health.patience(self.tunnel.rtt())
    }

    /// Has the client asked at once whether it is there.
    pub(crate) fn ask(&self) {
        self.health.ask();
    }

    /// Resolves when somebody has asked.
    pub(super) async fn asked(&self) {
        self.health.asked().await;
    }

    /// A ping was answered.
    pub(super) fn answered_in(&self, round_trip: Duration) {
        self.health.took(round_trip);
    }

    /// It has become a lane of this claim.
    pub(super) fn carries(&self, claim: &Arc<Claim>) {
        let mut claims = self.claims.lock();
        claims.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(claim)));
        claims.push(Arc::downgrade(claim));
    }

    /// The client has lost these tunnels of its: nobody waits any longer for what they were to bring. They are looked for where
    /// they matter, among the lanes of what this one carries.
    pub(super) fn lose(&self, tunnels: &[u64]) {
        let claims: Vec<_> = self.claims.lock().iter().filter_map(Weak::upgrade).collect();
        for Lane { session, .. } in claims.iter().flat_map(|claim| claim.lanes()) {
            if session.id != self.id && session.number.is_some_and(|number| tunnels.contains(&number)) {
                session.tunnel.close(&CloseReason::new(CloseCode::Idle, "the client has lost it"));
            }
        }
    }

    pub(crate) fn last_seen(&self) -> UnixMillis {
        let now = SystemTime::now();
        now.checked_sub(self.heard_at().elapsed()).unwrap_or(now).into()
    }

    /// Whom a conflict or a list names.
    pub(crate) fn holder(&self, since: SystemTime) -> Holder {
        Holder {
            owner: self.identity.name.to_string(),
            host: self.host.clone(),
            since: since.into(),
            last_seen: self.last_seen(),
        }
    }
}

impl SessionId {
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A peer's text as a log or somebody else's terminal may show it.
fn printable(text: &str) -> String {
    let shown = |char: char| if char.is_alphanumeric() || " .-_@()".contains(char) { char } else { '?' };
    text.trim().chars().take(SHOWN).map(shown).collect()
}
