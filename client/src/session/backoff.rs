//! How long to wait before dialling again: longer each time, and never the same for two clients, so that thousands that
//! lost their relay at once do not come back at once. Holds no timer.

use std::time::Duration;

/// The longest first wait. A relay that restarts is back within seconds.
const FIRST: Duration = Duration::from_millis(200);

/// Full jitter: anything from nothing to a limit that doubles, from 0.2 s to 10 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The longest wait of all: what a developer may have to wait for after the network is back.
    pub(super) const LONGEST: Duration = Duration::from_secs(10);

    /// `random` is between 0 and 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let limit =
            FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The same where it did not fail, but did not lead to what was looked for either: no longer than `longest`.
    pub(super) fn next_within(&mut self, longest: Duration, random: f64) -> Duration {
        self.next(1.0).min(longest).mul_f64(random.clamp(0.0, 1.0))
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
            assert_eq!(backoff.next(1.0), Backoff::LONGEST);
        }
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next_within(Duration::from_secs(2), 0.5), Duration::from_secs(1));
        backoff.reset();
        assert_eq!(backoff.next_within(Duration::from_secs(2), 1.0), FIRST);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(0.25), Duration::from_millis(100));
    }
}
