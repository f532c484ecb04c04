//! How much of a QUIC tunnel may be under way at once: what the path has been seen to deliver, for as long as a packet and its
//! acknowledgement take. Losses alone say nothing, because a radio link loses packets that nobody was in the way of.
//!
//! It is a model of the path after BBR (draft-cardwell-iccrg-bbr-congestion-control-00, its first version): the highest rate of
//! the last rounds (BtlBw) and the shortest round trip of late (RTprop), found by a search (Startup) and kept by a cycle of rounds
//! (ProbeBW) in which a little more is sent to see whether that arrives too, and then less, so that what has queued up drains. A
//! rate is measured as draft-cheng-iccrg-delivery-rate-estimation-00 says.
//!
//! What is left out of it: the pacing rate, because quinn paces by the window and the round trip; Drain, because a window that is
//! smaller than what is under way drains it; and ProbeRTT, because the round with less shows the shortest round trip. What is
//! added: a search that loses much is over (as in later versions), a queue that runs over has earlier rates forgotten, an ECN mark
//! ends it or has less sent, and a path on which no round trip comes near the shortest any more has become longer. What RFC 9002
//! asks for besides: a window after persistent congestion (7.6.2), none that grows while there is little to send (7.8), and a new
//! one for a new path (9.4 of RFC 9000), which quinn makes. A loss that was none has cost next to nothing. Holds no packet and no
//! clock.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

#[cfg(test)]
mod tests;

/// Of packets, before anything is known of the path (RFC 9002 section 7.2 allows ten; a first request and its answer fit
/// in one window of this).
const FIRST_PACKETS: u64 = 32;

/// Never less, so that a path that lost everything can still be felt for.
const LEAST_PACKETS: u64 = 4;

/// While the rate is unknown the window may be so much of what is known of it: 2/ln 2 (BBRHighGain), which doubles it each round
/// trip.
const SEARCHING: f64 = 2.885;

/// It has been found when so many rounds did not raise it by a quarter (BBRCheckFullPipe).
const PLATEAU: u32 = 3;
const RISE: f64 = 1.25;

/// One round each: more, to see if there is more; less, so that it leaves no queue; and then as much as was found.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

/// The place in it where less is sent.
const LESS: usize = 1;

/// The rate is the highest of so many rounds (BtlBwFilterLen): more than one cycle.
const ROUNDS: usize = 10;

/// Acknowledgements come in lumps, and timers wake once in a millisecond: what is under way for that.
const LUMPS: Duration = Duration::from_millis(2);

/// A round trip that is longer than twice the shortest and this is not believed: radio links take turns, and a queue feeds itself.
const UNEVEN: Duration = Duration::from_millis(20);

/// The shortest round trip is of the last one to two of these. Longer than BBR's 10 s (RTpropFilterLen): several on one path see it
/// only when they happen to send less at the same time.
const SHORTEST: Duration = Duration::from_secs(15);

/// But a path on which so many rounds in a row do not come near it has become longer, as where a machine takes another network: until
/// that is believed it looks like a slower one. Whatever we have queued up ourselves drains within a cycle.
const LONGER: u32 = 10;

/// More lost in one round, and it is not the weather but us: the search is over. Where the round trip is longer, too, what was known
/// of the path is not so any more.
const OURS: f64 = 0.1;

/// How exactly it is remembered when what was sent: so many times a round trip, and no more often than each millisecond.
const MARKS: u32 = 32;
const MARK: Duration = Duration::from_millis(1);
const MOST_MARKS: usize = 1024;

/// Makes one for each path.
#[derive(Debug, Default)]
pub(super) struct Model;

impl ControllerFactory for Model {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Path::new(now, mtu))
    }
}

/// What is known of one path.
#[derive(Clone, Debug)]
struct Path {
    /// What was sent before went another way.
    begun: Instant,
    mtu: u64,
    window: u64,
    /// Bytes that were acknowledged.
    delivered: u64,
    delivered_at: Instant,
    /// When the newest packet that is acknowledged was sent.
    acknowledged_sent: Instant,
    /// Of the acknowledgements that are being read.
    acknowledged: u64,
    /// Nothing is under way: time begins anew with the next packet.
    idle: bool,
    /// How things stood when packets were sent that are under way.
    marks: VecDeque<Mark>,
    round: Round,
    /// In bytes a second; the best of each of the last rounds, the newest first.
    rates: [f64; ROUNDS],
    shortest: Shortest,
    /// Rounds that did not come near it.
    longer: u32,
    smoothed: Duration,
    phase: Phase,
}

/// How things stood when a packet was sent.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    acknowledged_sent: Instant,
}

/// What is seen from sending a packet to its acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// The last packet that was sent, and the one whose acknowledgement ends the round.
    last_sent: u64,
    ends_with: u64,
    delivered: u64,
    lost: u64,
    best: f64,
    shortest: Duration,
    /// There was always something to send.
    full: bool,
    /// Somebody on the way says that there is a queue.
    marked: bool,
}

impl Round {
    fn new(last_sent: u64) -> Self {
        let ends_with = last_sent;
        Self {
            last_sent,
            ends_with,
            delivered: 0,
            lost: 0,
            best: 0.0,
            shortest: Duration::MAX,
            full: false,
            marked: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Searching {
        highest: f64,
        rounds: u32,
    },
    /// In which place of the cycle.
    Cycling(usize),
}

/// The shortest round trip of late.
#[derive(Clone, Copy, Debug)]
struct Shortest {
    since: Instant,
    now: Duration,
    before: Duration,
}

impl Path {
    fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            begun: now,
            mtu,
            window: FIRST_PACKETS * mtu,
            delivered: 0,
            delivered_at: now,
            acknowledged_sent: now,
            acknowledged: 0,
            idle: true,
            marks: VecDeque::new(),
            round: Round::new(0),
            rates: [0.0; ROUNDS],
            shortest: Shortest { since: now, now: Duration::MAX, before: Duration::MAX },
            longer: 0,
            smoothed: Duration::ZERO,
            phase: Phase::Searching { highest: 0.0, rounds: 0 },
        }
    }

    fn acknowledge(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed: Duration) {
        if sent < self.begun {
            return;
        }
        self.acknowledged += bytes;
        self.delivered_at = now;
        self.acknowledged_sent = self.acknowledged_sent.max(sent);
        self.smoothed = smoothed;
        let round_trip = now.saturating_duration_since(sent);
        self.shortest.saw(now, round_trip);
        self.round.shortest = self.round.shortest.min(round_trip);
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(self.round.best, f64::max)
    }

    /// What was delivered since a packet was sent that is acknowledged now, over the time that took: of the sender's and
    /// the receiver's side the slower, because acknowledgements may come all at once.
    fn sample(&mut self, now: Instant, sent: Instant, app_limited: bool) {
        while self.marks.get(1).is_some_and(|next| next.sent <= sent) {
            self.marks.pop_front();
        }
        let Some(mark) = self.marks.front().filter(|mark| mark.sent <= sent) else { return };
        let receiving = now.saturating_duration_since(mark.delivered_at);
        let sending = sent.saturating_duration_since(mark.acknowledged_sent);
        let took = receiving.max(sending);
        if took < self.shortest.get().min(self.smoothed) || took.is_zero() {
            return;
        }
        let rate = (self.delivered - mark.delivered) as f64 / took.as_secs_f64();
        // Without anything to send the rate is ours and not the path's; it can only be too low.
        if !app_limited || rate > self.rate() {
            self.round.best = self.round.best.max(rate);
        }
        self.round.full |= !app_limited;
    }

    /// A round is over.
    fn turn(&mut self, now: Instant) {
        let Round { last_sent, delivered, lost, best, shortest, full, marked, .. } = self.round;
        let near = self.shortest.get().saturating_mul(2).saturating_add(UNEVEN);
        let queued = shortest > near && shortest < Duration::MAX;
        self.longer = if queued { self.longer + 1 } else { 0 };
        if self.longer >= LONGER {
            self.longer = 0;
            self.shortest = Shortest { since: now, now: shortest, before: shortest };
        }
        let much = lost as f64 > OURS * (delivered + lost) as f64;
        // While there is little to send nothing is learnt, and nothing forgotten.
        if full {
            self.rates.rotate_right(1);
            // A queue that runs over: whatever passed before, as the burst that a rate limit lets through, it does not now.
            if queued && much && best > 0.0 {
                self.rates = [0.0; ROUNDS];
            }
            self.rates[0] = best;
        } else {
            self.rates[0] = self.rates[0].max(best);
        }
        self.round = Round::new(last_sent);
        if !full {
            return;
        }
        let ours = marked || much;
        self.phase = match self.phase {
            Phase::Searching { highest, .. } if best >= highest * RISE && !marked => {
                Phase::Searching { highest: best, rounds: 0 }
            }
            Phase::Searching { highest, rounds } if rounds + 1 < PLATEAU && !ours => {
                Phase::Searching { highest, rounds: rounds + 1 }
            }
            // In another place for each, or two that begin together would always try for more together.
            Phase::Searching { .. } => Phase::Cycling(somewhere(last_sent)),
            // Not the weather: what has queued up is to drain.
            Phase::Cycling(_) if marked => Phase::Cycling(LESS),
            Phase::Cycling(place) => Phase::Cycling((place + 1) % CYCLE.len()),
        };
    }

    fn set_window(&mut self, acknowledged: u64) {
        let least = LEAST_PACKETS * self.mtu;
        let (rate, shortest) = (self.rate(), self.shortest.get());
        // Nothing is known yet.
        if rate <= 0.0 || shortest == Duration::MAX {
            return;
        }
        self.window = match self.phase {
            Phase::Searching { .. } => {
                let most = SEARCHING * rate * (shortest + LUMPS).as_secs_f64();
                // Never less than it was: an answer that is small says nothing.
                self.window.saturating_add(acknowledged).min(whole(most)).max(self.window)
            }
            Phase::Cycling(place) => {
                let gain = CYCLE.get(place).copied().unwrap_or(1.0);
                // What is more than the shortest is a queue, which is to drain, or a link that takes its time now and then:
                // if that were held back for, it would look like a slower path, and so on. So it is believed by half, but in
                // the rounds that find out.
                let more = self.smoothed.saturating_sub(shortest).min(shortest + UNEVEN);
                let believed = if gain > 1.0 {
                    more
                } else if gain < 1.0 {
                    Duration::ZERO
                } else {
                    more / 2
                };
                let round_trip = shortest + believed + LUMPS;
                whole(gain * rate * round_trip.as_secs_f64()).max(least)
            }
        };
    }
}

impl Shortest {
    fn get(&self) -> Duration {
        self.now.min(self.before)
    }

    fn saw(&mut self, now: Instant, round_trip: Duration) {
        if now.saturating_duration_since(self.since) > SHORTEST {
            *self = Self { since: now, before: self.now, now: round_trip };
        }
        self.now = self.now.min(round_trip);
    }
}

impl Controller for Path {
    fn on_sent(&mut self, now: Instant, _: u64, last_packet_number: u64) {
        self.round.last_sent = last_packet_number;
        let apart = (self.smoothed / MARKS).max(MARK);
        if std::mem::take(&mut self.idle) {
            (self.delivered_at, self.acknowledged_sent) = (now, now);
            self.marks.clear();
        }
        let due = self.marks.back().is_none_or(|mark| now.saturating_duration_since(mark.sent) >= apart);
        if due && self.marks.len() < MOST_MARKS {
            let Self { delivered, delivered_at, acknowledged_sent, .. } = *self;
            self.marks.push_back(Mark { sent: now, delivered, delivered_at, acknowledged_sent });
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, rtt: &RttEstimator) {
        self.acknowledge(now, sent, bytes, rtt.get());
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        self.delivered += acknowledged;
        self.round.delivered += acknowledged;
        self.idle = in_flight == 0;
        self.sample(now, self.acknowledged_sent, app_limited);
        if largest.is_some_and(|largest| largest >= self.round.ends_with) {
            self.turn(now);
        }
        self.set_window(acknowledged);
    }

    fn on_congestion_event(
        &mut self,
        _: Instant,
        _: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.round.lost += lost_bytes;
        // What quinn says of ECN marks.
        self.round.marked |= lost_bytes == 0;
        if is_persistent_congestion {
            // Whatever this path was, it is not that any more.
            self.rates = [0.0; ROUNDS];
            self.round.best = 0.0;
            self.window = LEAST_PACKETS * self.mtu;
            self.phase = Phase::Searching { highest: 0.0, rounds: 0 };
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(LEAST_PACKETS * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST_PACKETS * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

/// In the cycle, but not where more is tried for: what was found has queued up by then.
fn somewhere(number: u64) -> usize {
    LESS + usize::try_from(number % (CYCLE.len() as u64 - 1)).unwrap_or_default()
}
