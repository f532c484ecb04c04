//! How old a claim is, in a form that its client carries from one replica to the next and cannot make up: relays of one
//! authority share the key, and nobody else has it.

use std::fmt;
use std::time::SystemTime;

use culvert_certs::{DeveloperName, Secret};
use culvert_protocol::hello::{Stamp, UnixMillis};
use culvert_protocol::intercept::Intercept;
use ring::hmac;

pub(crate) struct Stamps {
    key: hmac::Key,
    relay: String,
}

impl Stamps {
    /// What the authority derives the key for, so that it is no other's.
    pub(crate) const PURPOSE: &str = "culvert claim stamp 1";

    pub(crate) fn new(key: &Secret<[u8; 32]>, relay: String) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.expose()), relay }
    }

    /// This relay's id.
    pub(super) fn relay(&self) -> &str {
        &self.relay
    }

    /// Says that `relay` accepted the claim at that moment: this one, or one that was believed.
    pub(super) fn stamp(
        &self,
        owner: &DeveloperName,
        intercept: &Intercept,
        since: SystemTime,
        relay: &str,
    ) -> Stamp {
        let since = UnixMillis::from(since);
        let tag = hmac::sign(&self.key, &said(owner, intercept, since, relay));
        let proof = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Stamp { since, relay: relay.to_owned(), proof }
    }

    /// Whether a relay of this authority has said so, of just this claim of just this owner.
    pub(super) fn vouches(&self, owner: &DeveloperName, intercept: &Intercept, stamp: &Stamp) -> bool {
        let Some(proof) = bytes(&stamp.proof) else { return false };
        hmac::verify(&self.key, &said(owner, intercept, stamp.since, &stamp.relay), &proof).is_ok()
    }
}

/// Every part with its length before it, so that no two claims read the same.
fn said(owner: &DeveloperName, intercept: &Intercept, since: UnixMillis, relay: &str) -> Vec<u8> {
    let Intercept { service, name, matcher, .. } = intercept;
    let mut said = since.0.to_be_bytes().to_vec();
    for part in [relay, owner.as_str(), service.as_str(), name.as_str(), &matcher.to_string()] {
        said.extend((part.len() as u64).to_be_bytes());
        said.extend(part.as_bytes());
    }
    said
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    const LONGEST: usize = 64;
    if hex.len() != LONGEST || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..LONGEST).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

impl fmt::Debug for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stamps").field("relay", &self.relay).finish_non_exhaustive()
    }
}
