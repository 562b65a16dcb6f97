//! What can go wrong with a store, and with one record of it.

use std::io;

use super::decode_error::DecodeError;
use crate::private_file::folder::FolderError;
use crate::private_file::{self, PrivateFileError};

/// Why a store cannot be opened: the start stops.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder is not private, or cannot be made or read.
    #[error("the state folder {}{}", .0, folder_hint(.0))]
    Folder(#[from] FolderError),
    /// The system gives no thread for file work.
    #[error(
        "the store gets no thread ({0}); end other programs of this user, or raise the limit of processes (ulimit -u, TasksMax)"
    )]
    NoThread(io::Error),
    /// The system gives no randomness.
    #[error("the system has no randomness: {0}")]
    Random(io::Error),
    /// The URL of the database, or the file of its trust roots, cannot be used.
    #[error("{0}")]
    Url(String),
    /// The database cannot be used.
    #[error("{0}: {1}")]
    Database(String, String),
    /// The database cannot be reached; that may be over soon.
    #[error("{0}: {1}")]
    Away(String, String),
    /// Records would be kept where others than their owner can read them.
    #[error(
        "store.kind = \"postgres\" keeps tokens sealed, and there is no key; make one: (umask 077; set -C; pleo-proxy store key > store-key), and write, below [store]: key_file = \"store-key\"; or set store.allow_plain = true"
    )]
    Unsealed,
}

/// What to do where the error does not name a command.
fn folder_hint(error: &FolderError) -> &'static str {
    match error {
        FolderError::Uncreatable(..) => "; set store.path to a folder you can write",
        FolderError::NotFolder(_) => "; set store.path to the folder itself",
        FolderError::Unreadable(..)
        | FolderError::AnotherUsers(..)
        | FolderError::TooPermissive(..) => "",
    }
}

/// What to do about a record that is not readable.
fn decode_hint(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::Corrupt(_) => "log in again; the record is then put aside",
        DecodeError::Version(_) => "use that version of pleo-proxy, or remove the record",
        DecodeError::KeysUnreadable { .. } => {
            "mend that file, which store.key_file names; the proxy notices"
        }
        DecodeError::NoKey(_) => {
            "add that key to the file that store.key_file names, or give it as the variable PLEO_PROXY_STORE_KEY or the credential store-key; if the key is lost, remove the record and log in again"
        }
    }
}

/// Why one account's record cannot be used. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Owner, mode, file type or size is wrong, or the system refuses.
    #[error(transparent)]
    Refused(#[from] PrivateFileError),
    /// It was read and is not a record.
    #[error("{0}: {1}; {hint}", hint = decode_hint(.1))]
    Undecodable(String, DecodeError),
    /// The whole store is out of sight, as a disk that is not mounted: nothing is known about the
    /// record.
    #[error("the store at {0} is not there")]
    StoreMissing(String),
    /// The store does not answer: nothing is known about the record.
    #[error("{0}")]
    Unreachable(String),
}

impl RecordError {
    /// True if a login may take its place: nothing can be read from it, whatever anybody does.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Undecodable(_, DecodeError::Corrupt(_)))
    }

    /// True if it says nothing about the record: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused(error) => error.is_passing(),
            Self::StoreMissing(_) | Self::Unreachable(_) => true,
            Self::Undecodable(_, DecodeError::KeysUnreadable { is_passing, .. }) => *is_passing,
            Self::Undecodable(..) => false,
        }
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Held by the process that is named, if that is known.
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

/// Why a record was not saved; the record before it is still there.
#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be written: {source}")]
pub struct SaveError {
    /// The record, as its kind of store names it.
    pub(super) place: String,
    pub(super) source: io::Error,
}

/// Another process has written the record since its lock was taken, or has its lock by now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("another replica has changed the account meanwhile")]
pub(super) struct Superseded;

impl SaveError {
    /// True if it says nothing about the disk: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        private_file::is_passing(&self.source)
    }

    /// True if another process has written the record since its lock was taken: to write over that
    /// could lose the only copy of a pair.
    pub fn is_superseded(&self) -> bool {
        self.source.get_ref().is_some_and(|inner| inner.is::<Superseded>())
    }
}
