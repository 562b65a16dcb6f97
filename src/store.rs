//! Where grants are kept: a port with a kind for each place. Lock, load, list, changes; what writes
//! belongs to the [`Locked`], so that nobody can overwrite what another process is about to replace. What each kind promises is tested for all of them in `contract.rs`.
//!
//! A new kind is a file beside `file.rs`, a variant of each enum here and in `locked.rs`,
//! `changes.rs` and `kind.rs`, a row in `contract.rs`, and its choice by `store.kind` in `cli/wiring.rs`.

mod api_key;
mod change;
mod changes;
#[cfg(test)]
mod contract;
mod database;
mod decode_error;
mod error;
mod file;
mod keys;
mod kind;
mod loaded;
mod lock;
mod locked;
mod login;
#[cfg(test)]
mod memory;
mod metrics;
mod name;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(all(test, feature = "postgres"))]
#[path = "../tests/support/database.rs"]
pub(crate) mod postgres_server;
mod record;
mod seal;
mod threads;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::sleep;

use crate::redaction::KnownSecrets;
pub use api_key::StoredKey;
pub use change::{Change, Version, Watched};
pub use changes::Changes;
use changes::ChangesOf;
pub use database::{Database, UrlSource};
pub use decode_error::DecodeError;
pub use error::{LockError, OpenError, RecordError, SaveError};
use file::FileStore;
pub use keys::{KeyError, KeyId, KeySource, fresh_key};
pub use kind::Kind;
pub use loaded::Loaded;
use lock::Try;
use locked::Hold;
pub use locked::{Locked, LockingPaused};
pub use login::{LoginId, MAX_PENDING, MAX_PENDING_IN_ALL, SharedLogins, StoredLogin, TakenLogin};
#[cfg(test)]
use memory::MemoryStore;
use metrics::LockMetrics;
pub use metrics::LockWait;
pub use name::{AccountName, AccountNameError};
#[cfg(feature = "postgres")]
pub use postgres::{Durability, HeldClaim, Host, PostgresStore, Server, Tables, examine_database};
pub use record::{EndReason, Ended, Grant, Intent, Issued, Record};
pub use seal::{KeysHeld, Protection, Sealing};

/// How often a lock that another process holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A store of one kind or another.
#[derive(Clone, Debug)]
pub enum Store {
    /// A folder of private files.
    File(Arc<FileStore>),
    /// A PostgreSQL database.
    #[cfg(feature = "postgres")]
    Postgres(Arc<PostgresStore>),
    /// Records that end with the process; they count as shared.
    #[cfg(test)]
    Memory(MemoryStore),
}

impl Store {
    /// Opens the file store in a folder, or makes it.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(folder: &Path, sealing: Sealing) -> Result<Self, OpenError> {
        FileStore::open(folder, sealing).map(|store| Self::File(Arc::new(store)))
    }

    /// Opens the file store in a folder to read from it: nothing is made, changed or removed, and
    /// no lock is given. A folder that does not exist is a store without records.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn inspect(folder: &Path, sealing: Sealing) -> Result<Self, OpenError> {
        FileStore::inspect(folder, sealing).map(|store| Self::File(Arc::new(store)))
    }

    /// At the end of a process: waits until dropped locks are free for others, but not for long.
    pub async fn finish_releases(&self) {
        #[cfg(feature = "postgres")]
        if let Self::Postgres(store) = self {
            store.finish_releases().await;
        }
    }

    /// The kind of store and its place, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::File(store) => format!("files in {}", store.path().display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.place().to_owned(),
            #[cfg(test)]
            Self::Memory(_) => "memory".into(),
        }
    }

    /// Takes the account's lock, waiting at most `patience`.
    ///
    /// # Errors
    /// [`LockError`] names who holds it.
    pub async fn lock(
        &self,
        account: &AccountName,
        patience: Duration,
    ) -> Result<Locked, LockError> {
        // Counted in waits, not by the clock: a process that was stopped for a while still tries as
        // often as it should.
        let mut waits = patience.as_millis() / LOCK_POLL.as_millis();
        let mut waiting = self.lock_wait();
        loop {
            match self.try_lock(account).await? {
                Try::Locked(hold) => {
                    self.lock_metrics().taken();
                    return Ok(Locked { account: account.clone(), hold });
                }
                Try::Busy(holder) if waits == 0 => return Err(LockError::Busy(holder)),
                Try::Busy(_) => {
                    waiting.goes_on();
                    sleep(LOCK_POLL).await;
                }
            }
            waits = waits.saturating_sub(1);
        }
    }

    /// For who tries a lock again and again without patience: see [`Self::lock`].
    pub fn lock_wait(&self) -> LockWait {
        LockWait::new(self.lock_metrics().clone())
    }

    fn lock_metrics(&self) -> &LockMetrics {
        match self {
            Self::File(store) => store.lock_metrics(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.lock_metrics(),
            #[cfg(test)]
            Self::Memory(store) => store.lock_metrics(),
        }
    }

    /// Adds what is counted, and what can be said of this moment, to a registry of stores.
    pub fn register(&self, registry: &mut Registry) {
        self.lock_metrics().register(registry);
        #[cfg(feature = "postgres")]
        if let Self::Postgres(store) = self {
            store.register(registry);
        }
    }

    /// Waits until this process holds no lock, and takes none until the result is dropped. For a
    /// process that is about to be stopped: it would keep what it holds from all others.
    pub async fn pause_locking(&self) -> LockingPaused {
        LockingPaused(match self {
            Self::File(store) => store.pause_locking().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.pause_locking().await,
            #[cfg(test)]
            Self::Memory(store) => store.pause_locking().await,
        })
    }

    /// The logins that replicas share; none where each process keeps its own.
    pub fn shared_logins(&self) -> SharedLogins {
        #[cfg(feature = "postgres")]
        if let Self::Postgres(store) = self {
            return SharedLogins::of(store.clone());
        }
        SharedLogins::default()
    }

    /// True if replicas on other machines may share it: one that does not answer may still have a
    /// pair in hand.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    async fn try_lock(&self, account: &AccountName) -> io::Result<Try<Hold>> {
        Ok(match self {
            Self::File(store) => {
                let tried = store.try_lock(account).await?;
                tried.map(|held| Hold::File(store.clone(), Arc::new(held)))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => {
                let tried = store.try_lock(account).await?;
                tried.map(|held| Hold::Postgres(store.clone(), Arc::new(held)))
            }
            #[cfg(test)]
            Self::Memory(store) => {
                let tried = store.try_lock(account).await?;
                tried.map(|held| Hold::Memory(store.clone(), Arc::new(held)))
            }
        })
    }

    /// Reads a record and its version; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`]; the record is left alone.
    pub async fn load(
        &self,
        account: &AccountName,
    ) -> Result<Option<(Record, Version)>, RecordError> {
        Ok(self.load_as_kept(account).await?.map(|loaded| (loaded.record, loaded.version)))
    }

    /// The same, and how the record is kept.
    ///
    /// # Errors
    /// [`RecordError`]; the record is left alone.
    pub async fn load_as_kept(&self, account: &AccountName) -> Result<Option<Loaded>, RecordError> {
        match self {
            Self::File(store) => store.load(account).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.load(account).await,
            #[cfg(test)]
            Self::Memory(store) => store.load(account),
        }
    }

    /// How a record is kept, which can be told without its key; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`]; the record is left alone.
    pub async fn protection(
        &self,
        account: &AccountName,
    ) -> Result<Option<Protection>, RecordError> {
        match self {
            Self::File(store) => store.protection(account).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.protection(account).await,
            #[cfg(test)]
            Self::Memory(store) => Ok(store.load(account)?.map(|_| Protection::Plain)),
        }
    }

    fn sealing(&self) -> Option<&Sealing> {
        match self {
            Self::File(store) => Some(store.sealing()),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => Some(store.sealing()),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// Name of the key that seals what is saved; none if it is kept as it is.
    pub fn key(&self) -> Option<KeyId> {
        self.sealing()?.key()
    }

    /// The keys that this process holds.
    pub fn keys_held(&self) -> KeysHeld {
        self.sealing().map(Sealing::held).unwrap_or_default()
    }

    /// Makes its keys known as secrets, wherever they would leave.
    pub fn make_keys_known(&self, known: &KnownSecrets) {
        match self {
            Self::File(store) => store.sealing().make_known(known),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.make_known(known),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// Names of all records, sorted.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn list(&self) -> io::Result<Vec<AccountName>> {
        match self {
            Self::File(store) => store.list().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.list().await,
            #[cfg(test)]
            Self::Memory(store) => Ok(store.list()),
        }
    }

    /// A reader of changes from here on.
    pub fn changes(&self) -> Changes {
        Changes(match self {
            Self::File(store) => ChangesOf::File(file::Changes::of(store.clone())),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => ChangesOf::Postgres(store.changes()),
            #[cfg(test)]
            Self::Memory(store) => ChangesOf::Memory(memory::Changes::of(store)),
        })
    }

    /// Runs other work on files off the runtimes' threads.
    ///
    /// # Errors
    /// It was not done: too much is waiting, or it panicked.
    pub async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::File(store) => store.aside(work).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.aside(work).await,
            #[cfg(test)]
            Self::Memory(_) => Ok(work()),
        }
    }
}
