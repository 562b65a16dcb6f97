//! The accounts of this process, by name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;

use super::account::{Account, AccountContext};
use crate::store::{AccountName, Issued};

#[derive(Debug)]
pub(super) struct Registry {
    accounts: DashMap<AccountName, Arc<Account>>,
    context: Arc<AccountContext>,
}

impl Registry {
    pub(super) fn new(context: Arc<AccountContext>) -> Self {
        Self { accounts: DashMap::new(), context }
    }

    /// An account that this process knows: it has a record or is named by the settings.
    pub(super) fn get(&self, name: &AccountName) -> Option<Arc<Account>> {
        self.accounts.get(name).map(|account| account.clone()).filter(|account| account.is_known())
    }

    /// The account of this name, known or not.
    pub(super) fn get_or_insert(&self, name: &AccountName) -> Arc<Account> {
        let new = || Arc::new(Account::new(name.clone(), self.context.clone()));
        self.accounts.entry(name.clone()).or_insert_with(new).clone()
    }

    /// All known accounts, sorted by name.
    pub(super) fn sorted(&self) -> Vec<Arc<Account>> {
        let mut all = self.unsorted();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// All known accounts.
    pub(super) fn unsorted(&self) -> Vec<Arc<Account>> {
        let accounts = self.accounts.iter().map(|entry| entry.value().clone());
        accounts.filter(|account| account.is_known()).collect()
    }

    /// Counts the changes that matter to the default account.
    pub(super) fn default_version(&self) -> u64 {
        self.context.default_version.load(Ordering::Acquire)
    }

    /// The other account that holds a grant of this company. Each refresh of one would end the
    /// other's tokens.
    pub(super) fn other_holder(
        &self,
        account: &AccountName,
        subject: &str,
        issued: &Issued,
    ) -> Option<AccountName> {
        let holds = |other: &Account| {
            let snapshot = other.peek();
            let record = snapshot.record().filter(|it| it.subject.as_deref() == Some(subject));
            let grant = record.and_then(|record| record.grant.as_ref());
            grant.is_some_and(|grant| grant.issued == *issued)
        };
        let all = self.sorted();
        let other = all.iter().find(|other| other.name != *account && holds(other))?;
        Some(other.name.clone())
    }

    /// A scheduler that stopped may have taken requests for refreshes that it did not start:
    /// whoever waits asks again.
    pub(super) fn ask_again(&self) {
        for account in self.accounts.iter() {
            account.clear_refresh_request();
            account.gate.notify();
        }
    }
}
