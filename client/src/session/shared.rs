//! What every dial and every lane of a session needs, and what they learn for one another. Does nothing by itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_protocol::hello::{InstanceId, Stamp, UnixMillis};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Claim, Options, SessionError};
use crate::address::RelayAddress;
use crate::dial::{Dialler, Rungs, SetupError};
use crate::screen::Screen;
use crate::serve::Apps;

#[derive(Debug)]
pub(super) struct Shared {
    /// As it was asked for.
    pub(super) dialler: Dialler,
    /// One for each rung alone: for climbing to a better one, and for another lane on the same.
    pub(super) pinned: [Dialler; 3],
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
    pub(super) screen: Screen,
    pub(super) grace: Duration,
    pub(super) stop: CancellationToken,
    pub(super) cut: CancellationToken,
}

impl Shared {
    pub(super) fn new(options: Options, ports: Vec<Option<u16>>) -> Result<Self, SetupError> {
        let Options { profile, rungs, claims, screen, grace } = options;
        let pinned = |rungs| Dialler::new(&profile, rungs);
        Ok(Self {
            dialler: Dialler::new(&profile, rungs)?,
            pinned: [pinned(Rungs::Quic)?, pinned(Rungs::Tls)?, pinned(Rungs::WebSocket)?],
            rungs,
            not_after: profile.identity.not_after,
            apps: Arc::new(Apps::new((1..).zip(claims.iter().map(|claim| claim.app.clone())))?),
            stamps: Mutex::new(vec![None; claims.len()]),
            claims,
            ports,
            instance: InstanceId::new(rand::random()),
            screen,
            grace,
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        })
    }

    pub(super) fn relay(&self) -> &RelayAddress {
        self.dialler.relay()
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
