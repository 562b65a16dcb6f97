//! Where grants are kept: a port with a kind for each place. Lock, load, save, list, changes;
//! saving needs the [`Locked`] in hand, so that nobody can overwrite what another process is about
//! to replace. What each kind promises is tested for all of them in `contract.rs`.
//!
//! A new kind is a file beside `file.rs`, a variant of each enum here, a row in `contract.rs`, and
//! its choice by `store.kind` in `cli/wiring.rs` and `cli/open_store.rs`.

mod change;
#[cfg(test)]
mod contract;
mod error;
mod file;
mod lock;
#[cfg(test)]
mod memory;
mod name;
mod record;
mod threads;

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

pub use change::{Change, Version, Watched};
pub use error::{LockError, OpenError, RecordError, SaveError};
use file::FileStore;
use lock::Try;
#[cfg(test)]
use memory::MemoryStore;
pub use name::{AccountName, AccountNameError};
pub use record::{DecodeError, EndReason, Ended, Grant, Intent, Issued, Record};

/// How often a lock that another process holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A kind of store, as settings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file per account, in one folder.
    File,
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "file" => Ok(Self::File),
            "keyring" | "postgres" => {
                Err("names a store that comes in a later version; write \"file\"")
            }
            _ => Err("must be file"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
        }
    }
}

/// The right to write one account's record. It ends with its last copy, and with the process.
#[derive(Clone, Debug)]
pub struct Locked {
    /// The account.
    pub account: AccountName,
    hold: Hold,
}

/// What each kind holds a lock by.
#[derive(Clone, Debug)]
enum Hold {
    File(Arc<file::Held>),
    #[cfg(test)]
    Memory(#[expect(dead_code, reason = "held, not read")] Arc<memory::Held>),
}

/// A store of one kind or another.
#[derive(Clone, Debug)]
pub enum Store {
    /// A folder of private files.
    File(Arc<FileStore>),
    /// Records that end with the process.
    #[cfg(test)]
    Memory(MemoryStore),
}

/// A reader of a store's changes: see [`Store::changes`].
#[derive(Debug)]
pub struct Changes(ChangesOf);

#[derive(Debug)]
enum ChangesOf {
    File(file::Changes),
    #[cfg(test)]
    Memory(memory::Changes),
}

impl Changes {
    /// Changes since the last call, made by any process. The first call reports every record, later
    /// ones the records that came since. What happens to an existing record is reported for watched
    /// accounts only, and again at each call until the reader has its version. How soon a change is
    /// noticed is up to the reader: it is there at the next call.
    pub async fn poll(&mut self, watched: Vec<Watched>) -> Vec<Change> {
        match &mut self.0 {
            ChangesOf::File(changes) => changes.poll(watched).await,
            #[cfg(test)]
            ChangesOf::Memory(changes) => changes.poll(&watched),
        }
    }
}

impl Store {
    /// Opens the file store in a folder, or makes it.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        FileStore::open(folder).map(|store| Self::File(Arc::new(store)))
    }

    /// Opens the file store in a folder to read from it: nothing is made, changed or removed, and
    /// no lock is given. A folder that does not exist is a store without records.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn inspect(folder: &Path) -> Result<Self, OpenError> {
        FileStore::inspect(folder).map(|store| Self::File(Arc::new(store)))
    }

    /// The kind of store and its place, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::File(store) => format!("files in {}", store.path().display()),
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
        loop {
            match self.try_lock(account).await? {
                Try::Locked(hold) => return Ok(Locked { account: account.clone(), hold }),
                Try::Busy(holder) if waits == 0 => return Err(LockError::Busy(holder)),
                Try::Busy(_) => sleep(LOCK_POLL).await,
            }
            waits = waits.saturating_sub(1);
        }
    }

    async fn try_lock(&self, account: &AccountName) -> io::Result<Try<Hold>> {
        Ok(match self {
            Self::File(store) => store.try_lock(account).await?.map(|it| Hold::File(Arc::new(it))),
            #[cfg(test)]
            Self::Memory(store) => store.try_lock(account)?.map(|it| Hold::Memory(Arc::new(it))),
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
        match self {
            Self::File(store) => store.load(account).await,
            #[cfg(test)]
            Self::Memory(store) => store.load(account),
        }
    }

    /// Reserves the space that the next save needs.
    ///
    /// # Errors
    /// [`SaveError`], with the disk's reason.
    pub async fn prepare(&self, locked: &Locked) -> Result<(), SaveError> {
        match (self, &locked.hold) {
            (Self::File(store), Hold::File(held)) => store.prepare(&locked.account, held).await,
            #[cfg(test)]
            _ => Ok(()),
        }
    }

    /// Replaces a record durably; when this returns its version, it is there. A save that has begun
    /// ends even if the caller leaves, and the lock is held until then.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn save(&self, locked: &Locked, record: &Record) -> Result<Version, SaveError> {
        match (self, &locked.hold) {
            (Self::File(store), Hold::File(held)) => {
                store.save(&locked.account, held, record).await
            }
            #[cfg(test)]
            (Self::Memory(store), Hold::Memory(_)) => Ok(store.save(&locked.account, record)),
            #[cfg(test)]
            _ => panic!("the lock is another store's"),
        }
    }

    /// The same, and leaves the space that was prepared for the next save.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn note(&self, locked: &Locked, record: &Record) -> Result<Version, SaveError> {
        match (self, &locked.hold) {
            (Self::File(store), Hold::File(held)) => {
                store.note(&locked.account, held, record).await
            }
            #[cfg(test)]
            _ => self.save(locked, record).await,
        }
    }

    /// Renames a record that cannot be read and returns its new place.
    ///
    /// # Errors
    /// It cannot be moved.
    pub async fn set_aside(&self, locked: &Locked, unix_time: i64) -> io::Result<String> {
        match self {
            Self::File(store) => store.set_aside(&locked.account, unix_time).await,
            #[cfg(test)]
            Self::Memory(store) => Ok(store.set_aside(&locked.account)),
        }
    }

    /// Removes a record, if there is one.
    ///
    /// # Errors
    /// [`SaveError`]; the record may still be there.
    pub async fn remove(&self, locked: &Locked) -> Result<(), SaveError> {
        match self {
            Self::File(store) => store.remove(&locked.account).await,
            #[cfg(test)]
            Self::Memory(store) => {
                store.remove(&locked.account);
                Ok(())
            }
        }
    }

    /// Moves a record to a name that has none, in one step: at no moment is it there twice, or not
    /// at all. Ends even if the caller leaves, and both locks are held until then.
    ///
    /// # Errors
    /// [`SaveError`], also if the name is taken or there is nothing to move. The record is where it
    /// was, unless the system could not tell whether the step is durable.
    pub async fn rename(&self, from: &Locked, to: &Locked) -> Result<Version, SaveError> {
        match (self, &from.hold, &to.hold) {
            (Self::File(store), Hold::File(old), Hold::File(new)) => {
                store.rename((&from.account, old), (&to.account, new)).await
            }
            #[cfg(test)]
            (Self::Memory(store), ..) => store.rename(&from.account, &to.account),
            #[cfg(test)]
            _ => panic!("the lock is another store's"),
        }
    }

    /// Names of all records, sorted.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn list(&self) -> io::Result<Vec<AccountName>> {
        match self {
            Self::File(store) => store.list().await,
            #[cfg(test)]
            Self::Memory(store) => Ok(store.list()),
        }
    }

    /// A reader of changes from here on.
    pub fn changes(&self) -> Changes {
        Changes(match self {
            Self::File(store) => ChangesOf::File(file::Changes::of(store.clone())),
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
            #[cfg(test)]
            Self::Memory(_) => Ok(work()),
        }
    }
}
