//! Who a verified certificate says the peer is. Holds no verification (rustls has done it) and no permission.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use crate::authority::is_authority_id;
use crate::serial::Serial;
use crate::validity::from_asn1;

/// A developer (a CI job is one too), as the relay's authority has named them.
///
/// Cannot be made up: it comes from [`Identity::from_verified`] only, and later gains groups and claims.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    pub name: DeveloperName,
    /// Of the certificate, not of the person: it changes at each renewal.
    pub serial: Serial,
    pub not_after: SystemTime,
}

impl Identity {
    /// Reads the first certificate that the peer presented **after rustls has verified it** against the authority.
    ///
    /// Refuses a certificate that names anything else than exactly one developer: where two names stand, two readers
    /// may believe two different ones.
    pub fn from_verified(certificate: &CertificateDer<'_>) -> Result<Self, NotAnIdentity> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| NotAnIdentity::Malformed)?;
        if !rest.is_empty() {
            return Err(NotAnIdentity::Malformed);
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| NotAnIdentity::Malformed)?
            .ok_or(NotAnIdentity::NoName)?;
        let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
            return Err(NotAnIdentity::NoName);
        };
        Ok(Self {
            name: name_in(uri).ok_or(NotAnIdentity::NoName)?,
            serial: Serial::of(&parsed).ok_or(NotAnIdentity::Malformed)?,
            not_after: from_asn1(parsed.validity().not_after).ok_or(NotAnIdentity::Malformed)?,
        })
    }
}

/// `culvert://<authority>/user/<name>`, with nothing before, between or after.
fn name_in(uri: &str) -> Option<DeveloperName> {
    let (authority, path) = uri.strip_prefix("culvert://")?.split_once('/')?;
    if !is_authority_id(authority) {
        return None;
    }
    path.strip_prefix("user/")?.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnIdentity {
    #[error("reading the peer's certificate: not a certificate that culvert made")]
    Malformed,
    #[error("reading the peer's certificate: it does not name exactly one developer")]
    NoName,
}

/// What a developer is called: 1 to 63 characters, a lower-case ASCII letter or digit first, then those or any of
/// `.` `_` `-` `@`.
///
/// Lower case only, so that `Alice` and `alice` cannot be two people; nothing that a path, a URI, a log line or a
/// terminal gives a meaning to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeveloperName(String);

impl DeveloperName {
    const MAX_LENGTH: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeveloperName {
    type Error = NotADeveloperName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = name.as_bytes().first().is_some_and(plain);
        let rest = name.bytes().all(|byte| plain(&byte) || b"._-@".contains(&byte));
        if first && rest && name.len() <= Self::MAX_LENGTH { Ok(Self(name)) } else { Err(NotADeveloperName) }
    }
}

impl FromStr for DeveloperName {
    type Err = NotADeveloperName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        name.to_owned().try_into()
    }
}

impl From<DeveloperName> for String {
    fn from(name: DeveloperName) -> Self {
        name.0
    }
}

impl fmt::Display for DeveloperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeveloperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Does not repeat the name, which may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a developer's name is 1 to 63 of a-z, 0-9, `.`, `_`, `-` and `@`, and begins with a letter or a digit; \
     upper case is not used"
)]
pub struct NotADeveloperName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_and_jobs_have_are_taken() {
        for name in ["a", "0", "alice", "ci-1234", "alice@example.com", "a.b_c-d", &"a".repeat(63)] {
            assert_eq!(name.parse::<DeveloperName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_be_mistaken_for_something_else_are_refused() {
        let long = "a".repeat(64);
        for name in ["", "Alice", ".a", "-a", "@a", "a/b", "a b", "a\0", "a\n", "é", "a%2f", "a:b", &long] {
            assert_eq!(name.parse::<DeveloperName>(), Err(NotADeveloperName), "{name:?}");
        }
    }

    #[test]
    fn only_our_own_uri_names_a_developer() {
        assert_eq!(name_in("culvert://0a1b2c3d/user/alice").unwrap().as_str(), "alice");
        for uri in [
            "culvert://0a1b2c3d/user/",
            "culvert://0a1b2c3d/user/alice/",
            "culvert://0a1b2c3d/user/alice/session/1",
            "culvert://0a1b2c3d/user/alice\0",
            "culvert://0a1b2c3d/admin/alice",
            "culvert://0A1B2C3D/user/alice",
            "culvert:///user/alice",
            "CULVERT://0a1b2c3d/user/alice",
            "spiffe://0a1b2c3d/user/alice",
        ] {
            assert_eq!(name_in(uri), None, "{uri}");
        }
    }
}
