//! Reads that are asked for at the same time become one statement: a proxy with thousands of
//! accounts reads all of them when it starts.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::Link;
use super::trouble::Trouble;
use crate::store::name::AccountName;

const LOAD: &str = "\
SELECT account, record, version FROM pleo_proxy.account
WHERE environment = $1 AND account = ANY($2) AND record IS NOT NULL";

/// The bytes of a record and its version.
pub(super) type Stored = (Vec<u8>, i64);
type Answer = Result<Option<Stored>, Trouble>;
/// An account, and who waits for its record.
type Asked = (AccountName, oneshot::Sender<Answer>);

/// Reads that wait for the next statement.
#[derive(Clone, Debug)]
pub(super) struct Loads {
    link: Arc<Link>,
    environment: String,
    runtime: Handle,
    waiting: Arc<Mutex<Vec<Asked>>>,
}

impl Loads {
    pub(super) fn new(link: Arc<Link>, environment: String, runtime: Handle) -> Self {
        Self { link, environment, runtime, waiting: Arc::default() }
    }

    /// Reads a row as it is now, or later.
    pub(super) async fn load(&self, account: &AccountName) -> Answer {
        let (sender, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting.lock();
            waiting.push((account.clone(), sender));
            waiting.len() == 1
        };
        if is_first {
            let loads = self.clone();
            self.runtime.spawn(async move {
                // What else is about to be asked for comes with it.
                tokio::task::yield_now().await;
                loads.answer_all().await;
            });
        }
        answer.await.unwrap_or_else(|_| Err(Trouble::Unreachable("the read was given up".into())))
    }

    async fn answer_all(&self) {
        let asked = mem::take(&mut *self.waiting.lock());
        let names: Vec<_> = asked.iter().map(|(account, _)| account.as_str()).collect();
        let parameters = [(&self.environment as _, Type::TEXT), (&names as _, Type::TEXT_ARRAY)];
        let read = self.link.query(LOAD, &parameters).await;
        let rows =
            read.and_then(|rows| rows.iter().map(stored).collect::<Result<HashMap<_, _>, _>>());
        for (account, sender) in asked {
            let answer = rows.as_ref().map(|rows| rows.get(account.as_str()).cloned());
            // Whoever asked may have left.
            let _ = sender.send(answer.map_err(Trouble::clone));
        }
    }
}

fn stored(row: &Row) -> Result<(String, Stored), Trouble> {
    Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use crate::secret::DatabaseSecret;
    use crate::store::name::AccountName;
    use crate::store::postgres_server::Database;
    use crate::store::{Database as Settings, PostgresStore, Sealing, UrlSource};

    #[tokio::test]
    async fn each_of_many_reads_at_once_gets_its_own_record() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap();
        database.run(
            "INSERT INTO pleo_proxy.account (environment, account, record) \
             SELECT 'sandbox', 'company-' || n, ('record ' || n)::bytea FROM generate_series(0, 98) n",
        );
        let names: Vec<AccountName> =
            (0..100).chain(0..50).map(|n| format!("company-{n}").parse().unwrap()).collect();
        let loads: Vec<_> = names.iter().map(|name| store.loads.load(name)).collect();
        for (answer, name) in join_all(loads).await.into_iter().zip(&names) {
            let record = answer.unwrap().map(|(bytes, _)| String::from_utf8(bytes).unwrap());
            let number = name.as_str().strip_prefix("company-").unwrap();
            let expected = (number != "99").then(|| format!("record {number}"));
            assert_eq!(record, expected, "{name}");
        }
    }
}
