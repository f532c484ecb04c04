//! When a packet that enters now arrives at the other end, if it does. No clock and no dice of its own.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;

#[derive(Debug, Default)]
pub(super) struct Direction {
    /// When all that waits for the rate has been sent.
    free: Option<Instant>,
    /// When the last packet arrives.
    last: Option<Instant>,
}

impl Direction {
    /// `dice` gives numbers from 0 to 1.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        bytes: usize,
        settings: &Settings,
        mut dice: impl FnMut() -> f64,
    ) -> Option<Instant> {
        if settings.loss > 0.0 && dice() < settings.loss {
            return None;
        }
        let mut sent = now;
        if let Some(rate) = settings.rate {
            let begins = self.free.map_or(now, |free| free.max(now));
            if begins - now > settings.queue {
                return None;
            }
            sent = begins + Duration::from_secs_f64(bytes as f64 * 8.0 / rate);
            self.free = Some(sent);
        }
        let arrives = sent + settings.delay;
        if settings.jitter.is_zero() {
            // Also where the delay has just become shorter.
            let arrives = self.last.map_or(arrives, |last| last.max(arrives));
            self.last = Some(arrives);
            return Some(arrives);
        }
        Some(arrives + settings.jitter.mul_f64(dice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        delay: Duration::from_millis(25),
        jitter: Duration::ZERO,
        loss: 0.0,
        rate: None,
        queue: Duration::from_millis(100),
    };

    fn never() -> f64 {
        1.0
    }

    #[test]
    fn a_packet_arrives_after_the_delay_and_what_it_takes_to_send_it() {
        let now = Instant::now();
        let arrives = Direction::default().enter(now, 1000, &SETTINGS, never).unwrap();
        assert_eq!(arrives - now, Duration::from_millis(25));
        let settings = Settings { rate: Some(8e6), ..SETTINGS };
        let mut direction = Direction::default();
        for packets in 1..=3 {
            let arrives = direction.enter(now, 1000, &settings, never).unwrap();
            assert_eq!(arrives - now, Duration::from_millis(25 + packets));
        }
    }

    #[test]
    fn a_queue_that_is_full_takes_no_more_until_some_of_it_is_sent() {
        let now = Instant::now();
        let settings = Settings { rate: Some(8e6), ..SETTINGS };
        let mut direction = Direction::default();
        let taken = (0..500).filter(|_| direction.enter(now, 1000, &settings, never).is_some()).count();
        assert_eq!(taken, 101);
        let later = now + Duration::from_millis(10);
        let taken = (0..500).filter(|_| direction.enter(later, 1000, &settings, never).is_some()).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn the_dice_decide_what_is_lost_and_jitter_lets_packets_overtake() {
        let now = Instant::now();
        let settings = Settings { loss: 0.01, ..SETTINGS };
        assert!(Direction::default().enter(now, 1, &settings, || 0.009).is_none());
        assert!(Direction::default().enter(now, 1, &settings, || 0.011).is_some());
        let settings = Settings { jitter: Duration::from_millis(10), ..SETTINGS };
        let mut direction = Direction::default();
        let first = direction.enter(now, 1, &settings, || 0.9).unwrap();
        let second = direction.enter(now, 1, &settings, || 0.1).unwrap();
        assert!(second < first && first - now == Duration::from_millis(34));
    }

    #[test]
    fn a_delay_that_becomes_shorter_changes_no_order() {
        let now = Instant::now();
        let mut direction = Direction::default();
        let first = direction.enter(now, 1, &SETTINGS, never).unwrap();
        let settings = Settings { delay: Duration::ZERO, ..SETTINGS };
        assert_eq!(direction.enter(now, 1, &settings, never).unwrap(), first);
    }
}
