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
mod giving_way;
mod killing;
mod listing;
mod refused;
mod stamps;
mod starts;
mod times;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use culvert_certs::DeveloperName;
use culvert_protocol::hello::{InstanceId, Stamp};
use culvert_protocol::intercept::{Intercept, Matcher, ServiceName};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::info;

use super::claim::{self, Away, Claim, Lane};
use super::pace::Paces;
use super::session::{Session, SessionId};
use crate::policy::{self, Verb};
use crate::routes::{Matching, Routes};

use claims::Claims;
use counts::Counts;
pub(crate) use ended::Ended;
use entry::{Entry, SameRequests as _};
use giving_way::Gone;
pub(crate) use refused::Refused;
pub(crate) use stamps::Stamps;
use times::Times;

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
    /// How fast each developer changes those.
    paces: Paces,
    /// Starts of clients that claim nothing any more, and until when that is remembered.
    killed: HashMap<(DeveloperName, InstanceId), Instant>,
    last: u64,
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

    /// Where tunnels over QUIC are, in order; no more than `most`.
    pub(crate) fn quic_addresses(&self, most: usize) -> Vec<SocketAddr> {
        // Asked without the lock: a tunnel that is busy lets one wait.
        let sessions: Vec<_> = self.held.lock().sessions.values().cloned().collect();
        let addresses = sessions.iter().filter_map(|session| session.tunnel.remote_address());
        let mut addresses: Vec<_> = addresses.take(most).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Puts a claim in force, or says why not. The same client process joins what it holds already; anything else of the same
    /// owner with the same name, or on the same requests, is superseded at once: nobody is ever in their own way.
    pub(crate) fn register(
        self: &Arc<Self>,
        session: &Arc<Session>,
        announced: Announced,
    ) -> Result<Registration, Refused> {
        let Announced { number, intercept, stamp } = announced;
        let offered = self.offered(session, &intercept);
        let stamp = stamp.filter(|stamp| self.stamps.vouches(&session.identity.name, &intercept, stamp));

        let mut held = self.held.lock();
        held.last += 1;
        let lane = Lane { fence: held.last, number, session: Arc::clone(session) };
        if let Some(claim) = held.joins(&lane, &intercept)? {
            drop(held);
            return Ok(self.registration(&claim, &lane, true));
        }
        let offered = offered?;
        let times = Times::of(&intercept, stamp)?;
        let gone = held.make_way(offered, session, &intercept, times.stamp.as_ref(), self.most)?;
        let entry = self.entry(&lane, intercept, times, &gone.superseded);
        let (claim, fence) = (Arc::clone(&entry.claim), entry.claim.fence);
        held.claims.insert(entry);
        self.replace(&held, &gone, held.claims.get(fence));
        gone.log();
        drop(held);

        gone.tell(session);
        self.due.notify_one();
        Ok(self.registration(&claim, &lane, false))
    }

    /// The service, if there is such a one and the developer may have that of it.
    fn offered(&self, session: &Session, intercept: &Intercept) -> Result<&Offered, Refused> {
        let Intercept { service, matcher, .. } = intercept;
        let Some(offered) = self.services.get(service) else {
            return Err(Refused::no_such_service(service, self.services.keys()));
        };
        policy::allow(&session.identity, Verb::Claim { service, terms: offered.terms, matcher })?;
        Ok(offered)
    }

    /// A new claim, with what it takes over from those that give way to it.
    fn entry(&self, lane: &Lane, intercept: Intercept, times: Times, superseded: &[Entry]) -> Entry {
        let fence = lane.fence;
        // What has matched the same requests so far keeps its place: coming back does not change who wins.
        let before = superseded.iter().find(|entry| entry.claim.intercept.is_on_the_requests_of(&intercept));
        let (since, witness) = match (times.stamp, before) {
            (Some(stamp), _) => (times.born, stamp.relay),
            // Its time is counted from now.
            (None, Some(entry)) if intercept.ttl.is_none() => {
                (entry.claim.since, entry.claim.witness.clone())
            }
            (None, _) => (times.born, self.stamps.relay().to_owned()),
        };
        let terms = claim::Terms {
            fence,
            generation: 1 + superseded.iter().map(|entry| entry.claim.generation).max().unwrap_or(0),
            since,
            witness,
            expires: times.expires,
            intercept,
            pass: format!("{}.{fence}", self.stamps.relay()).into(),
        };
        Entry {
            age: before.map_or(fence, |entry| entry.age),
            expires: times.left.map(|left| Instant::now() + left),
            scheduled: None,
            claim: Claim::new(terms, lane.clone()),
        }
    }

    fn registration(self: &Arc<Self>, claim: &Claim, lane: &Lane, joined: bool) -> Registration {
        let service = self.services.get(&claim.intercept.service);
        Registration {
            registry: Arc::clone(self),
            claim: claim.fence,
            fence: lane.fence,
            ended: Ended::Lost,
            generation: claim.generation,
            stamp: self.stamps.stamp(&claim.owner, &claim.intercept, claim.since, &claim.witness),
            listen: service.map(|offered| offered.listen.clone()).unwrap_or_default(),
            joined,
        }
    }

    /// Whether a developer's claims change so fast that not each is worth a line.
    pub(crate) fn is_quiet(&self, owner: &DeveloperName) -> bool {
        self.held.lock().paces.is_quiet(owner, Instant::now())
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
        let back = registration.ended.expected_back(claim.intercept.on_unreachable);
        match back.map(|patience| since + patience) {
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
                if registration.ended == Ended::Withdrawn {
                    // Never refused, which would keep a claim in force that nobody wants; it leaves less for the next.
                    held.paces.take(&claim.owner, now);
                }
                registration.ended.log(&claim, held.paces.is_quiet(&claim.owner, now));
            }
        }
    }

    /// Makes the next table of each service that a new claim concerns.
    fn replace(&self, held: &Held, Gone { superseded, conflicts }: &Gone, came: Option<&Entry>) {
        let Some(new) = came.map(|entry| &entry.claim.intercept.service) else { return };
        let gone: Vec<_> = superseded.iter().chain(conflicts).collect();
        self.publish(held, new, &gone, came);
        for entry in superseded.iter().filter(|entry| entry.claim.intercept.service != *new) {
            self.publish(held, &entry.claim.intercept.service, &[entry], None);
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

impl Matching for Arc<Claim> {
    fn matcher(&self) -> &Matcher {
        &self.intercept.matcher
    }
}

impl Registration {
    /// Takes it out, and says why. Dropped without, it was lost.
    pub(crate) fn end(mut self, ended: Ended) {
        self.ended = ended;
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
