//! The names that a claim is made of, each its own type so that none can stand in another's place.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::excerpt;
use crate::message::{is_hop_by_hop, is_token};

/// A service of the relay, as an RFC 1123 name: lower-case letters, digits, `-` and `.`, at most 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

/// What a developer calls an intercept: 1 to 128 bytes, printable, no white space at its ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterceptName(String);

/// A header's name that can be claimed, in lower case: a token (RFC 9110 §5.1) of at most 128 bytes that starts and
/// ends with a letter, a digit, `-` or `_` (so that `!name` and `name^=` can mean something else in a MATCH), and that
/// is neither taken off by every hop nor the relay's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "`{0}` is not a service's name: use lower-case letters, digits, `-` and `.`, starting and ending with a letter or digit, at most 63"
    )]
    Service(String),
    #[error("`{0}` is not an intercept's name: use 1 to 128 printable characters, no space at either end")]
    Intercept(String),
    #[error("`{0}` is not a header's name: use letters, digits and `-`, as in x-user")]
    Field(String),
    #[error("the header `{0}` concerns one connection only: no request can be told apart by it")]
    HopByHop(String),
    #[error("the header `{0}` is the relay's own and taken off what callers send")]
    Ours(String),
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let good = bytes.len() <= 63
            && bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
            && bytes.iter().all(|byte| plain(byte) || matches!(byte, b'-' | b'.'));
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Service(excerpt(text))) }
    }
}

impl FromStr for InterceptName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good =
            !text.is_empty() && text.len() <= 128 && text.trim() == text && text.chars().all(is_printable);
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Intercept(excerpt(text))) }
    }
}

impl FromStr for FieldName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let bytes = text.as_bytes();
        let good = bytes.len() <= 128
            && is_token(bytes)
            && bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain);
        if !good {
            return Err(NameError::Field(excerpt(text)));
        }
        let name = text.to_ascii_lowercase();
        if is_hop_by_hop(bytes) {
            return Err(NameError::HopByHop(name));
        }
        if name.starts_with("culvert-") {
            return Err(NameError::Ours(name));
        }
        Ok(Self(name))
    }
}

/// What a terminal shows as itself: ASCII that is printed, and letters and digits of any script. No control
/// characters, and nothing invisible or that changes the direction of what follows.
pub(super) fn is_printable(char: char) -> bool {
    matches!(char, ' '..='~') || char.is_alphanumeric()
}

macro_rules! text_of {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

text_of!(ServiceName, InterceptName, FieldName);
