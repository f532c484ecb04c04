//! Join tokens as the relay keeps them: a hash, who it is for, until when, how often. Never the secret.

use std::time::{Duration, SystemTime};

use culvert_certs::{DeveloperName, Fingerprint, JoinToken, TokenHash, TokenId};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension as _, Row, TransactionBehavior};

use super::{Store, StoreError};

/// A used-up or expired token is kept for so long, so that whoever shows it is told which of the two it is.
const KEPT_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a new token is good for.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub name: DeveloperName,
    pub expires: SystemTime,
    pub uses: u32,
    /// Where clients may dial the relay; may be empty.
    pub relay: String,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    #[error(transparent)]
    Token(#[from] culvert_certs::MintError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token lets nobody in. The last two are only ever said of a token whose secret was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    #[error("no such token, or not its secret")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token is used up")]
    UsedUp,
}

impl Store {
    /// Makes a token for the relay with this authority, and keeps its hash.
    pub async fn mint(&self, authority: Fingerprint, wanted: NewToken) -> Result<JoinToken, MintError> {
        let token = JoinToken::mint(authority, &wanted.relay)?;
        let (id, hash) = (token.id().to_string(), token.hash().to_string());
        let now = SystemTime::now();
        self.run("keeping a join token", move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute("DELETE FROM join_tokens WHERE expires < ?1", [seconds(now) - kept_after()])?;
            transaction.execute(
                "INSERT INTO join_tokens (id, hash, name, created, expires, uses_left) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (id, hash, wanted.name.as_str(), seconds(now), seconds(wanted.expires), wanted.uses),
            )?;
            transaction.commit()
        })
        .await?;
        Ok(token)
    }

    /// Whom a token is for, if it is good now; nothing is used up (see [`Store::spend`]). `None` stands for something
    /// that is no token at all, and takes the same work as a wrong one.
    pub async fn check(
        &self,
        shown: Option<(TokenId, TokenHash)>,
        now: SystemTime,
    ) -> Result<Result<(TokenId, DeveloperName), TokenRefused>, StoreError> {
        let id = shown.map_or_else(String::new, |(id, _)| id.to_string());
        let kept = self
            .run("looking up a join token", move |connection| {
                connection
                    .query_row(
                        "SELECT hash, name, expires, uses_left FROM join_tokens WHERE id = ?1",
                        [id],
                        Kept::read,
                    )
                    .optional()
            })
            .await?;
        Ok(judge(kept, shown, now))
    }

    /// Takes one use off a token, in one statement, so that the last use is given once however many ask at once.
    pub async fn spend(&self, id: TokenId, now: SystemTime) -> Result<Result<(), TokenRefused>, StoreError> {
        let spent = self
            .run("using a join token", move |connection| {
                connection.execute(
                    "UPDATE join_tokens SET uses_left = uses_left - 1
                     WHERE id = ?1 AND uses_left > 0 AND expires > ?2",
                    (id.to_string(), seconds(now)),
                )
            })
            .await?;
        Ok(if spent == 1 { Ok(()) } else { Err(TokenRefused::UsedUp) })
    }
}

struct Kept {
    hash: TokenHash,
    name: DeveloperName,
    expires: i64,
    uses_left: i64,
}

impl Kept {
    fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            hash: parsed(row, 0)?,
            name: parsed(row, 1)?,
            expires: row.get(2)?,
            uses_left: row.get(3)?,
        })
    }
}

/// The same work whether the id is known or not; and only who knows the secret learns what else is wrong.
fn judge(
    kept: Option<Kept>,
    shown: Option<(TokenId, TokenHash)>,
    now: SystemTime,
) -> Result<(TokenId, DeveloperName), TokenRefused> {
    let expected = kept.as_ref().map_or(TokenHash::NONE, |kept| kept.hash);
    let right = expected == shown.map_or(TokenHash::NONE, |(_, hash)| hash);
    match (kept, shown) {
        (Some(kept), Some(_)) if right && kept.expires <= seconds(now) => Err(TokenRefused::Expired),
        (Some(kept), Some(_)) if right && kept.uses_left <= 0 => Err(TokenRefused::UsedUp),
        (Some(kept), Some((id, _))) if right => Ok((id, kept.name)),
        _ => Err(TokenRefused::Unknown),
    }
}

fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.get::<_, String>(column)?
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn kept_after() -> i64 {
    i64::try_from(KEPT_AFTER.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
