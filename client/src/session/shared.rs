//! What every dial and every lane of a session needs, and what they learn for one another. Does nothing by itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use culvert_protocol::hello::{InstanceId, MAX_LOST, Stamp, UnixMillis};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lane::LaneId;
use super::{Claim, Options, SessionError};
use crate::address::RelayAddress;
use crate::dial::{Dialler, Rungs, SetupError};
use crate::profile::Profile;
use crate::screen::Screen;
use crate::serve::Apps;

#[derive(Debug)]
pub(super) struct Shared {
    /// Where the relay may be dialled, the address that the login is for first; never none.
    pub(super) places: Vec<Place>,
    relay: RelayAddress,
    rungs: Rungs,
    not_after: SystemTime,
    /// A claim's number is its place, counted from 1: the same on every tunnel.
    pub(super) claims: Vec<Claim>,
    /// Where their services are meant to be listened for.
    ports: Vec<Option<u16>>,
    /// How old they are, in a relay's words.
    stamps: Mutex<Vec<Option<Stamp>>>,
    pub(super) apps: Arc<Apps>,
    pub(super) instance: InstanceId,
    /// When it was first welcomed, in a relay's words.
    began: Mutex<Option<Stamp>>,
    numbers: AtomicU64,
    /// The last lanes that were lost: a relay may not have noticed.
    lost: watch::Sender<Vec<LaneId>>,
    pub(super) screen: Screen,
    pub(super) grace: Duration,
    pub(super) stop: CancellationToken,
    pub(super) cut: CancellationToken,
}

/// One address of a relay.
#[derive(Debug)]
pub(super) struct Place {
    /// As it was asked for.
    pub(super) dialler: Dialler,
    /// One for each rung alone: for climbing to a better one, and for another lane on the same.
    pub(super) pinned: [Dialler; 3],
}

impl Place {
    fn new(relay: &RelayAddress, profile: &Profile, rungs: Rungs) -> Result<Self, SetupError> {
        let dialler = |rungs| Dialler::to(relay, profile, rungs);
        let pinned = [dialler(Rungs::Quic)?, dialler(Rungs::Tls)?, dialler(Rungs::WebSocket)?];
        Ok(Self { dialler: dialler(rungs)?, pinned })
    }
}

impl Shared {
    pub(super) fn new(options: Options, ports: Vec<Option<u16>>) -> Result<Self, SetupError> {
        let Options { profile, rungs, claims, screen, grace } = options;
        let places = profile.addresses().map(|relay| Place::new(relay, &profile, rungs));
        Ok(Self {
            places: places.collect::<Result<_, _>>()?,
            relay: profile.relay.clone(),
            rungs,
            not_after: profile.identity.not_after,
            apps: Arc::new(Apps::new((1..).zip(claims.iter().map(|claim| claim.app.clone())))?),
            stamps: Mutex::new(vec![None; claims.len()]),
            claims,
            ports,
            instance: InstanceId::new(rand::random()),
            began: Mutex::default(),
            numbers: AtomicU64::new(1),
            lost: watch::Sender::default(),
            screen,
            grace,
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        })
    }

    pub(super) fn relay(&self) -> &RelayAddress {
        &self.relay
    }

    /// Whether another rung than the one in use may be tried.
    pub(super) fn climbs(&self) -> bool {
        self.rungs == Rungs::Auto
    }

    pub(super) fn expired(&self) -> Option<SessionError> {
        let not_after = self.not_after;
        (not_after <= SystemTime::now())
            .then(|| SessionError::Expired { relay: self.relay().clone(), not_after })
    }

    pub(super) fn claim(&self, number: u64) -> Option<&Claim> {
        self.claims.get(place(number)?)
    }

    pub(super) fn began(&self) -> Option<Stamp> {
        self.began.lock().clone()
    }

    /// The first word on that counts.
    pub(super) fn began_at(&self, stamp: Option<Stamp>) {
        let mut began = self.began.lock();
        *began = began.take().or(stamp);
    }

    /// For the next tunnel.
    pub(super) fn number(&self) -> LaneId {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What is to be told to the relay, on every lane that is left and every one that comes.
    pub(super) fn lost(&self) -> watch::Receiver<Vec<LaneId>> {
        self.lost.subscribe()
    }

    pub(super) fn lose(&self, lane: LaneId) {
        self.lost.send_modify(|lost| {
            if lost.len() >= MAX_LOST {
                lost.remove(0);
            }
            lost.push(lane);
        });
    }

    pub(super) fn stamp(&self, number: u64) -> Option<Stamp> {
        self.stamps.lock().get(place(number)?).cloned().flatten()
    }

    /// When the time of a claim is over, by the clock of the relay that first accepted it. None: none has, or it has no such
    /// time.
    pub(super) fn expires(&self, number: u64) -> Option<UnixMillis> {
        let ttl = self.claim(number)?.intercept.ttl?.duration();
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Some(UnixMillis(self.stamp(number)?.since.0.saturating_add(millis)))
    }

    /// A claim is as old as the first replica says that accepted it; a replica that was told so says the same.
    pub(super) fn stamped(&self, number: u64, stamp: Stamp) {
        let mut stamps = self.stamps.lock();
        if let Some(known) = place(number).and_then(|place| stamps.get_mut(place)) {
            *known = Some(stamp);
        }
    }

    /// What is wrong with where the relay listens for a claim's service. Addresses that are not understood are no proof of
    /// another port.
    pub(super) fn other_port(&self, number: u64, listen: &[String]) -> Option<SessionError> {
        let asked = self.ports.get(place(number)?).copied().flatten()?;
        let found =
            listen.iter().map(|address| address.parse::<SocketAddr>().ok().map(|address| address.port()));
        let ports = found.collect::<Option<Vec<u16>>>()?;
        if ports.is_empty() || ports.contains(&asked) {
            return None;
        }
        let service = self.claim(number)?.intercept.service.clone();
        Some(SessionError::OtherPort { service, asked, ports })
    }
}

fn place(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}
