//! The lock of an account, whatever its kind, and all that it takes a lock to do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedRwLockWriteGuard;

use super::change::Version;
use super::error::{LockError, SaveError};
use super::file::{FileStore, Held as FileHeld};
#[cfg(test)]
use super::memory::{Held as MemoryHeld, MemoryStore};
use super::name::AccountName;
#[cfg(feature = "postgres")]
use super::postgres::{Held as Claim, PostgresStore, Writing};
use super::record::Record;
use crate::clock::{Now, TimeLimit};

/// The right to write one account's record. It ends with its last copy, and with the process.
#[derive(Clone, Debug)]
pub struct Locked {
    /// The account.
    pub account: AccountName,
    pub(super) hold: Hold,
}

impl Locked {
    /// Reserves the space that the next save needs.
    ///
    /// # Errors
    /// [`SaveError`], with the disk's reason.
    pub async fn prepare(&self) -> Result<(), SaveError> {
        match &self.hold {
            Hold::File(store, held) => store.prepare(&self.account, held).await,
            #[cfg(any(test, feature = "postgres"))]
            _ => Ok(()),
        }
    }

    /// Replaces the record durably; when this returns its version, it is there. A save that has
    /// begun ends even if the caller leaves, and the lock is held until then.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn save(&self, record: &Record) -> Result<Version, SaveError> {
        match &self.hold {
            Hold::File(store, held) => store.save(&self.account, held, record).await,
            #[cfg(feature = "postgres")]
            Hold::Postgres(store, held) => store.save(held, record).await,
            #[cfg(test)]
            Hold::Memory(store, _) => Ok(store.save(&self.account, record)),
        }
    }

    /// The same, and leaves the space that was prepared for the next save.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn note(&self, record: &Record) -> Result<Version, SaveError> {
        match &self.hold {
            Hold::File(store, held) => store.note(&self.account, held, record).await,
            #[cfg(feature = "postgres")]
            Hold::Postgres(store, held) => store.note(held, record).await,
            #[cfg(test)]
            Hold::Memory(..) => self.save(record).await,
        }
    }

    /// Replaces a record with an intent by the one before, because the server has not looked at what was
    /// sent under it. One that was open before stays open.
    ///
    /// # Errors
    /// [`SaveError`]; the old record is whole.
    pub async fn take_back(&self, record: &Record) -> Result<Version, SaveError> {
        match &self.hold {
            #[cfg(feature = "postgres")]
            Hold::Postgres(store, held) => store.write(held, record, Writing::TakeBack).await,
            _ => self.note(record).await,
        }
    }

    /// Renames a record that cannot be read and returns its new place.
    ///
    /// # Errors
    /// It cannot be moved.
    pub async fn set_aside(&self, unix_time: i64) -> io::Result<String> {
        match &self.hold {
            Hold::File(store, _) => store.set_aside(&self.account, unix_time).await,
            #[cfg(feature = "postgres")]
            Hold::Postgres(store, held) => store.set_aside(held, unix_time).await,
            #[cfg(test)]
            Hold::Memory(store, _) => Ok(store.set_aside(&self.account)),
        }
    }

    /// Removes the record, if there is one.
    ///
    /// # Errors
    /// [`SaveError`]; the record may still be there.
    pub async fn remove(&self) -> Result<(), SaveError> {
        match &self.hold {
            Hold::File(store, _) => store.remove(&self.account).await,
            #[cfg(feature = "postgres")]
            Hold::Postgres(store, held) => store.remove(held).await,
            #[cfg(test)]
            Hold::Memory(store, _) => {
                store.remove(&self.account);
                Ok(())
            }
        }
    }

    /// Moves the record to a name of the same store that has none, in one step: at no moment is it
    /// there twice, or not at all. Ends even if the caller leaves, and both locks are held until
    /// then.
    ///
    /// # Errors
    /// [`SaveError`], also if the name is taken or there is nothing to move. The record is where it
    /// was, unless the system could not tell whether the step is durable.
    pub async fn rename(&self, to: &Self) -> Result<Version, SaveError> {
        match (&self.hold, &to.hold) {
            (Hold::File(store, old), Hold::File(_, new)) => {
                store.rename((&self.account, old), (&to.account, new)).await
            }
            #[cfg(feature = "postgres")]
            (Hold::Postgres(store, old), Hold::Postgres(_, new)) => store.rename(old, new).await,
            #[cfg(test)]
            (Hold::Memory(store, _), _) => store.rename(&self.account, &to.account),
            #[cfg(any(test, feature = "postgres"))]
            _ => panic!("the locks are of two stores"),
        }
    }

    /// Until when a token may be sent under the intent that was noted last with this lock; none if
    /// that has no limit, because nobody else gets the lock while this process lives.
    pub fn sending_limit(&self) -> Option<TimeLimit> {
        match &self.hold {
            #[cfg(feature = "postgres")]
            Hold::Postgres(_, held) => Some(held.sending_limit()),
            _ => None,
        }
    }

    /// How long ago the record's open intent was written, by a clock that all who share the store
    /// have in common; none if it has none.
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "of databases alone"))]
    pub fn intent_age(&self, record: &Record) -> Option<Duration> {
        match &self.hold {
            #[cfg(feature = "postgres")]
            Hold::Postgres(_, held) => held.intent_age(record),
            _ => None,
        }
    }

    /// Dates what is saved under this lock and happened `then`, so that of two logins of an account
    /// the later one is known whoever saved it: by the clock of a store that machines share, where
    /// their own may disagree. Milliseconds since 1970.
    pub fn date(&self, then: Now) -> i64 {
        match &self.hold {
            #[cfg(feature = "postgres")]
            Hold::Postgres(_, held) => held.time_at(then.boot),
            _ => then.wall,
        }
    }

    /// Takes a lock once more that may have run out, and looks at the record as it is now: what
    /// another process has written may be replaced from here on.
    ///
    /// # Errors
    /// [`LockError`]: another process has it by now.
    pub async fn retake(&self) -> Result<(), LockError> {
        #[cfg(feature = "postgres")]
        if let Hold::Postgres(_, held) = &self.hold
            && let Some(holder) = held.retake().await?
        {
            return Err(LockError::Busy(holder));
        }
        Ok(())
    }
}

/// What each kind holds a lock by, and its store.
#[derive(Clone, Debug)]
pub(super) enum Hold {
    File(Arc<FileStore>, Arc<FileHeld>),
    #[cfg(feature = "postgres")]
    Postgres(Arc<PostgresStore>, Arc<Claim>),
    #[cfg(test)]
    Memory(MemoryStore, #[expect(dead_code, reason = "held, not read")] Arc<MemoryHeld>),
}

/// While this lives, the process holds no lock and takes none: see [`Store::pause_locking`](super::Store::pause_locking).
#[derive(Debug)]
pub struct LockingPaused(
    #[expect(dead_code, reason = "held, not read")] pub(super) OwnedRwLockWriteGuard<()>,
);
