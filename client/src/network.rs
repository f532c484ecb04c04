//! Whether the network under the tunnels may be another one than a moment ago: the machine was asleep, this process was
//! stopped, or the system sends from another address now. Only notices; what is to be done about it is the session's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// How often the clocks are compared.
const TICK: Duration = Duration::from_millis(500);

/// The way toward the relay is looked up with every second tick.
const TICKS_PER_LOOK: u32 = 2;

/// Clocks that have drifted apart by so much were not driven by the same machine that was awake all the time.
const JUMP: Duration = Duration::from_secs(1);

/// A tick that comes so late was not kept by a busy machine, but by one that had stopped this process.
const STALL: Duration = Duration::from_secs(2);

/// Where a packet would go if nothing is known of the relay's address, as behind a proxy: the default route, toward an address
/// that nobody has (RFC 5737). None is sent.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Any port will do: nothing is sent.
const DISCARD: u16 = 9;

/// What was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The boot clock went on while the monotonic one stood: the lid was closed.
    Woke,
    /// This process did not run for a while.
    Stalled,
    /// Packets to the relay leave from another address than before.
    Moved,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Woke => "the machine was asleep",
            Self::Stalled => "the process was stopped",
            Self::Moved => "the network is another one",
        })
    }
}

/// Dropping the future of [`Watch::changed`] loses nothing.
#[derive(Debug)]
pub(crate) struct Watch {
    tick: Interval,
    ticks: u32,
    seen: Seen,
    /// Where the relay was when last looked for, and which address led there.
    way: Option<(IpAddr, IpAddr)>,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Seen {
    monotonic: Instant,
    boot: Duration,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tick, ticks: 0, seen: Seen::now(), way: None }
    }

    /// Waits for the next change. `toward` is where the relay is, as far as that is known; while it is not, where it was.
    pub(crate) async fn changed(&mut self, toward: Option<SocketAddr>) -> Change {
        loop {
            self.tick.tick().await;
            let before = std::mem::replace(&mut self.seen, Seen::now());
            if let Some(change) = passed(self.seen.since(before)) {
                return change;
            }
            self.ticks = self.ticks.wrapping_add(1);
            if self.ticks.is_multiple_of(TICKS_PER_LOOK) && self.has_moved(toward.map(|toward| toward.ip())) {
                return Change::Moved;
            }
        }
    }

    /// Whether another address leads there than before. Elsewhere another one may always have.
    fn has_moved(&mut self, toward: Option<IpAddr>) -> bool {
        let toward = toward.or_else(|| self.way.map(|(toward, _)| toward)).unwrap_or(ANYWHERE);
        let Some(from) = source(toward) else { return false };
        self.way.replace((toward, from)).is_some_and(|(other, before)| other == toward && before != from)
    }
}

impl Seen {
    fn now() -> Self {
        Self { monotonic: Instant::now(), boot: boot_clock() }
    }

    fn since(self, before: Self) -> (Duration, Duration) {
        (self.monotonic - before.monotonic, self.boot.saturating_sub(before.boot))
    }
}

/// What it means that both clocks have gone on so far from one tick to the next.
fn passed((monotonic, boot): (Duration, Duration)) -> Option<Change> {
    if boot > monotonic + JUMP {
        Some(Change::Woke)
    } else if monotonic > TICK + STALL && boot > TICK + STALL {
        // Both of them: where a test lets time pass, only one does.
        Some(Change::Stalled)
    } else {
        None
    }
}

/// Which address packets to another one leave from; none where no route leads there. Sends nothing. A network that is away for a
/// moment and comes back as it was is no change: whoever waits for an answer notices by itself.
fn source(toward: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match toward {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((toward, DISCARD)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Time since the machine started, asleep or not.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// A clock that goes on while the machine sleeps. It may be set, and then a network is looked after that was well.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boot_clock() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lid_and_a_stop_are_told_from_a_busy_machine() {
        let ms = Duration::from_millis;
        for (monotonic, boot, change) in [
            (500, 500, None),
            (2_400, 2_400, None),
            (500, 1_400, None),
            (500, 60_500, Some(Change::Woke)),
            (2_600, 2_600, Some(Change::Stalled)),
            (10_500, 10_500, Some(Change::Stalled)),
            // A paused clock of a test, and a wall clock that was set back.
            (10_500, 0, None),
            (500, 0, None),
        ] {
            assert_eq!(passed((ms(monotonic), ms(boot))), change, "{monotonic} {boot}");
        }
    }

    #[tokio::test]
    async fn another_way_toward_the_relay_is_noticed() {
        let mut watch = Watch::new();
        watch.way = Some((Ipv4Addr::LOCALHOST.into(), "203.0.113.7".parse().unwrap()));
        let relay = Some("127.0.0.1:4433".parse().unwrap());
        let changed = tokio::time::timeout(Duration::from_secs(10), watch.changed(relay)).await;
        assert_eq!(changed.unwrap(), Change::Moved);
        assert_eq!(watch.way, Some((Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into())));
    }

    #[tokio::test]
    async fn another_relay_is_not_another_network() {
        let mut watch = Watch::new();
        let (one, other) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
        assert!(!watch.has_moved(Some(one.into())));
        // Lost: what leads to it is still looked up, and not what leads anywhere else.
        assert!(!watch.has_moved(None));
        assert!(!watch.has_moved(Some(other.into())));
        watch.way = Some((other.into(), "203.0.113.7".parse().unwrap()));
        assert!(!watch.has_moved(Some(one.into())));
        assert!(!watch.has_moved(Some(one.into())));
    }

    #[test]
    fn the_boot_clock_goes_on() {
        let before = boot_clock();
        assert!(before > Duration::ZERO && boot_clock() >= before);
    }
}
