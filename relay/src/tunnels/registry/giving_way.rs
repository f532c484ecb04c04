//! What a new claim meets: what it joins, what gives way to it, and why it does not come in force.

use std::collections::BTreeSet;
use std::sync::Arc;

use culvert_certs::DeveloperName;
use culvert_protocol::hello::{FromRelay, Stamp, UnixMillis};
use culvert_protocol::intercept::Intercept;
use tokio::time::Instant;

use super::entry::Entry;
use super::{CLAIMS_PER_IDENTITY, Ended, Held, Offered, Refused};
use crate::tunnels::claim::{Claim, Lane};
use crate::tunnels::session::Session;

/// What gave way to a new claim.
#[derive(Debug)]
pub(super) struct Gone {
    /// An older start's of the same owner.
    pub(super) superseded: Vec<Entry>,
    /// Other owners' that are younger, as a relay vouches.
    pub(super) conflicts: Vec<Entry>,
}

impl Held {
    /// The claim that the same client process holds already, which this is one more tunnel of. That costs nobody anything; whatever
    /// else is asked for is taken or refused at the developer's pace.
    pub(super) fn joins(&mut self, lane: &Lane, new: &Intercept) -> Result<Option<Arc<Claim>>, Refused> {
        let session = &lane.session;
        let owner = &session.identity.name;
        let killed = self.killed.contains_key(&(owner.clone(), session.start.instance));
        let same =
            self.claims.named(owner, &new.name).find(|entry| !killed && entry.is_held_by(session, new));
        let same = same.map(|entry| Arc::clone(&entry.claim));
        let carries = |claim: &Arc<Claim>| claim.lanes().iter().any(|lane| lane.session.id == session.id);
        let joined = same.as_ref().filter(|claim| !carries(claim));
        if joined.is_none() && !self.paces.take(owner, Instant::now()) {
            return Err(Refused::TooFast);
        }
        if killed {
            return Err(Refused::Killed);
        }
        if joined.is_none() && same.is_some() {
            return Err(Refused::Carried);
        }
        if let Some(claim) = joined {
            claim.join(lane.clone());
            self.claims.reschedule(claim.fence);
        }
        Ok(same)
    }

    /// Takes out what gives way to a new claim, or says why it does not come in force. Between owners the earliest claim wins that
    /// a relay vouches for, and between starts of one owner's client the latest, on every relay alike.
    pub(super) fn make_way(
        &mut self,
        offered: &Offered,
        session: &Session,
        new: &Intercept,
        stamp: Option<&Stamp>,
        most: usize,
    ) -> Result<Gone, Refused> {
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
        let (superseded, conflicts) = (fences(&mut own()), fences(&mut conflicts()));
        let full = self.claims.owned_by(owner) >= CLAIMS_PER_IDENTITY || self.claims.len() >= most;
        if full && superseded.is_empty() && conflicts.is_empty() {
            return Err(Refused::TooManyClaims);
        }
        let mut take = |fences: Vec<u64>| -> Vec<Entry> {
            fences.into_iter().filter_map(|fence| self.claims.remove(fence)).collect()
        };
        Ok(Gone { superseded: take(superseded), conflicts: take(conflicts) })
    }

    /// Every claim that a new one may be in the way of, by fence: few others are among them.
    pub(super) fn near(&self, offered: &Offered, owner: &DeveloperName, new: &Intercept) -> BTreeSet<u64> {
        let wider = offered.table.load();
        let wider = wider.covering(&new.matcher).into_iter().map(|claim| claim.fence);
        let narrower = self.claims.within(&new.service, &new.matcher);
        let own = self.claims.named(owner, &new.name).map(|entry| entry.claim.fence);
        wider.chain(narrower).chain(own).collect()
    }
}

impl Gone {
    /// Their callers look again, and so does whoever reads the log.
    pub(super) fn log(&self) {
        for (entries, ended) in [(&self.superseded, Ended::Superseded), (&self.conflicts, Ended::Denied)] {
            for Entry { claim, .. } in entries {
                claim.wake();
                ended.log(claim, false);
            }
        }
    }

    /// Whose claims they were are told, and who has the requests now.
    pub(super) fn tell(&self, session: &Session) {
        let by = session.holder(session.since);
        for Entry { claim, .. } in &self.superseded {
            for lane in claim.lanes() {
                // A client that dialled again has not lost anything to anybody.
                if lane.session.id == session.id || lane.session.start.instance != session.start.instance {
                    lane.session.tell(FromRelay::Superseded { claim: lane.number, by: by.clone() });
                }
            }
        }
        for Entry { claim, .. } in &self.conflicts {
            let lost = Refused::Conflict { with: claim.intercept.matcher.clone(), holder: by.clone() };
            claim.lanes().iter().for_each(|lane| lane.session.tell(lost.denial(lane.number)));
        }
    }
}
