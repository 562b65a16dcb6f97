//! The connection to the database: one, on which statements follow each other without waiting. It is
//! made anew when it is lost, and no caller waits for long.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use tracing::debug;

use super::address::{self, Address};
use super::metrics::Metrics;
use super::news::{self, News};
use super::tls::Tls;
use super::trouble::Trouble;
use crate::store::database::Database;
use crate::store::error::OpenError;
use crate::timeout::while_running;

/// Time to connect to one host, with TLS and password.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for a statement. It waits for the disk of the database, not for other statements.
const STATEMENT: Duration = Duration::from_secs(5);
/// Time to tell the server that a statement is given up.
const CANCEL: Duration = Duration::from_secs(2);
/// Pause after an attempt to connect that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// A parameter of a statement with its type, which the server need not be asked for.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The way to a database.
pub(super) struct Link {
    address: Address,
    tls: Tls,
    /// What is heard on the connection.
    pub(super) news: Arc<News>,
    current: Mutex<Option<Arc<Connected>>>,
    /// Locked while one caller connects for all; when the last attempt began that failed, and why.
    connecting: tokio::sync::Mutex<Option<(Instant, Trouble)>>,
    pub(super) metrics: Metrics,
}

/// An open connection; it is closed when this is dropped.
pub(super) struct Connected {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.address.shown).finish()
    }
}

impl Link {
    pub(super) fn new(address: Address, tls: Tls, news: News) -> Self {
        Self {
            address,
            tls,
            news: Arc::new(news),
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            metrics: Metrics::default(),
        }
    }

    /// The way to the database, which is not taken yet.
    pub(super) fn to(database: &Database, news: News) -> Result<Self, OpenError> {
        let address = address::read(&database.url).and_then(|url| Address::parse(&url));
        let address = address.map_err(|error| OpenError::Url(error.to_string()))?;
        let tls = Tls::new(address.is_local, database.ca_file.clone()).map_err(OpenError::Url)?;
        Ok(Self::new(address, tls, news))
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Why a store in this database cannot be opened.
    pub(super) fn unusable(&self, trouble: &Trouble) -> OpenError {
        let (place, why) = (self.address.shown.clone(), trouble.to_string());
        match trouble {
            Trouble::Refused { .. } | Trouble::Distrusted(_) => OpenError::Database(place, why),
            Trouble::Unreachable(_) => {
                let hint = "; check that it runs and that the URL is right (store.url_file)";
                OpenError::Away(place, why + hint)
            }
        }
    }

    /// Runs one statement. If its connection is lost, it is run once more on a new one: every
    /// statement here may run twice.
    pub(super) async fn query(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Trouble> {
        let done = self.query_again_if_lost(statement, parameters).await;
        self.metrics.statement(&done);
        done
    }

    async fn query_again_if_lost(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Trouble> {
        let connected = self.connected().await?;
        match self.query_on(&connected, statement, parameters).await {
            Err(trouble) if trouble.is_unreachable() && connected.client.is_closed() => {
                let connected = self.connected().await?;
                self.query_on(&connected, statement, parameters).await
            }
            done => done,
        }
    }

    async fn query_on(
        &self,
        connected: &Arc<Connected>,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Trouble> {
        let done = while_running(STATEMENT, connected.client.query_typed(statement, parameters));
        let trouble = match done.await {
            Some(Ok(rows)) => return Ok(rows),
            Some(Err(error)) => Trouble::from(error),
            None => {
                // Others must not wait on this connection too, nor the server for a lock or a standby
                // on behalf of nobody.
                let (tls, statement) = (self.tls.clone(), connected.client.cancel_token());
                tokio::spawn(while_running(CANCEL, async move { tls.cancel(statement).await }));
                self.forget(connected);
                let why = format!("it did not answer within {STATEMENT:?}");
                return Err(Trouble::Unreachable(why));
            }
        };
        if trouble.is_unreachable() {
            self.forget(connected);
        }
        Err(trouble)
    }

    /// Tells the others that something has changed; if that fails, they see it at their next poll.
    pub(super) async fn tell(&self) {
        let Some(connected) = self.current() else { return };
        let own = (&self.news.own as _, Type::TEXT);
        if let Err(trouble) = self.query_on(&connected, news::TELL, &[own]).await {
            debug!("other replicas are not told of a change, and will see it: {trouble}");
        }
    }

    /// Ends when another process has told of a change since the last call.
    pub(super) async fn news(&self) {
        if !self.news.want()
            && let Some(connected) = self.current()
        {
            listen(connected).await;
        }
        self.news.arrived().await;
    }

    /// A connection of its own, for a transaction: to the first host that can be written.
    pub(super) async fn connect(&self) -> Result<Connected, Trouble> {
        self.connect_within(CONNECT).await
    }

    async fn connect_within(&self, limit: Duration) -> Result<Connected, Trouble> {
        let mut trouble = Trouble::Unreachable("its URL names no host".into());
        for config in &self.address.configs {
            match while_running(limit, self.tls.connect(config, &self.news)).await {
                Some(Ok((client, connection))) => {
                    return Ok(Connected { client, task: tokio::spawn(connection) });
                }
                Some(Err(error)) => trouble = error,
                None => trouble = Trouble::Unreachable(format!("no connection within {limit:?}")),
            }
        }
        Err(trouble)
    }

    async fn connected(&self) -> Result<Arc<Connected>, Trouble> {
        if let Some(connected) = self.current() {
            return Ok(connected);
        }
        let asked = Instant::now();
        let mut failed = self.connecting.lock().await;
        if let Some(connected) = self.current() {
            return Ok(connected);
        }
        match &*failed {
            Some((began, trouble)) if *began >= asked => return Err(trouble.clone()),
            Some((began, _)) => sleep_until(*began + PAUSE).await,
            None => {}
        }
        let began = Instant::now();
        let attempt = self.connect().await;
        self.metrics.connected(&attempt);
        match attempt {
            Ok(connected) => {
                let connected = Arc::new(connected);
                *self.current.lock() = Some(connected.clone());
                if self.news.is_wanted() {
                    tokio::spawn(listen(connected.clone()));
                }
                *failed = None;
                Ok(connected)
            }
            Err(trouble) => {
                *failed = Some((began, trouble.clone()));
                Err(trouble)
            }
        }
    }

    /// True if the connection is open that statements use.
    pub(super) fn is_connected(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<Arc<Connected>> {
        self.current.lock().as_ref().filter(|it| !it.client.is_closed()).cloned()
    }

    /// Nobody uses this connection any more: it is lost, or hangs.
    fn forget(&self, lost: &Arc<Connected>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|it| Arc::ptr_eq(it, lost)) {
            *current = None;
        }
        lost.task.abort();
    }
}

/// Where that fails, changes are polled all the same.
async fn listen(connected: Arc<Connected>) {
    drop(connected.client.batch_execute(news::LISTEN).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::DatabaseSecret;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_says_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let _listener =
            std::os::unix::net::UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let url = format!("postgresql:///pleo?host={}&user=me", folder.path().display());
        let address = Address::parse(&DatabaseSecret::new(url.as_str())).unwrap();
        let link = Link::new(address, Tls::Local, News::new("me".into()));
        let connected = tokio::time::timeout(CONNECT * 10, link.connect()).await.unwrap();
        let trouble = connected.err().unwrap();
        assert!(trouble.to_string().contains("no connection within"), "{trouble}");
    }

    #[tokio::test]
    async fn a_host_that_says_nothing_does_not_keep_from_the_next_one() {
        let Some(database) = crate::store::postgres_server::Database::create() else { return };
        let folder = tempfile::tempdir().unwrap();
        let _listener =
            std::os::unix::net::UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let hosts = format!("host={}&host=", folder.path().display());
        let url = database.url.replace("host=", &hosts);
        let address = Address::parse(&DatabaseSecret::new(url.as_str())).unwrap();
        let link = Link::new(address, Tls::Local, News::new("me".into()));
        let connected = link.connect_within(Duration::from_millis(300)).await.unwrap();
        connected.client.batch_execute("SELECT 1").await.unwrap();
    }

    #[tokio::test]
    async fn a_statement_that_is_given_up_is_given_up_by_the_server_too() {
        let Some(server) = crate::store::postgres_server::Database::create() else { return };
        let address = Address::parse(&DatabaseSecret::new(server.url.as_str())).unwrap();
        let link = Link::new(address, Tls::Local, News::new("me".into()));
        link.query("SELECT 1", &[]).await.unwrap();
        tokio::time::pause();
        let given_up = link.query("SELECT pg_sleep(3600)", &[]).await;
        tokio::time::resume();
        assert!(matches!(given_up, Err(Trouble::Unreachable(_))), "{given_up:?}");
        let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'
            AND datname = current_database()";
        let is_given_up = async {
            while !link.query(waiting, &[]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let is_given_up = tokio::time::timeout(Duration::from_secs(20), is_given_up).await;
        is_given_up.expect("the server is told");
    }
}
