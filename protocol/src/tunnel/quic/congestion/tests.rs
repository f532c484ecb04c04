//! The model on a path of its own, on which no time passes but the test's: what it carries, and how long a packet waits.

use proptest::prelude::*;

use super::*;

const PACKET: u64 = 1_200;
/// What the path keeps for whoever sends too fast.
const QUEUE: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(1);

/// One bottleneck with a queue, then the way there and back; losses by numbers that are the same each time.
struct Line {
    now: Instant,
    /// In bytes a second.
    rate: f64,
    round_trip: Duration,
    loss: f64,
    jitter: Duration,
    /// A longer queue is told of.
    mark: Duration,
    free: Instant,
    dice: u64,
}

/// One who always has something to send, paced as quinn does it.
struct Sender {
    path: Path,
    number: u64,
    tokens: f64,
    smoothed: Duration,
    /// Sent and not acknowledged, in order: when, and when the acknowledgement comes if it does.
    under_way: VecDeque<(u64, Instant, Option<Instant>)>,
    acknowledged: u64,
}

impl Line {
    fn new(mbit: f64, round_trip: u64, loss: f64) -> Self {
        let now = Instant::now();
        let round_trip = Duration::from_millis(round_trip);
        Self {
            now,
            rate: mbit * 1e6 / 8.0,
            round_trip,
            loss,
            jitter: Duration::ZERO,
            mark: Duration::MAX,
            free: now,
            dice: 1,
        }
    }

    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// When a packet that is sent now is acknowledged.
    fn send(&mut self) -> Option<Instant> {
        if self.roll() < self.loss {
            return None;
        }
        let begins = self.free.max(self.now);
        if begins - self.now > QUEUE {
            return None;
        }
        self.free = begins + Duration::from_secs_f64(PACKET as f64 / self.rate);
        let more = self.jitter.mul_f64(self.roll());
        Some(self.free + self.round_trip + more)
    }

    fn carry(&mut self, senders: &mut [Sender], time: Duration) -> (Vec<f64>, Duration) {
        let (begun, half) = (self.now, self.now + time / 2);
        let mut before: Vec<_> = senders.iter().map(|sender| sender.acknowledged).collect();
        let (mut queued, mut looks) = (Duration::ZERO, 0);
        while self.now < begun + time {
            let was = self.now;
            self.now += STEP;
            if was < half && self.now >= half {
                before = senders.iter().map(|sender| sender.acknowledged).collect();
            }
            if self.now >= half {
                queued += self.free.saturating_duration_since(self.now);
                looks += 1;
            }
            for sender in senders.iter_mut() {
                sender.hear(self.now);
                if self.free.saturating_duration_since(self.now) > self.mark {
                    sender.path.on_congestion_event(self.now, self.now, false, 0);
                }
                sender.say(self);
            }
        }
        let mbit = |bytes: u64| bytes as f64 * 8.0 / 1e6 / (time / 2).as_secs_f64();
        let carried = senders.iter().zip(before).map(|(sender, before)| mbit(sender.acknowledged - before));
        (carried.collect(), queued / looks.max(1))
    }
}

impl Sender {
    fn new(line: &Line) -> Self {
        Self {
            path: Path::new(line.now, u16::try_from(PACKET).unwrap()),
            number: 0,
            tokens: 0.0,
            smoothed: Duration::from_millis(100),
            under_way: VecDeque::new(),
            acknowledged: 0,
        }
    }

    /// What has arrived by now, and what was sent three packets before any of that and has not.
    fn hear(&mut self, now: Instant) {
        let (mut heard, mut largest) = (false, None);
        let under_way = std::mem::take(&mut self.under_way);
        for (number, sent, back) in under_way {
            match back {
                Some(back) if back <= now => {
                    let sample = back - sent;
                    self.smoothed = self.smoothed * 7 / 8 + sample / 8;
                    self.path.acknowledge(now, sent, PACKET, self.smoothed);
                    self.acknowledged += PACKET;
                    largest = Some(number);
                    heard = true;
                }
                _ => self.under_way.push_back((number, sent, back)),
            }
        }
        let Some(largest) = largest.filter(|_| heard) else { return };
        let in_flight = self.under_way.len() as u64 * PACKET;
        self.path.on_end_acks(now, in_flight, false, Some(largest));
        // What only comes later is not lost to this test, or jitter would be loss.
        let lost = |(number, sent, back): &(u64, Instant, Option<Instant>)| {
            back.is_none() && number + 3 <= largest && now > *sent
        };
        let count = self.under_way.iter().filter(|packet| lost(packet)).count() as u64;
        if count > 0 {
            self.under_way.retain(|packet| !lost(packet));
            self.path.on_congestion_event(now, now, false, count * PACKET);
        }
    }

    fn say(&mut self, line: &mut Line) {
        let window = self.path.window() as f64;
        let fresh = 1.25 * window * STEP.as_secs_f64() / self.smoothed.as_secs_f64();
        let most = (window * 0.002 / self.smoothed.as_secs_f64()).max((10 * PACKET) as f64);
        self.tokens = (self.tokens + fresh).min(most);
        while self.tokens >= PACKET as f64 && ((self.under_way.len() as u64 + 1) * PACKET) as f64 <= window {
            self.tokens -= PACKET as f64;
            self.number += 1;
            self.path.on_sent(line.now, PACKET, self.number);
            self.under_way.push_back((self.number, line.now, line.send()));
        }
    }
}

fn alone(line: &mut Line, seconds: u64) -> (f64, Duration) {
    let mut senders = [Sender::new(line)];
    let (carried, queued) = line.carry(&mut senders, Duration::from_secs(seconds));
    (carried[0], queued)
}

#[test]
fn a_path_is_filled_and_little_queues_up_before_it_whatever_is_lost() {
    for (mbit, round_trip, loss) in
        [(100.0, 50, 0.0), (100.0, 50, 0.01), (100.0, 100, 0.02), (20.0, 20, 0.01), (5.0, 200, 0.0)]
    {
        let (carried, queued) = alone(&mut Line::new(mbit, round_trip, loss), 12);
        let path = format!("{mbit} Mbit/s, {round_trip} ms, {loss}: {carried:.1} Mbit/s, {queued:?} queued");
        assert!(carried > 0.85 * mbit * (1.0 - loss), "{path}");
        assert!(queued < Duration::from_millis(5 + round_trip / 4), "{path}");
    }
}

#[test]
fn a_path_that_becomes_slower_and_faster_is_followed() {
    let mut line = Line::new(100.0, 50, 0.005);
    let mut senders = [Sender::new(&line)];
    line.carry(&mut senders, Duration::from_secs(5));
    line.rate /= 10.0;
    let (carried, queued) = line.carry(&mut senders, Duration::from_secs(6));
    assert!(carried[0] > 8.0, "{carried:?}");
    assert!(queued < Duration::from_millis(30), "{queued:?}");
    line.rate *= 10.0;
    let (carried, _) = line.carry(&mut senders, Duration::from_secs(20));
    assert!(carried[0] > 80.0, "{carried:?}");
}

#[test]
fn a_path_that_becomes_far_slower_is_flooded_for_a_moment_only() {
    let mut line = Line::new(100.0, 2, 0.0);
    let mut senders = [Sender::new(&line)];
    line.carry(&mut senders, Duration::from_secs(1));
    line.rate /= 100.0;
    let (carried, queued) = line.carry(&mut senders, Duration::from_secs(1));
    assert!(carried[0] > 0.8, "{carried:?}");
    assert!(queued < Duration::from_millis(50), "{queued:?}");
}

#[test]
fn a_path_whose_packets_come_unevenly_does_not_look_slower_and_slower() {
    let mut line = Line::new(100.0, 5, 0.005);
    line.jitter = Duration::from_millis(20);
    let (carried, _) = alone(&mut line, 12);
    assert!(carried > 40.0, "{carried}");
}

#[test]
fn a_path_that_becomes_longer_does_not_look_slower_for_long() {
    let mut line = Line::new(50.0, 10, 0.005);
    let mut senders = [Sender::new(&line)];
    line.carry(&mut senders, Duration::from_secs(5));
    line.round_trip = Duration::from_millis(80);
    line.carry(&mut senders, Duration::from_secs(2));
    let (carried, queued) = line.carry(&mut senders, Duration::from_secs(6));
    assert!(carried[0] > 40.0, "{carried:?}");
    assert!(queued < Duration::from_millis(25), "{queued:?}");
}

#[test]
fn where_queues_are_told_of_there_is_hardly_one() {
    let mut line = Line::new(100.0, 50, 0.0);
    line.mark = Duration::from_millis(5);
    let mut senders = [Sender::new(&line), Sender::new(&line)];
    let (carried, queued) = line.carry(&mut senders, Duration::from_secs(20));
    assert!(carried.iter().sum::<f64>() > 75.0, "{carried:?}");
    assert!(queued < Duration::from_millis(8), "{queued:?}");
}

#[test]
fn two_on_one_path_share_it() {
    let mut line = Line::new(100.0, 50, 0.001);
    let mut senders = [Sender::new(&line), Sender::new(&line)];
    line.carry(&mut senders[..1], Duration::from_secs(4));
    let (carried, queued) = line.carry(&mut senders, Duration::from_secs(30));
    assert!(carried.iter().sum::<f64>() > 85.0, "{carried:?}");
    assert!(carried.iter().all(|carried| *carried > 30.0), "{carried:?}");
    assert!(queued < Duration::from_millis(50), "{queued:?}");
}

#[test]
fn a_path_that_lost_everything_is_felt_for_anew() {
    let line = Line::new(100.0, 50, 0.0);
    let mut path = Path::new(line.now, 1_200);
    path.on_congestion_event(line.now, line.now, true, 1_200);
    assert_eq!(path.window(), LEAST_PACKETS * 1_200);
}

#[test]
fn what_was_sent_on_another_path_says_nothing_of_this_one() {
    let line = Line::new(100.0, 50, 0.0);
    let begun = line.now + Duration::from_secs(1);
    let mut path = Path::new(begun, 1_200);
    path.on_sent(begun, PACKET, 1_000_001);
    let back = begun + Duration::from_millis(50);
    path.acknowledge(back, line.now, 1_000 * PACKET, Duration::from_millis(50));
    path.on_end_acks(back, PACKET, false, Some(1_000_000));
    assert_eq!((path.window(), path.shortest.get()), (path.initial_window(), Duration::MAX));
}

#[test]
fn after_a_pause_the_path_is_as_it_was() {
    let mut line = Line::new(50.0, 20, 0.0);
    let mut senders = [Sender::new(&line)];
    line.carry(&mut senders, Duration::from_secs(5));
    let before = senders[0].path.window();
    // What is under way arrives, and then there is nothing to send for an hour.
    while !senders[0].under_way.is_empty() {
        line.now += STEP;
        senders[0].hear(line.now);
    }
    line.now += Duration::from_secs(3_600);
    let (carried, _) = line.carry(&mut senders, Duration::from_millis(400));
    assert!(carried[0] > 40.0, "{carried:?}");
    assert!(senders[0].path.window() < before * 2, "{} after {before}", senders[0].path.window());
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Passes(u64),
    Sent,
    Acknowledged { earlier: u64, packets: u64, app_limited: bool },
    Lost { packets: u64, persistent: bool },
    Mtu(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        // Often none at all.
        prop_oneof![Just(0), 0..2_000_u64, 0..100_000_000_u64].prop_map(Event::Passes),
        Just(Event::Sent),
        (0..100_000_u64, 0..100_u64, any::<bool>()).prop_map(|(earlier, packets, app_limited)| {
            Event::Acknowledged { earlier, packets, app_limited }
        }),
        (0..100_u64, any::<bool>()).prop_map(|(packets, persistent)| Event::Lost { packets, persistent }),
        (1_200..9_000_u16).prop_map(Event::Mtu),
    ]
}

proptest! {
    /// In any order, and with a clock that stands still or jumps.
    #[test]
    fn whatever_is_reported_there_is_a_window_and_what_is_kept_is_bounded(
        events in prop::collection::vec(event(), 0..300)
    ) {
        let begun = Instant::now();
        let (mut now, mut number, mut delivered) = (begun, 0, 0);
        let mut path = Path::new(now, 1_200);
        for event in events {
            match event {
                Event::Passes(micros) => now += Duration::from_micros(micros),
                Event::Sent => {
                    number += 1;
                    path.on_sent(now, PACKET, number);
                }
                Event::Acknowledged { earlier, packets, app_limited } => {
                    let sent = now.checked_sub(Duration::from_micros(earlier)).unwrap_or(now).max(begun);
                    delivered += packets * PACKET;
                    path.acknowledge(now, sent, packets * PACKET, Duration::from_micros(earlier / 2));
                    path.on_end_acks(now, packets % 3, app_limited, Some(number));
                }
                Event::Lost { packets, persistent } => {
                    path.on_congestion_event(now, now, persistent, packets * PACKET);
                }
                Event::Mtu(mtu) => path.on_mtu_update(mtu),
            }
            prop_assert!(path.window() >= LEAST_PACKETS * path.mtu);
            prop_assert!(path.marks.len() <= MOST_MARKS);
            prop_assert!(path.rate().is_finite());
        }
        prop_assert_eq!(path.delivered, delivered);
    }
}
