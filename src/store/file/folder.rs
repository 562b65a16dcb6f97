//! The folder of the file store: what is done to its files, on the store's threads.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tempfile::NamedTempFile;
use tracing::warn;
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};
use crate::store::change::Version;
use crate::store::error::RecordError;
use crate::store::lock::Try;
use crate::store::name::AccountName;
use crate::store::record::Record;

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
}

/// A lock. The work that is done under it shares it, and may end after its caller. The kernel frees
/// it when the process dies.
#[derive(Debug)]
pub(in crate::store) struct Held {
    /// Open for as long as the lock is held.
    _file: File,
    prepared: Mutex<Option<NamedTempFile>>,
}

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
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let leftovers = Mutex::new(leftovers(path)?);
        Ok(Self { leftovers, is_read_only: false, ..Self::inspect(path) })
    }

    /// A folder to read from.
    pub(super) fn inspect(path: &Path) -> Self {
        Self {
            path: path.into(),
            leftovers: Mutex::default(),
            has_warned: AtomicBool::new(false),
            is_read_only: true,
        }
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

    pub(super) fn try_lock(&self, account: &AccountName) -> io::Result<Try<Held>> {
        if self.is_read_only {
            let refused = "the store was opened to be read only";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused));
        }
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
        // Shown to people only: the lock holds without it.
        let _ = write_holder(&mut file);
        self.clear_leftovers(account);
        Ok(Try::Locked(Held { _file: file, prepared: Mutex::default() }))
    }

    /// Reads a record and its version; `None` if there is none.
    pub(super) fn load(
        &self,
        account: &AccountName,
    ) -> Result<Option<(Record, Version)>, RecordError> {
        let path = self.record(account);
        let (bytes, metadata) = match private_file::read_with_metadata(&path, MAX_RECORD) {
            Ok((bytes, metadata)) => (Zeroizing::new(bytes), metadata),
            Err(PrivateFileError::Missing(_)) if self.is_missing() => {
                return Err(RecordError::StoreMissing(self.path.display().to_string()));
            }
            Err(PrivateFileError::Missing(_)) => return Ok(None),
            Err(error) => return Err(RecordError::Refused(error)),
        };
        let record = Record::decode(&bytes)
            .map_err(|error| RecordError::Undecodable(path.display().to_string(), error))?;
        Ok(Some((record, version_of(&metadata))))
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

    /// Replaces a record: write, fsync, rename, fsync of the folder. A file whose fsync failed is
    /// thrown away.
    pub(super) fn replace(
        &self,
        account: &AccountName,
        held: &Held,
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
        let aside = self.path.join(format!("{account}.json.corrupt-{unix_time}"));
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
    /// held.
    pub(super) fn rename(&self, from: &AccountName, to: &AccountName) -> io::Result<Version> {
        let (old, new) = (self.record(from), self.record(to));
        if new.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Before the rename, as in `replace`.
        let folder = File::open(&self.path)?;
        fs::rename(old, &new)?;
        self.synced(folder.sync_all())?;
        Ok(version(&new))
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
