//! Who is who: the relay's authority, the certificates it signs, join tokens, identities and TLS configurations.
//!
//! Holds no socket, no listener, no store and no policy. It answers "who is this", never "may they". Nothing here
//! reads the clock: whoever asks for a certificate says what time it is.
//!
//! The one crypto provider is ring. It is passed to rustls explicitly everywhere; a process default is neither
//! installed nor relied on.

mod authority;
mod csr;
mod developer;
mod fingerprint;
mod hex;
mod identity;
mod join;
mod leaf;
mod pem;
pub mod private_file;
mod relay_keys;
mod secret;
mod serial;
pub mod tls;
mod validity;

pub use authority::{Authority, AuthorityError};
pub use csr::CsrRefused;
pub use developer::{DeveloperKey, DeveloperKeyError};
pub use fingerprint::{Fingerprint, NotAFingerprint, find_authority};
pub use identity::{DeveloperName, Identity, NotADeveloperName, NotAnIdentity};
pub use join::{
    BadRelayHint, JoinToken, MintError, NotATokenHash, NotATokenId, TokenError, TokenHash, TokenId,
};
pub use leaf::{Issued, Leaf, LeafError};
pub use pem::{NotACertificate, decode_certificate, encode_certificate};
pub use relay_keys::{RelayId, RelayKeys, RelayKeysError};
pub use secret::{NoRandomness, Secret};
pub use serial::{NotASerial, Serial};
