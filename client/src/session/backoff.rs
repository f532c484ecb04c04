//! How long to wait before dialling again: longer each time, and never the same for two clients, so that thousands that
//! lost their relay at once do not come back at once. Holds no timer.

use std::time::Duration;

/// The longest first wait. A relay that restarts is back within seconds.
const FIRST: Duration = Duration::from_millis(200);

/// The longest wait of all: what a developer may have to wait for after the network is back.
const LONGEST: Duration = Duration::from_secs(10);

/// Full jitter: anything from nothing to a limit that doubles, from 0.2 s to 10 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// `random` is between 0 and 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let limit = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(random.clamp(0.0, 1.0))
    }

    /// After a session that was good for something.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_from_a_fifth_of_a_second_to_ten() {
        let mut backoff = Backoff::default();
        let limits: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(limits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        for _ in 0..100 {
            assert_eq!(backoff.next(1.0), LONGEST);
        }
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(0.25), Duration::from_millis(100));
    }
}
