//! How old a claim is, and a start of a client, in a form that the client carries from one replica to the next and cannot make up: relays of one
//! authority share the key, and nobody else has it.

use std::fmt;
use std::time::SystemTime;

use culvert_certs::{DeveloperName, Secret};
use culvert_protocol::hello::{InstanceId, Stamp, UnixMillis};
use culvert_protocol::intercept::Intercept;
use ring::hmac;

use crate::tunnels::session::Start;

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
        self.sign(since, relay, &said(owner, intercept, since, relay))
    }

    /// Whether a relay of this authority has said so, of just this claim of just this owner.
    pub(super) fn vouches(&self, owner: &DeveloperName, intercept: &Intercept, stamp: &Stamp) -> bool {
        self.has_signed(stamp, &said(owner, intercept, stamp.since, &stamp.relay))
    }

    /// Says when a client was started.
    pub(super) fn start(&self, owner: &DeveloperName, start: &Start) -> Stamp {
        let Start { at, relay, instance } = start;
        self.sign(*at, relay, &parts(*at, &[relay, owner.as_str(), &instance.to_string()]))
    }

    /// The same, if a relay of this authority has said so of this start.
    pub(super) fn started(
        &self,
        owner: &DeveloperName,
        instance: InstanceId,
        stamp: &Stamp,
    ) -> Option<Start> {
        let said = parts(stamp.since, &[&stamp.relay, owner.as_str(), &instance.to_string()]);
        self.has_signed(stamp, &said).then(|| Start { at: stamp.since, relay: stamp.relay.clone(), instance })
    }

    fn sign(&self, since: UnixMillis, relay: &str, said: &[u8]) -> Stamp {
        let tag = hmac::sign(&self.key, said);
        let proof = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Stamp { since, relay: relay.to_owned(), proof }
    }

    fn has_signed(&self, stamp: &Stamp, said: &[u8]) -> bool {
        bytes(&stamp.proof).is_some_and(|proof| hmac::verify(&self.key, said, &proof).is_ok())
    }
}

fn said(owner: &DeveloperName, intercept: &Intercept, since: UnixMillis, relay: &str) -> Vec<u8> {
    let Intercept { service, name, matcher, .. } = intercept;
    parts(since, &[relay, owner.as_str(), service.as_str(), name.as_str(), &matcher.to_string()])
}

/// Every part with its length before it, so that no two claims read the same, and none like a start.
fn parts(since: UnixMillis, parts: &[&str]) -> Vec<u8> {
    let mut said = since.0.to_be_bytes().to_vec();
    for part in parts {
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
