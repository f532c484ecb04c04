//! A claim in force, as routes lead to it, and its lanes: the tunnels of the one client process that holds it. Holds no lock
//! that a request could wait for; who joins and leaves is the registry's.

mod lane;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use culvert_certs::DeveloperName;
use culvert_protocol::hello::{Holder, UnixMillis};
use culvert_protocol::intercept::Intercept;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::session::{Session, Start};
use lane::{Standing, best};

#[derive(Debug)]
pub(crate) struct Claim {
    /// Never used again while the relay runs.
    pub(crate) fence: u64,
    pub(crate) owner: DeveloperName,
    /// The one start of the client whose tunnels are its lanes.
    pub(super) start: Start,
    /// As that calls its machine.
    pub(super) host: String,
    pub(crate) intercept: Intercept,
    /// One more than that of the claim that this one took over from.
    pub(crate) generation: u64,
    /// Since when its owner has held it, over however many sessions.
    pub(crate) since: SystemTime,
    /// Which relay says so.
    pub(super) witness: String,
    /// When the time that it was asked for is over.
    pub(super) expires: Option<SystemTime>,
    /// How a request says that it has gone down this claim: known nowhere else.
    pub(crate) pass: Box<str>,
    lanes: ArcSwap<Lanes>,
    changed: Notify,
}

/// A claim before it is in force.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) fence: u64,
    pub(super) intercept: Intercept,
    pub(super) generation: u64,
    pub(super) since: SystemTime,
    pub(super) witness: String,
    pub(super) expires: Option<SystemTime>,
    pub(super) pass: Box<str>,
}

/// What carries a claim.
#[derive(Clone, Debug)]
enum Lanes {
    /// At least one.
    There(Vec<Lane>),
    /// The last one was lost, and its owner is expected back.
    Away(Away),
}

/// Of a claim whose owner is expected back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    /// When it could last be reached.
    pub(super) since: Instant,
    pub(super) last_seen: UnixMillis,
    /// It is kept no longer.
    pub(super) until: Instant,
}

/// One tunnel that carries a claim.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    /// Of its registration.
    pub(crate) fence: u64,
    /// The client's own number for the claim on this tunnel, which tells it which app a request is for.
    pub(crate) number: u64,
    pub(crate) session: Arc<Session>,
}

impl Claim {
    pub(super) fn new(terms: Terms, lane: Lane) -> Arc<Self> {
        let Terms { fence, intercept, generation, since, witness, expires, pass } = terms;
        let session = Arc::clone(&lane.session);
        let claim = Arc::new(Self {
            fence,
            owner: session.identity.name.clone(),
            start: session.start.clone(),
            host: session.host.clone(),
            intercept,
            generation,
            since,
            witness,
            expires,
            pass,
            lanes: ArcSwap::from_pointee(Lanes::There(vec![lane])),
            changed: Notify::new(),
        });
        session.carries(&claim);
        claim
    }

    /// The tunnel on which the next request waits least, among those that can be reached and were not tried for it.
    pub(crate) fn lane(&self, tried: &[u64]) -> Option<Lane> {
        match &**self.lanes.load() {
            Lanes::There(lanes) => {
                let standings = lanes.iter().map(|lane| lane.standing(tried));
                best(standings).and_then(|at| lanes.get(at)).cloned()
            }
            Lanes::Away(_) => None,
        }
    }

    /// When it could last be reached; none: it can be.
    pub(crate) fn unreachable(&self) -> Option<Instant> {
        match &**self.lanes.load() {
            Lanes::There(lanes) => {
                // In doubt since the last of them is.
                let doubts: Option<Vec<_>> = lanes.iter().map(|lane| lane.session.doubted()).collect();
                doubts?.into_iter().max()
            }
            Lanes::Away(away) => Some(away.since),
        }
    }

    /// Resolves at the next change of what carries it.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// The registry holds its lock for what changes lanes.
    pub(super) fn join(self: &Arc<Self>, lane: Lane) {
        let mut lanes = self.lanes();
        // One that is dead is found out at once rather than by the next request.
        lanes.iter().for_each(|other| other.session.ask());
        if lanes.len() >= LANES
            && let Some(oldest) =
                (0..lanes.len()).min_by_key(|at| lanes.get(*at).map(|lane| lane.session.heard_at()))
        {
            lanes.remove(oldest);
        }
        lane.session.carries(self);
        lanes.push(lane);
        self.store(Lanes::There(lanes));
    }

    /// Takes a lane out. Returns how many are left, or none if it was not there.
    pub(super) fn part(&self, fence: u64) -> Option<usize> {
        let mut lanes = self.lanes();
        let before = lanes.len();
        lanes.retain(|lane| lane.fence != fence);
        let left = lanes.len();
        if left == before {
            return None;
        }
        if left > 0 {
            self.store(Lanes::There(lanes));
        }
        Some(left)
    }

    pub(super) fn leave_for(&self, away: Away) {
        self.store(Lanes::Away(away));
    }

    pub(super) fn away(&self) -> Option<Away> {
        match &**self.lanes.load() {
            Lanes::There(_) => None,
            Lanes::Away(away) => Some(*away),
        }
    }

    pub(super) fn lanes(&self) -> Vec<Lane> {
        match &**self.lanes.load() {
            Lanes::There(lanes) => lanes.clone(),
            Lanes::Away(_) => Vec::new(),
        }
    }

    /// What carries it, the best first.
    pub(super) fn transports(&self) -> Vec<String> {
        let mut lanes = self.lanes();
        lanes.sort_by_key(|lane| lane::rung(lane.session.transport));
        lanes.iter().map(|lane| lane.session.transport.to_string()).collect()
    }

    /// Whom a conflict or a list names.
    pub(super) fn holder(&self) -> Holder {
        let seen = self.lanes().iter().map(|lane| lane.session.last_seen()).max();
        Holder {
            owner: self.owner.to_string(),
            host: self.host.clone(),
            since: self.since.into(),
            last_seen: seen.or_else(|| self.away().map(|away| away.last_seen)).unwrap_or(UnixMillis(0)),
        }
    }

    fn store(&self, lanes: Lanes) {
        self.lanes.store(Arc::new(lanes));
        self.wake();
    }
}

impl Lane {
    /// None: not for this request.
    fn standing(&self, tried: &[u64]) -> Option<Standing> {
        let Self { fence, session, .. } = self;
        (session.doubted().is_none() && !tried.contains(fence)).then(|| Standing {
            bulk: session.load.is_bulk(),
            rung: lane::rung(session.transport),
            open: session.load.open(),
        })
    }
}

/// Tunnels of one claim: a pool on each of several rungs, and dead ones that are not found out yet.
const LANES: usize = 32;
