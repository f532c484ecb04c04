//! What a session has: a link to each replica of its relay, and the lanes of each, which are its tunnels to that replica. Knows
//! what is missing, too much or could be better; dials nothing and closes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use culvert_protocol::tunnel::{Transport, Tunnel};
use tokio::time::Instant;

use super::climb::Climb;
use super::lane::{LaneId, Orders};
use super::pool::{self, Begun, Load, Pool, Spare};
use crate::dial::UdpBuffers;

/// More replicas than one relay has: what it says is not believed without a limit.
pub(super) const REPLICAS: usize = 64;

/// Growing failed, or came out at another replica: not at once again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Links {
    links: Vec<Link>,
    /// How many addresses the relay was said to have: each leads to a replica, or to several.
    places: usize,
    /// How many replicas there are, as far as is known.
    wanted: usize,
    /// When what passes is looked at again.
    look_due: Instant,
}

/// To one replica; without lanes while there is none.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) relay: String,
    pub(super) lanes: Vec<Held>,
    /// Rungs that were tried last and do not carry it, and why.
    pub(super) missed: Vec<(Transport, String)>,
    climb: Climb,
    spare: Spare,
    grow_due: Instant,
    dialling: bool,
}

/// A lane, as the session sees it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) id: LaneId,
    pub(super) tunnel: Tunnel,
    /// Which of the relay's addresses was dialled.
    pub(super) place: usize,
    pub(super) address: Option<SocketAddr>,
    pub(super) udp: Option<UdpBuffers>,
    /// The rung in words, with what was wrong with the better ones.
    pub(super) how: String,
    pub(super) since: SystemTime,
    pub(super) begun: Instant,
    pub(super) exchanges: Begun,
    pub(super) stage: Stage,
    pub(super) doubtful: bool,
    pub(super) orders: Arc<Orders>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its claims are announced.
    Joining,
    InForce,
    /// It only finishes what is under way.
    Leaving,
}

/// What is dialled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// A replica that cannot be reached at the moment, whichever.
    Replica { place: usize },
    /// A better rung to this one.
    Climb { relay: String, place: usize, above: Transport },
    /// One more lane to this one.
    Grow { relay: String, place: usize, rung: Transport },
}

impl Held {
    fn serves(&self) -> bool {
        self.stage != Stage::Leaving && !self.doubtful
    }

    pub(super) fn is_good(&self) -> bool {
        self.stage == Stage::InForce && !self.doubtful
    }

    pub(super) fn rung(&self) -> Transport {
        self.tunnel.transport()
    }

    fn load(&mut self, now: Instant) -> Load {
        let rtt = self.tunnel.rtt();
        let open = self.tunnel.in_one_order().map_or(0, |streams| self.exchanges.open(streams, rtt, now));
        Load { bulk: self.tunnel.is_bulk(), open }
    }
}

impl Link {
    fn new(relay: String, now: Instant) -> Self {
        Self {
            relay,
            lanes: Vec::new(),
            missed: Vec::new(),
            climb: Climb::new(now),
            spare: Spare::default(),
            grow_due: now,
            dialling: false,
        }
    }

    /// The best rung on which it can be reached.
    pub(super) fn rung(&self) -> Option<Transport> {
        self.lanes.iter().filter(|lane| lane.serves()).map(Held::rung).min_by_key(|rung| steps(*rung))
    }

    pub(super) fn best(&self) -> Option<&Held> {
        self.lanes.iter().filter(|lane| lane.is_good()).min_by_key(|lane| steps(lane.rung()))
    }

    /// Whether its lanes are looked at: for a pool over TCP, and to give up a lane that was dialled in doubt.
    fn is_looked_at(&self) -> bool {
        let mut good = self.lanes.iter().filter(|lane| lane.is_good());
        good.next().is_some_and(|first| first.rung() != Transport::Quic || good.next().is_some())
    }

    fn could_climb(&self) -> bool {
        !self.dialling && self.best().is_some_and(|lane| lane.rung() != Transport::Quic)
    }
}

impl Links {
    pub(super) fn new(places: usize) -> Self {
        Self { links: Vec::new(), places, wanted: places, look_due: Instant::now() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    /// How many replicas one of them says that there are.
    pub(super) fn learn(&mut self, replicas: u32) {
        self.wanted = usize::try_from(replicas).unwrap_or(REPLICAS).clamp(self.places, REPLICAS);
    }

    /// Some replica cannot be reached.
    pub(super) fn is_missing(&self) -> bool {
        self.links.iter().filter(|link| link.rung().is_some()).count() < self.wanted
    }

    /// Every claim is in force somewhere.
    pub(super) fn is_in_force(&self) -> bool {
        self.links.iter().any(|link| link.best().is_some())
    }

    /// And at every replica.
    pub(super) fn is_in_force_everywhere(&self) -> bool {
        self.links.iter().filter(|link| link.best().is_some()).count() >= self.wanted
    }

    /// Where relays are: for watching the way to them, and for dialling others.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.links
            .iter()
            .flat_map(|link| &link.lanes)
            .filter(|lane| lane.serves())
            .filter_map(|lane| lane.address)
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = &Held> {
        self.links.iter().flat_map(|link| &link.lanes)
    }

    pub(super) fn lane(&mut self, id: LaneId) -> Option<&mut Held> {
        self.links.iter_mut().flat_map(|link| &mut link.lanes).find(|lane| lane.id == id)
    }

    pub(super) fn link(&mut self, relay: &str) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.relay == relay)
    }

    /// Whether a tunnel that came out at this replica on this rung is of use there.
    pub(super) fn takes(&self, aim: &Aim, relay: &str, rung: Transport) -> bool {
        let link = self.links.iter().find(|link| link.relay == relay);
        let Some(current) = link.and_then(Link::rung) else { return true };
        let grows = matches!(aim, Aim::Grow { relay: for_, .. } if for_ == relay);
        steps(rung) < steps(current) || (grows && rung == current)
    }

    pub(super) fn add(&mut self, relay: &str, lane: Held, now: Instant) {
        if let Some(link) = self.link(relay) {
            if link.rung().is_none() && lane.rung() != Transport::Quic {
                link.climb.fell(now);
            }
            link.lanes.push(lane);
            return;
        }
        // Replicas come and go, and their names with them.
        if self.links.len() >= REPLICAS {
            self.links.retain(|link| !link.lanes.is_empty());
        }
        let mut link = Link::new(relay.to_owned(), now);
        link.lanes.push(lane);
        self.links.push(link);
    }

    /// The lane has every claim: those on lower rungs are not needed any more.
    pub(super) fn in_force(&mut self, id: LaneId, now: Instant) {
        let Some(link) = self.links.iter_mut().find(|link| link.lanes.iter().any(|lane| lane.id == id))
        else {
            return;
        };
        let Some(lane) = link.lanes.iter_mut().find(|lane| lane.id == id) else { return };
        if lane.stage == Stage::Joining {
            lane.stage = Stage::InForce;
        }
        let rung = lane.rung();
        let lower: Vec<_> = link
            .lanes
            .iter_mut()
            .filter(|lane| lane.stage != Stage::Leaving && steps(lane.rung()) > steps(rung))
            .collect();
        if !lower.is_empty() {
            link.climb.reached(now);
        }
        for lane in lower {
            lane.stage = Stage::Leaving;
            lane.orders.retire.cancel();
        }
    }

    /// Forgets a lane that has ended.
    pub(super) fn remove(&mut self, id: LaneId) -> Option<Held> {
        self.links.iter_mut().find_map(|link| {
            let at = link.lanes.iter().position(|lane| lane.id == id)?;
            Some(link.lanes.remove(at))
        })
    }

    /// Better rungs are tried at once: the network is another one.
    pub(super) fn look_up(&mut self, now: Instant) {
        self.links.iter_mut().for_each(|link| link.climb = Climb::new(now));
    }

    /// A dial for one of these is over, and was good for nothing.
    pub(super) fn failed(&mut self, aim: &Aim, why: Option<(Transport, String)>, now: Instant) {
        let (Aim::Climb { relay, .. } | Aim::Grow { relay, .. }) = aim else { return };
        let Some(link) = self.link(relay) else { return };
        match aim {
            Aim::Climb { .. } => link.climb.failed(now),
            Aim::Grow { .. } | Aim::Replica { .. } => link.grow_due = now + AGAIN,
        }
        if let Some((rung, why)) = why {
            link.missed.retain(|(missed, _)| *missed != rung);
            link.missed.push((rung, why));
        }
    }

    pub(super) fn dialled(&mut self, aim: &Aim) {
        if let Aim::Climb { relay, .. } | Aim::Grow { relay, .. } = aim
            && let Some(link) = self.link(relay)
        {
            link.dialling = false;
        }
    }

    /// Looks at what passes, gives up what is too much, and returns what is to be dialled.
    pub(super) fn look(&mut self, climbs: bool, now: Instant) -> Vec<Aim> {
        let mut aims: Vec<_> = self.links.iter_mut().filter_map(|link| link.climb(climbs, now)).collect();
        if self.look_due <= now {
            self.look_due = now + pool::LOOK;
            aims.extend(self.links.iter_mut().filter_map(|link| link.look(now)));
        }
        aims
    }

    /// When that is to be done again.
    pub(super) fn due(&self, climbs: bool) -> Option<Instant> {
        let looks = self.links.iter().filter(|link| link.is_looked_at()).map(|_| self.look_due);
        let ups = self.links.iter().filter(|link| climbs && link.could_climb()).map(|link| link.climb.due());
        looks.chain(ups).min()
    }
}

impl Link {
    fn climb(&mut self, climbs: bool, now: Instant) -> Option<Aim> {
        let best = self.best()?;
        let (above, place) = (best.rung(), best.place);
        if !climbs || !self.could_climb() || self.climb.due() > now {
            return None;
        }
        self.dialling = true;
        Some(Aim::Climb { relay: self.relay.clone(), place, above })
    }

    fn look(&mut self, now: Instant) -> Option<Aim> {
        let best = self.best()?;
        let (rung, place) = (best.rung(), best.place);
        let good = self.lanes.iter_mut().filter(|lane| lane.is_good());
        let loads: Vec<_> = good.map(|lane| lane.load(now)).collect();
        let most = if rung == Transport::Quic { 1 } else { pool::MOST };
        match self.spare.pool(&loads, most, now) {
            Pool::Enough => None,
            Pool::Grow if self.dialling || self.grow_due > now => None,
            Pool::Grow => {
                self.dialling = true;
                Some(Aim::Grow { relay: self.relay.clone(), place, rung })
            }
            Pool::Shrink => {
                let free = self.lanes.iter_mut().filter(|lane| lane.is_good() && !lane.tunnel.is_bulk());
                if let Some(youngest) = free.max_by_key(|lane| lane.id) {
                    youngest.stage = Stage::Leaving;
                    youngest.orders.retire.cancel();
                }
                None
            }
        }
    }
}

/// How far down the ladder a rung is.
pub(super) fn steps(rung: Transport) -> usize {
    Transport::ALL.into_iter().position(|other| other == rung).unwrap_or(Transport::ALL.len())
}
