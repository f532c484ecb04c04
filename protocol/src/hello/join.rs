//! What a developer without a certificate and a relay say to each other: one question, one answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::messages::Message;

/// A message from someone who would join. Not comparable: a secret is compared in constant time or not at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromJoiner {
    Join(Join),
    /// Never sent: a message of a type that this version does not know.
    #[serde(skip)]
    Unknown(String),
}

/// Asks for a certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    pub token_id: String,
    pub secret: JoinSecret,
    /// A certificate signing request, PEM. The key that it is for never leaves the machine that made it.
    pub csr: String,
}

/// The secret of a join token, as text. Not shown by `Debug`, overwritten when dropped.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinSecret(String);

/// A message to someone who would join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToJoiner {
    Joined(Joined),
    Refused {
        code: RefusedCode,
        message: String,
    },
    /// Never sent: a message of a type that this version does not know.
    #[serde(skip)]
    Unknown(String),
}

/// A certificate, and what a client must know to dial with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The developer's certificate, PEM.
    pub certificate: String,
    /// The relay's own authority, PEM: nothing else is trusted on the tunnel.
    pub authority: String,
    /// Who the certificate says the developer is.
    pub name: String,
    pub relay: RelayInformation,
}

/// Which relay this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayInformation {
    /// Which replica answered.
    pub id: String,
    /// Names and addresses that the relay's certificate is good for.
    #[serde(default)]
    pub names: Vec<String>,
}

/// Why there is no certificate. Whatever is wrong with a token has one code, so that nothing can be learnt by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedCode {
    Denied,
    /// The signing request is not one, or asks for more than a key's name.
    Request,
    /// Too many tries: later, perhaps.
    Busy,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

impl JoinSecret {
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for whoever checks it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

impl Drop for JoinSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Message for FromJoiner {
    const TYPES: &'static [&'static str] = &["join"];

    fn unknown(kind: String) -> Self {
        Self::Unknown(kind)
    }
}

impl Message for ToJoiner {
    const TYPES: &'static [&'static str] = &["joined", "refused"];

    fn unknown(kind: String) -> Self {
        Self::Unknown(kind)
    }
}
