//! When a better rung is tried again. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// A rung that failed in the race may only have been slow.
const FIRST: Duration = Duration::from_secs(5);

const THEN: Duration = Duration::from_secs(30);

/// Networks without UDP stay so; a probe costs a handful of packets.
const LONGEST: Duration = Duration::from_secs(300);

/// A better rung that was lost again so soon did not carry what it promised.
const KEPT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Climb {
    due: Instant,
    wait: Duration,
    /// When the better rung last carried the tunnel.
    reached: Option<Instant>,
}

impl Climb {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + FIRST, wait: THEN, reached: None }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST);
    }

    pub(super) fn reached(&mut self, now: Instant) {
        self.reached = Some(now);
    }

    /// The tunnel is on a lower rung, again.
    pub(super) fn fell(&mut self, now: Instant) {
        match self.reached.take() {
            Some(reached) if now - reached < KEPT => self.failed(now),
            _ => *self = Self::new(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_rung_is_tried_soon_then_each_half_minute_then_seldom() {
        let mut now = Instant::now();
        let mut climb = Climb::new(now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push((climb.due() - now).as_secs());
            now = climb.due();
            climb.failed(now);
        }
        assert_eq!(waits, [5, 30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn a_rung_that_breaks_at_once_is_not_climbed_to_at_once() {
        let now = Instant::now();
        let mut climb = Climb::new(now);
        climb.reached(now);
        climb.fell(now + Duration::from_secs(10));
        assert_eq!(climb.due(), now + Duration::from_secs(40));
        climb.reached(now);
        climb.fell(now + Duration::from_secs(600));
        assert_eq!(climb.due(), now + Duration::from_secs(605));
    }
}
