//! A store that ends with the process: the second kind, which shows that [`super::Store`] is a
//! port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use zeroize::Zeroizing;

use super::{AccountName, Hold, Record, RecordError, Try, Version};

#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

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
}

impl Drop for Held {
    fn drop(&mut self) {
        self.store.state().locks.remove(&self.account);
    }
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(super) fn try_lock(&self, account: &AccountName) -> Try<Hold> {
        if !self.state().locks.insert(account.clone()) {
            return Try::Busy(None);
        }
        Try::Locked(Hold::Memory(Arc::new(Held { store: self.clone(), account: account.clone() })))
    }

    pub(super) fn load(&self, account: &AccountName) -> Result<Option<Record>, RecordError> {
        let state = self.state();
        let Some((_, bytes)) = state.records.get(account) else { return Ok(None) };
        Record::decode(bytes)
            .map(Some)
            .map_err(|error| RecordError::Undecodable(account.to_string(), error))
    }

    pub(super) fn save(&self, account: &AccountName, record: &Record) -> Version {
        self.put(account, record.encode())
    }

    /// Any bytes, as a fault would leave them.
    pub(super) fn put(&self, account: &AccountName, bytes: Zeroizing<Vec<u8>>) -> Version {
        let mut state = self.state();
        state.changes += 1;
        let changes = state.changes;
        state.records.insert(account.clone(), (changes, bytes));
        Version::of(changes)
    }

    pub(super) fn set_aside(&self, account: &AccountName) -> String {
        self.remove(account);
        format!("{account} (gone)")
    }

    pub(super) fn remove(&self, account: &AccountName) {
        let mut state = self.state();
        state.changes += 1;
        state.records.remove(account);
    }

    pub(super) fn list(&self) -> Vec<AccountName> {
        self.state().records.keys().cloned().collect()
    }

    pub(super) fn versions(&self, accounts: &[AccountName]) -> (Version, Vec<Version>) {
        let state = self.state();
        let version = |account| {
            state
                .records
                .get(account)
                .map_or(Version::default(), |(version, _)| Version::of(version))
        };
        (Version::of(state.changes), accounts.iter().map(version).collect())
    }
}
