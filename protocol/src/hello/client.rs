//! What a client says to its relay.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::messages::Message;
use super::relay::Stamp;
use crate::intercept::Intercept;

/// Tunnels in one [`FromClient::Lost`]: as many as a claim can have. A relay takes no more of them, and finds out by itself what
/// is left out.
pub const MAX_LOST: usize = 32;

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromClient {
    Hello(Hello),
    /// Claims; the number is the client's own, and stands for the claim in everything said later. A number is used
    /// once in the life of a tunnel.
    Announce {
        claim: u64,
        intercept: Box<Intercept>,
        /// What a replica said when it first accepted the claim: it is as old as that everywhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    Withdraw {
        claim: u64,
    },
    /// Asks for a [`super::FromRelay::Listing`].
    List,
    Ping {
        n: u64,
    },
    Pong {
        n: u64,
    },
    /// Tunnels of this start that are gone at the client's end, as it called them, [`MAX_LOST`] at most: what was under way on them
    /// comes no more.
    Lost {
        tunnels: Vec<u64>,
    },
    /// The client goes and does not come back: nothing of it is held for anyone.
    Leave,
    /// Never sent: a claim that this version cannot read, and why. It is answered with a denial, because serving
    /// only what was understood of it would take more than was asked for.
    #[serde(skip)]
    Unreadable {
        claim: u64,
        why: String,
    },
    /// Never sent: a message of a type that this version does not know.
    #[serde(skip)]
    Unknown(String),
}

/// Opens the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Every version of this protocol that the client speaks.
    pub versions: Vec<u16>,
    /// The client's release, for logs.
    pub client_version: String,
    /// The machine that the client runs on, as it calls itself: shown to whoever is in conflict with it.
    pub host: String,
    /// The account that the client runs under. Who the developer *is* stands in the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub process: u32,
    pub instance: InstanceId,
    /// What the client calls this tunnel: a number that it gives to no other one of this start. None: it has nothing to say of it
    /// later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<u64>,
    /// What the first relay that welcomed this start of the client said of when that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Stamp>,
}

/// One start of one client, at random: tells a process that came back from one that was started anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(u128);

/// A text is not an instance's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an instance's id is 32 hexadecimal digits")]
pub struct NotAnInstance;

impl InstanceId {
    /// `random` must be.
    pub const fn new(random: u128) -> Self {
        Self(random)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InstanceId {
    type Err = NotAnInstance;

    fn from_str(text: &str) -> Result<Self, NotAnInstance> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAnInstance);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| NotAnInstance)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = NotAnInstance;

    fn try_from(text: String) -> Result<Self, NotAnInstance> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(instance: InstanceId) -> Self {
        instance.to_string()
    }
}

impl Message for FromClient {
    const TYPES: &'static [&'static str] =
        &["hello", "announce", "withdraw", "list", "ping", "pong", "lost", "leave"];

    fn unknown(kind: String) -> Self {
        Self::Unknown(kind)
    }

    fn unreadable(kind: &str, claim: u64, why: &str) -> Option<Self> {
        (kind == "announce").then(|| Self::Unreadable { claim, why: why.to_owned() })
    }
}
