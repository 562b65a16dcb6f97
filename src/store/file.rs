//! The file store: one private file an account, replaced atomically, under a kernel lock.
//!
//! ```text
//! <folder>/default.json            the record
//! <folder>/default.lock            the lock; holds the holder's process id, never removed
//! <folder>/.default.XXXXXXXX.tmp   the next record, while the lock is held
//! ```

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::NamedTempFile;
use tracing::warn;

use super::record::Record;
use super::threads::Threads;
use super::{AccountName, Hold, OpenError, RecordError, SaveError, Try, Version};
use crate::private_file::{self, PrivateFileError};

/// Largest record, in bytes: two tokens of 32 KiB each, escaped, and some room.
const LARGEST: u64 = 256 * 1024;
/// Bytes that a prepared file reserves, so that a full disk shows before a token is spent: four
/// blocks.
const RESERVED: usize = 16 * 1024;

/// A folder of records, and the threads on which its work is done.
#[derive(Debug)]
pub struct FileStore {
    folder: Arc<Folder>,
    threads: Threads,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Temp files that a process left behind when it died, by account; removed under the account's
    /// lock.
    leftovers: Mutex<HashMap<AccountName, Vec<PathBuf>>>,
    /// It was said that the folder has no fsync.
    has_warned: AtomicBool,
}

/// A lock, shared with the work that is done under it, which may end after its caller: it is held
/// until then. The kernel frees it when the process dies.
#[derive(Debug)]
pub(super) struct Held {
    /// Open for as long as the lock is held.
    _file: File,
    prepared: Mutex<Option<NamedTempFile>>,
}

impl Held {
    fn prepared(&self) -> MutexGuard<'_, Option<NamedTempFile>> {
        self.prepared.lock()
    }
}

impl FileStore {
    /// Opens the folder, or makes it with mode 0700.
    pub(super) fn open(folder: &Path) -> Result<Self, OpenError> {
        make_private_folder(folder)?;
        let leftovers =
            leftovers(folder).map_err(|error| OpenError::Unreadable(folder.into(), error))?;
        let threads = Threads::start().map_err(OpenError::NoThread)?;
        let (leftovers, has_warned) = (Mutex::new(leftovers), AtomicBool::new(false));
        Ok(Self {
            folder: Arc::new(Folder { path: folder.into(), leftovers, has_warned }),
            threads,
        })
    }

    pub(super) async fn try_lock(&self, account: &AccountName) -> io::Result<Try<Hold>> {
        let account = account.clone();
        Ok(match self.run(move |folder| folder.try_lock(&account)).await?? {
            Try::Locked(held) => Try::Locked(Hold::File(Arc::new(held))),
            Try::Busy(holder) => Try::Busy(holder),
        })
    }

    pub(super) async fn load(&self, account: &AccountName) -> Result<Option<Record>, RecordError> {
        let name = account.clone();
        let loaded = self.run(move |folder| folder.load(&name)).await;
        loaded.unwrap_or_else(|error| {
            Err(PrivateFileError::Unreadable(self.folder.path(account), error).into())
        })
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
        let (name, held, bytes) = (account.clone(), held.clone(), record.encode());
        let save = move |folder: &Folder| {
            let prepared = held.prepared().take();
            folder.replace(&name, prepared, &bytes)
        };
        self.write(account, save).await
    }

    /// Replaces a record, without touching what was prepared for the next save.
    pub(super) async fn note(
        &self,
        account: &AccountName,
        held: &Arc<Held>,
        record: &Record,
    ) -> Result<Version, SaveError> {
        let (name, held, bytes) = (account.clone(), held.clone(), record.encode());
        let note = move |folder: &Folder| {
            let _held = held;
            folder.replace(&name, None, &bytes)
        };
        self.write(account, note).await
    }

    /// Puts a record that cannot be read aside, for a login to take its place.
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

    pub(super) async fn list(&self) -> io::Result<Vec<AccountName>> {
        self.run(Folder::list).await?
    }

    pub(super) async fn versions(&self, accounts: Vec<AccountName>) -> (Version, Vec<Version>) {
        let count = accounts.len();
        let look = move |folder: &Folder| {
            let versions = accounts.iter().map(|account| version(&folder.path(account))).collect();
            (version(&folder.path), versions)
        };
        self.run(look)
            .await
            .unwrap_or_else(|_| (Version::default(), vec![Version::default(); count]))
    }

    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.threads.run(work).await
    }

    /// Runs work that changes a record, and says which one was not changed.
    async fn write<T: Send + 'static>(
        &self,
        account: &AccountName,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SaveError> {
        let done = self.run(work).await.and_then(|done| done);
        done.map_err(|source| SaveError {
            place: self.folder.path(account).display().to_string(),
            source,
        })
    }

    /// Runs file work off the runtimes' threads. It is not cancelled when the caller leaves: what
    /// has begun ends, and what it owns is dropped after it.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> T + Send + 'static,
    ) -> io::Result<T> {
        let folder = self.folder.clone();
        self.threads.run(move || work(&folder)).await
    }
}

impl Folder {
    fn try_lock(&self, account: &AccountName) -> io::Result<Try<Held>> {
        let flags =
            (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits().cast_signed();
        let path = self.path.join(format!("{account}.lock"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = options.open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(Try::Busy(holder(&mut file))),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // A lock on a file that was removed or replaced meanwhile keeps nobody out.
        if !is_named(&file, &path) {
            return Ok(Try::Busy(None));
        }
        // Only a help for people: a failure here changes nothing about the lock.
        let _ = write_holder(&mut file);
        self.clear_leftovers(account);
        Ok(Try::Locked(Held { _file: file, prepared: Mutex::default() }))
    }

    /// Reads a record; `None` if there is none.
    fn load(&self, account: &AccountName) -> Result<Option<Record>, RecordError> {
        let path = self.path(account);
        let bytes = match private_file::read(&path, LARGEST) {
            Ok(bytes) => zeroize::Zeroizing::new(bytes),
            Err(PrivateFileError::Missing(_)) => return Ok(None),
            Err(error) => return Err(RecordError::Refused(error)),
        };
        Record::decode(&bytes)
            .map(Some)
            .map_err(|error| RecordError::Undecodable(path.display().to_string(), error))
    }

    fn prepare(&self, account: &AccountName, held: &Held) -> io::Result<()> {
        let mut prepared = held.prepared();
        if prepared.is_none() {
            let mut file = self.temp_file(account)?;
            file.write_all(&[b' '; RESERVED])?;
            file.as_file().sync_all()?;
            *prepared = Some(file);
        }
        Ok(())
    }

    /// Replaces a record: write, fsync, rename, fsync of the folder. A file whose fsync failed is
    /// thrown away.
    fn replace(
        &self,
        account: &AccountName,
        prepared: Option<NamedTempFile>,
        bytes: &[u8],
    ) -> io::Result<Version> {
        let mut file = prepared.map_or_else(|| self.temp_file(account), Ok)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(bytes)?;
        file.as_file().set_len(bytes.len() as u64)?;
        file.as_file().sync_all()?;
        // Opened before: once the record is in its place, want of a file is no reason to call it
        // unsaved.
        let folder = File::open(&self.path)?;
        let path = self.path(account);
        file.persist(&path).map_err(|error| error.error)?;
        self.synced(folder.sync_all())?;
        Ok(version(&path))
    }

    /// What came of the folder's fsync. Some network file systems have none; the rename is as
    /// durable there as it gets.
    fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        use rustix::io::Errno;
        let Err(error) = result else { return Ok(()) };
        let errno = error.raw_os_error().unwrap_or_default();
        if ![Errno::INVAL, Errno::NOTSUP, Errno::OPNOTSUPP]
            .iter()
            .any(|none| none.raw_os_error() == errno)
        {
            return Err(error);
        }
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                "the file system of {} cannot make a folder durable ({error}); a power cut may bring an older record back",
                self.path.display()
            );
        }
        Ok(())
    }

    fn set_aside(&self, account: &AccountName, unix_time: i64) -> io::Result<PathBuf> {
        let aside = self.path.join(format!("{account}.json.corrupt-{unix_time}"));
        fs::rename(self.path(account), &aside)?;
        Ok(aside)
    }

    /// Removes a record durably.
    fn remove(&self, account: &AccountName) -> io::Result<()> {
        match fs::remove_file(self.path(account)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(&self.path)?.sync_all()
    }

    /// Names of all records.
    fn list(&self) -> io::Result<Vec<AccountName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            names.extend(
                name.to_str()
                    .and_then(|name| name.strip_suffix(".json"))
                    .and_then(|name| name.parse().ok()),
            );
        }
        names.sort();
        Ok(names)
    }

    fn path(&self, account: &AccountName) -> PathBuf {
        self.path.join(format!("{account}.json"))
    }

    /// Random name, `O_EXCL`, mode 0600 from birth.
    fn temp_file(&self, account: &AccountName) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(&format!(".{account}."))
            .suffix(".tmp")
            .rand_bytes(12)
            .tempfile_in(&self.path)
    }

    fn clear_leftovers(&self, account: &AccountName) {
        let stale = self.leftovers.lock().remove(account);
        for path in stale.into_iter().flatten() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens a folder that only we can enter, or makes it and the folders above it.
///
/// # Errors
/// It is lax, somebody else's, not a folder, or cannot be made; nothing is repaired.
pub(super) fn make_private_folder(folder: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| OpenError::Uncreatable(folder.into(), error))?;
    let metadata = fs::symlink_metadata(folder)
        .map_err(|error| OpenError::Unreadable(folder.into(), error))?;
    let me = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(OpenError::NotFolder(folder.into()));
    }
    if metadata.uid() != me {
        return Err(OpenError::Foreign(folder.into(), metadata.uid(), me));
    }
    match metadata.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(OpenError::Lax(folder.into(), mode)),
        _ => Ok(()),
    }
}

/// A folder's version changes with every record that comes, goes or is replaced.
fn version(path: &Path) -> Version {
    let features = |it: fs::Metadata| (it.ino(), it.mtime(), it.mtime_nsec(), it.size(), it.mode());
    path.symlink_metadata()
        .map_or_else(|_| Version::default(), |metadata| Version::of(features(metadata)))
}

/// True if the open file is the one that has this name now.
fn is_named(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    let process: u32 = text.trim().parse().ok()?;
    Some(format!("process {process}"))
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn leftovers(folder: &Path) -> io::Result<HashMap<AccountName, Vec<PathBuf>>> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(account) = entry.file_name().to_str().and_then(temp_file_account) {
            found.entry(account).or_default().push(entry.path());
        }
    }
    Ok(found)
}

/// The account whose temp file this is: `.ACCOUNT.RANDOM.tmp`.
fn temp_file_account(name: &str) -> Option<AccountName> {
    let (account, random) = name.strip_prefix('.')?.strip_suffix(".tmp")?.split_once('.')?;
    (!random.is_empty()).then(|| account.parse().ok())?
}
