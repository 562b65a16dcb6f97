//! The file store: one private file per account, replaced atomically, under a kernel lock.
//!
//! ```text
//! <folder>/default.json            the record
//! <folder>/default.lock            the lock; holds the holder's process id, never removed
//! <folder>/.default.XXXXXXXX.tmp   the next record, while the lock is held
//! ```

mod changes;
mod folder;

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::change::{Change, Version, Watched};
use super::error::{OpenError, RecordError, SaveError};
use super::loaded::Loaded;
use super::lock::Try;
use super::metrics::LockMetrics;
use super::name::AccountName;
use super::record::Record;
use super::seal::{Protection, Sealing};
use super::threads::Threads;
use crate::private_file::PrivateFileError;
use crate::private_file::folder::{self as private_folder, FolderError};
use changes::Poller;
pub(super) use folder::Held;
use folder::{Folder, Space};

/// A folder of records, and the threads on which its work is done.
#[derive(Debug)]
pub struct FileStore {
    folder: Arc<Folder>,
    threads: Threads,
    /// Read by each lock that is held, written while none is to be.
    locking: Arc<RwLock<()>>,
    lock_metrics: LockMetrics,
}

impl FileStore {
    /// Opens the folder, or makes it with mode 0700.
    pub(super) fn open(path: &Path, sealing: Sealing) -> Result<Self, OpenError> {
        private_folder::make_or_check(path)?;
        let folder = Folder::open(path, sealing)
            .map_err(|error| FolderError::Unreadable(path.to_owned(), error))?;
        Self::new(folder)
    }

    /// Opens the folder to read from it. One that does not exist has no records.
    pub(super) fn inspect(path: &Path, sealing: Sealing) -> Result<Self, OpenError> {
        match private_folder::check(path) {
            Err(FolderError::Unreadable(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            checked => checked?,
        }
        Self::new(Folder::inspect(path, sealing))
    }

    fn new(folder: Folder) -> Result<Self, OpenError> {
        let threads = Threads::start().map_err(OpenError::NoThread)?;
        let (folder, locking) = (Arc::new(folder), Arc::default());
        Ok(Self { folder, threads, locking, lock_metrics: LockMetrics::default() })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn lock_metrics(&self) -> &LockMetrics {
        &self.lock_metrics
    }

    pub(super) fn sealing(&self) -> &Sealing {
        self.folder.sealing()
    }

    pub(super) async fn try_lock(&self, account: &AccountName) -> io::Result<Try<Held>> {
        let account = account.clone();
        let allowed = self.locking.clone().read_owned().await;
        self.run(move |folder| folder.try_lock(&account, allowed)).await?
    }

    /// Waits until this process holds no lock, and takes none until the result is dropped.
    pub(super) async fn pause_locking(&self) -> OwnedRwLockWriteGuard<()> {
        self.locking.clone().write_owned().await
    }

    pub(super) async fn load(&self, account: &AccountName) -> Result<Option<Loaded>, RecordError> {
        let name = account.clone();
        self.read(account, move |folder| folder.load(&name)).await
    }

    pub(super) async fn protection(
        &self,
        account: &AccountName,
    ) -> Result<Option<Protection>, RecordError> {
        let name = account.clone();
        self.read(account, move |folder| folder.protection(&name)).await
    }

    /// Creates the next record's file and reserves its space.
    pub(super) async fn prepare(
        &self,
        account: &AccountName,
        held: &Arc<Held>,
    ) -> Result<(), SaveError> {
        let (name, held) = (account.clone(), held.clone());
        self.write(account, move |folder| folder.prepare(&name, &held)).await
    }

    /// Replaces a record, with the file that was prepared for it.
    pub(super) async fn save(
        &self,
        account: &AccountName,
        held: &Arc<Held>,
        record: &Record,
    ) -> Result<Version, SaveError> {
        self.replace(account, held, record, Space::Prepared).await
    }

    /// Replaces a record, and leaves the prepared file to the next save.
    pub(super) async fn note(
        &self,
        account: &AccountName,
        held: &Arc<Held>,
        record: &Record,
    ) -> Result<Version, SaveError> {
        self.replace(account, held, record, Space::New).await
    }

    async fn replace(
        &self,
        account: &AccountName,
        held: &Arc<Held>,
        record: &Record,
        space: Space,
    ) -> Result<Version, SaveError> {
        let (name, held, record) = (account.clone(), held.clone(), record.clone());
        self.write(account, move |folder| folder.save(&name, &held, &record, space)).await
    }

    /// Renames a record that cannot be read, so that a login can save a new one.
    pub(super) async fn set_aside(
        &self,
        account: &AccountName,
        unix_time: i64,
    ) -> io::Result<String> {
        let account = account.clone();
        let aside = self.run(move |folder| folder.set_aside(&account, unix_time)).await??;
        Ok(aside.display().to_string())
    }

    pub(super) async fn remove(&self, account: &AccountName) -> Result<(), SaveError> {
        let name = account.clone();
        self.write(account, move |folder| folder.remove(&name)).await
    }

    /// Moves a record, with both locks in hand until it is done.
    pub(super) async fn rename(
        &self,
        (from, old): (&AccountName, &Arc<Held>),
        (to, new): (&AccountName, &Arc<Held>),
    ) -> Result<Version, SaveError> {
        let (from, old, name, new) = (from.clone(), old.clone(), to.clone(), new.clone());
        self.write(to, move |folder| folder.rename((&from, &old), (&name, &new))).await
    }

    pub(super) async fn list(&self) -> io::Result<Vec<AccountName>> {
        self.run(Folder::list).await?
    }

    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.threads.run(work).await
    }

    /// Runs work that reads a record; its error names the record.
    async fn read<T: Send + 'static>(
        &self,
        account: &AccountName,
        work: impl FnOnce(&Folder) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        self.run(work).await.unwrap_or_else(|error| {
            Err(PrivateFileError::Unreadable(self.folder.record(account), error).into())
        })
    }

    /// Runs work that changes a record; its error names the record.
    async fn write<T: Send + 'static>(
        &self,
        account: &AccountName,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SaveError> {
        let done = self.run(work).await.and_then(|done| done);
        done.map_err(|source| SaveError {
            place: self.folder.record(account).display().to_string(),
            source,
        })
    }

    /// Runs file work on the store's threads. It is not cancelled when the caller leaves: work that
    /// has begun ends, and what it owns is dropped after it.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> T + Send + 'static,
    ) -> io::Result<T> {
        let folder = self.folder.clone();
        self.threads.run(move || work(&folder)).await
    }
}

/// The changes of a folder, found by looking at it again and again.
#[derive(Debug)]
pub(super) struct Changes {
    store: Arc<FileStore>,
    /// Shared with the work on the threads, which may end after its caller.
    poller: Arc<Mutex<Poller>>,
}

impl Changes {
    pub(super) fn of(store: Arc<FileStore>) -> Self {
        Self { store, poller: Arc::default() }
    }

    /// What changed since the last call; nothing if no thread is free.
    pub(super) async fn poll(&mut self, watched: Vec<Watched>) -> Vec<Change> {
        let poller = self.poller.clone();
        let polled = self.store.run(move |folder| poller.lock().poll(folder, &watched)).await;
        polled.unwrap_or_default()
    }
}
