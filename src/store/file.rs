//! The file store: one private file an account, replaced atomically, under a kernel lock.
//!
//! ```text
//! <folder>/default.json            the record
//! <folder>/default.lock            the lock; holds the holder's process id, never removed
//! <folder>/.default.XXXXXXXX.tmp   the next record, while the lock is held
//! ```

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;
use tracing::warn;

use super::record::Record;
use super::threads::Threads;
use super::{AccountName, OpenError, RecordError, SaveError, Stamp};
use crate::private_file::{self, PrivateFileError};

/// Largest record, in bytes: two tokens of 32 KiB each, escaped, and some room.
const LARGEST: u64 = 256 * 1024;
/// Bytes that a prepared file reserves, so that a full disk shows before a token is spent: four blocks.
const RESERVED: usize = 16 * 1024;

/// A folder of records.
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
    /// Where its work is done.
    pub(super) threads: Threads,
    /// Temp files that a process left behind when it died, by account; removed under the account's lock.
    leftovers: Mutex<HashMap<AccountName, Vec<PathBuf>>>,
    /// It was said that the folder has no fsync.
    has_warned: AtomicBool,
}

/// The right to write one account's record; the kernel frees it when the process dies.
#[derive(Debug)]
pub struct Locked {
    /// Whose record.
    pub account: AccountName,
    held: Arc<Held>,
}

/// Shared with the work that is done under the lock, which may end after its caller: the lock is held until then.
#[derive(Debug)]
struct Held {
    /// Open for as long as the lock is held.
    _file: File,
    prepared: Mutex<Option<NamedTempFile>>,
}

impl Locked {
    /// The same lock, for work on another thread.
    pub(crate) fn share(&self) -> Self {
        Self { account: self.account.clone(), held: self.held.clone() }
    }

    fn prepared(&self) -> MutexGuard<'_, Option<NamedTempFile>> {
        self.held.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an attempt to lock ended.
pub(super) enum Try {
    Locked(Locked),
    Busy(Option<u32>),
}

impl FileStore {
    /// Opens the folder, or makes it with mode 0700.
    pub(super) fn open(folder: &Path) -> Result<Self, OpenError> {
        make_private_folder(folder)?;
        let leftovers = leftovers(folder).map_err(|error| OpenError::Unreadable(folder.into(), error))?;
        let threads = Threads::start().map_err(OpenError::NoThread)?;
        Ok(Self {
            folder: folder.into(),
            threads,
            leftovers: Mutex::new(leftovers),
            has_warned: AtomicBool::new(false),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn try_lock(&self, account: &AccountName) -> io::Result<Try> {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits().cast_signed();
        let path = self.folder.join(format!("{account}.lock"));
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
        let held = Held { _file: file, prepared: Mutex::default() };
        Ok(Try::Locked(Locked { account: account.clone(), held: Arc::new(held) }))
    }

    /// Reads a record; `None` if there is none.
    pub(super) fn load(&self, account: &AccountName) -> Result<Option<Record>, RecordError> {
        let path = self.path(account);
        let bytes = match private_file::read(&path, LARGEST) {
            Ok(bytes) => zeroize::Zeroizing::new(bytes),
            Err(PrivateFileError::Missing(_)) => return Ok(None),
            Err(error) => return Err(RecordError::Refused(error)),
        };
        Record::decode(&bytes).map(Some).map_err(|error| RecordError::Undecodable(path, error))
    }

    /// Creates the next record's file and reserves its space.
    pub(super) fn prepare(&self, locked: &Locked) -> Result<(), SaveError> {
        let mut prepared = locked.prepared();
        if prepared.is_some() {
            return Ok(());
        }
        let fail = |error| self.unsaved(&locked.account, error);
        let mut file = self.temp_file(&locked.account).map_err(fail)?;
        file.write_all(&[b' '; RESERVED]).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
        *prepared = Some(file);
        Ok(())
    }

    /// Replaces a record: write, fsync, rename, fsync of the folder. A file whose fsync failed is thrown away.
    pub(super) fn save(&self, locked: &Locked, record: &Record) -> Result<(), SaveError> {
        let prepared = locked.prepared().take();
        self.replace(&locked.account, prepared, record).map_err(|error| self.unsaved(&locked.account, error))
    }

    /// The same, without touching what was prepared for the next save.
    pub(super) fn note(&self, locked: &Locked, record: &Record) -> Result<(), SaveError> {
        self.replace(&locked.account, None, record).map_err(|error| self.unsaved(&locked.account, error))
    }

    /// What is said about a record that was not saved.
    pub(super) fn unsaved(&self, account: &AccountName, error: io::Error) -> SaveError {
        SaveError::new(&self.path(account), error)
    }

    fn replace(&self, account: &AccountName, prepared: Option<NamedTempFile>, record: &Record) -> io::Result<()> {
        let mut file = prepared.map_or_else(|| self.temp_file(account), Ok)?;
        let bytes = record.encode();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&bytes)?;
        file.as_file().set_len(bytes.len() as u64)?;
        file.as_file().sync_all()?;
        // Opened before: once the record is in its place, want of a file is no reason to call it unsaved.
        let folder = File::open(&self.folder)?;
        file.persist(self.path(account)).map_err(|error| error.error)?;
        self.synced(folder.sync_all())
    }

    /// What came of the folder's fsync. Some network file systems have none; the rename is as durable there as it gets.
    fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        use rustix::io::Errno;
        let Err(error) = result else { return Ok(()) };
        let errno = error.raw_os_error().unwrap_or_default();
        if ![Errno::INVAL, Errno::NOTSUP, Errno::OPNOTSUPP].iter().any(|none| none.raw_os_error() == errno) {
            return Err(error);
        }
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                "the file system of {} cannot make a folder durable ({error}); a power cut may bring an older record back",
                self.folder.display()
            );
        }
        Ok(())
    }

    /// Puts a record that cannot be read aside, for a login to take its place.
    pub(super) fn set_aside(&self, account: &AccountName, unix_time: i64) -> io::Result<PathBuf> {
        let aside = self.folder.join(format!("{account}.json.corrupt-{unix_time}"));
        fs::rename(self.path(account), &aside)?;
        Ok(aside)
    }

    /// Removes a record durably.
    pub(super) fn remove(&self, account: &AccountName) -> io::Result<()> {
        match fs::remove_file(self.path(account)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(&self.folder)?.sync_all()
    }

    /// Names of all records.
    pub(super) fn list(&self) -> io::Result<Vec<AccountName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// What tells one version of a record from the next without reading it.
    pub(super) fn stamp(&self, account: &AccountName) -> Stamp {
        stamp(&self.path(account))
    }

    /// The same for the folder: it changes with every record that comes, goes or is replaced.
    pub(super) fn folder_stamp(&self) -> Stamp {
        stamp(&self.folder)
    }

    pub(super) fn path(&self, account: &AccountName) -> PathBuf {
        self.folder.join(format!("{account}.json"))
    }

    /// Random name, `O_EXCL`, mode 0600 from birth.
    fn temp_file(&self, account: &AccountName) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(&format!(".{account}.")).suffix(".tmp").rand_bytes(12).tempfile_in(&self.folder)
    }

    fn clear_leftovers(&self, account: &AccountName) {
        let stale = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).remove(account);
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
    let metadata = fs::symlink_metadata(folder).map_err(|error| OpenError::Unreadable(folder.into(), error))?;
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

fn stamp(path: &Path) -> Stamp {
    Stamp(path.symlink_metadata().ok().map(|it| (it.ino(), it.mtime(), it.mtime_nsec(), it.size(), it.mode())))
}

/// True if the open file is the one that has this name now.
fn is_named(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
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
