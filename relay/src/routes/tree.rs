//! Claims by their conditions, one after the other in the matchers' own order: a claim on `x-team=a x-user=n` hangs under
//! `x-team=a`, and there under `x-user=n`. However many share the first condition, a request finds the second by hash.
//!
//! A claim that shares its next condition with no other ends the path at once, so that there are no more nodes than claims.
//! Nodes are shared between one table and the next, and never changed once they are.

use std::sync::Arc;

use culvert_protocol::intercept::Condition;
use culvert_protocol::message::Fields;
use rpds::HashTrieMapSync;

use super::{Lengths, Matching};

/// By what is compared byte for byte.
pub(super) type Trie<V> = HashTrieMapSync<Box<[u8]>, V>;

/// Claims that share the conditions which lead here.
#[derive(Clone, Debug)]
pub(super) struct Node<T> {
    count: usize,
    /// Those that ask for nothing more.
    here: Vec<Route<T>>,
    /// The others, by what they ask for next: a header's name in lower case, then its value.
    beyond: Trie<Trie<Next<T>>>,
}

#[derive(Clone, Debug)]
enum Next<T> {
    /// Only one asks for it.
    Claim(Route<T>),
    /// At least two.
    Node(Arc<Node<T>>),
}

#[derive(Clone, Debug)]
pub(super) struct Route<T> {
    pub(super) age: u64,
    pub(super) leads_to: T,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { count: 0, here: Vec::new(), beyond: Trie::default() }
    }
}

impl<T: Matching> Node<T> {
    /// `met`: how many of the claim's conditions lead here.
    pub(super) fn insert(&mut self, route: Route<T>, met: usize) {
        self.count += 1;
        let Some(Condition::Header { name, exact }) = route.conditions().get(met) else {
            self.here.push(route);
            return;
        };
        let (name, value): (Box<[u8]>, Box<[u8]>) =
            (name.as_str().as_bytes().into(), exact.as_bytes().into());
        let mut by_value = self.beyond.get(&name).cloned().unwrap_or_default();
        let next = match by_value.get(&value) {
            None => Next::Claim(route),
            Some(Next::Claim(other)) => {
                let mut node = Self::default();
                node.insert(other.clone(), met + 1);
                node.insert(route, met + 1);
                Next::Node(Arc::new(node))
            }
            Some(Next::Node(node)) => {
                let mut node = Self::clone(node);
                node.insert(route, met + 1);
                Next::Node(Arc::new(node))
            }
        };
        by_value.insert_mut(value, next);
        self.beyond.insert_mut(name, by_value);
    }

    /// Takes out the claim of this age, whose conditions beyond this node these are. Whether it was there.
    pub(super) fn remove(&mut self, age: u64, conditions: &[Condition]) -> bool {
        let removed = match conditions.split_first() {
            None => self.remove_here(age),
            Some((Condition::Header { name, exact }, rest)) => {
                self.remove_beyond(age, (name.as_str().as_bytes(), exact.as_bytes()), rest)
            }
        };
        self.count -= usize::from(removed);
        removed
    }

    fn remove_here(&mut self, age: u64) -> bool {
        let before = self.here.len();
        self.here.retain(|route| route.age != age);
        self.here.len() < before
    }

    fn remove_beyond(&mut self, age: u64, (name, value): (&[u8], &[u8]), rest: &[Condition]) -> bool {
        let Some(by_value) = self.beyond.get(name) else { return false };
        let left = match by_value.get(value) {
            Some(Next::Claim(route)) if route.age == age => None,
            Some(Next::Node(node)) => {
                let mut node = Self::clone(node);
                if !node.remove(age, rest) {
                    return false;
                }
                Some(node.settled())
            }
            Some(Next::Claim(_)) | None => return false,
        };
        let mut by_value = by_value.clone();
        match left {
            Some(next) => by_value.insert_mut(value.into(), next),
            None => _ = by_value.remove_mut(value),
        }
        if by_value.is_empty() {
            self.beyond.remove_mut(name);
        } else {
            self.beyond.insert_mut(name.into(), by_value);
        }
        true
    }

    /// As it stands under the node above: one claim alone needs no node.
    fn settled(self) -> Next<T> {
        let beyond = || self.beyond.values().flat_map(Trie::values);
        let only = match (self.count, self.here.first()) {
            (1, Some(route)) => Some(Next::Claim(route.clone())),
            (1, None) => beyond().next().cloned(),
            _ => None,
        };
        only.unwrap_or_else(|| Next::Node(Arc::new(self)))
    }

    /// Shows every claim all of whose conditions are met by these lines. No node is come to twice, however often a line is
    /// repeated: its conditions have one order, and a condition is looked for once.
    pub(super) fn met_by<'a>(
        &'a self,
        fields: &Fields,
        lengths: &Lengths,
        met: usize,
        show: &mut impl FnMut(&'a Route<T>),
    ) {
        self.here.iter().for_each(&mut *show);
        if lengths.is_empty() || self.beyond.is_empty() {
            return;
        }
        for (at, (name, value)) in fields.iter().enumerate().filter(|(_, (name, _))| lengths.has(name)) {
            let by_value = in_lower_case(name, |name| self.beyond.get(name));
            let Some(next) = by_value.and_then(|by_value| by_value.get(value)) else { continue };
            let same = |(other, said): (&[u8], &[u8])| said == value && other.eq_ignore_ascii_case(name);
            if fields.iter().take(at).any(same) {
                continue;
            }
            match next {
                Next::Claim(route) if route.is_met_by(fields, met + 1) => show(route),
                Next::Claim(_) => {}
                Next::Node(node) => node.met_by(fields, lengths, met + 1, show),
            }
        }
    }
}

impl<T: Matching> Route<T> {
    fn conditions(&self) -> &[Condition] {
        self.leads_to.matcher().conditions()
    }

    /// More conditions, then the older.
    pub(super) fn wins_over(&self, other: &Self) -> bool {
        let (own, others) = (self.conditions().len(), other.conditions().len());
        own > others || own == others && self.age < other.age
    }

    /// Whether all conditions but the first `met` are.
    fn is_met_by(&self, fields: &Fields, met: usize) -> bool {
        self.conditions().iter().skip(met).all(|condition| is_met(condition, fields))
    }
}

pub(super) fn is_met(Condition::Header { name, exact }: &Condition, fields: &Fields) -> bool {
    fields.all(name.as_str()).any(|value| value == exact.as_bytes())
}

/// A name as claims write it, without an allocation for those that people use.
pub(super) fn in_lower_case<R>(name: &[u8], look: impl FnOnce(&[u8]) -> R) -> R {
    let mut room = [0u8; 64];
    match room.get_mut(..name.len()) {
        Some(lower) => {
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            look(lower)
        }
        None => look(&name.to_ascii_lowercase()),
    }
}

#[cfg(test)]
impl<T: Matching> Node<T> {
    /// Everything in it in one order, for comparing.
    pub(super) fn shape(&self) -> String {
        let mut here: Vec<_> = self.here.iter().map(|route| route.age).collect();
        here.sort_unstable();
        let mut beyond = Vec::new();
        for (name, by_value) in self.beyond.iter() {
            for (value, next) in by_value.iter() {
                let next = match next {
                    Next::Claim(route) => route.age.to_string(),
                    Next::Node(node) => node.shape(),
                };
                beyond.push(format!("{}={}: {next}", name.escape_ascii(), value.escape_ascii()));
            }
        }
        beyond.sort();
        format!("{} {here:?} {{{}}}", self.count, beyond.join(", "))
    }
}
