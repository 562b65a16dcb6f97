//! The file of the counters, with operations by their names: their indices differ between releases.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counters::{Account, Counter, Counters};
use crate::operations;
use crate::private_file::lock::{self, Attempt, FileLock};
use crate::private_file::{self, PrivateFileError};

/// Version of the format.
const VERSION: u32 = 1;
/// Larger than the file of a thousand accounts that use every operation, in bytes.
const LIMIT: u64 = 32 * 1024 * 1024;

/// How often its lock is tried, and the pause between two attempts: two seconds.
const LOCK_TRIES: u32 = 100;
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why the file of the counters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] PrivateFileError),
    /// Its content is none of ours.
    #[error("{} holds no counters that this release can read; it is replaced at the next save", .0.display())]
    Damaged(PathBuf),
    /// Another process has held its lock for longer than a save takes.
    #[error("{} is locked{}; the latest counts are not saved", .0.display(), .1.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    Busy(PathBuf, Option<String>),
    /// It cannot be written.
    #[error("{} cannot be written: {}", .0.display(), .1)]
    Unwritable(PathBuf, io::Error),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    since: i64,
    accounts: BTreeMap<String, Used>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Used {
    operations: BTreeMap<String, Counter>,
    other_reads: Counter,
    other_writes: Counter,
}

/// Takes the lock of the file: for those that replace it by what they have read and more. One that a
/// process holds for longer than a moment (it was stopped) is not waited for.
pub(super) fn lock(path: &Path) -> Result<FileLock, UsageError> {
    let path = path.with_extension("lock");
    let mut tries = 0;
    loop {
        let attempt = lock::attempt(&path);
        match attempt.map_err(|error| UsageError::Unwritable(path.clone(), error))? {
            Attempt::Locked(lock) => return Ok(lock),
            Attempt::Busy(holder) if tries == LOCK_TRIES => {
                return Err(UsageError::Busy(path, holder));
            }
            Attempt::Busy(_) => sleep(LOCK_POLL),
        }
        tries += 1;
    }
}

/// When counting began, and the counters; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<(i64, Counters)>, UsageError> {
    let bytes = match private_file::read(path, LIMIT) {
        Err(PrivateFileError::Missing(_)) => return Ok(None),
        bytes => bytes?,
    };
    let damaged = || UsageError::Damaged(path.to_owned());
    let file: File = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if file.version != VERSION {
        return Err(damaged());
    }
    let accounts = file.accounts.into_iter().map(|(name, used)| (name, account(used)));
    Ok(Some((file.since, Counters { accounts: accounts.collect() })))
}

/// Operations that this release does not know any more are left out.
fn account(used: Used) -> Account {
    let mut account = Account {
        other_reads: used.other_reads,
        other_writes: used.other_writes,
        ..Account::default()
    };
    for (name, counter) in &used.operations {
        if let Some(operation) = operations::named(name) {
            account.operations[operation.index()].add(counter);
        }
    }
    account
}

/// Replaces the file as a whole, readable by its owner only.
pub(super) fn write(path: &Path, since: i64, counters: &Counters) -> Result<(), UsageError> {
    let used = |account: &Account| Used {
        operations: account.used().map(|(it, counter)| (it.to_string(), *counter)).collect(),
        other_reads: account.other_reads,
        other_writes: account.other_writes,
    };
    let accounts = counters.accounts.iter().map(|(name, account)| (name.clone(), used(account)));
    let file = File { version: VERSION, since, accounts: accounts.collect() };
    let unwritable = |error| UsageError::Unwritable(path.to_owned(), error);
    let json = serde_json::to_vec(&file).map_err(|error| unwritable(error.into()))?;
    private_file::replace(path, &json).map_err(unwritable)
}
