//! Counters of requests, by account and operation.

use std::collections::BTreeMap;

use http::Method;
use serde::{Deserialize, Serialize};

use crate::operations::{self, Kind, Operation};

/// Accounts that are counted at most. Requests of more are not counted.
const MAX_ACCOUNTS: usize = 1000;

/// What a request asks of Pleo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// An operation, by its index in [`operations::ALL`].
    Listed(usize),
    /// A read that is not in the table.
    OtherRead,
    /// Anything else.
    OtherWrite,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Counter {
    /// All of them.
    pub requests: u64,
    /// Those that had no success: 4xx, 5xx, or no response.
    pub errors: u64,
    /// Time of the last one, in UNIX milliseconds; 0 = there was none.
    pub last_at: i64,
}

/// What one account used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) operations: Vec<Counter>,
    pub(super) other_reads: Counter,
    pub(super) other_writes: Counter,
}

/// Counters by account and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) accounts: BTreeMap<String, Account>,
}

impl Use {
    /// What a request asks for. `path` is without a prefix that names the account.
    pub fn of(method: &Method, path: &str) -> Self {
        Self::listed(method, operations::find(method, path))
    }

    /// The same with the operation, if it was found.
    pub fn listed(method: &Method, operation: Option<&Operation>) -> Self {
        match operation {
            Some(operation) => Self::Listed(operation.index()),
            None if matches!(*method, Method::GET | Method::HEAD) => Self::OtherRead,
            None => Self::OtherWrite,
        }
    }
}

impl Counter {
    fn count(&mut self, is_error: bool, at: i64) {
        self.requests = self.requests.saturating_add(1);
        self.errors = self.errors.saturating_add(u64::from(is_error));
        self.last_at = self.last_at.max(at);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.last_at = self.last_at.max(other.last_at);
    }
}

impl Default for Account {
    fn default() -> Self {
        Self {
            operations: vec![Counter::default(); operations::ALL.len()],
            other_reads: Counter::default(),
            other_writes: Counter::default(),
        }
    }
}

impl Account {
    fn counter(&mut self, what: Use) -> Option<&mut Counter> {
        match what {
            Use::Listed(index) => self.operations.get_mut(index),
            Use::OtherRead => Some(&mut self.other_reads),
            Use::OtherWrite => Some(&mut self.other_writes),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.operations.iter_mut().zip(&other.operations) {
            own.add(other);
        }
        self.other_reads.add(&other.other_reads);
        self.other_writes.add(&other.other_writes);
    }

    /// The operations that were used, with their counters.
    pub(super) fn used(&self) -> impl Iterator<Item = (&'static Operation, &Counter)> {
        let all = operations::ALL.iter().zip(&self.operations);
        all.filter(|(_, counter)| counter.requests > 0)
    }

    pub(super) fn has_requests(&self) -> bool {
        let counters = self.operations.iter().chain([&self.other_reads, &self.other_writes]);
        counters.into_iter().any(|counter| counter.requests > 0)
    }

    /// True if there was any request that may change something.
    pub(super) fn has_written(&self) -> bool {
        self.other_writes.requests > 0 || self.used().any(|(it, _)| it.kind == Kind::Write)
    }
}

impl Counters {
    pub(super) fn record(&mut self, account: &str, what: Use, is_error: bool, at: i64) {
        if !self.accounts.contains_key(account) {
            if self.accounts.len() >= MAX_ACCOUNTS {
                return;
            }
            self.accounts.insert(account.to_owned(), Account::default());
        }
        let counter = self.accounts.get_mut(account).and_then(|account| account.counter(what));
        if let Some(counter) = counter {
            counter.count(is_error, at);
        }
    }

    /// The counters of an account go on under another name, or end. True if there were any.
    pub(super) fn move_account(&mut self, from: &str, to: Option<&str>) -> bool {
        let Some(account) = self.accounts.remove(from) else { return false };
        if let Some(to) = to {
            self.accounts.entry(to.to_owned()).or_default().add(&account);
        }
        true
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, account) in &other.accounts {
            if let Some(own) = self.accounts.get_mut(name) {
                own.add(account);
            } else if self.accounts.len() < MAX_ACCOUNTS {
                self.accounts.insert(name.clone(), account.clone());
            }
        }
    }
}
