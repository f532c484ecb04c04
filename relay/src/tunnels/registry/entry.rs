//! A claim as the registry holds it, and how it stands to one that is asked for.

use std::sync::Arc;

use culvert_protocol::intercept::Intercept;
use tokio::time::Instant;

use crate::tunnels::claim::Claim;
use crate::tunnels::session::Session;

#[derive(Debug)]
pub(super) struct Entry {
    /// Its place in the order of age, which a claim inherits from the one that it takes over from.
    pub(super) age: u64,
    /// When the time that it was asked for is over.
    pub(super) expires: Option<Instant>,
    /// When it is looked at for that, or because its owner did not come back.
    pub(super) scheduled: Option<Instant>,
    pub(super) claim: Arc<Claim>,
}

impl Entry {
    /// Whether the same process holds just this: with another of its tunnels, or with one that it lost.
    pub(super) fn is_held_by(&self, session: &Session, new: &Intercept) -> bool {
        self.claim.owner == session.identity.name
            && self.claim.start.instance == session.start.instance
            && self.claim.intercept == *new
    }

    /// Whether somebody else holds what would be taken: one of both matchers takes in the other. A claim on all traffic
    /// is what the more specific ones of others leave over.
    pub(super) fn conflicts(&self, session: &Session, new: &Intercept) -> bool {
        let (held, new_matcher) = (&self.claim.intercept.matcher, &new.matcher);
        self.claim.owner != session.identity.name
            && self.claim.intercept.service == new.service
            && held.is_all_traffic() == new_matcher.is_all_traffic()
            && (held.covers(new_matcher) || new_matcher.covers(held))
    }

    /// Whether this claim gives way to a newer one of its own owner.
    pub(super) fn yields_to(&self, session: &Session, new: &Intercept) -> bool {
        self.claim.owner == session.identity.name
            && (self.claim.intercept.name == new.name || self.claim.intercept.is_on_the_requests_of(new))
    }
}

/// Whether two claims are on exactly the same requests.
pub(super) trait SameRequests {
    fn is_on_the_requests_of(&self, other: &Self) -> bool;
}

impl SameRequests for Intercept {
    fn is_on_the_requests_of(&self, other: &Self) -> bool {
        self.service == other.service && self.matcher == other.matcher
    }
}
