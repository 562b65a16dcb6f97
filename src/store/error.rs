//! What can go wrong with a store, and with one record of it.

use std::io;

use super::record::DecodeError;
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

/// Why one account's record cannot be used. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Owner, mode, file type or size is wrong, or the system refuses.
    #[error(transparent)]
    Refused(#[from] PrivateFileError),
    /// It was read and is not a record.
    #[error("{0}: {1}; log in again; the file is then put aside")]
    Undecodable(String, DecodeError),
    /// The whole store is out of sight, as a disk that is not mounted: nothing is known about the
    /// record.
    #[error("the store at {0} is not there")]
    StoreMissing(String),
}

impl RecordError {
    /// True if it says nothing about the record: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused(error) => error.is_passing(),
            Self::StoreMissing(_) => true,
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

impl SaveError {
    /// True if it says nothing about the disk: see [`private_file::is_passing`].
    pub fn is_passing(&self) -> bool {
        private_file::is_passing(&self.source)
    }
}
