//! How old a claim is and when it ends, from what is asked for and what a replica has said of it.

use std::time::{Duration, SystemTime};

use culvert_protocol::hello::{Stamp, UnixMillis};
use culvert_protocol::intercept::Intercept;

use super::Refused;

#[derive(Debug)]
pub(super) struct Times {
    /// What a replica has said of it, and is believed.
    pub(super) stamp: Option<Stamp>,
    /// When it was first accepted, then, or now.
    pub(super) born: SystemTime,
    /// When the time that it was asked for is over, and how much of that is left.
    pub(super) expires: Option<SystemTime>,
    pub(super) left: Option<Duration>,
}

impl Times {
    pub(super) fn of(intercept: &Intercept, stamp: Option<Stamp>) -> Result<Self, Refused> {
        let now = SystemTime::now();
        let born = stamp.as_ref().and_then(|stamp| moment(stamp.since)).unwrap_or(now);
        let expires = intercept.ttl.map(|ttl| born + ttl.duration());
        let left = expires.map(|expires| expires.duration_since(now).unwrap_or_default());
        match left {
            Some(Duration::ZERO) => Err(Refused::Expired),
            left => Ok(Self { stamp, born, expires, left }),
        }
    }
}

/// A moment of the wire's. None: too far off for this machine's clock.
fn moment(at: UnixMillis) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at.0))
}
