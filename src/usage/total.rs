//! All counters of a store.

use std::collections::BTreeSet;
use std::path::Path;

use super::counters::{Account, Counters, Use};
use super::file::{self, UsageError};
use super::report::{self, AccountReport, Grant};

/// The counters of a store: those that were saved, and those since then.
#[derive(Clone, Debug)]
pub struct Usage {
    /// When counting began, in UNIX milliseconds.
    since: i64,
    saved: Counters,
    unsaved: Counters,
}

impl Usage {
    /// Nothing was counted yet. `now` is in UNIX milliseconds, as all times here.
    pub fn new(now: i64) -> Self {
        Self { since: now, saved: Counters::default(), unsaved: Counters::default() }
    }

    /// The counters of a file; fresh ones if there is none.
    ///
    /// # Errors
    /// [`UsageError`]: the file cannot be read, or is none of ours.
    pub fn load(path: &Path, now: i64) -> Result<Self, UsageError> {
        let Some((since, saved)) = file::read(path)? else { return Ok(Self::new(now)) };
        Ok(Self { since, saved, unsaved: Counters::default() })
    }

    /// Adds what was counted to the file, if there is anything. A damaged file is replaced by what
    /// this process knows.
    ///
    /// # Errors
    /// [`UsageError`]: it cannot be written; a later attempt may succeed.
    pub fn save(&mut self, path: &Path) -> Result<(), UsageError> {
        if !self.is_changed() {
            return Ok(());
        }
        let _lock = file::lock(path)?;
        if let Ok(Some((since, saved))) = file::read(path) {
            (self.since, self.saved) = (self.since.min(since), saved);
        }
        let mut all = self.saved.clone();
        all.add(&self.unsaved);
        file::write(path, self.since, &all)?;
        (self.saved, self.unsaved) = (all, Counters::default());
        Ok(())
    }

    /// The counters of an account go on under another name, or end if there is none, in the file
    /// too.
    ///
    /// # Errors
    /// [`UsageError`]: it cannot be written; the counters keep their name there.
    pub fn move_account(
        &mut self,
        path: &Path,
        from: &str,
        to: Option<&str>,
    ) -> Result<(), UsageError> {
        let _lock = file::lock(path)?;
        if let Ok(Some((since, saved))) = file::read(path) {
            (self.since, self.saved) = (self.since.min(since), saved);
        }
        let parts = [&mut self.saved, &mut self.unsaved];
        let moved = parts.map(|counters| counters.move_account(from, to));
        if !moved.contains(&true) {
            return Ok(());
        }
        let mut all = self.saved.clone();
        all.add(&self.unsaved);
        file::write(path, self.since, &all)?;
        (self.saved, self.unsaved) = (all, Counters::default());
        Ok(())
    }

    /// A copy that is to be saved; counting goes on meanwhile. [`Self::end_save`] takes it back.
    pub(super) fn begin_save(&mut self) -> Self {
        let copy = self.clone();
        self.saved.add(&std::mem::take(&mut self.unsaved));
        copy
    }

    /// The attempt to save this copy is over: what is still unsaved of it is kept for the next one.
    pub(super) fn end_save(&mut self, copy: Self) {
        (self.since, self.saved) = (copy.since, copy.saved);
        let newer = std::mem::replace(&mut self.unsaved, copy.unsaved);
        self.unsaved.add(&newer);
    }

    /// Counts a request that Pleo got. `status` is none if there was no response.
    pub fn record(&mut self, account: &str, what: Use, status: Option<u16>, at: i64) {
        let is_error = status.is_none_or(|status| status >= 400);
        self.unsaved.record(account, what, is_error, at);
    }

    /// True if there is something to save.
    pub fn is_changed(&self) -> bool {
        !self.unsaved.accounts.is_empty()
    }

    /// The names of the accounts that were used.
    pub fn accounts(&self) -> BTreeSet<String> {
        self.saved.accounts.keys().chain(self.unsaved.accounts.keys()).cloned().collect()
    }

    /// What follows from the counters for one account.
    pub fn report(&self, account: &str, grant: &Grant<'_>) -> AccountReport {
        let mut all = Account::default();
        for counters in [&self.saved, &self.unsaved] {
            if let Some(counted) = counters.accounts.get(account) {
                all.add(counted);
            }
        }
        report::report(account, &all, grant)
    }

    /// When counting began, in UNIX milliseconds.
    pub fn since(&self) -> i64 {
        self.since
    }
}
