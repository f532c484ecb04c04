//! The shape of a claim on some of a service's requests: what the CLI parses, the configuration holds, the wire
//! carries and the API shows. Everything in here is valid by construction. Who may claim what, what wins over what,
//! and whether a request matches, are the relay's and not here.
//!
//! A claim is read strictly: unlike every other message, a field or a kind of condition that this version does not
//! know is *refused*, because a condition that is dropped would widen the claim to other people's requests.

mod matcher;
mod names;

pub use matcher::{CONDITIONS_CAP, Condition, Fault, FieldValue, MATCHER_TEXT_CAP, MatchError, Matcher};
pub use names::{FieldName, InterceptName, NameError, ServiceName};

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A claim, as its owner wrote it. What the relay adds (owner, generation, expiry) stands beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intercept {
    /// With the owner, what a newer session supersedes by.
    pub name: InterceptName,
    pub service: ServiceName,
    /// Never left out: whoever means all traffic says so.
    pub matcher: Matcher,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub on_unreachable: OnUnreachable,
    #[serde(default)]
    pub action: Action,
    /// How long it is asked for, counted from when it was first accepted. None: as long as its owner is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
}

/// What happens to a request that matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It goes to the developer and not to the upstream.
    #[default]
    Steal,
}

/// Where a request that matches goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Down the owner's tunnel.
    #[default]
    Tunnel,
}

/// What a caller sees while the developer cannot be reached. Written `upstream`, `hold:10s` or `503`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OnUnreachable {
    /// The upstream's answer, as if nobody had claimed the request.
    #[default]
    Upstream,
    /// The caller waits so long for the developer to come back; then the upstream.
    Hold(Patience),
    /// 503.
    Status503,
}

/// How long a caller may be held: 1 ms to 5 min, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Patience(u32);

/// How long a claim may live: 1 s to 30 days, in whole seconds. Written `90s`, `30m`, `8h` or `2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ttl(u32);

/// A text is not a time to live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time to live: use 1s to 30d, as in 90s, 30m, 8h, 2d")]
pub struct NotATtl(String);

/// Why a text is not a fail policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("`{0}` is not a fail policy: use upstream, hold:10s or 503")]
    Unknown(String),
    #[error("`{0}` is not a time to hold a caller: use 1ms to 5m, as in hold:500ms, hold:10s, hold:2m")]
    Patience(String),
}

impl Patience {
    /// Longer than any restart takes; a caller gave up by then.
    pub const LONGEST: Duration = Duration::from_secs(300);

    /// A part of a millisecond is left out.
    pub fn new(duration: Duration) -> Option<Self> {
        let milliseconds = u32::try_from(duration.as_millis()).ok()?;
        (milliseconds > 0 && duration <= Self::LONGEST).then_some(Self(milliseconds))
    }

    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

impl FromStr for Patience {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let split = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        factor
            .zip(number.parse::<u64>().ok())
            .and_then(|(factor, number)| number.checked_mul(factor))
            .and_then(|milliseconds| Self::new(Duration::from_millis(milliseconds)))
            .ok_or_else(|| PolicyError::Patience(excerpt(text)))
    }
}

impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            whole if whole.is_multiple_of(1_000) => write!(f, "{}s", whole / 1_000),
            odd => write!(f, "{odd}ms"),
        }
    }
}

impl Ttl {
    const UNITS: [(&'static str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    const LONGEST: u64 = 30 * 86_400;

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl FromStr for Ttl {
    type Err = NotATtl;

    fn from_str(text: &str) -> Result<Self, NotATtl> {
        let split = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let seconds = Self::UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
        seconds
            .zip(number.parse::<u64>().ok())
            .and_then(|(seconds, number)| number.checked_mul(seconds))
            .filter(|seconds| (1..=Self::LONGEST).contains(seconds))
            .and_then(|seconds| u32::try_from(seconds).ok())
            .map(Self)
            .ok_or_else(|| NotATtl(excerpt(text)))
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = u64::from(self.0);
        let whole = Self::UNITS.iter().find(|(_, unit)| seconds.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&("s", 1));
        write!(f, "{}{name}", seconds / unit)
    }
}

impl TryFrom<String> for Ttl {
    type Error = NotATtl;

    fn try_from(text: String) -> Result<Self, NotATtl> {
        text.parse()
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> Self {
        ttl.to_string()
    }
}

impl OnUnreachable {
    /// Whether a request may go somewhere else while the developer cannot be reached.
    pub fn has_elsewhere(self) -> bool {
        match self {
            Self::Upstream | Self::Hold(_) => true,
            Self::Status503 => false,
        }
    }
}

impl FromStr for OnUnreachable {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "upstream" => Ok(Self::Upstream),
            "503" => Ok(Self::Status503),
            _ => match text.strip_prefix("hold:") {
                Some(patience) => patience.parse().map(Self::Hold),
                None => Err(PolicyError::Unknown(excerpt(text))),
            },
        }
    }
}

impl fmt::Display for OnUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("upstream"),
            Self::Hold(patience) => write!(f, "hold:{patience}"),
            Self::Status503 => f.write_str("503"),
        }
    }
}

impl TryFrom<String> for OnUnreachable {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<OnUnreachable> for String {
    fn from(policy: OnUnreachable) -> Self {
        policy.to_string()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steal => f.write_str("steal"),
        }
    }
}

/// As much of a refused text as an error may repeat: escaped, because it came from outside.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
