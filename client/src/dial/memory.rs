//! Which rung carried the last tunnel to a relay, in one small private file for each, so that a network without UDP costs its
//! head start once and not at every dial. Only advice: what cannot be read is not there, what cannot be written is left.

use std::path::{Path, PathBuf};

use culvert_certs::private_file;
use culvert_protocol::tunnel::Transport;

use crate::address::RelayAddress;

/// `None`: nothing is known, or is to be kept.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    directory: Option<PathBuf>,
}

impl Memory {
    /// `$XDG_STATE_HOME/culvert` for the command.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()) }
    }

    pub(super) async fn recall(&self, relay: &RelayAddress) -> Option<Transport> {
        let path = self.path(relay)?;
        let read = tokio::task::spawn_blocking(move || private_file::read(&path)).await;
        let text = read.ok()?.ok()??;
        Transport::ALL.into_iter().find(|rung| text.expose() == line(*rung).as_bytes())
    }

    pub(super) async fn remember(&self, relay: &RelayAddress, rung: Transport) {
        let (Some(path), Some(directory)) = (self.path(relay), self.directory.clone()) else { return };
        let writing = move || {
            private_file::directory(&directory)?;
            private_file::replace(&path, line(rung).as_bytes())
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(writing).await {
            tracing::debug!(%error, "which rung worked is not remembered");
        }
    }

    fn path(&self, relay: &RelayAddress) -> Option<PathBuf> {
        Some(self.directory.as_deref()?.join(format!("{}.rung", relay.file_stem())))
    }
}

/// With its end, so that a torn file is none.
fn line(rung: Transport) -> String {
    format!("{rung}\n")
}

/// `$XDG_STATE_HOME/culvert`, or `~/.local/state/culvert` (XDG base directories, "Environment variables").
pub fn directory(xdg_state_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let absolute = |path: &&Path| path.is_absolute();
    let state = xdg_state_home.filter(absolute).map(Path::to_path_buf);
    state.or_else(|| Some(home.filter(absolute)?.join(".local/state"))).map(|state| state.join("culvert"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_last_good_rung_is_remembered_for_each_relay() {
        let root = tempfile::tempdir().unwrap();
        let memory = Memory::at(root.path().join("state/culvert"));
        let (one, other): (RelayAddress, RelayAddress) =
            ("one:1".parse().unwrap(), "https://one:1/t".parse().unwrap());
        assert_eq!(memory.recall(&one).await, None);
        for rung in Transport::ALL {
            memory.remember(&one, rung).await;
            assert_eq!(memory.recall(&one).await, Some(rung));
        }
        assert_eq!(memory.recall(&other).await, None);
        assert_eq!(Memory::default().recall(&one).await, None);

        let path = memory.path(&one).unwrap();
        for torn in ["", "w", "ws", "ws\nws\n", "\0\0\0"] {
            private_file::replace(&path, torn.as_bytes()).unwrap();
            assert_eq!(memory.recall(&one).await, None, "{torn:?}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        memory.remember(&one, Transport::Tls).await;
        assert_eq!(memory.recall(&one).await, None, "what is in the way is left alone");
    }

    #[test]
    fn the_directory_follows_the_environment() {
        let (xdg, home) = (Path::new("/xdg"), Path::new("/home/alice"));
        assert_eq!(directory(Some(xdg), Some(home)), Some("/xdg/culvert".into()));
        assert_eq!(directory(None, Some(home)), Some("/home/alice/.local/state/culvert".into()));
        assert_eq!(directory(Some(Path::new("x")), None), None);
    }
}
