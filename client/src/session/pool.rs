//! How many tunnels a rung over TCP should have: a connection under a multiplexer stalls everything behind a loss, and small
//! exchanges wait behind a bulk transfer. Pure: it is told what there is, and the time.

use std::time::Duration;

use culvert_protocol::tunnel::Streams;
use tokio::time::Instant;

/// How often the tunnels are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Tunnels on one rung to one replica.
pub(super) const MOST: usize = 8;

/// Exchanges that are let wait together behind a lost packet: more of them have one tunnel more.
const TOGETHER: usize = 8;
/// Tunnels among which small exchanges are spread at most. Four of them halve the median of 32 at once on a link that loses
/// one packet of a hundred, and cost nothing that could be measured on one that loses none.
const SPREAD: usize = 4;

/// A tunnel that nothing has needed for so long is given up.
const SPARE: Duration = Duration::from_secs(30);

/// What a rung should do about its tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    Enough,
    /// Too few are free of bulk transfers for what is not.
    Grow,
    /// More are free than are needed, and have been for long.
    Shrink,
}

/// What one tunnel carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// A bulk transfer is under way.
    pub(super) bulk: bool,
    /// Exchanges under way, on their way from and to the relay too.
    pub(super) open: usize,
}

/// How many exchanges have begun on a tunnel, and when that was asked last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Instant,
    streams: u64,
    /// The first round trip that was seen. It was taken in the rush of a beginning, and says more of that than of the link.
    first: Option<Duration>,
    /// The shortest of the later ones: of the link, without what waits in queues at its ends.
    shortest: Option<Duration>,
}

impl Begun {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, streams: 0, first: None, shortest: None }
    }

    /// How many are under way for the relay, which has them for a round trip longer than we: as many as come in one
    /// (Little's law), and those that are here.
    pub(super) fn open(&mut self, streams: Streams, rtt: Option<Duration>, now: Instant) -> usize {
        self.first = self.first.or(rtt);
        let later = rtt.filter(|_| self.shortest.is_some() || rtt != self.first);
        self.shortest = self.shortest.into_iter().chain(later).min();
        let came = streams.begun - self.streams;
        let micros = (now - self.at).as_micros().max(1);
        (self.at, self.streams) = (now, streams.begun);
        let on_their_way = u128::from(came) * self.shortest.unwrap_or_default().as_micros() / micros;
        // The control stream is none of them.
        streams
            .under_way
            .saturating_sub(1)
            .saturating_add(usize::try_from(on_their_way).unwrap_or(usize::MAX))
    }
}

/// Since when more tunnels are free than are needed.
#[derive(Debug, Default)]
pub(super) struct Spare {
    since: Option<Instant>,
}

impl Spare {
    pub(super) fn pool(&mut self, tunnels: &[Load], most: usize, now: Instant) -> Pool {
        let (free, open) = tunnels
            .iter()
            .filter(|tunnel| !tunnel.bulk)
            .fold((0, 0), |(free, open), tunnel| (free + 1, open + tunnel.open));
        let needed = open.div_ceil(TOGETHER).clamp(1, SPREAD);
        if free <= needed {
            self.since = None;
            let grows = free < needed && (1..most).contains(&tunnels.len());
            return if grows { Pool::Grow } else { Pool::Enough };
        }
        if now - *self.since.get_or_insert(now) < SPARE {
            return Pool::Enough;
        }
        self.since = None;
        Pool::Shrink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BULK: Load = Load { bulk: true, open: 1 };
    const FREE: Load = small(1);

    const fn small(open: usize) -> Load {
        Load { bulk: false, open }
    }

    #[test]
    fn one_tunnel_is_kept_free_of_bulk_and_no_more() {
        let now = Instant::now();
        let mut spare = Spare::default();
        assert_eq!(spare.pool(&[], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[FREE], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[BULK], MOST, now), Pool::Grow);
        assert_eq!(spare.pool(&[BULK, FREE], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[BULK, BULK, BULK], MOST, now), Pool::Grow);
        assert_eq!(spare.pool(&[BULK; MOST], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[BULK], 1, now), Pool::Enough);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(spare.pool(&[FREE, FREE], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[FREE, FREE], MOST, later(29)), Pool::Enough);
        assert_eq!(spare.pool(&[BULK, FREE], MOST, later(29)), Pool::Enough);
        assert_eq!(spare.pool(&[FREE, FREE], MOST, later(31)), Pool::Enough);
        assert_eq!(spare.pool(&[FREE, FREE], MOST, later(61)), Pool::Shrink);
    }

    #[test]
    fn many_small_exchanges_do_not_wait_behind_one_lost_packet() {
        let now = Instant::now();
        let mut spare = Spare::default();
        assert_eq!(spare.pool(&[small(TOGETHER)], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[small(TOGETHER + 1)], MOST, now), Pool::Grow);
        assert_eq!(spare.pool(&[small(5), small(4)], MOST, now), Pool::Enough);
        assert_eq!(spare.pool(&[small(16), small(16), BULK], MOST, now), Pool::Grow);
        assert_eq!(spare.pool(&[small(1_000); SPREAD], MOST, now), Pool::Enough);
        assert_eq!(
            spare.pool(&[BULK, BULK, BULK, BULK, BULK, BULK, BULK, small(9)], MOST, now),
            Pool::Enough
        );
    }

    #[test]
    fn exchanges_on_their_way_are_counted_by_the_round_trip() {
        let now = Instant::now();
        let mut begun = Begun::new(now);
        let quarter = now + Duration::from_millis(250);
        let streams = |under_way, begun| Streams { under_way, begun };
        let rtt = |micros| Some(Duration::from_micros(micros));
        assert_eq!(begun.open(streams(1, 160), rtt(100_000), quarter), 0, "the first one says nothing");
        assert_eq!(begun.open(streams(1, 320), rtt(50_000), quarter + LOOK), 32);
        assert_eq!(begun.open(streams(3, 320), rtt(60_000), quarter + 2 * LOOK), 2);
        assert_eq!(begun.open(streams(1, 480), rtt(900_000), quarter + 3 * LOOK), 32);
        assert_eq!(begun.open(streams(1, 5_480), rtt(200), quarter + 4 * LOOK), 4);
        assert_eq!(Begun::new(now).open(streams(4, 1_000), None, quarter), 3);
    }
}
