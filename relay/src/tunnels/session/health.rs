//! Whether the far end of a tunnel can be believed to be there: when it last said a word, and whether that is in doubt. Pure
//! but for the clock; who pings, logs and counts is told by what the methods return.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The shortest silence after a request's head, and after the ping that asks about it, that means anything: below it are
/// the pauses of a busy machine and of one lost packet.
const SHORTEST: Duration = Duration::from_millis(300);
/// A control stream that has been silent for so long is in doubt even if nobody waits for anything: a client on whose tunnel nothing
/// happens asks us every two seconds. Who waits has it asked sooner.
pub(crate) const DOUBT: Duration = Duration::from_millis(4_500);
/// The same for one that speaks and answers no ping.
const UNANSWERED: Duration = Duration::from_millis(2_500);
/// What bodies move, both ways, from one look to the next where both ends hear each other, though pings and their answers wait behind
/// it. On a way that leads nowhere this soon stops; a trickle does not, and shows nothing.
const BODY: u64 = 32 * 1024;
/// For how long that is believed: until the look after the next.
const BUSY: Duration = Duration::from_millis(1_500);
/// And no body excuses a silence that is longer.
const EXCUSED: Duration = Duration::from_secs(5);
/// The longest of either, so that both of them are over when nobody is to wait any more: a way that was cut a moment ago has
/// measured round trips of seconds.
const LONGEST: Duration = Duration::from_millis(1_250);

#[derive(Debug)]
pub(crate) struct Health {
    began: Instant,
    /// Milliseconds since `began` of the last word.
    heard: AtomicU64,
    /// The same of when it came in doubt, and one more: 0 is no doubt.
    doubted: AtomicU64,
    /// What is said to it does not arrive: only an answer ends a doubt.
    deaf: AtomicBool,
    /// Bytes of bodies, both ways, and how many there were at the last look.
    moved: AtomicU64,
    looked: AtomicU64,
    /// The same as above of when they were last many, and of the last answer to a ping.
    busy: AtomicU64,
    answered: AtomicU64,
    /// The same of when it turned out to be over, which no word ends.
    lost: AtomicU64,
    /// Microseconds that the last ping took, by the control stream's own count; 0 before the first.
    round_trip: AtomicU64,
    /// Somebody wants to know at once.
    ask: Notify,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            heard: AtomicU64::new(0),
            doubted: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            ask: Notify::new(),
        }
    }

    /// A word came. Returns whether that ends a doubt.
    pub(super) fn hear(&self) -> bool {
        self.heard.store(self.now(), Relaxed);
        !self.is_deaf() && self.doubted.load(Relaxed) != 0 && self.doubted.swap(0, Relaxed) != 0
    }

    /// It came in doubt. Returns whether it was not before.
    pub(super) fn doubt(&self) -> bool {
        self.doubted.compare_exchange(0, self.now() + 1, Relaxed, Relaxed).is_ok()
    }

    /// It answers no longer, or again, whatever else it says.
    pub(super) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Relaxed);
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.load(Relaxed)
    }

    /// Some of a body went or came.
    pub(super) fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Relaxed);
    }

    /// Once a second: whether bodies have moved since.
    pub(super) fn look(&self) {
        let moved = self.moved.load(Relaxed);
        if moved - self.looked.swap(moved, Relaxed) >= BODY {
            self.busy.store(self.now(), Relaxed);
        }
    }

    /// Until when bodies that move excuse that nothing is answered.
    fn busy_until(&self) -> Instant {
        match self.busy.load(Relaxed) {
            0 => self.began,
            busy => self.began + Duration::from_millis(busy) + BUSY,
        }
    }

    /// When one that has answered no ping since then can be taken for deaf.
    pub(super) fn deaf_from(&self, unanswered: Instant) -> Instant {
        self.busy_until().clamp(unanswered + UNANSWERED, unanswered + EXCUSED)
    }

    /// A ping was answered.
    pub(super) fn answer(&self) {
        self.answered.store(self.now(), Relaxed);
    }

    /// Something else was answered that was said then, or later.
    pub(super) fn answer_to(&self, then: Instant) {
        let then = then.saturating_duration_since(self.began).as_millis();
        self.answered.fetch_max(u64::try_from(then).unwrap_or(u64::MAX), Relaxed);
    }

    /// Whether it has shown since then that it hears us.
    pub(super) fn answered_since(&self, then: Instant) -> bool {
        let answered = self.began + Duration::from_millis(self.answered.load(Relaxed) + 1);
        answered >= then || self.busy_until() > Instant::now() && self.heard_since(then)
    }

    /// It is over.
    pub(super) fn lose(&self) {
        let _ = self.lost.compare_exchange(0, self.now() + 1, Relaxed, Relaxed);
    }

    /// Since when it is in doubt, or over.
    pub(super) fn doubted(&self) -> Option<Instant> {
        let since = |at: &AtomicU64| at.load(Relaxed).checked_sub(1);
        let since = since(&self.doubted).or_else(|| since(&self.lost))?;
        Some(self.began + Duration::from_millis(since))
    }

    pub(super) fn is_silent(&self) -> bool {
        self.doubted.load(Relaxed) != 0
    }

    /// Whether there was a word since then. Rounded so that none is overlooked.
    pub(super) fn heard_since(&self, then: Instant) -> bool {
        self.heard() + Duration::from_millis(1) >= then
    }

    pub(super) fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.heard.load(Relaxed))
    }

    pub(super) fn took(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX).max(1);
        self.round_trip.store(micros, Relaxed);
    }

    /// How long a word that was asked for may take. The longer of two measurements: a ping may wait behind data, and then so
    /// does an answer.
    pub(super) fn patience(&self, round_trip: Option<Duration>) -> Duration {
        let own = Duration::from_micros(self.round_trip.load(Relaxed));
        (round_trip.unwrap_or_default().max(own) * 4).clamp(SHORTEST, LONGEST)
    }

    /// Has the control stream's task ping at once.
    pub(super) fn ask(&self) {
        self.ask.notify_one();
    }

    pub(super) async fn asked(&self) {
        self.ask.notified().await;
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_doubt_begins_once_and_any_word_ends_it() {
        let health = Health::new();
        assert_eq!(health.doubted(), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(health.doubt() && !health.doubt());
        assert_eq!(health.doubted().unwrap().elapsed(), Duration::ZERO);
        assert_eq!(health.heard().elapsed(), Duration::from_secs(3));
        assert!(health.hear() && !health.hear());
        assert_eq!((health.doubted(), health.heard().elapsed()), (None, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_body_under_way_may_answer_late() {
        let health = Health::new();
        let asked = Instant::now();
        let second = Duration::from_secs(1);
        for _ in 0..4 {
            tokio::time::advance(second).await;
            // A trickle is no excuse.
            health.moved(BODY - 1);
            health.look();
            health.hear();
            assert_eq!(health.deaf_from(asked), asked + UNANSWERED);
            assert!(!health.answered_since(Instant::now() - second / 2));
        }
        health.moved(BODY);
        health.look();
        assert_eq!(health.deaf_from(Instant::now() - second), Instant::now() + BUSY);
        assert_eq!(health.deaf_from(asked), asked + EXCUSED);
        assert!(health.answered_since(Instant::now() - second / 2));
        tokio::time::advance(BUSY).await;
        assert!(!health.answered_since(Instant::now() - second));
        health.answer();
        assert!(health.answered_since(Instant::now() - second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_and_does_not_answer_stays_in_doubt() {
        let health = Health::new();
        health.set_deaf(true);
        assert!(health.doubt());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!health.hear() && health.doubted().is_some());
        assert_eq!(health.heard().elapsed(), Duration::ZERO);
        health.set_deaf(false);
        assert!(health.hear() && health.doubted().is_none());
    }

    #[tokio::test]
    async fn a_slow_link_is_given_four_round_trips_and_no_link_for_ever() {
        let health = Health::new();
        assert_eq!(health.patience(None), SHORTEST);
        assert_eq!(health.patience(Some(Duration::from_millis(200))), Duration::from_millis(800));
        health.took(Duration::from_millis(400));
        assert_eq!(health.patience(Some(Duration::from_millis(200))), LONGEST);
        health.took(Duration::from_millis(300));
        assert_eq!(health.patience(Some(Duration::from_millis(200))), Duration::from_millis(1_200));
        health.took(Duration::from_secs(5));
        assert_eq!(health.patience(None), LONGEST);
    }
}
