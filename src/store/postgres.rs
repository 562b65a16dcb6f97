//! The PostgreSQL store: one row per account, shared by replicas on several machines.
//!
//! What a lock file is to the file store, a claim is here: a row's mark with a time to live, by the
//! clock of the database. It keeps replicas from working on one account at a time; that nothing is
//! lost where it fails to is up to the intent and to writes that compare (see `claim.rs` and
//! `rows.rs`). No transaction is open while Pleo is asked, so poolers of transactions are fine.

mod address;
mod changes;
mod claim;
mod connection;
mod durability;
mod examination;
mod intent;
mod loads;
mod logins;
mod metrics;
mod migrations;
mod news;
mod rename;
mod rows;
mod tls;
mod trouble;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::change::Version;
use super::database::Database;
use super::error::{OpenError, RecordError, SaveError};
use super::loaded::Loaded;
use super::lock::Try;
use super::metrics::LockMetrics;
use super::name::AccountName;
use super::record::Record;
use super::seal::{self, Names, Protection, Sealing};
use super::threads::Threads;
use crate::clock::Clock;
use crate::redaction::KnownSecrets;
pub(super) use changes::Changes;
use claim::Claims;
pub(super) use claim::Held;
use connection::Link;
pub use durability::Durability;
pub use examination::{HeldClaim, Host, Server, Tables, examine as examine_database};
use loads::{Loads, Stored};
use logins::LoginRows;
use news::News;
use rename::Rename;
pub(super) use rows::Writing;
use rows::{Content, Rows};

/// Longest wait at the end of the process for claims to be given back; they run out by themselves.
const RELEASING: Duration = Duration::from_secs(2);

/// Records in a database.
#[derive(Debug)]
pub struct PostgresStore {
    claims: Claims,
    loads: Loads,
    sealing: Arc<Sealing>,
    /// On which records are sealed and opened: that may read a file of keys.
    threads: Threads,
    /// Read by each claim that is held, written while none is to be.
    locking: Arc<RwLock<()>>,
    lock_metrics: LockMetrics,
    /// Names this process where it takes a login, and in the news that it tells.
    taker: String,
    is_read_only: bool,
    /// It was opened to read only, and nobody has used the database yet.
    has_no_tables: bool,
}

impl PostgresStore {
    /// Connects, and makes or extends the tables.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub async fn open(
        database: &Database,
        environment: &str,
        sealing: Sealing,
    ) -> Result<Self, OpenError> {
        Self::check(database, &sealing)?;
        let store = Self::new(database, environment, sealing, false)?;
        let link = &store.claims.link;
        let applied = migrations::apply(link, migrations::LOCKS).await;
        applied.map_err(|trouble| link.unusable(&trouble))?;
        match durability::refusal(link).await.map_err(|trouble| link.unusable(&trouble))? {
            Some(why) => Err(OpenError::Database(store.place().to_owned(), why.to_owned())),
            None => Ok(store),
        }
    }

    /// Connects to read: nothing is made or changed. A database without tables has no records.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub async fn inspect(
        database: &Database,
        environment: &str,
        sealing: Sealing,
    ) -> Result<Self, OpenError> {
        let mut store = Self::new(database, environment, sealing, true)?;
        let link = &store.claims.link;
        let applied = migrations::applied(link).await;
        let applied = applied.map_err(|trouble| link.unusable(&trouble))?;
        // Older tables have records too.
        store.has_no_tables = applied.is_none();
        Ok(store)
    }

    /// What the owner of the database runs to make the tables, and a role that can do no more than a
    /// proxy needs.
    pub fn script() -> String {
        migrations::script()
    }

    /// Whether it could be opened, as far as can be told without the database.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn check(database: &Database, sealing: &Sealing) -> Result<(), OpenError> {
        if sealing.key().is_none() && !database.allow_plain {
            return Err(OpenError::Unsealed);
        }
        Link::to(database, News::default()).map(drop)
    }

    /// Host, database and user of a URL, as far as can be told without the database.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn place_of(database: &Database) -> Result<String, OpenError> {
        Link::to(database, News::default()).map(|link| link.address().shown.clone())
    }

    fn new(
        database: &Database,
        environment: &str,
        sealing: Sealing,
        is_read_only: bool,
    ) -> Result<Self, OpenError> {
        let taker = claim::fresh_id().map_err(OpenError::Random)?;
        let claims = Claims {
            link: Arc::new(Link::to(database, News::new(taker.clone()))?),
            environment: environment.to_owned(),
            holder: claim::holder(),
            clock: Clock::system(),
            runtime: Handle::current(),
            releases: TaskTracker::new(),
        };
        let (link, runtime) = (claims.link.clone(), claims.runtime.clone());
        Ok(Self {
            loads: Loads::new(link, claims.environment.clone(), runtime),
            claims,
            sealing: Arc::new(sealing),
            threads: Threads::start().map_err(OpenError::NoThread)?,
            locking: Arc::default(),
            lock_metrics: LockMetrics::default(),
            taker,
            is_read_only,
            has_no_tables: false,
        })
    }

    /// Host, database and user.
    pub(super) fn place(&self) -> &str {
        &self.claims.link.address().shown
    }

    pub(super) fn lock_metrics(&self) -> &LockMetrics {
        &self.lock_metrics
    }

    /// Adds what is counted of the database.
    pub(super) fn register(&self, registry: &mut Registry) {
        let link = &self.claims.link;
        link.metrics.register(registry, link.is_connected());
        link.news.register(registry);
    }

    pub(super) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    pub(super) fn make_known(&self, known: &KnownSecrets) {
        self.sealing.make_known(known);
        self.claims.link.address().secrets.iter().for_each(|secret| known.learn_lasting(secret));
    }

    fn rows(&self) -> Rows<'_> {
        Rows { link: &self.claims.link, environment: &self.claims.environment }
    }

    /// A reader of the changes; a database without tables has none.
    pub(super) fn changes(&self) -> Changes {
        let Claims { link, environment, .. } = &self.claims;
        Changes::of(link.clone(), environment.clone(), self.has_no_tables)
    }

    /// The logins that were begun.
    pub(super) fn logins(&self) -> LoginRows<'_> {
        let (link, environment) = (&self.claims.link, &self.claims.environment);
        LoginRows { link, environment, sealing: &self.sealing, taker: &self.taker }
    }

    pub(super) async fn try_lock(&self, account: &AccountName) -> io::Result<Try<Held>> {
        if self.is_read_only {
            let refused = "the store was opened to be read only";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused));
        }
        let allowed = self.locking.clone().read_owned().await;
        self.claims.take(account, allowed).await
    }

    /// Waits until this process holds no claim, and takes none until the result is dropped.
    pub(super) async fn pause_locking(&self) -> OwnedRwLockWriteGuard<()> {
        self.locking.clone().write_owned().await
    }

    /// Waits until the claims that were dropped are given back, but not for long.
    pub(super) async fn finish_releases(&self) {
        // Whoever wants one after that waits for its end.
        let _ = tokio::time::timeout(RELEASING, self.claims.finish_releases()).await;
    }

    pub(super) async fn load(&self, account: &AccountName) -> Result<Option<Loaded>, RecordError> {
        let Some((bytes, version)) = self.read(account).await? else { return Ok(None) };
        let (sealing, name) = (self.sealing.clone(), account.clone());
        let decoded = self.threads.run(move || sealing.decode(&name, &bytes)).await;
        let decoded = decoded.map_err(|error| RecordError::Unreachable(error.to_string()))?;
        let (record, protection) =
            decoded.map_err(|error| RecordError::Undecodable(self.record(account), error))?;
        Ok(Some(Loaded { record, version: Version::of(version), protection }))
    }

    pub(super) async fn protection(
        &self,
        account: &AccountName,
    ) -> Result<Option<Protection>, RecordError> {
        let Some((bytes, _)) = self.read(account).await? else { return Ok(None) };
        let protection = seal::protection(&bytes);
        protection.map(Some).map_err(|error| RecordError::Undecodable(self.record(account), error))
    }

    async fn read(&self, account: &AccountName) -> Result<Option<Stored>, RecordError> {
        if self.has_no_tables {
            return Ok(None);
        }
        let read = self.loads.load(account).await;
        read.map_err(|trouble| RecordError::Unreachable(format!("{}: {trouble}", self.place())))
    }

    /// Names a record in errors.
    fn record(&self, account: &AccountName) -> String {
        format!("the record of account {account} in {}", self.place())
    }

    pub(super) async fn list(&self) -> io::Result<Vec<AccountName>> {
        if self.has_no_tables {
            return Ok(Vec::new());
        }
        Ok(self.rows().list().await?)
    }

    /// Replaces a record, even if the caller leaves.
    pub(super) async fn save(
        self: &Arc<Self>,
        held: &Arc<Held>,
        record: &Record,
    ) -> Result<Version, SaveError> {
        self.write(held, record, Writing::Record).await
    }

    /// The same; if it has an intent, the claim is stretched over its token request.
    pub(super) async fn note(
        self: &Arc<Self>,
        held: &Arc<Held>,
        record: &Record,
    ) -> Result<Version, SaveError> {
        let has_intent = record.open_intent().is_some();
        self.write(held, record, if has_intent { Writing::Intent } else { Writing::Record }).await
    }

    /// Replaces a record for this reason, even if the caller leaves.
    pub(super) async fn write(
        self: &Arc<Self>,
        held: &Arc<Held>,
        record: &Record,
        what: Writing,
    ) -> Result<Version, SaveError> {
        if what == Writing::Intent {
            held.asks_for_intent();
        }
        let (store, held, record) = (self.clone(), held.clone(), record.clone());
        self.finish(&held.account.clone(), async move {
            let bytes = store.seal(&held.account, &record).await?;
            let content = Content::of(&record, &bytes, what);
            let rows = store.rows();
            if what == Writing::Intent {
                return rows.save_intent(&held, &content, &store.claims.holder).await;
            }
            let version = rows.save(&held, &content).await?;
            store.tell();
            Ok(version)
        })
        .await
        .map(Version::of)
    }

    pub(super) async fn remove(self: &Arc<Self>, held: &Arc<Held>) -> Result<(), SaveError> {
        let (store, held) = (self.clone(), held.clone());
        let account = held.account.clone();
        self.finish(&account, async move {
            store.rows().remove(&held).await?;
            store.tell();
            Ok(())
        })
        .await
    }

    /// Moves a record that cannot be read, so that a login can save a new one.
    pub(super) async fn set_aside(&self, held: &Held, unix_time: i64) -> io::Result<String> {
        let number = self.rows().set_aside(held, unix_time).await?;
        Ok(format!("row {number} of pleo_proxy.set_aside (account {})", held.account))
    }

    /// Moves a record to a name that has none, even if the caller leaves.
    pub(super) async fn rename(
        self: &Arc<Self>,
        from: &Arc<Held>,
        to: &Arc<Held>,
    ) -> Result<Version, SaveError> {
        let (store, from, to) = (self.clone(), from.clone(), to.clone());
        let account = to.account.clone();
        self.finish(&account, async move {
            let reseal = async |bytes: Vec<u8>| {
                let (sealing, old) = (store.sealing.clone(), from.account.clone());
                let decoded = store.threads.run(move || sealing.decode(&old, &bytes)).await?;
                let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let (record, _) = decoded.map_err(invalid)?;
                let bytes = store.seal(&to.account, &record).await?;
                Ok((record, bytes))
            };
            let version = Rename { rows: store.rows(), from: &from, to: &to }.run(reseal).await?;
            store.tell();
            Ok(version)
        })
        .await
        .map(Version::of)
    }

    async fn seal(&self, account: &AccountName, record: &Record) -> io::Result<Zeroizing<Vec<u8>>> {
        let (sealing, name, record) = (self.sealing.clone(), account.clone(), record.clone());
        self.threads.run(move || sealing.encode(Names::One(name.as_str()), &record)).await?
    }

    /// Tells the other replicas that something has changed; the end of the process waits for it, but
    /// nothing else does.
    fn tell(&self) {
        let link = self.claims.link.clone();
        let telling = async move { link.tell().await };
        self.claims.runtime.spawn(self.claims.releases.track_future(telling));
    }

    /// Runs a write on a task of its own; its error names the record.
    async fn finish<T: Send + 'static>(
        &self,
        account: &AccountName,
        work: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> Result<T, SaveError> {
        let done = self.claims.runtime.spawn(work).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        done.map_err(|source| {
            let error = SaveError { place: self.record(account), source };
            if error.is_superseded() {
                self.claims.link.metrics.lost_write();
            }
            error
        })
    }

    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.threads.run(work).await
    }
}
