//! What is said on the control stream, which the client opens right after the tunnel is up, and once more on the
//! connection over which a developer enrols.
//!
//! ```text
//! client -> relay   Hello       relay -> client   Welcome, or Reject and the tunnel is closed
//!                   Announce*                     Accepted | Denied, to each; later perhaps Superseded | Denied
//!                   Withdraw*
//!                   List                          Listing+
//!                   Lost*                         (what the client has lost is closed here too)
//!                   Leave                         (every claim is taken out, then the tunnel is closed)
//!                                                 Drain
//!                   Ping, Pong                    Pong, Ping
//! joiner -> relay   Join        relay -> joiner   Joined | Refused
//! ```
//!
//! A message is four bytes of length, big-endian, and so much JSON: an object whose `type` says which one. Either
//! side may be the older one: a type that it does not know reaches it as `Unknown`, to be counted and ignored, and
//! a field that it does not know is ignored, except inside a claim ([`crate::intercept`]). Messages are answered in
//! order: a `Pong` says that what was sent before its `Ping` has been dealt with.
//!
//! No meaning is given to anything here: who may say what and when is the session's. Texts are the peer's: whoever
//! shows one escapes it.

mod client;
mod join;
mod messages;
mod relay;

pub use client::{FromClient, Hello, InstanceId, MAX_LOST, NotAnInstance};
pub use join::{FromJoiner, Join, JoinSecret, Joined, RefusedCode, RelayInformation, ToJoiner};
pub use messages::{HelloError, Message, Messages, decode, encode, write_message};
pub use relay::{
    DeniedCode, FromRelay, Holder, ListedIntercept, ListedService, RejectCode, Stamp, UnixMillis, Welcome,
    listings,
};

/// The versions of this protocol that this build speaks, the one it likes best last.
pub const VERSIONS: &[u16] = &[1];

/// How long a message may be.
pub const MESSAGE_CAP: usize = 64 * 1024;

/// How long the first message of each side may be: it comes from someone who may yet turn out to be nobody.
pub const FIRST_MESSAGE_CAP: usize = 16 * 1024;

/// The newest version that both sides speak.
pub fn negotiate(theirs: &[u16]) -> Option<u16> {
    VERSIONS.iter().copied().filter(|version| theirs.contains(version)).max()
}

#[cfg(test)]
mod tests;
