//! Join tokens: what a developer is handed to log in for the first time. Holds no expiry and no count of uses: those
//! are the relay's, kept beside the hash.
//!
//! `CULVERT1.` and, in base64url without padding:
//!
//! ```text
//! hint length  1 byte    H
//! fingerprint  32        SHA-256 of the authority's certificate: the relay that the token is for
//! id           8         finds the token in the relay's store; no secret
//! secret       32
//! hint         H         where to dial, as HOST:PORT; may be empty
//! checksum     4         the first bytes of SHA-256 over `CULVERT1.` and everything before
//! ```
//!
//! The length comes first, so that a token that lost its end while it was copied is told apart from one with a typo;
//! and the checksum is there, so that a typo is told apart from a token that the relay does not know.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;
use crate::hex;
use crate::secret::{NoRandomness, Secret, random};

const PREFIX: &str = "CULVERT1.";
const CHECKSUM: usize = 4;
const MAX_HINT: usize = u8::MAX as usize;

/// Everything but the hint.
const FIXED: usize = 1 + Fingerprint::LENGTH + 8 + 32 + CHECKSUM;

/// The longest token with white space to spare; more is not looked at.
const MAX_TEXT: usize = 1024;

/// Bits that no byte uses are let through here, because the end of a token that was cut has them. The checksum's own
/// last bits are checked by writing the token again.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Proof that somebody may log in, together with the only relay it may be shown to.
///
/// `Debug` shows the id and the relay, never the secret; the text itself comes from [`JoinToken::reveal`] only.
pub struct JoinToken {
    relay: String,
    authority: Fingerprint,
    id: TokenId,
    secret: Secret<[u8; 32]>,
}

impl JoinToken {
    /// A new token for the relay with this authority. `relay` is where clients may dial it, and may be empty.
    pub fn mint(authority: Fingerprint, relay: &str) -> Result<Self, MintError> {
        if !is_hint(relay.as_bytes()) {
            return Err(BadRelayHint.into());
        }
        Ok(Self { relay: relay.to_owned(), authority, id: TokenId(random()?), secret: Secret::random()? })
    }

    /// Reads what somebody pasted or piped in. White space around it is ignored. Pure, and safe on any bytes.
    pub fn parse(text: &[u8]) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(TokenError::TooLong);
        }
        let text = text.trim_ascii();
        let body = strip_prefix(text)?;
        if let Some(at) = body.iter().position(|byte| !is_base64url(*byte)) {
            return Err(TokenError::BadCharacter { position: PREFIX.len() + at + 1 });
        }
        let bytes = decode(body);
        let (hint_length, _) = bytes.split_first().ok_or(TokenError::CutShort)?;
        let wanted = FIXED + usize::from(*hint_length);
        // Four characters for each three bytes, and one more than the rest has bytes.
        match body.len().cmp(&(wanted * 4).div_ceil(3)) {
            std::cmp::Ordering::Less => return Err(TokenError::CutShort),
            std::cmp::Ordering::Greater => return Err(TokenError::TooMuch),
            std::cmp::Ordering::Equal => {}
        }
        let token = Self::from_bytes(&bytes).ok_or(TokenError::Mistyped)?;
        if token.reveal().expose().as_bytes() != text {
            return Err(TokenError::Mistyped);
        }
        Ok(token)
    }

    /// `None` when the checksum, or what it covers, is wrong.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (covered, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if checksum(covered) != *sum {
            return None;
        }
        let (_, rest) = covered.split_first()?;
        let (authority, rest) = rest.split_first_chunk::<{ Fingerprint::LENGTH }>()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let (secret, hint) = rest.split_first_chunk::<32>()?;
        if !is_hint(hint) {
            return None;
        }
        Some(Self {
            relay: std::str::from_utf8(hint).ok()?.to_owned(),
            authority: Fingerprint::from_bytes(*authority),
            id: TokenId(*id),
            secret: Secret::new(*secret),
        })
    }

    /// The token as text, to be handed to the developer and to nobody else.
    pub fn reveal(&self) -> Secret<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FIXED + MAX_HINT));
        // A hint is at most 255 bytes: both ways to make a token check it.
        bytes.push(u8::try_from(self.relay.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(self.authority.as_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(self.secret.expose());
        bytes.extend_from_slice(self.relay.as_bytes());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Secret::new(std::mem::take(&mut *text))
    }

    /// Where the relay may be dialled, when the token says so.
    pub fn relay(&self) -> Option<&str> {
        Some(self.relay.as_str()).filter(|relay| !relay.is_empty())
    }

    /// The authority of the only relay that may see this token.
    pub const fn authority(&self) -> Fingerprint {
        self.authority
    }

    pub const fn id(&self) -> TokenId {
        self.id
    }

    /// What the relay keeps of it, and compares a token that is shown to it with.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.secret.expose()).into())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("authority", &self.authority)
            .field("relay", &self.relay)
            .field("secret", &self.secret)
            .finish()
    }
}

fn strip_prefix(text: &[u8]) -> Result<&[u8], TokenError> {
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    if let Some(body) = text.strip_prefix(PREFIX.as_bytes()) {
        return Ok(body);
    }
    if PREFIX.as_bytes().starts_with(text) {
        return Err(TokenError::CutShort);
    }
    let version = text.strip_prefix(b"CULVERT").and_then(|rest| rest.split(|byte| *byte == b'.').next());
    match version {
        Some(digits) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            Err(TokenError::OtherVersion)
        }
        Some(_) | None => Err(TokenError::NotAToken),
    }
}

/// Of characters that were checked before. A lone last character holds no byte; only a token that was cut has one.
fn decode(body: &[u8]) -> Zeroizing<Vec<u8>> {
    let whole = if body.len() % 4 == 1 { body.split_last().map_or(body, |(_, rest)| rest) } else { body };
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TEXT));
    if LENIENT.decode_vec(whole, &mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}

const fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Printable ASCII without spaces: it ends up on a terminal.
fn is_hint(hint: &[u8]) -> bool {
    hint.len() <= MAX_HINT && hint.iter().all(u8::is_ascii_graphic)
}

fn checksum(covered: &[u8]) -> [u8; CHECKSUM] {
    let sum: [u8; 32] = Sha256::new().chain_update(PREFIX).chain_update(covered).finalize().into();
    let [a, b, c, d, ..] = sum;
    [a, b, c, d]
}

/// Finds a token among those that the relay keeps. Not a secret: it may be listed and logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = NotATokenId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text).map(Self).ok_or(NotATokenId)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a join token's id is 16 hexadecimal digits")]
pub struct NotATokenId;

/// SHA-256 of a token's secret. The secret is 256 random bits, so there is nothing to guess that a slow or a salted
/// hash would protect. Compared in constant time.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Matches no token. Comparing with it when an id is unknown takes as long as when it is known.
    pub const NONE: Self = Self([0; 32]);
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

impl FromStr for TokenHash {
    type Err = NotATokenHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text).map(Self).ok_or(NotATokenHash)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a join token's hash is 64 hexadecimal digits")]
pub struct NotATokenHash;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    #[error(transparent)]
    Hint(#[from] BadRelayHint),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("making a join token: the relay's address is longer than {MAX_HINT} characters or not plain text")]
pub struct BadRelayHint;

/// Why a text is not a join token. None of them repeats a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    #[error("reading the join token: there is none")]
    Empty,
    #[error("reading the join token: longer than {MAX_TEXT} characters, so it is something else")]
    TooLong,
    #[error("reading the join token: it does not begin with {PREFIX}")]
    NotAToken,
    #[error("reading the join token: made by another version of culvert, and this one reads {PREFIX}")]
    OtherVersion,
    #[error("reading the join token: character {position} does not belong into one")]
    BadCharacter { position: usize },
    #[error("reading the join token: the token is cut short")]
    CutShort,
    #[error("reading the join token: something follows its end")]
    TooMuch,
    #[error("reading the join token: mistyped or damaged (its checksum is wrong)")]
    Mistyped,
}
