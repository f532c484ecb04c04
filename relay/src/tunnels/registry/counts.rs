//! How many there are of each. Keeps nothing of what there is none of.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Counts<K> {
    pub(super) fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, key: &K) {
        match self.0.get_mut(key) {
            Some(count) => *count += 1,
            None => _ = self.0.insert(key.clone(), 1),
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        let Some(count) = self.0.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
impl<K> Counts<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
