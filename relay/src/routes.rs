//! Which claim a request is for: the immutable matcher of one service. Pure.
//!
//! A change makes the next table out of the last one, sharing all that it does not touch, and the whole is swapped: reading
//! takes no lock, and one claim more costs the same beside ten others and a hundred thousand. So does a request: from
//! condition to condition it is led by hash ([`tree`]), and it sees no claim that it does not begin to meet.
//!
//! Where several claims match, the one with more conditions wins, then the older one: a total order, so that every
//! reader of the same claims decides alike.

mod lengths;
mod tree;

use culvert_protocol::intercept::{Condition, Matcher};
use culvert_protocol::message::{Fields, RequestHead};

use lengths::Lengths;
use tree::{Node, Route, Trie, in_lower_case};

/// What a match leads to.
pub(crate) trait Matching: Clone {
    fn matcher(&self) -> &Matcher;
}

#[derive(Clone, Debug)]
pub(crate) struct Routes<T> {
    claims: Node<T>,
    /// How many conditions look at each name, which is in lower case.
    names: Trie<usize>,
    /// The lengths of those names: most fields of a request are passed over by it, and all of them where nothing is claimed.
    lengths: Lengths,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { claims: Node::default(), names: Trie::default(), lengths: Lengths::default() }
    }
}

impl<T: Matching> Routes<T> {
    /// With one claim more. Its age is its place in the order of age, and no other's.
    pub(crate) fn insert(&mut self, age: u64, leads_to: T) {
        for Condition::Header { name, .. } in leads_to.matcher().conditions() {
            let name = name.as_str().as_bytes();
            let before = self.names.get(name).copied().unwrap_or_default();
            if before == 0 {
                self.lengths.add(name);
            }
            self.names.insert_mut(name.into(), before + 1);
        }
        self.claims.insert(Route { age, leads_to }, 0);
    }

    /// Without the claim of this age, if it is there.
    pub(crate) fn remove(&mut self, age: u64, matcher: &Matcher) {
        if !self.claims.remove(age, matcher.conditions()) {
            return;
        }
        for Condition::Header { name, .. } in matcher.conditions() {
            let name = name.as_str().as_bytes();
            match self.names.get(name).copied() {
                Some(before @ 2..) => self.names.insert_mut(name.into(), before - 1),
                Some(_) => {
                    self.names.remove_mut(name);
                    self.lengths.remove(name);
                }
                None => {}
            }
        }
    }

    /// What the request is claimed for, if it is.
    pub(crate) fn pick(&self, request: &RequestHead) -> Option<&T> {
        let mut best: Option<&Route<T>> = None;
        self.claims.met_by(&request.fields, &self.lengths, 0, &mut |route| {
            if best.is_none_or(|best| route.wins_over(best)) {
                best = Some(route);
            }
        });
        best.map(|route| &route.leads_to)
    }

    /// Every claim that takes in all requests of this matcher: its conditions are among the matcher's.
    pub(crate) fn covering(&self, matcher: &Matcher) -> Vec<&T> {
        let lines = matcher.conditions().iter();
        let said: Fields = lines
            .map(|Condition::Header { name, exact }| (name.as_str().as_bytes(), exact.as_bytes()))
            .collect();
        let mut covering = Vec::new();
        self.claims.met_by(&said, &self.lengths, 0, &mut |route| covering.push(&route.leads_to));
        covering
    }

    /// A claim looks at this field, so that nobody may make it disappear before it is matched.
    pub(crate) fn steers(&self, name: &[u8]) -> bool {
        self.lengths.has(name) && in_lower_case(name, |name| self.names.contains_key(name))
    }
}

#[cfg(test)]
mod tests;
