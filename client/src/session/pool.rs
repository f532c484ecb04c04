//! How many tunnels a rung over TCP should have: a connection under a multiplexer stalls everything behind a loss, and small
//! exchanges wait behind a bulk transfer. Pure: it is told what there is, and the time.

use std::time::Duration;

use tokio::time::Instant;

/// How often the tunnels are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Tunnels on one rung to one replica.
pub(super) const MOST: usize = 4;

/// A tunnel that nothing has needed for so long is given up.
const SPARE: Duration = Duration::from_secs(30);

/// What a rung should do about its tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    Enough,
    /// Every one carries a bulk transfer: one more for what is not.
    Grow,
    /// More than one is free, and has been for long.
    Shrink,
}

/// Since when more than one tunnel is free.
#[derive(Debug, Default)]
pub(super) struct Spare {
    since: Option<Instant>,
}

impl Spare {
    /// `bulk`: of each tunnel, whether it carries a bulk transfer.
    pub(super) fn pool(&mut self, bulk: &[bool], most: usize, now: Instant) -> Pool {
        let free = bulk.iter().filter(|bulk| !**bulk).count();
        if free <= 1 {
            self.since = None;
            return if free == 0 && (1..most).contains(&bulk.len()) { Pool::Grow } else { Pool::Enough };
        }
        if now - *self.since.get_or_insert(now) < SPARE {
            return Pool::Enough;
        }
        self.since = None;
        Pool::Shrink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tunnel_is_kept_free_of_bulk_and_no_more() {
        let now = Instant::now();
        let mut spare = Spare::default();
        assert_eq!(spare.pool(&[], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[false], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[true], MOST, now), Pool::Grow);
        assert_eq!(spare.pool(&[true, false], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[true, true, true], MOST, now), Pool::Grow);
        assert_eq!(spare.pool(&[true; MOST], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[true], 1, now), Pool::Enough);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(spare.pool(&[false, false], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[false, false], MOST, later(29)), Pool::Enough);
        assert_eq!(spare.pool(&[true, false], MOST, later(29)), Pool::Enough);
        assert_eq!(spare.pool(&[false, false], MOST, later(31)), Pool::Enough);
        assert_eq!(spare.pool(&[false, false], MOST, later(61)), Pool::Shrink);
    }
}
