//! What a relay says to a client.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::MESSAGE_CAP;
use super::messages::Message;

/// A message from a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRelay {
    Welcome(Welcome),
    /// The tunnel is over before it began.
    Reject {
        code: RejectCode,
        message: String,
        /// Every version of this protocol that the relay speaks.
        versions: Vec<u16>,
    },
    /// The claim is in force.
    Accepted {
        claim: u64,
        generation: u64,
        /// Where the service is listened for, for the client to print.
        listen: Vec<String>,
        /// To be shown to every relay at which the claim is announced from here on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The claim is not in force: it was not granted, or is no longer.
    Denied {
        claim: u64,
        code: DeniedCode,
        message: String,
        /// Whose claim is in the way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// A newer session of the same owner holds the claim now. The older one must not claim it again by itself.
    Superseded {
        claim: u64,
        by: Holder,
    },
    /// One part of the answer to a `List`.
    Listing {
        services: Vec<ListedService>,
        intercepts: Vec<ListedIntercept>,
        /// Another part follows.
        #[serde(default)]
        more: bool,
    },
    /// The relay is going: what is under way may still take so long, what is new goes elsewhere.
    Drain {
        grace_ms: u64,
        reason: String,
    },
    Ping {
        n: u64,
    },
    Pong {
        n: u64,
    },
    /// Never sent: a message of a type that this version does not know.
    #[serde(skip)]
    Unknown(String),
}

/// The answer to a `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken from here on.
    pub version: u16,
    /// Which replica this is.
    pub relay: String,
    /// How many replicas there are, this one included: a client dials until it has seen them all.
    pub replicas: u32,
    /// Who the relay takes the client for.
    pub identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// When this start of the client was first welcomed, for it to say in every further hello: of two starts the later one takes
    /// over, on every replica alike, however late the other one hears of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Stamp>,
}

/// Why there will be no session. Only [`RejectCode::Busy`] can heal by trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectCode {
    /// No version in common.
    Version,
    /// The relay could not make sense of what was said.
    Protocol,
    /// The identity may not be here.
    NotAllowed,
    /// The identity was here and may no longer be.
    Revoked,
    /// The relay has no room, or is on its way out.
    Busy,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

/// Why a claim is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeniedCode {
    /// It overlaps another owner's.
    Conflict,
    NoSuchService,
    NotAllowed,
    TooMany,
    /// Claims change too fast: later it is taken.
    TooFast,
    /// The time that it was asked for is over.
    Expired,
    /// The relay cannot read it, or cannot do what it asks.
    Invalid,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

/// When a claim was first accepted, and by which relay: proof of its age for every relay of the same authority. Between two
/// claims that are in each other's way the earlier one wins, on every replica alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub since: UnixMillis,
    pub relay: String,
    /// Over that and the claim, in hexadecimal digits. For relays alone to make and to check.
    pub proof: String,
}

/// Who holds a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub owner: String,
    pub host: String,
    pub since: UnixMillis,
    pub last_seen: UnixMillis,
}

/// A service, as `culvert ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedService {
    pub name: String,
    pub listen: Vec<String>,
}

/// A claim, as `culvert ls` shows it. In words, not as [`crate::intercept::Intercept`]: another client may have
/// claimed what this one cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedIntercept {
    pub name: String,
    pub service: String,
    pub matcher: String,
    pub mode: String,
    pub on_unreachable: String,
    pub generation: u64,
    pub holder: Holder,
    /// What carries it, the best first; none while its owner is expected back.
    #[serde(default)]
    pub transports: Vec<String>,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixMillis>,
}

/// A moment of the relay's clock: milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl From<SystemTime> for UnixMillis {
    /// A moment before 1970 is 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The answer to a `List`, in as many messages as [`MESSAGE_CAP`] asks for. What alone would fill a message is left out.
pub fn listings(services: Vec<ListedService>, intercepts: Vec<ListedIntercept>) -> Vec<FromRelay> {
    // What a listing weighs without its entries, and room for the comma after each.
    const AROUND: usize = 128;
    fn weigh(entry: &impl Serialize) -> usize {
        serde_json::to_vec(entry).map_or(MESSAGE_CAP, |text| text.len() + 1)
    }

    let mut parts = Vec::new();
    let mut part = (Vec::new(), Vec::new());
    let mut weight = AROUND;
    let mut fits = |part: &mut (Vec<ListedService>, Vec<ListedIntercept>), entry: usize| {
        if AROUND + entry > MESSAGE_CAP {
            return false;
        }
        if weight + entry > MESSAGE_CAP {
            parts.push(std::mem::take(part));
            weight = AROUND;
        }
        weight += entry;
        true
    };
    for service in services {
        if fits(&mut part, weigh(&service)) {
            part.0.push(service);
        }
    }
    for intercept in intercepts {
        if fits(&mut part, weigh(&intercept)) {
            part.1.push(intercept);
        }
    }
    parts.push(part);
    let last = parts.len() - 1;
    parts
        .into_iter()
        .enumerate()
        .map(|(at, (services, intercepts))| FromRelay::Listing { services, intercepts, more: at < last })
        .collect()
}

impl Message for FromRelay {
    const TYPES: &'static [&'static str] =
        &["welcome", "reject", "accepted", "denied", "superseded", "listing", "drain", "ping", "pong"];

    fn unknown(kind: String) -> Self {
        Self::Unknown(kind)
    }
}
