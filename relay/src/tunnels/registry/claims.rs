//! The claims in force, found by each of the things that the registry asks for: a change costs what it touches, however many
//! there are. Knows nothing of who may have what.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hash, RandomState};

use culvert_certs::DeveloperName;
use culvert_protocol::intercept::{Condition, InterceptName, Matcher, ServiceName};
use tokio::time::Instant;

use super::counts::Counts;
use super::entry::Entry;

#[derive(Debug, Default)]
pub(super) struct Claims {
    by_fence: BTreeMap<u64, Entry>,
    /// What claims have in common, as a hash, with the fence of each: those that are found by it are compared.
    alike: BTreeSet<(u64, u64)>,
    hasher: RandomState,
    owned: Counts<DeveloperName>,
    /// When something of them ends by itself.
    due: BTreeSet<(Instant, u64)>,
}

/// What is looked for.
#[derive(Hash)]
enum Trait<'a> {
    Name(&'a DeveloperName, &'a InterceptName),
    Condition(&'a ServiceName, &'a Condition),
}

impl Claims {
    pub(super) fn len(&self) -> usize {
        self.by_fence.len()
    }

    /// The oldest fence first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_fence.values()
    }

    pub(super) fn get(&self, fence: u64) -> Option<&Entry> {
        self.by_fence.get(&fence)
    }

    pub(super) fn owned_by(&self, owner: &DeveloperName) -> usize {
        self.owned.of(owner)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let fence = entry.claim.fence;
        for shared in traits(&entry) {
            self.alike.insert((self.hasher.hash_one(shared), fence));
        }
        self.owned.add(&entry.claim.owner);
        self.by_fence.insert(fence, entry);
        self.reschedule(fence);
    }

    pub(super) fn remove(&mut self, fence: u64) -> Option<Entry> {
        let entry = self.by_fence.remove(&fence)?;
        for shared in traits(&entry) {
            self.alike.remove(&(self.hasher.hash_one(shared), fence));
        }
        self.owned.remove(&entry.claim.owner);
        if let Some(due) = entry.scheduled {
            self.due.remove(&(due, fence));
        }
        Some(entry)
    }

    /// Of this owner under this name, in whatever service.
    pub(super) fn named<'a>(
        &'a self,
        owner: &'a DeveloperName,
        name: &'a InterceptName,
    ) -> impl Iterator<Item = &'a Entry> {
        let found = self.alike(&Trait::Name(owner, name)).filter_map(|fence| self.get(fence));
        found.filter(move |Entry { claim, .. }| claim.owner == *owner && claim.intercept.name == *name)
    }

    /// All that may have every condition of the matcher, and some that have one of them: of the one that the fewest have. None for
    /// all traffic, which has none.
    pub(super) fn within(&self, service: &ServiceName, matcher: &Matcher) -> Vec<u64> {
        let conditions = matcher.conditions().iter();
        let mut searches: Vec<_> = conditions
            .map(|condition| (self.alike(&Trait::Condition(service, condition)), Vec::new()))
            .collect();
        // In turns, until the shortest is at its end: the others are never read to theirs.
        loop {
            for (search, found) in &mut searches {
                match search.next() {
                    Some(fence) => found.push(fence),
                    None => return std::mem::take(found),
                }
            }
            if searches.is_empty() {
                return Vec::new();
            }
        }
    }

    fn alike(&self, shared: &Trait<'_>) -> impl Iterator<Item = u64> + use<'_> {
        let hash = self.hasher.hash_one(shared);
        self.alike.range((hash, 0)..=(hash, u64::MAX)).map(|(_, fence)| *fence)
    }

    /// After a change of when something of it ends by itself.
    pub(super) fn reschedule(&mut self, fence: u64) {
        let Some(entry) = self.by_fence.get_mut(&fence) else { return };
        let due = entry.due();
        if let Some(before) = std::mem::replace(&mut entry.scheduled, due) {
            self.due.remove(&(before, fence));
        }
        if let Some(due) = due {
            self.due.insert((due, fence));
        }
    }

    /// When the next of them is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn due_by(&self, now: Instant) -> Vec<u64> {
        self.due.range(..=(now, u64::MAX)).map(|(_, fence)| *fence).collect()
    }
}

#[cfg(test)]
impl Claims {
    /// Nothing is left of any claim.
    pub(super) fn is_forgotten(&self) -> bool {
        let Self { by_fence, alike, hasher: _, owned, due } = self;
        by_fence.is_empty() && alike.is_empty() && owned.is_empty() && due.is_empty()
    }
}

fn traits(entry: &Entry) -> impl Iterator<Item = Trait<'_>> {
    let intercept = &entry.claim.intercept;
    let conditions = intercept.matcher.conditions().iter();
    conditions
        .map(|condition| Trait::Condition(&intercept.service, condition))
        .chain([Trait::Name(&entry.claim.owner, &intercept.name)])
}
