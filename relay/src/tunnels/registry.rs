//! Who holds what: every session and every claim, and from them each service's [`Routes`], which the front door reads
//! without a lock.
//!
//! Everything changes under one lock that is never held across an await, and everything is undone by the drop of a
//! guard: a task that panics or is aborted leaves no dead route behind.

mod listing;
mod refused;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use culvert_protocol::hello::FromRelay;
use culvert_protocol::intercept::{Intercept, ServiceName};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use super::session::{Claim, Session, SessionId};
use crate::policy::{self, Terms, Verb};
use crate::routes::Routes;

pub(crate) use refused::Refused;

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
}

/// A service that may be claimed.
#[derive(Debug)]
struct Offered {
    listen: Vec<String>,
    terms: Terms,
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
    /// Of this registration: what its guard takes out, so that an older guard never takes out a newer claim.
    fence: u64,
    /// Its place in the order of age, which a claim inherits from the one that it takes over from.
    age: u64,
    claim: Arc<Claim>,
}

/// A claim in force until this is dropped, or superseded.
#[derive(Debug)]
#[must_use = "the claim is taken out when this is dropped"]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    fence: u64,
    service: ServiceName,
    pub(crate) generation: u64,
    /// Where the service is listened for.
    pub(crate) listen: Vec<String>,
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
        services: impl IntoIterator<Item = (ServiceName, Vec<String>, Terms)>,
        in_force: Gauge,
    ) -> Arc<Self> {
        let services = services
            .into_iter()
            .map(|(name, listen, terms)| (name, Offered { listen, terms, table: Table::default() }))
            .collect();
        Arc::new(Self { services, held: Mutex::default(), in_force })
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

    /// Puts a claim in force, or says why not. The same owner's claim with the same name, or on the same requests, is
    /// superseded at once: nobody is ever in their own way.
    pub(crate) fn register(
        self: &Arc<Self>,
        session: &Arc<Session>,
        number: u64,
        intercept: Intercept,
    ) -> Result<Registration, Refused> {
        let service = intercept.service.clone();
        let Some(offered) = self.services.get(&service) else {
            return Err(Refused::no_such_service(&service, self.services.keys()));
        };
        let verb = Verb::Claim { service: &service, terms: offered.terms, matcher: &intercept.matcher };
        policy::allow(&session.identity, verb)?;

        let mut held = self.held.lock();
        let owner = &session.identity.name;
        if let Some(entry) = held.claims.iter().find(|entry| entry.conflicts(session, &intercept)) {
            return Err(Refused::Conflict {
                with: entry.claim.intercept.matcher.clone(),
                holder: entry.claim.session.holder(entry.claim.since),
            });
        }
        let (superseded, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut held.claims)
            .into_iter()
            .partition(|entry| entry.yields_to(session, &intercept));
        held.claims = kept;
        if superseded.is_empty() {
            let own = held.claims.iter().filter(|entry| entry.claim.session.identity.name == *owner).count();
            if own >= CLAIMS_PER_IDENTITY || held.claims.len() >= CLAIMS {
                return Err(Refused::TooManyClaims);
            }
        }

        held.last += 1;
        let fence = held.last;
        // What has matched the same requests so far keeps its place: coming back does not change who wins.
        let before = superseded.iter().find(|entry| entry.claim.intercept.is_on_the_requests_of(&intercept));
        let claim = Arc::new(Claim {
            number,
            generation: 1 + superseded.iter().map(|entry| entry.claim.generation).max().unwrap_or(0),
            since: before.map_or_else(SystemTime::now, |entry| entry.claim.since),
            intercept,
            session: Arc::clone(session),
        });
        let age = before.map_or(fence, |entry| entry.age);
        let generation = claim.generation;
        held.claims.push(Entry { fence, age, claim });
        self.publish(&held, &service);
        for entry in &superseded {
            let older = &entry.claim.intercept.service;
            if *older != service {
                self.publish(&held, older);
            }
        }
        drop(held);

        let by = session.holder(session.since);
        for Entry { claim, .. } in superseded {
            // A client that dialled again has not lost anything to anybody.
            if claim.session.id != session.id && claim.session.instance == session.instance {
                continue;
            }
            claim.session.tell(FromRelay::Superseded { claim: claim.number, by: by.clone() });
        }
        let listen = offered.listen.clone();
        Ok(Registration { registry: Arc::clone(self), fence, service, generation, listen })
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
    /// Whether somebody else holds what would be taken: one of both matchers takes in the other. A claim on all traffic
    /// is what the more specific ones of others leave over.
    fn conflicts(&self, session: &Session, new: &Intercept) -> bool {
        let (held, new_matcher) = (&self.claim.intercept.matcher, &new.matcher);
        self.claim.session.identity.name != session.identity.name
            && self.claim.intercept.service == new.service
            && held.is_all_traffic() == new_matcher.is_all_traffic()
            && (held.covers(new_matcher) || new_matcher.covers(held))
    }

    /// Whether this claim gives way to a newer one of its own owner.
    fn yields_to(&self, session: &Session, new: &Intercept) -> bool {
        self.claim.session.identity.name == session.identity.name
            && (self.claim.intercept.name == new.name || self.claim.intercept.is_on_the_requests_of(new))
    }
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

impl Drop for Registration {
    fn drop(&mut self) {
        let mut held = self.registry.held.lock();
        let before = held.claims.len();
        held.claims.retain(|entry| entry.fence != self.fence);
        // Nothing to publish when a newer claim has taken this one's place.
        if held.claims.len() != before {
            self.registry.publish(&held, &self.service);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.registry.held.lock().sessions.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
