//! Who holds what: every session and every claim, and from them each service's [`Routes`], which the front door reads
//! without a lock.
//!
//! Everything changes under one lock that is never held across an await, and everything is undone by the drop of a
//! guard: a task that panics or is aborted leaves no dead route behind.

mod ended;
mod expiry;
mod killing;
mod listing;
mod refused;
mod stamps;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use culvert_protocol::hello::{FromRelay, Stamp, UnixMillis};
use culvert_protocol::intercept::{Intercept, ServiceName};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::info;

use super::claim::{self, Away, Claim, Lane};
use super::session::{Session, SessionId};
use crate::policy::{self, Verb};
use crate::routes::Routes;

pub(crate) use ended::Ended;
pub(crate) use refused::Refused;
pub(crate) use stamps::Stamps;

/// Claims of one identity, over all its sessions.
pub(crate) const CLAIMS_PER_IDENTITY: usize = 200;
/// Claims in all: what one relay compiles and keeps in memory.
const CLAIMS: usize = 10_000;
/// Tunnels of one identity: a CI system runs many jobs under one name, but a loop is not to fill the relay.
const SESSIONS_PER_IDENTITY: usize = 1_000;
/// Tunnels in all. Each idle one costs some tens of kilobytes.
const SESSIONS: usize = 20_000;

/// What the front door of one service reads.
pub(crate) type Table = Arc<ArcSwap<Routes<Arc<Claim>>>>;

#[derive(Debug)]
pub(crate) struct Registry {
    /// As configured: none is added while the relay runs.
    services: HashMap<ServiceName, Offered>,
    held: Mutex<Held>,
    in_force: Gauge,
    stamps: Stamps,
    /// Something will end by itself sooner than was known.
    due: Notify,
}

/// A service that may be claimed.
#[derive(Debug)]
struct Offered {
    listen: Vec<String>,
    terms: policy::Terms,
    table: Table,
}

#[derive(Debug, Default)]
struct Held {
    sessions: HashMap<SessionId, Arc<Session>>,
    claims: Vec<Entry>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    /// Its place in the order of age, which a claim inherits from the one that it takes over from.
    age: u64,
    /// When the time that it was asked for is over.
    expires: Option<Instant>,
    claim: Arc<Claim>,
}

/// What a client asks for.
#[derive(Debug)]
pub(crate) struct Announced {
    /// Its own number for the claim, on this tunnel.
    pub(crate) number: u64,
    pub(crate) intercept: Intercept,
    /// What a replica said of the claim's age.
    pub(crate) stamp: Option<Stamp>,
}

/// One session's part in a claim, until this is dropped, or the claim is superseded. The claim is in force while one of them is.
#[derive(Debug)]
#[must_use = "the claim is taken out when this is dropped"]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    /// Of the claim, and of this lane of it: an older guard never takes out a newer claim.
    claim: u64,
    fence: u64,
    ended: Ended,
    quiet: bool,
    pub(crate) generation: u64,
    pub(crate) stamp: Stamp,
    /// Where the service is listened for.
    pub(crate) listen: Vec<String>,
    /// It was in force already: this tunnel carries it too.
    pub(crate) joined: bool,
}

/// A session that is counted until this is dropped.
#[derive(Debug)]
#[must_use = "the session is taken out when this is dropped"]
pub(crate) struct Admission {
    registry: Arc<Registry>,
    id: SessionId,
}

impl Registry {
    pub(crate) fn new(
        services: impl IntoIterator<Item = (ServiceName, Vec<String>, policy::Terms)>,
        in_force: Gauge,
        stamps: Stamps,
    ) -> Arc<Self> {
        let services = services
            .into_iter()
            .map(|(name, listen, terms)| (name, Offered { listen, terms, table: Table::default() }))
            .collect();
        Arc::new(Self { services, held: Mutex::default(), in_force, stamps, due: Notify::new() })
    }

    /// What the front door of a service reads. Empty for ever for a service that is not configured.
    pub(crate) fn table(&self, service: &ServiceName) -> Table {
        self.services.get(service).map(|offered| Arc::clone(&offered.table)).unwrap_or_default()
    }

    /// Counts a session in.
    pub(crate) fn admit(self: &Arc<Self>, session: &Arc<Session>) -> Result<Admission, Refused> {
        let mut held = self.held.lock();
        let name = &session.identity.name;
        let same = held.sessions.values().filter(|other| other.identity.name == *name).count();
        if held.sessions.len() >= SESSIONS || same >= SESSIONS_PER_IDENTITY {
            return Err(Refused::TooManySessions);
        }
        held.sessions.insert(session.id, Arc::clone(session));
        Ok(Admission { registry: Arc::clone(self), id: session.id })
    }

    /// Puts a claim in force, or says why not. The same client process joins what it holds already; anything else of the same
    /// owner with the same name, or on the same requests, is superseded at once: nobody is ever in their own way.
    pub(crate) fn register(
        self: &Arc<Self>,
        session: &Arc<Session>,
        announced: Announced,
    ) -> Result<Registration, Refused> {
        let Announced { number, intercept, stamp } = announced;
        let service = intercept.service.clone();
        let Some(offered) = self.services.get(&service) else {
            return Err(Refused::no_such_service(&service, self.services.keys()));
        };
        let verb = Verb::Claim { service: &service, terms: offered.terms, matcher: &intercept.matcher };
        policy::allow(&session.identity, verb)?;
        let owner = &session.identity.name;
        let stamped = stamp.filter(|stamp| self.stamps.vouches(owner, &intercept, stamp));

        let mut held = self.held.lock();
        held.last += 1;
        let fence = held.last;
        let lane = Lane { fence, number, session: Arc::clone(session) };
        let registration = |claim: &Claim, joined| Registration {
            registry: Arc::clone(self),
            claim: claim.fence,
            fence,
            ended: Ended::Lost,
            quiet: false,
            generation: claim.generation,
            stamp: self.stamps.stamp(&claim.owner, &claim.intercept, claim.since, &claim.witness),
            listen: offered.listen.clone(),
            joined,
        };
        if let Some(entry) = held.claims.iter().find(|entry| entry.is_held_by(session, &intercept)) {
            entry.claim.join(lane);
            return Ok(registration(&entry.claim, true));
        }

        let now = SystemTime::now();
        let born = stamped.as_ref().and_then(|stamp| moment(stamp.since)).unwrap_or(now);
        let expires = intercept.ttl.map(|ttl| born + ttl.duration());
        let left = expires.map(|expires| expires.duration_since(now).unwrap_or_default());
        if left == Some(Duration::ZERO) {
            return Err(Refused::Expired);
        }
        let (conflicts, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut held.claims)
            .into_iter()
            .partition(|entry| entry.conflicts(session, &intercept));
        // The earliest that a relay vouches for wins, on every relay alike.
        let later = |entry: &Entry| {
            let stamp = stamped.as_ref()?;
            let theirs = (UnixMillis::from(entry.claim.since), &entry.claim.witness);
            ((stamp.since, &stamp.relay) < theirs).then_some(())
        };
        if let Some(entry) = conflicts.iter().find(|entry| later(entry).is_none()) {
            let refused = Refused::Conflict {
                with: entry.claim.intercept.matcher.clone(),
                holder: entry.claim.holder(),
            };
            held.claims = rest;
            held.claims.extend(conflicts);
            return Err(refused);
        }
        let (superseded, kept): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|entry| entry.yields_to(session, &intercept));
        held.claims = kept;
        if superseded.is_empty() && conflicts.is_empty() {
            let own = held.claims.iter().filter(|entry| entry.claim.owner == *owner).count();
            if own >= CLAIMS_PER_IDENTITY || held.claims.len() >= CLAIMS {
                return Err(Refused::TooManyClaims);
            }
        }

        // What has matched the same requests so far keeps its place: coming back does not change who wins.
        let before = superseded.iter().find(|entry| entry.claim.intercept.is_on_the_requests_of(&intercept));
        let (since, witness) = match (stamped, before) {
            (Some(stamp), _) => (born, stamp.relay),
            // Its time is counted from now.
            (None, Some(entry)) if intercept.ttl.is_none() => {
                (entry.claim.since, entry.claim.witness.clone())
            }
            (None, _) => (now, self.stamps.relay().to_owned()),
        };
        let age = before.map_or(fence, |entry| entry.age);
        let terms = claim::Terms {
            fence,
            generation: 1 + superseded.iter().map(|entry| entry.claim.generation).max().unwrap_or(0),
            since,
            witness,
            expires,
            intercept,
            pass: format!("{}.{fence}", self.stamps.relay()).into(),
        };
        let claim = Claim::new(terms, lane);
        let registration = registration(&claim, false);
        held.claims.push(Entry { age, expires: left.map(|left| Instant::now() + left), claim });
        self.publish(&held, &service);
        let gone = superseded.iter().map(|entry| (entry, Ended::Superseded));
        for (entry, ended) in gone.chain(conflicts.iter().map(|entry| (entry, Ended::Denied))) {
            if entry.claim.intercept.service != service {
                self.publish(&held, &entry.claim.intercept.service);
            }
            entry.claim.wake();
            ended.log(&entry.claim, false);
        }
        drop(held);

        let by = session.holder(session.since);
        for Entry { claim, .. } in &superseded {
            for lane in claim.lanes() {
                // A client that dialled again has not lost anything to anybody.
                if lane.session.id == session.id || lane.session.instance != session.instance {
                    lane.session.tell(FromRelay::Superseded { claim: lane.number, by: by.clone() });
                }
            }
        }
        for Entry { claim, .. } in &conflicts {
            let lost = Refused::Conflict { with: claim.intercept.matcher.clone(), holder: by.clone() };
            claim.lanes().iter().for_each(|lane| lane.session.tell(lost.denial(lane.number)));
        }
        self.due.notify_one();
        Ok(registration)
    }

    /// Takes one session's part out of a claim.
    fn part(&self, registration: &Registration) {
        let mut held = self.held.lock();
        let Some(at) = held.claims.iter().position(|entry| entry.claim.fence == registration.claim) else {
            return;
        };
        let Some(entry) = held.claims.get(at) else { return };
        let claim = Arc::clone(&entry.claim);
        let lane = claim.lanes().into_iter().find(|lane| lane.fence == registration.fence);
        let (Some(lane), Some(0)) = (lane, claim.part(registration.fence)) else { return };
        let now = Instant::now();
        let since = lane.session.doubted().unwrap_or(now);
        match registration
            .ended
            .expected_back(claim.intercept.on_unreachable)
            .map(|patience| since + patience)
        {
            Some(until) if until > now => {
                claim.leave_for(Away { since, last_seen: lane.session.last_seen(), until });
                let Intercept { service, name, .. } = &claim.intercept;
                info!(%service, %name, owner = %claim.owner, "a claim's owner is gone, and expected back");
                self.due.notify_one();
            }
            _ => {
                held.claims.remove(at);
                self.publish(&held, &claim.intercept.service);
                claim.wake();
                registration.ended.log(&claim, registration.quiet);
            }
        }
    }

    /// Compiles a service's claims anew. Costs what the service has claims, at each change of one of them.
    fn publish(&self, held: &Held, service: &ServiceName) {
        self.in_force.set(i64::try_from(held.claims.len()).unwrap_or(i64::MAX));
        if let Some(offered) = self.services.get(service) {
            let claims = held.claims.iter().filter(|entry| entry.claim.intercept.service == *service);
            let routes =
                Routes::build(claims.map(|entry| {
                    (entry.claim.intercept.matcher.clone(), entry.age, Arc::clone(&entry.claim))
                }));
            offered.table.store(Arc::new(routes));
        }
    }
}

impl Entry {
    /// Whether the same process holds just this: with another of its tunnels, or with one that it lost.
    fn is_held_by(&self, session: &Session, new: &Intercept) -> bool {
        self.claim.owner == session.identity.name
            && self.claim.instance == session.instance
            && self.claim.intercept == *new
    }

    /// Whether somebody else holds what would be taken: one of both matchers takes in the other. A claim on all traffic
    /// is what the more specific ones of others leave over.
    fn conflicts(&self, session: &Session, new: &Intercept) -> bool {
        let (held, new_matcher) = (&self.claim.intercept.matcher, &new.matcher);
        self.claim.owner != session.identity.name
            && self.claim.intercept.service == new.service
            && held.is_all_traffic() == new_matcher.is_all_traffic()
            && (held.covers(new_matcher) || new_matcher.covers(held))
    }

    /// Whether this claim gives way to a newer one of its own owner.
    fn yields_to(&self, session: &Session, new: &Intercept) -> bool {
        self.claim.owner == session.identity.name
            && (self.claim.intercept.name == new.name || self.claim.intercept.is_on_the_requests_of(new))
    }
}

/// A moment of the wire's. None: too far off for this machine's clock.
fn moment(at: UnixMillis) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at.0))
}

/// Whether two claims are on exactly the same requests.
trait SameRequests {
    fn is_on_the_requests_of(&self, other: &Self) -> bool;
}

impl SameRequests for Intercept {
    fn is_on_the_requests_of(&self, other: &Self) -> bool {
        self.service == other.service && self.matcher == other.matcher
    }
}

impl Registration {
    /// Takes it out, and says why. Dropped without, it was lost.
    pub(crate) fn end(mut self, ended: Ended, quiet: bool) {
        self.ended = ended;
        self.quiet = quiet;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.part(self);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.registry.held.lock().sessions.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
