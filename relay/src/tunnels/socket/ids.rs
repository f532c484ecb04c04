//! What tells the packets of one QUIC connection from those of another (RFC 9000 §5.1), such that a relay that was restarted knows
//! those of its former life, and resets them.
//!
//! quinn's own have 24 bits that are random. With thousands of tunnels, each with several of them, one in a thousand that a
//! Retry hands out is taken already: whoever is told to use it sends to another connection, which does not answer, until they
//! give up.

use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use ring::hmac;

/// Two that are alike are not seen in the life of a relay.
const RANDOM: usize = 8;
/// Enough to know ours: of what somebody makes up, one in four thousand million is taken for one, and answered with a reset.
const TAG: usize = 4;

#[derive(Clone)]
pub(super) struct Ids(hmac::Key);

impl Ids {
    /// With the same key the next start of the relay knows what this one has given out.
    pub(super) fn marked_with(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn tag(&self, random: [u8; RANDOM]) -> [u8; TAG] {
        let mut tag = [0; TAG];
        for (to, from) in tag.iter_mut().zip(hmac::sign(&self.0, &random).as_ref()) {
            *to = *from;
        }
        tag
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let random: [u8; RANDOM] = rand::random();
        ConnectionId::new(&[random.as_slice(), &self.tag(random)].concat())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let (random, tag) = id.split_first_chunk().ok_or(InvalidCid)?;
        if self.tag(*random) == *tag { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        RANDOM + TAG
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_next_start_knows_what_this_one_gave_out_and_nothing_else() {
        let mut before = Ids::marked_with(b"kept");
        let (after, other) = (Ids::marked_with(b"kept"), Ids::marked_with(b"another relay's"));
        for _ in 0..1_000 {
            let id = before.generate_cid();
            assert_eq!(id.len(), before.cid_len());
            assert!(after.validate(&id).is_ok() && other.validate(&id).is_err());
        }
        for made_up in [&[][..], &[1; 8], &[1; 12], &[1; 20]] {
            assert!(after.validate(&ConnectionId::new(made_up)).is_err());
        }
    }

    #[test]
    fn no_two_of_a_million_are_alike() {
        let mut ids = Ids::marked_with(b"kept");
        let all: HashSet<_> = (0..1_000_000).map(|_| ids.generate_cid()).collect();
        assert_eq!(all.len(), 1_000_000);
    }
}
