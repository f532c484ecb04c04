//! Who holds what: every session and every claim, and from them each service's [`Routes`], which the front door reads
//! without a lock.
//!
//! Everything changes under one lock that is never held across an await, and everything is undone by the drop of a
//! guard: a task that panics or is aborted leaves no dead route behind.

mod claims;
mod counts;
mod ended;
mod entry;
mod expiry;
mod killing;
mod listing;
mod refused;
mod stamps;
mod starts;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use culvert_certs::DeveloperName;
use culvert_protocol::hello::{FromRelay, InstanceId, Stamp, UnixMillis};
use culvert_protocol::intercept::{Intercept, Matcher, ServiceName};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::info;

use super::claim::{self, Away, Claim, Lane};
use super::session::{Session, SessionId};
use crate::policy::{self, Verb};
use crate::routes::{Matching, Routes};

use claims::Claims;
use counts::Counts;
pub(crate) use ended::Ended;
use entry::{Entry, SameRequests as _};
pub(crate) use refused::Refused;
pub(crate) use stamps::Stamps;

/// Claims of one identity, over all its sessions.
pub(crate) const CLAIMS_PER_IDENTITY: usize = 200;
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
    /// Claims in all.
    most: usize,
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
    /// How many of those each developer has.
    tunnels: Counts<DeveloperName>,
    claims: Claims,
    /// Starts of clients that claim nothing any more, and until when that is remembered.
    killed: HashMap<(DeveloperName, InstanceId), Instant>,
    last: u64,
}

/// What gives way to a new claim, by fence.
#[derive(Debug)]
struct Verdict {
    /// An older start's of the same owner.
    superseded: Vec<u64>,
    /// Other owners' that are younger, as a relay vouches.
    conflicts: Vec<u64>,
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
        most: usize,
        in_force: Gauge,
        stamps: Stamps,
    ) -> Arc<Self> {
        let services = services
            .into_iter()
            .map(|(name, listen, terms)| (name, Offered { listen, terms, table: Table::default() }))
            .collect();
        Arc::new(Self { services, held: Mutex::default(), most, in_force, stamps, due: Notify::new() })
    }

    /// What the front door of a service reads. Empty for ever for a service that is not configured.
    pub(crate) fn table(&self, service: &ServiceName) -> Table {
        self.services.get(service).map(|offered| Arc::clone(&offered.table)).unwrap_or_default()
    }

    /// Counts a session in.
    pub(crate) fn admit(self: &Arc<Self>, session: &Arc<Session>) -> Result<Admission, Refused> {
        let mut held = self.held.lock();
        let name = &session.identity.name;
        if held.sessions.len() >= SESSIONS || held.tunnels.of(name) >= SESSIONS_PER_IDENTITY {
            return Err(Refused::TooManySessions);
        }
        held.tunnels.add(name);
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
        if held.killed.contains_key(&(owner.clone(), session.start.instance)) {
            return Err(Refused::Killed);
        }
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
        let same =
            held.claims.named(owner, &intercept.name).find(|entry| entry.is_held_by(session, &intercept));
        if let Some(Entry { claim, .. }) = same {
            let claim = Arc::clone(claim);
            if claim.lanes().iter().any(|lane| lane.session.id == session.id) {
                return Err(Refused::Carried);
            }
            claim.join(lane);
            held.claims.reschedule(claim.fence);
            return Ok(registration(&claim, true));
        }

        let now = SystemTime::now();
        let born = stamped.as_ref().and_then(|stamp| moment(stamp.since)).unwrap_or(now);
        let expires = intercept.ttl.map(|ttl| born + ttl.duration());
        let left = expires.map(|expires| expires.duration_since(now).unwrap_or_default());
        if left == Some(Duration::ZERO) {
            return Err(Refused::Expired);
        }
        let Verdict { superseded, conflicts } =
            held.judge(offered, session, &intercept, stamped.as_ref(), self.most)?;
        let mut take = |fences: Vec<u64>| -> Vec<Entry> {
            fences.into_iter().filter_map(|fence| held.claims.remove(fence)).collect()
        };
        let (superseded, conflicts) = (take(superseded), take(conflicts));

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
        let expires = left.map(|left| Instant::now() + left);
        held.claims.insert(Entry { age, expires, scheduled: None, claim });
        let gone: Vec<_> = superseded.iter().chain(&conflicts).collect();
        self.publish(&held, &service, &gone, held.claims.get(fence));
        for entry in &superseded {
            let other = &entry.claim.intercept.service;
            if *other != service {
                self.publish(&held, other, &[entry], None);
            }
        }
        for (entries, ended) in [(&superseded, Ended::Superseded), (&conflicts, Ended::Denied)] {
            for Entry { claim, .. } in entries {
                claim.wake();
                ended.log(claim, false);
            }
        }
        drop(held);

        let by = session.holder(session.since);
        for Entry { claim, .. } in &superseded {
            for lane in claim.lanes() {
                // A client that dialled again has not lost anything to anybody.
                if lane.session.id == session.id || lane.session.start.instance != session.start.instance {
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
        let Some(entry) = held.claims.get(registration.claim) else { return };
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
                held.claims.reschedule(claim.fence);
                let Intercept { service, name, .. } = &claim.intercept;
                info!(%service, %name, owner = %claim.owner, "a claim's owner is gone, and expected back");
                self.due.notify_one();
            }
            _ => {
                if let Some(entry) = held.claims.remove(claim.fence) {
                    self.publish(&held, &claim.intercept.service, &[&entry], None);
                }
                claim.wake();
                registration.ended.log(&claim, registration.quiet);
            }
        }
    }

    /// Makes a service's next table out of the one that is read now: without those that are gone, as far as they were in it,
    /// and with the one that came.
    fn publish(&self, held: &Held, service: &ServiceName, gone: &[&Entry], came: Option<&Entry>) {
        self.in_force.set(i64::try_from(held.claims.len()).unwrap_or(i64::MAX));
        let Some(offered) = self.services.get(service) else { return };
        let mut routes = Routes::clone(&offered.table.load());
        for Entry { age, claim, .. } in gone.iter().filter(|entry| entry.claim.intercept.service == *service)
        {
            routes.remove(*age, &claim.intercept.matcher);
        }
        if let Some(Entry { age, claim, .. }) = came {
            routes.insert(*age, Arc::clone(claim));
        }
        offered.table.store(Arc::new(routes));
    }
}

impl Held {
    /// Who gives way to a new claim, or why it does not come in force. Between owners the earliest claim wins that a relay
    /// vouches for, and between starts of one owner's client the latest, on every relay alike.
    fn judge(
        &self,
        offered: &Offered,
        session: &Session,
        new: &Intercept,
        stamp: Option<&Stamp>,
        most: usize,
    ) -> Result<Verdict, Refused> {
        let owner = &session.identity.name;
        let near = self.near(offered, owner, new);
        let near = || near.iter().filter_map(|fence| self.claims.get(*fence));
        let conflicts = || near().filter(|entry| entry.conflicts(session, new));
        let stays = |entry: &&Entry| {
            let theirs = (UnixMillis::from(entry.claim.since), &entry.claim.witness);
            stamp.is_none_or(|stamp| (stamp.since, &stamp.relay) >= theirs)
        };
        if let Some(Entry { claim, .. }) = conflicts().find(stays) {
            return Err(Refused::Conflict { with: claim.intercept.matcher.clone(), holder: claim.holder() });
        }
        let own = || near().filter(|entry| entry.yields_to(session, new));
        if let Some(Entry { claim, .. }) = own().find(|entry| entry.claim.start > session.start) {
            return Err(Refused::Superseded(claim.holder()));
        }
        let fences = |entries: &mut dyn Iterator<Item = &Entry>| -> Vec<u64> {
            entries.map(|entry| entry.claim.fence).collect()
        };
        let verdict = Verdict { superseded: fences(&mut own()), conflicts: fences(&mut conflicts()) };
        let full = self.claims.owned_by(owner) >= CLAIMS_PER_IDENTITY || self.claims.len() >= most;
        match full && verdict.superseded.is_empty() && verdict.conflicts.is_empty() {
            true => Err(Refused::TooManyClaims),
            false => Ok(verdict),
        }
    }

    /// Every claim that a new one may be in the way of, by fence: few others are among them.
    fn near(&self, offered: &Offered, owner: &DeveloperName, new: &Intercept) -> BTreeSet<u64> {
        let wider = offered.table.load();
        let wider = wider.covering(&new.matcher).into_iter().map(|claim| claim.fence);
        let narrower = self.claims.within(&new.service, &new.matcher);
        let own = self.claims.named(owner, &new.name).map(|entry| entry.claim.fence);
        wider.chain(narrower).chain(own).collect()
    }
}

impl Matching for Arc<Claim> {
    fn matcher(&self) -> &Matcher {
        &self.intercept.matcher
    }
}

/// A moment of the wire's. None: too far off for this machine's clock.
fn moment(at: UnixMillis) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at.0))
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
        let mut held = self.registry.held.lock();
        if let Some(session) = held.sessions.remove(&self.id) {
            held.tunnels.remove(&session.identity.name);
        }
    }
}

#[cfg(test)]
mod tests;
