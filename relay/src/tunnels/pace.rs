//! How fast one session may change its claims. Each change makes a service's next table and is a line in the log: a client
//! in a loop is not to keep the relay busy with either. Holds no clock: the caller says what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// Changes at once: twice as many as one identity's claims, all of which may come anew on one connection.
const BURST: u32 = 400;
/// One more each: 20 a second.
const EACH: Duration = Duration::from_millis(50);

/// What is left of a session's changes: a bucket that starts full and fills up again.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    /// When the last of `left` came in; what has passed since is a part of the next one.
    since: Instant,
    quiet: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, quiet: false }
    }

    /// Takes one change, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        self.quiet |= self.left == 0;
        taken
    }

    /// The burst is used up: what follows is not worth a line each until the session has calmed down.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_millis() / EACH.as_millis()).unwrap_or(u32::MAX);
        if more >= BURST - self.left {
            *self = Self::new(now.max(self.since));
        } else {
            self.left += more;
            self.since += EACH * more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_twenty_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for _ in 0..BURST {
            assert!(!pace.is_quiet());
            assert!(pace.take(start));
        }
        assert!(!pace.take(start) && pace.is_quiet());
        assert!(!pace.take(at(49)));
        assert!(pace.take(at(51)) && !pace.take(at(52)));
        // What is asked for in between does not put the next one off.
        let granted = (1..=1_000).filter(|step| pace.take(at(100 + step))).count();
        assert_eq!(granted, 21);
        assert!(pace.is_quiet());
        // As long a pause as a burst takes to come back.
        assert!(pace.take(at(60_000)) && !pace.is_quiet());
        assert_eq!((0..1_000).filter(|_| pace.take(at(60_000))).count(), 399);
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_grants_no_more_than_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let later = start + Duration::from_secs(1_000_000);
        assert_eq!((0..1_000).filter(|_| pace.take(later)).count(), 400);
        assert_eq!((0..1_000).filter(|_| pace.take(start)).count(), 0);
    }
}
