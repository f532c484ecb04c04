//! What the relay must not forget: for now, join tokens. One SQLite file, `culvert.db`, in the data directory; every
//! change is one transaction, so that a kill at any instant leaves the state before it or after it.
//!
//! This is the seam behind which another store may come later, and therefore small and asynchronous. Nothing here
//! decides who may do what, and nothing on a request's path comes here.
//!
//! `token create` runs as another process than `serve`, on the same file: neither holds a transaction across anything
//! slow, and both wait for each other.

mod schema;
mod tokens;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;

pub use tokens::{MintError, NewToken, TokenRefused};

const FILE: &str = "culvert.db";

/// How long one process waits for the other's transaction; they take milliseconds.
const BUSY: Duration = Duration::from_secs(5);

/// A handle of the store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error(transparent)]
    Directory(#[from] culvert_certs::private_file::PrivateFileError),
    #[error("opening the store {}: {cause}", path.display())]
    Create { path: PathBuf, cause: io::Error },
    #[error("opening the store {}: {cause}", path.display())]
    Open { path: PathBuf, cause: rusqlite::Error },
    #[error(
        "opening the store {}: it is damaged ({found}): restore it from a backup, or move it away to start with an \
         empty one, at the cost of the join tokens in it",
        path.display()
    )]
    Damaged { path: PathBuf, found: String },
    #[error("opening the store {}: a newer culvert-relay made it (version {found}, this one knows {known})", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{doing}: {cause}")]
    Query { doing: &'static str, cause: rusqlite::Error },
    #[error("{doing}: the store's task was stopped")]
    Stopped { doing: &'static str },
}

impl Store {
    /// Opens `culvert.db` in `dir`, or makes it there (0600); checks it and brings it to this version's schema. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        culvert_certs::private_file::directory(dir)?;
        let path = dir.join(FILE);
        // SQLite gives its journal the same permissions as the file.
        let mut private = OpenOptions::new();
        private.read(true).append(true).create(true).mode(0o600);
        private.open(&path).map_err(|cause| StoreError::Create { path: path.clone(), cause })?;
        let connection = schema::open(&path, BUSY)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs a query where it may block. Dropping the future does not stop it.
    async fn run<T, F>(&self, doing: &'static str, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        match tokio::task::spawn_blocking(move || query(&mut connection.lock())).await {
            Ok(result) => result.map_err(|cause| StoreError::Query { doing, cause }),
            Err(_) => Err(StoreError::Stopped { doing }),
        }
    }
}
