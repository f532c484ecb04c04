//! Signs of life of one tunnel's relay: when it last said anything, and whether that makes one doubt that it is there. Pure: it
//! is told the time.

use std::time::Duration;

use culvert_protocol::tunnel::{IDLE_LIMIT, Traffic};
use tokio::time::Instant;

/// How often the relay is asked whether it is there, and how long it may take to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// From one ping to the next; it asks half as often.
    ping: Duration,
    /// A relay that has said nothing for so long is in doubt. Another tunnel is dialled beside this one.
    doubt: Duration,
    /// The same for one that speaks but does not answer: it does not hear us. With the time that may pass until one is asked for,
    /// no more than 5 s.
    unanswered: Duration,
}

/// While the tunnel is used. What answers two pings went missing when there is a doubt, and an answer may wait behind data.
const IN_USE: Pace = Pace {
    ping: Duration::from_secs(1),
    doubt: Duration::from_millis(2_500),
    unanswered: Duration::from_secs(4),
};

/// While nothing else is said: thousands of tunnels that wait are most of what a relay has.
const AT_REST: Pace = Pace {
    ping: Duration::from_secs(2),
    doubt: Duration::from_secs(4),
    unanswered: Duration::from_millis(1_800),
};

/// What passes, both ways, from one ping to the next where more is said than pings and their answers.
const TALK: u64 = 600;

/// A tunnel on which nothing was said for so long is at rest.
const REST: Duration = Duration::from_secs(5);

/// What passes, both ways, from one look to the next where a body is under way, and not otherwise: behind it, answers may be late. On
/// a way that leads nowhere it soon stops.
const BODY: u64 = 32 * 1024;

/// The same once there is a reason to ask.
const PROBE: Duration = Duration::from_secs(1);

/// And the tunnel is over after this: until then what is under way may go on where it stopped.
const SILENCE: Duration = IDLE_LIMIT;

#[derive(Debug)]
pub(super) struct Signs {
    heard: Instant,
    /// Bytes that have passed: a control message may wait behind data that shows as well that somebody is there.
    passed: Traffic,
    /// When more was last said than pings.
    used: Instant,
    /// When a body was last seen to move.
    moved: Option<Instant>,
    /// The oldest ping that nothing answers.
    asked: Option<Instant>,
    /// There was a reason to ask: the ping from which on an answer counts, and until when it is due.
    probe: Option<(u64, Instant)>,
    doubtful: bool,
}

impl Signs {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            passed: Traffic::default(),
            used: now,
            moved: None,
            asked: None,
            probe: None,
            doubtful: false,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// What has passed altogether.
    pub(super) fn passed(&mut self, passed: Traffic, now: Instant) {
        let before = std::mem::replace(&mut self.passed, passed);
        let received = passed.received.saturating_sub(before.received);
        if received > 0 {
            self.heard = now;
        }
        let both = received + passed.sent.saturating_sub(before.sent);
        if both >= TALK {
            self.used = now;
        }
        if both >= BODY {
            self.moved = Some(now);
        }
    }

    /// When the relay is to be asked again.
    pub(super) fn ping_after(&self, now: Instant) -> Duration {
        self.pace(now).ping
    }

    fn pace(&self, now: Instant) -> Pace {
        if now >= self.used + REST { AT_REST } else { IN_USE }
    }

    pub(super) fn pinged(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// The ping of this number is sent because there is a doubt.
    pub(super) fn probed(&mut self, number: u64, now: Instant) {
        self.probe = Some((number, now + PROBE));
    }

    pub(super) fn answered(&mut self, number: u64) {
        self.asked = None;
        self.probe = self.probe.filter(|(probe, _)| number < *probe);
    }

    /// This process did not run for a while: what was said meanwhile is yet to be read.
    pub(super) fn excuse(&mut self, now: Instant) {
        let ago = |pace: Pace| now.checked_sub(pace.doubt - PROBE).unwrap_or(now);
        let heard = ago(self.pace(ago(AT_REST)));
        self.heard = self.heard.max(heard);
        self.asked = self.asked.map(|_| now);
    }

    /// When it comes in doubt unless something is heard.
    pub(super) fn due(&self) -> Instant {
        let mut due = self.heard + self.pace(self.heard).doubt;
        if let Some(asked) = self.asked {
            let answer = asked + self.pace(asked).unanswered;
            due = due.min(self.moved.map_or(answer, |moved| answer.max(moved + IN_USE.ping + PROBE)));
        }
        if let Some((_, probe)) = self.probe {
            due = due.min(probe);
        }
        due
    }

    /// Whether the relay is in doubt, if that is new.
    pub(super) fn turned(&mut self, now: Instant) -> Option<bool> {
        let doubtful = now >= self.due();
        (std::mem::replace(&mut self.doubtful, doubtful) != doubtful).then_some(doubtful)
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.heard + SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begun: Instant, milliseconds: u64) -> Instant {
        begun + Duration::from_millis(milliseconds)
    }

    #[test]
    fn silence_is_doubted_after_two_and_a_half_seconds_and_believed_after_twelve() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        assert_eq!(signs.turned(after(begun, 2_499)), None);
        assert_eq!(signs.turned(after(begun, 2_500)), Some(true));
        assert_eq!(signs.turned(after(begun, 11_999)), None);
        assert!(!signs.is_over(after(begun, 11_999)) && signs.is_over(after(begun, 12_000)));
        signs.heard(after(begun, 11_999));
        assert_eq!(signs.turned(after(begun, 12_000)), Some(false));
        assert!(!signs.is_doubtful() && !signs.is_over(after(begun, 12_000)));
    }

    #[test]
    fn a_tunnel_at_rest_is_asked_less_often_and_doubted_within_five_seconds() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        for second in 1..=5 {
            signs.heard(after(begun, second * 1_000));
            signs.passed(Traffic { received: second * (TALK - 1), sent: 0 }, after(begun, second * 1_000));
        }
        assert_eq!(signs.ping_after(after(begun, 4_999)), IN_USE.ping);
        assert_eq!(signs.ping_after(after(begun, 5_000)), AT_REST.ping);
        assert_eq!(signs.due(), after(begun, 9_000));
        // It answers no longer.
        signs.pinged(after(begun, 7_000));
        assert_eq!(signs.due(), after(begun, 8_800));
        signs.heard(after(begun, 8_000));
        assert_eq!(signs.due(), after(begun, 8_800));
        // A request.
        signs.answered(1);
        signs.heard(after(begun, 9_000));
        signs.passed(Traffic { received: 6 * TALK, sent: 0 }, after(begun, 9_000));
        assert_eq!(signs.ping_after(after(begun, 9_000)), IN_USE.ping);
        assert_eq!(signs.due(), after(begun, 11_500));
    }

    #[test]
    fn data_is_a_sign_of_life_as_long_as_more_comes() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        signs.passed(Traffic { received: 10, sent: 0 }, after(begun, 2_000));
        assert_eq!(signs.turned(after(begun, 4_000)), None);
        signs.passed(Traffic { received: 10, sent: 0 }, after(begun, 4_000));
        assert_eq!(signs.turned(after(begun, 4_500)), Some(true));
    }

    #[test]
    fn a_relay_that_speaks_but_does_not_hear_is_in_doubt() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        for second in 0..=5 {
            signs.heard(after(begun, second * 1_000));
            signs.pinged(after(begun, second * 1_000));
        }
        assert_eq!(signs.turned(after(begun, 4_000)), Some(true));
        // Its own pings do not end that.
        signs.heard(after(begun, 5_500));
        assert_eq!(signs.turned(after(begun, 5_500)), None);
        signs.answered(6);
        assert_eq!(signs.turned(after(begun, 5_600)), Some(false));
    }

    #[test]
    fn an_answer_may_wait_behind_a_body_as_long_as_that_moves() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        signs.pinged(begun);
        for second in 1..=8 {
            signs.heard(after(begun, second * 1_000));
            let sent = second.min(5) * BODY;
            signs.passed(Traffic { sent, received: 0 }, after(begun, second * 1_000));
            let doubted = (second == 7).then_some(true);
            assert_eq!(signs.turned(after(begun, second * 1_000)), doubted, "{second}");
        }
    }

    #[test]
    fn after_a_change_of_networks_only_a_fresh_answer_counts() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        signs.probed(7, begun);
        signs.heard(after(begun, 900));
        signs.answered(6);
        assert_eq!(signs.turned(after(begun, 1_000)), Some(true));
        signs.answered(7);
        assert_eq!(signs.turned(after(begun, 1_100)), Some(false));
    }

    #[test]
    fn a_process_that_was_stopped_reads_before_it_doubts() {
        let begun = Instant::now();
        let mut signs = Signs::new(begun);
        signs.pinged(begun);
        signs.excuse(after(begun, 60_000));
        assert_eq!(signs.turned(after(begun, 60_999)), None);
        assert!(!signs.is_over(after(begun, 60_999)));
        assert_eq!(signs.turned(after(begun, 61_000)), Some(true));
    }
}
