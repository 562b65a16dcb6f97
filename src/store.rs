//! Where grants are kept: lock, load, save, list. Saving needs the [`Locked`] in hand, so that nobody can overwrite
//! what another process is about to replace.

mod file;
mod record;
mod threads;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::private_file::{self, PrivateFileError};
use file::FileStore;
pub use file::Locked;
pub use record::{AccountName, AccountNameError, DecodeError, Ended, Grant, Intent, Issued, Record};

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
            "keyring" | "postgres" => Err("names a store that comes in a later version; write \"file\""),
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

/// What tells one version of a record from the next without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Option<(u64, i64, i64, u64, u32)>);

impl Stamp {
    /// True if nothing is there.
    pub fn is_nothing(self) -> bool {
        self.0.is_none()
    }
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
    #[error("{}: {}; restore it from a backup, or log in again (the file is then put aside)", .0.display(), .1)]
    Undecodable(PathBuf, DecodeError),
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
    /// Somebody holds it.
    #[error("{}", busy(.0))]
    Busy(Option<u32>),
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
#[error("{} cannot be written: {}", .path.display(), .source)]
pub struct SaveError {
    path: PathBuf,
    source: io::Error,
}

impl SaveError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.into(), source }
    }

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
}

impl Store {
    /// Opens the file store in a folder, or makes it.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        FileStore::open(folder).map(|store| Self::File(Arc::new(store)))
    }

    /// The folder, for messages and for finding a running proxy of the same store.
    pub fn folder(&self) -> &Path {
        match self {
            Self::File(store) => store.folder(),
        }
    }

    /// Takes the account's lock, waiting at most `patience`.
    ///
    /// # Errors
    /// [`LockError`] names the process that holds it.
    pub async fn lock(&self, account: &AccountName, patience: Duration) -> Result<Locked, LockError> {
        // In waits, not by the clock: a process that stood still looks on for as long as it was told.
        let mut waits = patience.as_millis() / LOCK_POLL.as_millis();
        loop {
            let account = account.clone();
            match self.run(move |store| store.try_lock(&account)).await?? {
                file::Try::Locked(locked) => return Ok(locked),
                file::Try::Busy(holder) if waits == 0 => return Err(LockError::Busy(holder)),
                file::Try::Busy(_) => sleep(LOCK_POLL).await,
            }
            waits = waits.saturating_sub(1);
        }
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`]; the file is left alone.
    pub async fn load(&self, account: &AccountName) -> Result<Option<Record>, RecordError> {
        let Self::File(store) = self;
        let path = store.path(account);
        let account = account.clone();
        let loaded = self.run(move |store| store.load(&account)).await;
        loaded.unwrap_or_else(|error| Err(PrivateFileError::Unreadable(path, error).into()))
    }

    /// Makes sure that the next save has its space.
    ///
    /// # Errors
    /// [`SaveError`], with the disk's reason.
    pub async fn prepare(&self, locked: Locked) -> (Locked, Result<(), SaveError>) {
        self.under_lock(locked, |store, locked| store.prepare(locked)).await
    }

    /// Replaces a record durably; it is on disk when this returns `Ok`.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn save(&self, locked: Locked, record: Record) -> (Locked, Result<(), SaveError>) {
        self.under_lock(locked, move |store, locked| store.save(locked, &record)).await
    }

    /// Replaces a record durably and leaves the space that was prepared for the next save.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn note(&self, locked: Locked, record: Record) -> (Locked, Result<(), SaveError>) {
        self.under_lock(locked, move |store, locked| store.note(locked, &record)).await
    }

    /// Moves a record that cannot be read aside and returns its new place.
    ///
    /// # Errors
    /// The file cannot be moved.
    pub async fn set_aside(&self, locked: &Locked, unix_time: i64) -> io::Result<PathBuf> {
        let account = locked.account.clone();
        self.run(move |store| store.set_aside(&account, unix_time)).await?
    }

    /// Removes a record, if there is one.
    ///
    /// # Errors
    /// [`SaveError`]; the record may still be there.
    pub async fn remove(&self, locked: &Locked) -> Result<(), SaveError> {
        let Self::File(store) = self;
        let account = locked.account.clone();
        let removed = self.run(move |store| store.remove(&account)).await.and_then(|removed| removed);
        removed.map_err(|error| store.unsaved(&locked.account, error))
    }

    /// Names of all records, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn list(&self) -> io::Result<Vec<AccountName>> {
        self.run(FileStore::list).await?
    }

    /// Stamp of the folder, and of each named record, in that order. What cannot be looked at now counts as absent.
    pub async fn stamps(&self, accounts: Vec<AccountName>) -> (Stamp, Vec<Stamp>) {
        let count = accounts.len();
        let look = move |store: &FileStore| {
            (store.folder_stamp(), accounts.iter().map(|account| store.stamp(account)).collect())
        };
        self.run(look).await.unwrap_or_else(|_| (Stamp::default(), vec![Stamp::default(); count]))
    }

    /// Runs work that changes a record. However it fares, the lock comes back with it.
    async fn under_lock(
        &self,
        locked: Locked,
        work: impl FnOnce(&FileStore, &Locked) -> Result<(), SaveError> + Send + 'static,
    ) -> (Locked, Result<(), SaveError>) {
        let Self::File(store) = self;
        let shared = locked.share();
        let done = self.run(move |store| work(store, &shared)).await;
        let done = done.unwrap_or_else(|error| Err(store.unsaved(&locked.account, error)));
        (locked, done)
    }

    /// Runs file work off the runtimes' threads. It is not cancelled when the caller leaves: a save that has begun
    /// ends, and what it owns is dropped after it.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&FileStore) -> T + Send + 'static) -> io::Result<T> {
        let Self::File(store) = self;
        let owned = store.clone();
        store.threads.run(move || work(&owned)).await
    }
}

/// Makes a folder that only we can enter, or checks the one that is there.
///
/// # Errors
/// [`OpenError`] says what to do.
pub fn private_folder(folder: &Path) -> Result<(), OpenError> {
    file::make_private_folder(folder)
}

fn busy(holder: &Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid} holds the lock of this account"),
        None => "another process holds the lock of this account".into(),
    }
}
