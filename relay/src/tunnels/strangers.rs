//! Everybody on the tunnel port who has not proved yet who they are: how many at once, how often they are logged, and
//! how often one address may guess. Holds addresses and counts, bounded, and no connection.

mod line;
mod seats;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(crate) use line::{Bounds, Line};
pub(crate) use seats::{Room, Seat, Seats};

/// One log line and so many wrong tokens per address in this long.
const MINUTE: Duration = Duration::from_secs(60);
const WRONG_TOKENS: u32 = 5;
/// Addresses that are remembered. When there are more within a minute, nothing is logged for the rest, and their tries
/// are not counted: a token's secret cannot be guessed, counting only keeps the noise down.
const ADDRESSES: usize = 4_096;
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Strangers {
    /// Each transport's own: what fills one of them leaves the other way in.
    pub(super) tcp: Seats,
    pub(super) quic: Seats,
    /// An ingress is one address, whoever stands behind it.
    pub(super) ingress: Seats,
    seen: Mutex<Addresses>,
}

#[derive(Debug)]
struct Addresses {
    of: HashMap<IpAddr, Seen>,
    swept: Instant,
}

/// What an address did in its current minute.
#[derive(Debug)]
struct Seen {
    since: Instant,
    logged: bool,
    wrong_tokens: u32,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            tcp: Seats::default(),
            quic: Seats::default(),
            ingress: Seats::of_one(seats::AT_ONCE),
            seen: Mutex::new(Addresses { of: HashMap::new(), swept: Instant::now() }),
        }
    }
}

impl Strangers {
    /// Whether something about this address is still to be logged in its current minute.
    pub(super) fn may_log(&self, address: IpAddr) -> bool {
        self.with(address, |seen| !std::mem::replace(&mut seen.logged, true)).unwrap_or(false)
    }

    /// Counts a wrong token: whether its sender is still to be told that it is wrong.
    pub(super) fn may_guess(&self, address: IpAddr) -> bool {
        let counted = self.with(address, |seen| {
            seen.wrong_tokens = seen.wrong_tokens.saturating_add(1);
            seen.wrong_tokens <= WRONG_TOKENS
        });
        counted.unwrap_or(true)
    }

    fn with<T>(&self, address: IpAddr, change: impl FnOnce(&mut Seen) -> T) -> Option<T> {
        let now = Instant::now();
        let Addresses { of, swept } = &mut *self.seen.lock();
        if of.len() >= ADDRESSES && !of.contains_key(&address) {
            // A flood of addresses is not to cost a sweep each.
            if now.duration_since(*swept) >= SWEEP {
                *swept = now;
                of.retain(|_, seen| now.duration_since(seen.since) < MINUTE);
            }
            if of.len() >= ADDRESSES {
                return None;
            }
        }
        let fresh = || Seen { since: now, logged: false, wrong_tokens: 0 };
        let seen = of.entry(address).or_insert_with(fresh);
        if now.duration_since(seen.since) >= MINUTE {
            *seen = fresh();
        }
        Some(change(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_from_one_address_is_one_line_a_minute() {
        let strangers = Strangers::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(strangers.may_log(one));
        assert!((0..1_000).all(|_| !strangers.may_log(one)));
        assert!(strangers.may_log(other));
    }

    #[test]
    fn the_sixth_wrong_token_within_a_minute_is_not_called_wrong() {
        let strangers = Strangers::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!((0..5).all(|_| strangers.may_guess(one)));
        assert!(!strangers.may_guess(one));
        assert!(strangers.may_guess(other));
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let strangers = Strangers::default();
        for address in 0..100_000_u32 {
            strangers.may_log(IpAddr::from(address.to_be_bytes()));
        }
        assert_eq!(strangers.seen.lock().of.len(), ADDRESSES);
        assert!(
            strangers.may_guess(IpAddr::from([255, 0, 0, 1])),
            "an honest newcomer is told what is wrong"
        );
    }
}
