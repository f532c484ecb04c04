//! Which requests a claim is on, as data: how a MATCH is written and read, and when one matcher takes in another.
//! Whether a request matches is decided by the relay's compiled routes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::excerpt;
use super::names::{FieldName, NameError, is_printable};
use crate::message::is_value;

/// How many conditions one matcher may hold.
pub const CONDITIONS_CAP: usize = 16;
/// How long the conditions of one matcher may be, written down.
pub const MATCHER_TEXT_CAP: usize = 1024;

/// Conditions that a request must all meet, sorted and without repetition: equal matchers are equal values.
/// None at all: every request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Plain")]
pub struct Matcher {
    all: Vec<Condition>,
}

/// One thing that a request must have. Written `x-user=alice`, or as curl's `-H` takes it: `x-user: alice`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// A header with this name, in any case, and exactly this value, byte for byte.
    Header { name: FieldName, exact: FieldValue },
}

/// A header's value: bytes that are mostly, but not always, UTF-8. In JSON a string, or `{"base64": "…"}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Spelling", into = "Spelling")]
pub struct FieldValue(Vec<u8>);

/// Why something is not a matcher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    #[error("`{0}` is not a match: write x-user=alice or 'x-user: alice'")]
    Form(String),
    #[error("`{0}`: matching {1} is not known to this version, only one exact value: x-user=alice")]
    Kind(String, &'static str),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the value of `{0}` holds a control byte, which no header can")]
    Control(String),
    #[error("the value of `{0}` starts or ends with white space, which no header's value does")]
    Edges(String),
    #[error("the value of `{0}` is not base64, which it says it is")]
    Base64(String),
    #[error("{0} conditions, of which one match may hold {CONDITIONS_CAP}")]
    Many(usize),
    #[error("{0} bytes of conditions, of which one match may hold {MATCHER_TEXT_CAP}")]
    Long(usize),
}

impl Matcher {
    /// The matcher that meets every request.
    pub fn all_traffic() -> Self {
        Self { all: Vec::new() }
    }

    pub fn header_exact(name: &str, value: &[u8]) -> Result<Self, MatchError> {
        let name: FieldName = name.parse()?;
        let exact = FieldValue::new(value).map_err(|fault| fault.of(name.as_str()))?;
        Self::new([Condition::Header { name, exact }])
    }

    pub fn new(conditions: impl IntoIterator<Item = Condition>) -> Result<Self, MatchError> {
        let mut all = Vec::new();
        let mut length = 0;
        for condition in conditions {
            length += condition.to_string().len();
            if length > MATCHER_TEXT_CAP {
                return Err(MatchError::Long(length));
            }
            all.push(condition);
            if all.len() > CONDITIONS_CAP {
                return Err(MatchError::Many(all.len()));
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self { all })
    }

    /// What a request must all meet, in canonical order.
    pub fn conditions(&self) -> &[Condition] {
        &self.all
    }

    pub fn is_all_traffic(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether every request that `other` takes would also be taken by this one: its conditions are among `other`'s.
    pub fn covers(&self, other: &Self) -> bool {
        self.all.iter().all(|condition| other.all.binary_search(condition).is_ok())
    }
}

impl Condition {
    /// One MATCH argument, as bytes because a shell passes bytes.
    pub fn parse(text: &[u8]) -> Result<Self, MatchError> {
        let shown = || excerpt(&String::from_utf8_lossy(text));
        if text.first() == Some(&b'!') {
            return Err(MatchError::Kind(shown(), "the absence of a header"));
        }
        let Some(at) = text.iter().position(|byte| matches!(byte, b'=' | b':')) else {
            return match std::str::from_utf8(text).map(str::parse::<FieldName>) {
                Ok(Ok(_)) => Err(MatchError::Kind(shown(), "the presence of a header")),
                _ => Err(MatchError::Form(shown())),
            };
        };
        let (name, rest) = text.split_at(at);
        let (separator, value) = rest.split_at_checked(1).unwrap_or((rest, &[]));
        let decoded;
        let value = if separator == b":" {
            value.trim_ascii()
        } else if name.ends_with(b"^") {
            return Err(MatchError::Kind(shown(), "a prefix"));
        } else if value.starts_with(b"~") {
            return Err(MatchError::Kind(shown(), "a pattern"));
        } else if let Some(encoded) = value.strip_prefix(ENCODED) {
            decoded = BASE64.decode(encoded).map_err(|_| MatchError::Base64(shown()))?;
            &decoded
        } else {
            value
        };
        let name = std::str::from_utf8(name).map_err(|_| MatchError::Form(shown()))?;
        if name.is_empty() {
            return Err(MatchError::Form(shown()));
        }
        let name: FieldName = name.parse()?;
        let exact = FieldValue::new(value).map_err(|fault| fault.of(name.as_str()))?;
        Ok(Self::Header { name, exact })
    }
}

impl FromStr for Condition {
    type Err = MatchError;

    fn from_str(text: &str) -> Result<Self, MatchError> {
        Self::parse(text.as_bytes())
    }
}

/// As the command line takes it, before the shell's quotes. A value that would be read as something else, or that
/// a terminal would not show as itself, is written `x-user=base64:…`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Header { name, exact } = self;
        match std::str::from_utf8(&exact.0) {
            Ok(text) if text.chars().all(is_printable) && !exact.0.starts_with(ENCODED) => {
                let separator = if text.starts_with('~') { ": " } else { "=" };
                write!(f, "{name}{separator}{text}")
            }
            _ => write!(f, "{name}=base64:{}", BASE64.encode(&exact.0)),
        }
    }
}

/// As the command line takes it, quoted for a shell where that is needed.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all_traffic() {
            return f.write_str("all traffic");
        }
        for (at, condition) in self.all.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            let text = condition.to_string();
            let bare = |char: char| char.is_alphanumeric() || "-_.,:=/@+%^".contains(char);
            if text.chars().all(bare) {
                write!(f, "{gap}{text}")?;
            } else {
                write!(f, "{gap}'{}'", text.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

impl FieldValue {
    pub fn new(bytes: &[u8]) -> Result<Self, Fault> {
        if !is_value(bytes) {
            return Err(Fault::Control);
        }
        if bytes.trim_ascii() != bytes {
            return Err(Fault::Edges);
        }
        Ok(Self(bytes.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Why bytes are not a header's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a header's value holds a control byte")]
    Control,
    #[error("a header's value starts or ends with white space")]
    Edges,
    #[error("a header's value is not base64, which it says it is")]
    Base64,
}

impl Fault {
    fn of(self, name: &str) -> MatchError {
        match self {
            Self::Control => MatchError::Control(name.to_owned()),
            Self::Edges => MatchError::Edges(name.to_owned()),
            Self::Base64 => MatchError::Base64(name.to_owned()),
        }
    }
}

/// A matcher before its caps were checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    all: Vec<Condition>,
}

impl TryFrom<Plain> for Matcher {
    type Error = MatchError;

    fn try_from(plain: Plain) -> Result<Self, MatchError> {
        Self::new(plain.all)
    }
}

/// How a value is spelt in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a header's value is a string, or {\"base64\": \"…\"} where it is not UTF-8")]
enum Spelling {
    Text(String),
    Encoded(Encoded),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

impl TryFrom<Spelling> for FieldValue {
    type Error = Fault;

    fn try_from(spelling: Spelling) -> Result<Self, Fault> {
        match spelling {
            Spelling::Text(text) => Self::new(text.as_bytes()),
            Spelling::Encoded(Encoded { base64 }) => {
                Self::new(&BASE64.decode(base64).map_err(|_| Fault::Base64)?)
            }
        }
    }
}

impl From<FieldValue> for Spelling {
    fn from(value: FieldValue) -> Self {
        match String::from_utf8(value.0) {
            Ok(text) => Self::Text(text),
            Err(bytes) => Self::Encoded(Encoded { base64: BASE64.encode(bytes.as_bytes()) }),
        }
    }
}

/// What stands before a value that is written in base64.
const ENCODED: &[u8] = b"base64:";
