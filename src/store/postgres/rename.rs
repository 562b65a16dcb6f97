//! A record moves to another row: the only work here that is a transaction of several statements.

use std::io;
use std::time::Duration;

use tokio_postgres::types::Type;
use zeroize::Zeroizing;

use super::claim::Held;
use super::rows::{Content, REMOVE, Rows, Unchanged, Writing, unless_written_since, written};
use super::trouble::Trouble;
use crate::store::record::Record;
use crate::timeout::while_running;

/// Time for all of it: less than that of the claims, which do not grow meanwhile.
const RENAME: Duration = Duration::from_secs(10);

/// The database ends it too, so that rows do not stay locked for one that was cut off.
const LIMITS: &str = "\
SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '2s';
SET LOCAL idle_in_transaction_session_timeout = '10s'";

const TO_MOVE: &str = "\
SELECT record FROM pleo_proxy.account
WHERE environment = $1 AND account = $2 AND record IS NOT NULL FOR UPDATE";

/// Only into a row without a record.
const MOVE_IN: &str = concat!(
    "UPDATE pleo_proxy.account SET generation = $5, record = $6, written_by = $3,
     version = nextval('pleo_proxy.version'), intent_id = $7,
     intent_at = CASE WHEN $7 IS NULL THEN NULL ELSE clock_timestamp() END
     WHERE record IS NULL AND ",
    unless_written_since!(),
    " RETURNING version"
);

/// Whether the move was done. Waits for its transaction, if the database still has it.
const WRITTEN: &str = "\
SELECT version, record IS NOT NULL, written_by = $3 FROM pleo_proxy.account
WHERE environment = $1 AND account = $2 FOR UPDATE";

/// A record that gets another name, which has none.
pub(super) struct Rename<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) from: &'a Held,
    pub(super) to: &'a Held,
}

impl Rename<'_> {
    /// Moves it in one transaction. `reseal` gives the record and the bytes of the new name.
    pub(super) async fn run<R>(&self, reseal: R) -> io::Result<i64>
    where
        R: AsyncFnOnce(Vec<u8>) -> io::Result<(Record, Zeroizing<Vec<u8>>)>,
    {
        let moved = while_running(RENAME, self.move_record(reseal)).await;
        let failed = match moved {
            Some(Err(error)) if error.kind() == io::ErrorKind::NotConnected => error,
            Some(moved) => return moved,
            None => {
                let why = format!("it did not answer within {RENAME:?}");
                Trouble::Unreachable(why).into()
            }
        };
        // The answer to the last step may be all that is missing.
        match self.was_moved().await {
            Ok(Some(version)) => Ok(version),
            Ok(None) => Err(failed),
            Err(trouble) => {
                let unknown = "; whether the account has its new name by now is not known: see pleo-proxy status";
                Err(Trouble::Unreachable(format!("{failed}, {trouble}{unknown}")).into())
            }
        }
    }

    async fn move_record<R>(&self, reseal: R) -> io::Result<i64>
    where
        R: AsyncFnOnce(Vec<u8>) -> io::Result<(Record, Zeroizing<Vec<u8>>)>,
    {
        let Self { rows: Rows { link, environment }, from, to } = self;
        let mut connected = link.connect().await?;
        let transaction = connected.client.transaction().await.map_err(Trouble::from)?;
        transaction.batch_execute(LIMITS).await.map_err(Trouble::from)?;
        let old = from.account.as_str();
        let parameters = [(environment as _, Type::TEXT), (&old as _, Type::TEXT)];
        let found = transaction.query_typed(TO_MOVE, &parameters).await.map_err(Trouble::from)?;
        let row = found.first().ok_or(io::ErrorKind::NotFound)?;
        let (record, bytes) = reseal(row.try_get(0).map_err(Trouble::from)?).await?;
        let content = Content::of(&record, &bytes, Writing::Record);
        let unchanged = Unchanged::since(to, environment);
        let parameters = unchanged.and(&[
            (&content.generation as _, Type::INT8),
            (&content.bytes as _, Type::BYTEA),
            (&content.intent as _, Type::TEXT),
        ]);
        let moved = transaction.query_typed(MOVE_IN, &parameters).await.map_err(Trouble::from)?;
        let version = written(&moved).map_err(|_| io::ErrorKind::AlreadyExists)?;
        let unchanged = Unchanged::since(from, environment);
        let left =
            transaction.query_typed(REMOVE, &unchanged.and(&[])).await.map_err(Trouble::from)?;
        written(&left)?;
        transaction.commit().await.map_err(Trouble::from)?;
        Ok(version)
    }

    /// The version of the moved record, if both rows say that it was moved.
    async fn was_moved(&self) -> Result<Option<i64>, Trouble> {
        let old = self.written_row(self.from).await?;
        let new = self.written_row(self.to).await?;
        let is_gone = old.is_some_and(|(_, has_record)| !has_record);
        Ok(new.filter(|(_, has_record)| is_gone && *has_record).map(|(version, _)| version))
    }

    /// A row that this claim has written: its version, and whether it has a record.
    async fn written_row(&self, held: &Held) -> Result<Option<(i64, bool)>, Trouble> {
        let name = held.account.as_str();
        let parameters = [
            (&self.rows.environment as _, Type::TEXT),
            (&name as _, Type::TEXT),
            (&held.id as _, Type::TEXT),
        ];
        let rows = self.rows.link.query(WRITTEN, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let is_ours: bool = row.try_get(2)?;
        Ok(if is_ours { Some((row.try_get(0)?, row.try_get(1)?)) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::DatabaseSecret;
    use crate::store::lock::Try;
    use crate::store::name::AccountName;
    use crate::store::postgres_server::Database;
    use crate::store::{Database as Settings, EndReason, PostgresStore, Sealing, UrlSource};

    async fn held(store: &PostgresStore, account: &str) -> Arc<Held> {
        let name: AccountName = account.parse().unwrap();
        let Try::Locked(held) = store.try_lock(&name).await.unwrap() else { panic!("busy") };
        Arc::new(held)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_row_that_another_session_keeps_locked_is_not_waited_for_without_end() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap();
        let store = Arc::new(store);
        let (from, to) = (held(&store, "old").await, held(&store, "new").await);
        store.save(&from, &Record::tombstone(1, 0, EndReason::LoggedOut)).await.unwrap();
        let session = store.claims.link.connect().await.unwrap();
        let lock = "BEGIN; SELECT FROM pleo_proxy.account WHERE account = 'old' FOR UPDATE";
        session.client.batch_execute(lock).await.unwrap();
        let moved = async || Rename { rows: store.rows(), from: &from, to: &to }.was_moved().await;
        let renaming = store.rename(&from, &to);
        let refused = tokio::time::timeout(Duration::from_secs(30), renaming).await.unwrap();
        assert!(refused.unwrap_err().to_string().contains("another session"));
        session.client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(moved().await.unwrap(), None);
        store.rename(&from, &to).await.unwrap();
        assert!(moved().await.unwrap().is_some());
    }
}
