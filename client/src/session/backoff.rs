//! How long to wait before dialling again: longer each time, and never the same for two clients, so that thousands that
//! lost their relay at once do not come back at once. Holds no timer.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait for the first try: a relay that says that it was restarted is there, and tells them one after the other.
const FIRST: Duration = Duration::from_millis(40);

/// The same for the second. A relay that restarts is back within seconds.
const SECOND: Duration = Duration::from_millis(200);

/// Where nobody listens a try costs little, and none is waited for longer than this part of the time that it has been so.
const PART_OF_AWAY: u32 = 4;

/// Full jitter: anything from nothing to a limit, 40 ms and then what doubles from 0.2 s to 10 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// When it turned out that nobody listens.
    away: Option<Instant>,
}

impl Backoff {
    /// The longest wait of all: what a developer may have to wait for after the network is back.
    pub(super) const LONGEST: Duration = Duration::from_secs(10);

    /// `random` is between 0 and 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let doubled = |times| SECOND.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        let limit = self.failures.checked_sub(1).map_or(FIRST, doubled).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.met();
        limit.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The same where nobody listens: the relay is being restarted, and is to be found soon after it is back. If it then has no room
    /// for all who come, they wait as after the failures before.
    pub(super) fn next_away(&mut self, now: Instant, random: f64) -> Duration {
        let away = now.saturating_duration_since(*self.away.get_or_insert(now));
        self.failures = self.failures.max(1);
        (away / PART_OF_AWAY).clamp(SECOND, Self::LONGEST).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Somebody listens.
    pub(super) fn met(&mut self) {
        self.away = None;
    }

    /// The same where it did not fail, but did not lead to what was looked for either: no longer than `longest`.
    pub(super) fn next_within(&mut self, longest: Duration, random: f64) -> Duration {
        self.next(1.0).min(longest).mul_f64(random.clamp(0.0, 1.0))
    }

    /// After a session that was good for something.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_short_and_the_others_double_to_ten_seconds() {
        let mut backoff = Backoff::default();
        let limits: Vec<_> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(limits, [40, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        for _ in 0..100 {
            assert_eq!(backoff.next(1.0), Backoff::LONGEST);
        }
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next_within(Duration::from_secs(2), 0.5), Duration::from_secs(1));
        backoff.reset();
        assert_eq!(backoff.next_within(Duration::from_secs(2), 1.0), FIRST);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(0.25), SECOND / 4);
    }

    #[test]
    fn a_relay_that_is_away_is_found_soon_after_it_is_back() {
        let (begun, mut backoff) = (Instant::now(), Backoff::default());
        let after = |millis| begun + Duration::from_millis(millis);
        backoff.next(1.0);
        assert_eq!(backoff.next_away(begun, 1.0), SECOND);
        for (away, limit) in [(100, 200), (800, 200), (1_000, 250), (4_000, 1_000), (60_000, 10_000)] {
            assert_eq!(backoff.next_away(after(away), 1.0), Duration::from_millis(limit));
            assert_eq!(backoff.next_away(after(away), 0.5), Duration::from_millis(limit) / 2);
        }
        // It is back, and busy, and away again: that has not been so for long.
        assert_eq!(backoff.next(1.0), SECOND);
        assert_eq!(backoff.next_away(after(90_000), 1.0), SECOND);
        // It comes and goes, and is of no use: those who come wait longer and longer.
        assert_eq!(backoff.next(1.0), SECOND * 2);
        backoff.next_away(after(91_000), 1.0);
        backoff.met();
        assert_eq!(backoff.next_away(after(200_000), 1.0), SECOND);
    }
}
