//! Where grants are kept: a port with a kind for each place. Lock, load, save, list; saving needs
//! the [`Locked`] in hand, so that nobody can overwrite what another process is about to replace.
//! What each kind promises is tested for all of them in `contract.rs`.
//!
//! A new kind is a file beside `file.rs`, a variant of [`Store`] and of its `Hold`, and a row in
//! `contract.rs`.

#[cfg(test)]
mod contract;
mod file;
#[cfg(test)]
mod memory;
mod record;
mod threads;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::private_file::{self, PrivateFileError};
use file::FileStore;
#[cfg(test)]
use memory::MemoryStore;
pub use record::{
    AccountName, AccountNameError, DecodeError, EndReason, Ended, Grant, Intent, Issued, Record,
};

/// How often a lock that somebody holds is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What keeps the grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file an account, in one folder.
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

/// Tells one version of a record from the next without reading it; what it is made of is the kind's
/// own business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(Option<u64>);

impl Version {
    /// The version of what has these features.
    fn of(features: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        features.hash(&mut hasher);
        Self(Some(hasher.finish()))
    }

    /// True if nothing is there.
    pub fn is_absent(self) -> bool {
        self.0.is_none()
    }
}

/// The right to write one account's record. It ends with its last copy, and with the process.
#[derive(Clone, Debug)]
pub struct Locked {
    /// Whose record.
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

/// How an attempt to lock ended.
enum Try<T> {
    Locked(T),
    /// Held by the one who is named.
    Busy(Option<String>),
}

/// Why a store cannot be opened: the start stops.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made.
    #[error("the state folder {} cannot be made: {}; set store.path to a folder you can write", .0.display(), .1)]
    Uncreatable(PathBuf, io::Error),
    /// The folder cannot be read.
    #[error("the state folder {} cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// Something else is there.
    #[error("the state folder {} is not a folder, or is a symlink to one; set store.path to the folder itself", .0.display())]
    NotFolder(PathBuf),
    /// Somebody else's folder.
    #[error("the state folder {} belongs to user {}, not to you; run: chown {} {}", .0.display(), .1, .2, .0.display())]
    Foreign(PathBuf, u32, u32),
    /// Group or others have access.
    #[error("the state folder {} has mode {:04o}, others may enter it; run: chmod 700 {}", .0.display(), .1, .0.display())]
    Lax(PathBuf, u32),
    /// The system gives no thread for file work.
    #[error(
        "the store gets no thread ({0}); end other programs of this user, or raise the limit of processes (ulimit -u, TasksMax)"
    )]
    NoThread(io::Error),
}

/// Why one account's record cannot be used. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Owner, mode, kind or size, or the system says no.
    #[error(transparent)]
    Refused(#[from] PrivateFileError),
    /// It was read and is not a record.
    #[error("{0}: {1}; restore it from a backup, or log in again (the file is then put aside)")]
    Undecodable(String, DecodeError),
}

impl RecordError {
    /// True if it says nothing about the record: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Refused(error) if error.is_passing())
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Held by the one who is named, if that is known.
    #[error("{} holds the lock of this account", .0.as_deref().unwrap_or("another process"))]
    Busy(Option<String>),
    /// The lock file cannot be opened.
    #[error("the lock of this account cannot be opened: {0}")]
    Io(#[from] io::Error),
}

impl LockError {
    /// True if it says nothing about the lock: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Io(error) if private_file::is_passing(error))
    }
}

/// Why a record was not saved; what was there before is still there.
#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be written: {source}")]
pub struct SaveError {
    /// The record, as its kind names it.
    place: String,
    source: io::Error,
}

impl SaveError {
    /// True if it says nothing about the disk: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        private_file::is_passing(&self.source)
    }
}

/// The kinds of store.
#[derive(Clone, Debug)]
pub enum Store {
    /// A folder of private files.
    File(Arc<FileStore>),
    /// Records that end with the process.
    #[cfg(test)]
    Memory(MemoryStore),
}

impl Store {
    /// Opens the file store in a folder, or makes it.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        FileStore::open(folder).map(|store| Self::File(Arc::new(store)))
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
        // In waits, not by the clock: a process that stood still looks on for as long as it was
        // told.
        let mut waits = patience.as_millis() / LOCK_POLL.as_millis();
        loop {
            let tried = match self {
                Self::File(store) => store.try_lock(account).await?,
                #[cfg(test)]
                Self::Memory(store) => store.try_lock(account),
            };
            match tried {
                Try::Locked(hold) => return Ok(Locked { account: account.clone(), hold }),
                Try::Busy(holder) if waits == 0 => return Err(LockError::Busy(holder)),
                Try::Busy(_) => sleep(LOCK_POLL).await,
            }
            waits = waits.saturating_sub(1);
        }
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`]; the record is left alone.
    pub async fn load(&self, account: &AccountName) -> Result<Option<Record>, RecordError> {
        match self {
            Self::File(store) => store.load(account).await,
            #[cfg(test)]
            Self::Memory(store) => store.load(account),
        }
    }

    /// Makes sure that the next save has its space.
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

    /// Moves a record that cannot be read aside and says where it is now.
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

    /// Version of the list of records, and of each named record, in that order. What cannot be
    /// looked at now counts as absent.
    pub async fn versions(&self, accounts: Vec<AccountName>) -> (Version, Vec<Version>) {
        match self {
            Self::File(store) => store.versions(accounts).await,
            #[cfg(test)]
            Self::Memory(store) => store.versions(&accounts),
        }
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

/// Makes a folder that only we can enter, or checks the one that is there.
///
/// # Errors
/// [`OpenError`] says what to do.
pub fn private_folder(folder: &Path) -> Result<(), OpenError> {
    file::make_private_folder(folder)
}
