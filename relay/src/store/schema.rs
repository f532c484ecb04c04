//! The store's tables, version by version. A version that was released is never edited: a change is the next one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::StoreError;

/// From an empty file to the newest version, one step each. The file's `user_version` counts the steps taken.
const STEPS: &[&str] = &[
    // Times are seconds since 1970. A secret is kept as its hash only.
    "CREATE TABLE join_tokens (
        id        TEXT PRIMARY KEY,
        hash      TEXT NOT NULL,
        name      TEXT NOT NULL,
        created   INTEGER NOT NULL,
        expires   INTEGER NOT NULL,
        uses_left INTEGER NOT NULL CHECK (uses_left >= 0)
    ) STRICT;",
];

pub(super) fn open(path: &Path, busy: Duration) -> Result<Connection, StoreError> {
    let failed = |cause: rusqlite::Error| match cause.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path: path.to_owned(), found: cause.to_string() }
        }
        _ => StoreError::Open { path: path.to_owned(), cause },
    };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(busy).map_err(failed)?;
    check(&connection, path).map_err(failed)??;
    // A reader does not wait for a writer, and a commit is one sync.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    // A token that was used up must be so after a power cut, too.
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    migrate(&mut connection, path).map_err(failed)??;
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<Result<(), StoreError>, rusqlite::Error> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    let sound = found == "ok";
    Ok(if sound { Ok(()) } else { Err(StoreError::Damaged { path: path.to_owned(), found }) })
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<Result<(), StoreError>, rusqlite::Error> {
    // Immediate: two processes that start at once take the steps one after the other.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let Some(missing) = usize::try_from(found).ok().and_then(|taken| STEPS.get(taken..)) else {
        return Ok(Err(StoreError::Newer { path: path.to_owned(), found, known }));
    };
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(Ok(()))
}
