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
