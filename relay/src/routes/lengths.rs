//! How long the names are that claims look at: what tells most fields of a request from them without a hash. Pure.

use std::fmt;

/// Longer names are as one.
const LONGEST: usize = 63;

#[derive(Clone, Copy)]
pub(super) struct Lengths {
    /// How many names have each length.
    names: [u32; LONGEST + 1],
    /// A bit for each length that some name has.
    bits: u64,
}

impl Lengths {
    pub(super) fn add(&mut self, name: &[u8]) {
        if let Some(names) = self.names.get_mut(length(name)) {
            *names += 1;
            self.bits |= 1 << length(name);
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(names) = self.names.get_mut(length(name)) {
            *names = names.saturating_sub(1);
            if *names == 0 {
                self.bits &= !(1 << length(name));
            }
        }
    }

    /// Some name is as long as this one.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.bits & (1 << length(name)) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bits == 0
    }
}

fn length(name: &[u8]) -> usize {
    name.len().min(LONGEST)
}

impl Default for Lengths {
    fn default() -> Self {
        Self { names: [0; LONGEST + 1], bits: 0 }
    }
}

impl fmt::Debug for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lengths({:#b})", self.bits)
    }
}
