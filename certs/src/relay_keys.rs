//! What a relay must remember about itself between two starts: its id, and the keys with which its QUIC endpoint
//! recognises connections of its former life. Holds no endpoint.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::hex;
use crate::private_file::{self, PrivateFileError};
use crate::secret::{NoRandomness, Secret, random};

const FILE: &str = "relay.keys";
const HEADING: &str = "culvert relay keys 1";

/// The file has under 400 characters; room for the buffer in which it is put together, so that it never grows.
const FILE_SIZE: usize = 1024;

/// With both keys the same after a restart, clients learn within a round trip that their connection is gone. Without
/// them they wait for the idle timeout.
#[derive(Debug)]
#[non_exhaustive]
pub struct RelayKeys {
    pub id: RelayId,
    /// Signs QUIC's stateless resets.
    pub reset: Secret<[u8; 64]>,
    /// Marks the connection ids that this relay gave out. The reset key alone does nothing: a packet with an unknown
    /// id would be dropped before it is asked for.
    pub connection_id: Secret<[u8; 64]>,
}

impl RelayKeys {
    /// Opens `relay.keys` (0600) in `dir`, or makes it there. Two processes that start at once end with the same keys.
    pub fn open_or_create(dir: &Path) -> Result<Self, RelayKeysError> {
        private_file::directory(dir)?;
        let path = dir.join(FILE);
        let mut text = private_file::read(&path)?;
        if text.is_none() {
            let made =
                Self { id: RelayId(random()?), reset: Secret::random()?, connection_id: Secret::random()? };
            if private_file::create(&path, made.to_text().as_bytes())? {
                return Ok(made);
            }
            text = private_file::read(&path)?;
        }
        text.and_then(|text| Self::from_text(text.expose())).ok_or(RelayKeysError::Corrupt { path })
    }

    fn to_text(&self) -> Zeroizing<String> {
        let reset = Zeroizing::new(hex::encode(self.reset.expose()));
        let connection_id = Zeroizing::new(hex::encode(self.connection_id.expose()));
        let mut text = Zeroizing::new(String::with_capacity(FILE_SIZE));
        text.extend([HEADING, "\nid ", hex::encode(&self.id.0).as_str()]);
        text.extend(["\nreset ", reset.as_str(), "\nconnection-id ", connection_id.as_str(), "\n"]);
        text
    }

    fn from_text(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        if lines.next()? != HEADING {
            return None;
        }
        let id = hex::decode(lines.next()?.strip_prefix("id ")?)?;
        let reset = Secret::new(hex::decode(lines.next()?.strip_prefix("reset ")?)?);
        let connection_id = Secret::new(hex::decode(lines.next()?.strip_prefix("connection-id ")?)?);
        lines.next().is_none().then_some(Self { id: RelayId(id), reset, connection_id })
    }
}

/// Which relay this is: random, the same after a restart, 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId([u8; 8]);

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayId({self})")
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayKeysError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error(
        "reading the relay's keys: {} is damaged: restore it from a backup, or remove it to have new ones made, at \
         the cost that connected clients notice the restart late",
        path.display()
    )]
    Corrupt { path: PathBuf },
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_the_same_one_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let first = RelayKeys::open_or_create(&dir).unwrap();
        let second = RelayKeys::open_or_create(&dir).unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!(first.id.to_string().len(), 16);
        assert_eq!(first.reset.expose(), second.reset.expose());
        assert_eq!(first.connection_id.expose(), second.connection_id.expose());
        assert_ne!(first.reset.expose(), first.connection_id.expose());
        assert!(!format!("{first:?}").contains(&hex::encode(&first.reset.expose()[..4])));
    }

    #[test]
    fn two_relays_that_start_at_once_share_their_keys() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let ids = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| RelayKeys::open_or_create(&dir).unwrap().id)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        RelayKeys::open_or_create(&dir).unwrap();
        let path = dir.join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for damaged in
            [&whole[..whole.len() / 2], b"".as_slice(), b"\xff", &[whole.as_slice(), b"x\n"].concat()]
        {
            std::fs::write(&path, damaged).unwrap();
            let error = RelayKeys::open_or_create(&dir).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
    }
}
