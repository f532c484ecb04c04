//! How fast a developer may change claims, over however many tunnels. Each change makes a service's next table and is a line in
//! the log: a client in a loop is not to keep the relay busy with either. Holds no clock: the caller says what time it is.

use std::collections::HashMap;

use std::time::Duration;

use culvert_certs::DeveloperName;
use tokio::time::Instant;

/// Changes at once: twice as many as one identity's claims, all of which may come anew at once.
const BURST: u32 = 400;
/// One more each: 20 a second.
const EACH: Duration = Duration::from_millis(50);

/// So many are kept before anybody is forgotten.
const FEW: usize = 64;

/// Of everybody who has changed something lately.
#[derive(Debug, Default)]
pub(super) struct Paces {
    of: HashMap<DeveloperName, Pace>,
    /// When there are so many, those who are at rest are forgotten, and nobody else.
    room: usize,
}

impl Paces {
    /// Takes one change of a developer's, if there is one.
    pub(super) fn take(&mut self, name: &DeveloperName, now: Instant) -> bool {
        if let Some(pace) = self.of.get_mut(name) {
            return pace.take(now);
        }
        if self.of.len() >= self.room {
            self.of.retain(|_, pace| !pace.is_full(now));
            self.room = FEW.max(self.of.len() * 2);
        }
        self.of.entry(name.clone()).or_insert_with(|| Pace::new(now)).take(now)
    }

    /// The burst is used up: what follows is not worth a line each until the developer has calmed down.
    pub(super) fn is_quiet(&mut self, name: &DeveloperName, now: Instant) -> bool {
        self.of.get_mut(name).is_some_and(|pace| pace.is_quiet(now))
    }
}

/// What is left of somebody's changes: a bucket that starts full and fills up again.
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

    fn is_quiet(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.quiet
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left == BURST
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
            assert!(!pace.is_quiet(start));
            assert!(pace.take(start));
        }
        assert!(!pace.take(start) && pace.is_quiet(start));
        assert!(!pace.take(at(49)));
        assert!(pace.take(at(51)) && !pace.take(at(52)));
        // What is asked for in between does not put the next one off.
        let granted = (1..=1_000).filter(|step| pace.take(at(100 + step))).count();
        assert_eq!(granted, 21);
        assert!(pace.is_quiet(at(1_100)));
        // As long a pause as a burst takes to come back.
        assert!(pace.take(at(60_000)) && !pace.is_quiet(at(60_000)));
        assert_eq!((0..1_000).filter(|_| pace.take(at(60_000))).count(), 399);
    }

    #[test]
    fn each_developer_has_a_pace_and_who_is_at_rest_is_forgotten() {
        let name = |number: u32| format!("dev-{number}").parse::<DeveloperName>().unwrap();
        let start = Instant::now();
        let mut paces = Paces::default();
        let busy = name(0);
        assert_eq!((0..1_000).filter(|_| paces.take(&busy, start)).count(), 400);
        assert!(paces.is_quiet(&busy, start) && paces.take(&name(1), start));
        // A thousand others, one after the other, each with a single change.
        let mut most = 0;
        for number in 1..=1_000 {
            let now = start + Duration::from_millis(10) * number;
            assert!(paces.take(&name(number), now));
            most = most.max(paces.of.len());
        }
        assert!(most <= FEW, "{most} are remembered");
        // Whoever has less than all others is not among them.
        let later = start + Duration::from_secs(10);
        assert!(paces.is_quiet(&busy, later));
        assert_eq!((0..1_000).filter(|_| paces.take(&busy, later)).count(), 200);
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
