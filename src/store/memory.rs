//! A store that ends with the process: the second kind, which shows that [`super::Store`] is a
//! port.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast::{self, error::TryRecvError};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use zeroize::Zeroizing;

use super::change::{Change, Version, Watched};
use super::error::{RecordError, SaveError};
use super::loaded::Loaded;
use super::lock::Try;
use super::metrics::LockMetrics;
use super::name::AccountName;
use super::record::Record;
use super::seal::Protection;

/// Changes that a reader may leave unread before it has to resync.
pub(super) const MAX_UNREAD: usize = 16;

#[derive(Clone, Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    news: broadcast::Sender<AccountName>,
    is_read_only: bool,
    locking: Arc<RwLock<()>>,
    lock_metrics: LockMetrics,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<AccountName, (u64, Zeroizing<Vec<u8>>)>,
    locks: BTreeSet<AccountName>,
    /// Rises with every change.
    changes: u64,
}

/// A lock, given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    store: MemoryStore,
    account: AccountName,
    _allowed: OwnedRwLockReadGuard<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.store.state().locks.remove(&self.account);
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        let (news, _) = broadcast::channel(MAX_UNREAD);
        Self {
            state: Arc::default(),
            news,
            is_read_only: false,
            locking: Arc::default(),
            lock_metrics: LockMetrics::default(),
        }
    }
}

impl MemoryStore {
    pub(super) fn inspect(&self) -> Self {
        Self { is_read_only: true, ..self.clone() }
    }

    pub(super) fn lock_metrics(&self) -> &LockMetrics {
        &self.lock_metrics
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) async fn pause_locking(&self) -> OwnedRwLockWriteGuard<()> {
        self.locking.clone().write_owned().await
    }

    pub(super) async fn try_lock(&self, account: &AccountName) -> io::Result<Try<Held>> {
        let allowed = self.locking.clone().read_owned().await;
        if self.is_read_only {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if !self.state().locks.insert(account.clone()) {
            return Ok(Try::Busy(None));
        }
        Ok(Try::Locked(Held { store: self.clone(), account: account.clone(), _allowed: allowed }))
    }

    pub(super) fn load(&self, account: &AccountName) -> Result<Option<Loaded>, RecordError> {
        let state = self.state();
        let Some((version, bytes)) = state.records.get(account) else { return Ok(None) };
        let record = Record::decode(bytes)
            .map_err(|error| RecordError::Undecodable(account.to_string(), error))?;
        let protection = Protection::Plain;
        Ok(Some(Loaded { record, version: Version::of(version), protection }))
    }

    pub(super) fn save(&self, account: &AccountName, record: &Record) -> Version {
        self.put(account, record.encode())
    }

    /// Any bytes, as a fault would leave them.
    pub(super) fn put(&self, account: &AccountName, bytes: Zeroizing<Vec<u8>>) -> Version {
        let version = self.change(|state, changes| {
            state.records.insert(account.clone(), (changes, bytes));
            changes
        });
        self.announce(account);
        Version::of(version)
    }

    pub(super) fn set_aside(&self, account: &AccountName) -> String {
        self.remove(account);
        format!("{account} (gone by change {})", self.state().changes)
    }

    pub(super) fn remove(&self, account: &AccountName) {
        self.change(|state, _| state.records.remove(account));
        self.announce(account);
    }

    pub(super) fn rename(
        &self,
        from: &AccountName,
        to: &AccountName,
    ) -> Result<Version, SaveError> {
        let moved = self.change(|state, changes| {
            if state.records.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists);
            }
            let (_, bytes) = state.records.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.records.insert(to.clone(), (changes, bytes));
            Ok(Version::of(changes))
        });
        [from, to].into_iter().for_each(|account| self.announce(account));
        moved.map_err(|kind| SaveError { place: to.to_string(), source: kind.into() })
    }

    pub(super) fn list(&self) -> Vec<AccountName> {
        self.state().records.keys().cloned().collect()
    }

    fn change<T>(&self, apply: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = self.state();
        state.changes += 1;
        let changes = state.changes;
        apply(&mut state, changes)
    }

    fn announce(&self, account: &AccountName) {
        // No reader, no news.
        let _ = self.news.send(account.clone());
    }

    fn version(&self, account: &AccountName) -> Version {
        let state = self.state();
        state.records.get(account).map_or(Version::default(), |(version, _)| Version::of(version))
    }

    /// All that a reader could find different: records, their versions, and locks.
    pub(super) fn fingerprint(&self) -> String {
        let state = self.state();
        let records: Vec<_> = state.records.iter().map(|(name, it)| (name, it.0)).collect();
        format!("{records:?} {:?} {}", state.locks, state.changes)
    }
}

/// A reader of the store's own notifications.
#[derive(Debug)]
pub(super) struct Changes {
    store: MemoryStore,
    news: broadcast::Receiver<AccountName>,
    has_listed: bool,
}

impl Changes {
    pub(super) fn of(store: &MemoryStore) -> Self {
        Self { store: store.clone(), news: store.news.subscribe(), has_listed: false }
    }

    pub(super) fn poll(&mut self, watched: &[Watched]) -> Vec<Change> {
        let mut names = BTreeSet::new();
        let mut is_complete = true;
        loop {
            match self.news.try_recv() {
                Ok(account) => drop(names.insert(account)),
                Err(TryRecvError::Lagged(_)) => is_complete = false,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if !self.has_listed || !is_complete {
            names.extend(self.store.list());
        }
        self.has_listed = true;
        for it in watched {
            if it.version == Some(self.store.version(&it.account)) {
                names.remove(&it.account);
            } else {
                names.insert(it.account.clone());
            }
        }
        let resync = (!is_complete).then_some(Change::Resync);
        resync.into_iter().chain(names.into_iter().map(Change::Changed)).collect()
    }
}
