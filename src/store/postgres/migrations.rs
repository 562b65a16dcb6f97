//! The tables, made and extended in numbered steps. A step only adds: replicas of the version before
//! go on working beside this one.

use std::time::Duration;

use super::connection::Link;
use super::trouble::Trouble;
use crate::timeout::while_running;

pub(super) const STEPS: [&str; 2] =
    [include_str!("migrations/0001_accounts.sql"), include_str!("migrations/0002_logins.sql")];
/// Rights of the role that proxies use.
const ROLE: &str = include_str!("migrations/role.sql");

const APPLIED: &str = "SELECT coalesce(max(number), 0) FROM pleo_proxy.migration";

/// One process at a time, for the length of the transaction (the number is the first bytes of
/// "pleo-proxy"); then the list of what was done.
const BEFORE: &str = "\
SELECT pg_advisory_xact_lock(8100118219);
CREATE SCHEMA IF NOT EXISTS pleo_proxy;
CREATE TABLE IF NOT EXISTS pleo_proxy.migration (
    number integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
";

/// Time for all steps.
const ALL_STEPS: Duration = Duration::from_secs(60);
/// How long one step waits for others that use the tables or change them.
pub(super) const LOCKS: Duration = Duration::from_secs(10);

/// Brings the tables up to date; where they are, nothing is changed. Waits for others at most
/// `locks` at a time.
pub(super) async fn apply(link: &Link, locks: Duration) -> Result<(), Trouble> {
    if applied(link).await?.is_some_and(is_current) {
        return Ok(());
    }
    while_running(ALL_STEPS, extend(link, locks)).await.unwrap_or_else(|| {
        let why = format!("its tables were not made or extended within {ALL_STEPS:?}; try again");
        Err(Trouble::Unreachable(why))
    })
}

async fn extend(link: &Link, locks: Duration) -> Result<(), Trouble> {
    let mut connected = link.connect().await?;
    let transaction = connected.client.transaction().await?;
    let limits = format!(
        "SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = '60s'",
        locks.as_millis()
    );
    transaction.batch_execute(&limits).await?;
    transaction.batch_execute(BEFORE).await?;
    // What another process has done meanwhile counts.
    let rows = transaction.query_typed(APPLIED, &[]).await?;
    let applied: i32 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    for (number, step) in (1..).zip(STEPS).filter(|(number, _)| *number > applied) {
        transaction.batch_execute(step).await?;
        transaction.batch_execute(&done(number)).await?;
    }
    Ok(transaction.commit().await?)
}

/// The number of the last step that was done; none: there are no tables.
pub(super) async fn applied(link: &Link) -> Result<Option<i32>, Trouble> {
    match link.query(APPLIED, &[]).await {
        Ok(rows) => {
            let applied: i32 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
            Ok(Some(applied).filter(|applied| *applied > 0))
        }
        Err(trouble) if trouble.is_without_tables() => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Rights that the role of proxies is given.
pub(super) struct Grant {
    /// Such as `SELECT, INSERT`.
    pub(super) privileges: &'static str,
    on: &'static str,
}

impl Grant {
    /// Name of the table or sequence in the schema; empty for the schema itself.
    pub(super) fn object(&self) -> &'static str {
        self.on.split_once('.').map_or("", |(_, object)| object)
    }

    /// The statement that gives them to a role.
    pub(super) fn to(&self, role: &str) -> String {
        let role = role.replace('"', "\"\"");
        format!("GRANT {} ON {} TO \"{role}\"", self.privileges, self.on)
    }
}

/// What the script grants.
pub(super) fn grants() -> impl Iterator<Item = Grant> {
    ROLE.lines().filter_map(|line| {
        let (privileges, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
        Some(Grant { privileges, on: rest.strip_suffix(" TO pleo_proxy;")? })
    })
}

/// True if the tables are those of this version or of a later one.
fn is_current(applied: i32) -> bool {
    usize::try_from(applied).is_ok_and(|applied| applied >= STEPS.len())
}

/// What the owner of a database runs once, and again for a later version.
pub(super) fn script() -> String {
    let mut text = "\
-- Tables and role of pleo-proxy, for the owner of the database. It can be run again.
\\set ON_ERROR_STOP on
BEGIN;
"
    .to_owned();
    text += BEFORE;
    for (number, step) in (1..).zip(STEPS) {
        text += &format!(
            "\nDO $step$ BEGIN\n\
             IF NOT EXISTS (SELECT FROM pleo_proxy.migration WHERE number = {number}) THEN\n\
             EXECUTE $sql$\n{step}{}\n$sql$;\nEND IF;\nEND $step$;\n",
            done(number)
        );
    }
    text + "\n" + ROLE + "COMMIT;\n"
}

fn done(number: i32) -> String {
    format!("INSERT INTO pleo_proxy.migration (number) VALUES ({number});")
}

#[cfg(test)]
mod tests {
    use super::super::address::Address;
    use super::super::news::News;
    use super::super::tls::Tls;
    use super::*;
    use crate::secret::DatabaseSecret;
    use crate::store::postgres_server::Database;
    use crate::store::{Database as Settings, PostgresStore, Sealing, UrlSource};

    #[tokio::test]
    async fn who_waits_too_long_for_another_session_is_told_so() {
        let Some(database) = Database::create() else { return };
        let link = || {
            Link::new(
                Address::parse(&DatabaseSecret::new(database.url.as_str())).unwrap(),
                Tls::Local,
                News::new("me".into()),
            )
        };
        let holder = link().connect().await.unwrap();
        holder.client.batch_execute("SELECT pg_advisory_lock(8100118219)").await.unwrap();
        let own = link();
        let waits = apply(&own, Duration::from_millis(100));
        let trouble = tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap();
        let trouble = trouble.unwrap_err().to_string();
        assert!(trouble.contains("another session"), "{trouble}");
        drop(holder);
        while apply(&link(), Duration::from_millis(100)).await.is_err() {}
        assert_eq!(applied(&link()).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn a_store_with_older_tables_is_not_called_empty() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let list = async || {
            let store = PostgresStore::inspect(&settings, "sandbox", Sealing::none()).await;
            store.unwrap().list().await.unwrap().len()
        };
        assert_eq!(list().await, 0);
        drop(PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap());
        database.run(
            "DELETE FROM pleo_proxy.migration WHERE number = 2; \
             INSERT INTO pleo_proxy.account (environment, account, record) \
             VALUES ('sandbox', 'default', 'x')",
        );
        assert_eq!(list().await, 1);
    }
}
