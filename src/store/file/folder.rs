//! The folder of the file store: what is done to its files, on the store's threads.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tempfile::NamedTempFile;
use tokio::sync::OwnedRwLockReadGuard;
use tracing::warn;
use zeroize::Zeroizing;

use crate::private_file::lock::{self, Attempt, FileLock};
use crate::private_file::{self, PrivateFileError};
use crate::store::change::Version;
use crate::store::decode_error::DecodeError;
use crate::store::error::RecordError;
use crate::store::loaded::Loaded;
use crate::store::lock::Try;
use crate::store::name::AccountName;
use crate::store::record::Record;
use crate::store::seal::{self, Names, Protection, Sealing};

/// Largest record, in bytes: two tokens of 32 KiB each, escaped, and some room.
const MAX_RECORD: u64 = 256 * 1024;
/// Bytes that a prepared file reserves, so that a full disk shows before a token is spent: four
/// blocks.
const RESERVED: usize = 16 * 1024;

/// A folder of records.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Temp files that a process left behind when it died, by account; removed under the account's
    /// lock.
    leftovers: Mutex<HashMap<AccountName, Vec<PathBuf>>>,
    /// The warning that the folder has no fsync was given.
    has_warned: AtomicBool,
    /// Nothing is locked, so nothing is written; a folder that does not exist is an empty one.
    is_read_only: bool,
    sealing: Sealing,
}

/// A lock. The work that is done under it shares it, and may end after its caller. The kernel frees
/// it when the process dies.
#[derive(Debug)]
pub(in crate::store) struct Held {
    _lock: FileLock,
    prepared: Mutex<Option<NamedTempFile>>,
    /// Given back after the lock.
    _allowed: OwnedRwLockReadGuard<()>,
}

/// What a record's file holds, and the metadata of that file.
type Content = (Zeroizing<Vec<u8>>, fs::Metadata);

/// The file that becomes the next version of a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Space {
    /// The one whose space was reserved, if there is one.
    Prepared,
    /// Another one.
    New,
}

impl Folder {
    /// A folder that exists.
    pub(super) fn open(path: &Path, sealing: Sealing) -> io::Result<Self> {
        let leftovers = Mutex::new(leftovers(path)?);
        Ok(Self { leftovers, is_read_only: false, ..Self::inspect(path, sealing) })
    }

    /// A folder to read from.
    pub(super) fn inspect(path: &Path, sealing: Sealing) -> Self {
        Self {
            path: path.into(),
            leftovers: Mutex::default(),
            has_warned: AtomicBool::new(false),
            is_read_only: true,
            sealing,
        }
    }

    pub(super) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of an account's record.
    pub(super) fn record(&self, account: &AccountName) -> PathBuf {
        self.path.join(format!("{account}.json"))
    }

    /// Changes with every record that comes, goes or is replaced; absent if there is no folder.
    pub(super) fn version(&self) -> Version {
        version(&self.path)
    }

    /// The version of an account's record.
    pub(super) fn record_version(&self, account: &AccountName) -> Version {
        version(&self.record(account))
    }

    pub(super) fn try_lock(
        &self,
        account: &AccountName,
        allowed: OwnedRwLockReadGuard<()>,
    ) -> io::Result<Try<Held>> {
        if self.is_read_only {
            let refused = "the store was opened to be read only";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused));
        }
        let lock = match lock::attempt(&self.path.join(format!("{account}.lock")))? {
            Attempt::Locked(lock) => lock,
            Attempt::Busy(holder) => return Ok(Try::Busy(holder)),
        };
        self.clear_leftovers(account);
        Ok(Try::Locked(Held { _lock: lock, prepared: Mutex::default(), _allowed: allowed }))
    }

    /// Reads a record; `None` if there is none.
    pub(super) fn load(&self, account: &AccountName) -> Result<Option<Loaded>, RecordError> {
        let Some((bytes, metadata)) = self.read(account)? else { return Ok(None) };
        let decoded = self.sealing.decode(account, &bytes);
        let (record, protection) = decoded.map_err(|error| self.undecodable(account, error))?;
        Ok(Some(Loaded { record, version: version_of(&metadata), protection }))
    }

    /// How a record is kept; `None` if there is none.
    pub(super) fn protection(
        &self,
        account: &AccountName,
    ) -> Result<Option<Protection>, RecordError> {
        let Some((bytes, _)) = self.read(account)? else { return Ok(None) };
        let protection = seal::protection(&bytes);
        protection.map(Some).map_err(|error| self.undecodable(account, error))
    }

    fn undecodable(&self, account: &AccountName, error: DecodeError) -> RecordError {
        RecordError::Undecodable(self.record(account).display().to_string(), error)
    }

    fn read(&self, account: &AccountName) -> Result<Option<Content>, RecordError> {
        match private_file::read_with_metadata(&self.record(account), MAX_RECORD) {
            Ok((bytes, metadata)) => Ok(Some((Zeroizing::new(bytes), metadata))),
            Err(PrivateFileError::Missing(_)) if self.is_missing() => {
                Err(RecordError::StoreMissing(self.path.display().to_string()))
            }
            Err(PrivateFileError::Missing(_)) => Ok(None),
            Err(error) => Err(RecordError::Refused(error)),
        }
    }

    fn is_missing(&self) -> bool {
        !self.is_read_only && self.version().is_absent()
    }

    pub(super) fn prepare(&self, account: &AccountName, held: &Held) -> io::Result<()> {
        let mut prepared = held.prepared.lock();
        if prepared.is_none() {
            let mut file = self.temp_file(account)?;
            file.write_all(&[b' '; RESERVED])?;
            file.as_file().sync_all()?;
            *prepared = Some(file);
        }
        Ok(())
    }

    /// Replaces an account's record.
    pub(super) fn save(
        &self,
        account: &AccountName,
        held: &Held,
        record: &Record,
        space: Space,
    ) -> io::Result<Version> {
        self.replace(
            (account, held),
            &self.sealing.encode(Names::One(account.as_str()), record)?,
            space,
        )
    }

    /// Replaces a file: write, fsync, rename, fsync of the folder. A file whose fsync failed is
    /// thrown away.
    fn replace(
        &self,
        (account, held): (&AccountName, &Held),
        bytes: &[u8],
        space: Space,
    ) -> io::Result<Version> {
        let prepared = match space {
            Space::Prepared => held.prepared.lock().take(),
            Space::New => None,
        };
        let mut file = prepared.map_or_else(|| self.temp_file(account), Ok)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(bytes)?;
        file.as_file().set_len(bytes.len() as u64)?;
        file.as_file().sync_all()?;
        // Opened before the rename: once the record is in place, a lack of file descriptors must
        // not make it count as unsaved.
        let folder = File::open(&self.path)?;
        let path = self.record(account);
        file.persist(&path).map_err(|error| error.error)?;
        self.synced(folder.sync_all())?;
        Ok(version(&path))
    }

    /// The result of the folder's fsync. Some network file systems have none; there the rename is
    /// as durable as it can be.
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

    /// Renames a record and returns its new name.
    pub(super) fn set_aside(&self, account: &AccountName, unix_time: i64) -> io::Result<PathBuf> {
        let name = format!("{account}.json.corrupt-{unix_time}");
        let names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
        let mut free = names.map(|name| self.path.join(name));
        let aside = free.find(|path| path.symlink_metadata().is_err());
        let aside = aside.ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(self.record(account), &aside)?;
        Ok(aside)
    }

    /// Removes a record durably.
    pub(super) fn remove(&self, account: &AccountName) -> io::Result<()> {
        match fs::remove_file(self.record(account)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(&self.path)?.sync_all()
    }

    /// Moves a record to a name that has none, durably. Nobody else can make one there: its lock is
    /// held. A sealed record is bound to its name. So that it moves in one step all the same, it is
    /// sealed for both names before, and for the new one alone after.
    pub(super) fn rename(
        &self,
        (from, held): (&AccountName, &Held),
        (to, new_held): (&AccountName, &Held),
    ) -> io::Result<Version> {
        let (old, new) = (self.record(from), self.record(to));
        if new.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let sealed = match self.sealing.key() {
            Some(_) => self.load(from).map_err(io::Error::other)?.map(|it| it.record),
            None => None,
        };
        if let Some(record) = &sealed {
            let for_both = self.sealing.encode(Names::Both(from.as_str(), to.as_str()), record)?;
            self.replace((from, held), &for_both, Space::New)?;
        }
        // Before the rename, as in `replace`.
        let folder = File::open(&self.path)?;
        fs::rename(old, &new)?;
        self.synced(folder.sync_all())?;
        let Some(record) = sealed else { return Ok(version(&new)) };
        Ok(self.save(to, new_held, &record, Space::New).unwrap_or_else(|error| {
            warn!(account = %to, "it has moved, and opens under its old name too until it is saved again: {error}");
            version(&new)
        }))
    }

    /// Names of all records.
    pub(super) fn list(&self) -> io::Result<Vec<AccountName>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if self.is_read_only && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
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

fn version(path: &Path) -> Version {
    path.symlink_metadata().map_or_else(|_| Version::default(), |metadata| version_of(&metadata))
}

/// A mode that was changed is a new version too: the record may be refused now.
fn version_of(it: &fs::Metadata) -> Version {
    Version::of((it.ino(), it.mtime(), it.mtime_nsec(), it.size(), it.mode()))
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
