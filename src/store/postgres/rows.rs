//! The rows of accounts: what is read and written of them, and under which condition.

use std::io;

use tokio_postgres::types::Type;

use super::claim::Held;
use super::connection::{Link, Parameter};
use super::intent::intent_id;
use super::trouble::Trouble;
use crate::store::error::Superseded;
use crate::store::name::AccountName;
use crate::store::record::{EndReason, Record};

/// Written by nobody else since this claim read it. `$3` is the claim, `$4` the version it has read.
macro_rules! unless_written_since {
    () => {
        "environment = $1 AND account = $2 AND (version = $4 OR written_by = $3)"
    };
}
pub(super) use unless_written_since;

const LIST: &str = "\
SELECT account FROM pleo_proxy.account WHERE environment = $1 AND record IS NOT NULL
ORDER BY account COLLATE \"C\"";

const NEWER: &str = "\
SELECT account, version, record IS NOT NULL FROM pleo_proxy.account
WHERE environment = $1 AND version > $2";

const SAVE: &str = concat!(
    "UPDATE pleo_proxy.account SET generation = $5, record = $6, written_by = $3,
     version = nextval('pleo_proxy.version'),
     intent_id = CASE WHEN $8 THEN intent_id ELSE $7 END,
     intent_at = CASE WHEN $8 THEN intent_at WHEN $7 IS NULL THEN NULL ELSE clock_timestamp() END
     WHERE ",
    unless_written_since!(),
    " RETURNING version"
);

/// Sets the intent and stretches the claim over the longest token request (5 s until it is sent,
/// 30 s for its answer) and 15 s more, unless another claim is alive. A copy of it that comes late,
/// on a connection that was given up, does not replace the pair that followed it.
const SAVE_INTENT: &str = concat!(
    "UPDATE pleo_proxy.account SET generation = $5, record = $6, written_by = $3,
     version = nextval('pleo_proxy.version'), intent_id = $7, intent_at = clock_timestamp(),
     claim_id = $3, claim_by = $8, claim_until = clock_timestamp() + interval '50 seconds'
     WHERE ",
    unless_written_since!(),
    " AND (claim_id = $3 OR claim_until IS NULL OR claim_until <= clock_timestamp())
     AND coalesce(generation, 0) <= $5 RETURNING version"
);

pub(super) const REMOVE: &str = concat!(
    "UPDATE pleo_proxy.account SET generation = NULL, record = NULL, written_by = $3,
     version = nextval('pleo_proxy.version'), intent_id = NULL, intent_at = NULL WHERE ",
    unless_written_since!(),
    " RETURNING version"
);

/// The same claim may ask for it twice: it is told the number once more.
const SET_ASIDE: &str = concat!(
    "WITH old AS (SELECT record FROM pleo_proxy.account WHERE environment = $1 AND account = $2),
     gone AS (UPDATE pleo_proxy.account SET generation = NULL, record = NULL, written_by = $3,
     version = nextval('pleo_proxy.version'), intent_id = NULL, intent_at = NULL WHERE ",
    unless_written_since!(),
    " AND record IS NOT NULL RETURNING 1),
     moved AS (INSERT INTO pleo_proxy.set_aside (environment, account, at, record)
     SELECT $1, $2, $5, old.record FROM old, gone RETURNING number)
     SELECT number FROM moved UNION ALL
     (SELECT aside.number FROM pleo_proxy.account it JOIN pleo_proxy.set_aside aside
     USING (environment, account)
     WHERE environment = $1 AND account = $2 AND it.written_by = $3 AND it.record IS NULL
     AND aside.at = $5 AND NOT EXISTS (SELECT FROM gone) ORDER BY aside.number DESC LIMIT 1)"
);

/// The rows of one environment.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) link: &'a Link,
    pub(super) environment: &'a str,
}

/// The condition of a write, as parameters 1 to 4 of its statement.
pub(super) struct Unchanged<'a> {
    environment: &'a str,
    account: &'a str,
    claim: &'a str,
    seen: i64,
}

impl<'a> Unchanged<'a> {
    pub(super) fn since(held: &'a Held, environment: &'a str) -> Self {
        let (account, claim) = (held.account.as_str(), held.id.as_str());
        Self { environment, account, claim, seen: held.seen() }
    }

    /// These four, and what is to be written.
    pub(super) fn and<'p>(&'p self, written: &[Parameter<'p>]) -> Vec<Parameter<'p>> {
        let condition: [Parameter<'p>; 4] = [
            (&self.environment, Type::TEXT),
            (&self.account, Type::TEXT),
            (&self.claim, Type::TEXT),
            (&self.seen, Type::INT8),
        ];
        [&condition, written].concat()
    }
}

/// Why a record is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Writing {
    /// For its own sake.
    Record,
    /// A token is about to be sent.
    Intent,
    /// The server has not looked at it.
    TakeBack,
}

/// What is written of a record.
pub(super) struct Content<'a> {
    pub(super) generation: i64,
    pub(super) bytes: &'a [u8],
    pub(super) intent: Option<String>,
    /// The intent of the row stays named, with its time: the grant ended by what became of it, or it is
    /// open still.
    pub(super) keeps_intent: bool,
}

impl<'a> Content<'a> {
    pub(super) fn of(record: &Record, bytes: &'a [u8], what: Writing) -> Self {
        let stays_open = what == Writing::TakeBack && record.open_intent().is_some();
        Self {
            generation: i64::try_from(record.generation).unwrap_or(i64::MAX),
            bytes,
            intent: intent_id(record),
            keeps_intent: is_verdict(record) || stays_open,
        }
    }
}

/// True for a tombstone that says what became of a refresh, and not what a person wanted.
fn is_verdict(record: &Record) -> bool {
    let reason = record.ended.as_ref().map(|ended| &ended.reason);
    matches!(reason, Some(EndReason::Refused { .. } | EndReason::Interrupted { .. }))
}

impl Rows<'_> {
    /// Names of all records, sorted.
    pub(super) async fn list(&self) -> Result<Vec<AccountName>, Trouble> {
        let rows = self.link.query(LIST, &[(&self.environment as _, Type::TEXT)]).await?;
        // A name that is none was not written by this program.
        Ok(rows.iter().filter_map(|row| row.try_get::<_, &str>(0).ok()?.parse().ok()).collect())
    }

    /// The rows with a later version, and whether each has a record.
    pub(super) async fn newer_than(
        &self,
        version: i64,
    ) -> Result<Vec<(AccountName, i64, bool)>, Trouble> {
        let parameters = [(&self.environment as _, Type::TEXT), (&version as _, Type::INT8)];
        let rows = self.link.query(NEWER, &parameters).await?;
        let read = |row: &tokio_postgres::Row| {
            let name = row.try_get::<_, &str>(0).ok()?.parse().ok()?;
            Some((name, row.try_get(1).ok()?, row.try_get(2).ok()?))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Replaces a record.
    pub(super) async fn save(&self, held: &Held, content: &Content<'_>) -> io::Result<i64> {
        let unchanged = Unchanged::since(held, self.environment);
        let parameters = unchanged.and(&[
            (&content.generation as _, Type::INT8),
            (&content.bytes as _, Type::BYTEA),
            (&content.intent as _, Type::TEXT),
            (&content.keeps_intent as _, Type::BOOL),
        ]);
        written(&self.link.query(SAVE, &parameters).await?)
    }

    /// Replaces a record by one with an intent.
    pub(super) async fn save_intent(
        &self,
        held: &Held,
        content: &Content<'_>,
        holder: &str,
    ) -> io::Result<i64> {
        let unchanged = Unchanged::since(held, self.environment);
        let parameters = unchanged.and(&[
            (&content.generation as _, Type::INT8),
            (&content.bytes as _, Type::BYTEA),
            (&content.intent as _, Type::TEXT),
            (&holder as _, Type::TEXT),
        ]);
        written(&self.link.query(SAVE_INTENT, &parameters).await?)
    }

    /// Removes a record; the row stays, for those who poll.
    pub(super) async fn remove(&self, held: &Held) -> io::Result<()> {
        let unchanged = Unchanged::since(held, self.environment);
        let parameters = unchanged.and(&[]);
        written(&self.link.query(REMOVE, &parameters).await?).map(drop)
    }

    /// Moves a record out of the way and returns its number there.
    pub(super) async fn set_aside(&self, held: &Held, unix_time: i64) -> io::Result<i64> {
        let unchanged = Unchanged::since(held, self.environment);
        let parameters = unchanged.and(&[(&unix_time as _, Type::INT8)]);
        written(&self.link.query(SET_ASIDE, &parameters).await?)
    }
}

/// The version that was written; none: the row is not as this holder has read it.
pub(super) fn written(rows: &[tokio_postgres::Row]) -> io::Result<i64> {
    let row =
        rows.first().ok_or_else(|| io::Error::new(io::ErrorKind::ResourceBusy, Superseded))?;
    Ok(row.try_get(0).map_err(Trouble::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::DatabaseSecret;
    use crate::store::lock::Try;
    use crate::store::postgres_server::Database;
    use crate::store::{Database as Settings, PostgresStore, Sealing, UrlSource};

    #[tokio::test]
    async fn a_record_that_is_set_aside_twice_is_there_once() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap();
        database.run(
            "INSERT INTO pleo_proxy.account (environment, account, record) \
             VALUES ('sandbox', 'default', 'damaged')",
        );
        let name = AccountName::fallback();
        let Try::Locked(held) = store.try_lock(&name).await.unwrap() else { panic!("busy") };
        let number = store.rows().set_aside(&held, 1).await.unwrap();
        assert_eq!(store.rows().set_aside(&held, 1).await.unwrap(), number);
        assert_eq!(database.run("SELECT count(*) FROM pleo_proxy.set_aside").trim(), "1");
    }
}
