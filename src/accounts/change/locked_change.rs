//! A login's or logout's place in the order, and its hold on the record.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tracing::warn;

use super::error::ChangeError;
use super::savable::ensure_savable;
use crate::accounts::account::Account;
use crate::accounts::moved;
use crate::accounts::origin::after;
use crate::accounts::services::Services;
use crate::accounts::settings::{LOCK_PATIENCE, REFRESH_LOCK_PATIENCE};
use crate::accounts::transition;
use crate::clock::Deadline;
use crate::store::{Locked, Record};
use crate::timeout::while_running;

/// A place in the order of the logins and logouts that were asked for.
#[derive(Debug)]
pub struct ChangeTicket {
    account: Arc<Account>,
    number: u64,
    /// The generation that this process knew then.
    pub(super) generation: u64,
    /// The earliest time after what it knew then.
    pub(super) after: i64,
}

/// A record that is about to be replaced.
pub(super) struct LockedChange {
    refresh_lock: OwnedMutexGuard<()>,
    pub(super) locked: Locked,
    /// The record to be replaced: the one on disk, unless memory has a newer one.
    pub(super) previous: Option<Record>,
    /// What is on disk cannot be read: it is moved aside right before the new record is saved.
    is_corrupt: bool,
}

impl ChangeTicket {
    pub(super) fn new(account: Arc<Account>) -> Self {
        let number = account.order().next_number();
        let generation = account.peek().generation();
        let after = after(account.record().as_deref());
        Self { account, number, generation, after }
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// From here on nothing that was asked for before is saved.
    pub(super) fn logout_began(&self) {
        self.account.order().logout_began(self.number);
    }

    /// It was saved, or given up.
    pub(super) fn logout_ended(&self) {
        self.account.order().logout_ended(self.number);
    }

    /// It was done without a new record: nothing that was asked for before is saved from here on.
    pub(super) fn took_place(&self) {
        self.account.order().saved(self.number);
    }

    /// Takes both locks and reads the record. With `replaces_corrupt` a damaged one counts as none.
    pub(super) async fn lock(
        &self,
        services: &Services,
        replaces_corrupt: bool,
    ) -> Result<LockedChange, ChangeError> {
        let account = &self.account;
        check_changeable(account)?;
        let lock = account.refresh_lock.clone().lock_owned();
        let refresh_lock = while_running(REFRESH_LOCK_PATIENCE, lock)
            .await
            .ok_or_else(|| ChangeError::Busy(account.name.clone()))?;
        self.check_order()?;
        let locked = services.store.lock(&account.name, LOCK_PATIENCE).await?;
        let (stored, is_corrupt) = match services.store.load(&account.name).await {
            Ok(stored) => (stored.map(|(record, _)| record), false),
            // A record of a newer program is whole: it stays.
            Err(error) if replaces_corrupt && error.is_corrupt() => (None, true),
            Err(error) => return Err(error.into()),
        };
        let mut remembered = account.record().map(|record| Record::clone(&record));
        if let (Some(known), Some(saved)) = (&remembered, &stored)
            && moved::has_moved(services, account, known, saved).await
        {
            remembered = None;
        }
        let records = [stored, remembered].into_iter().flatten();
        let previous = records.max_by_key(|record| record.generation);
        Ok(LockedChange { refresh_lock, locked, previous, is_corrupt })
    }

    /// Saves the record as the next generation and publishes it. The refresh lock comes back.
    pub(super) async fn save(
        &self,
        change: LockedChange,
        record: Record,
        deadline: Option<Deadline>,
        services: &Services,
    ) -> Result<OwnedMutexGuard<()>, ChangeError> {
        let account = &self.account;
        // A later logout may have been asked for while a login's company was looked up.
        self.check_order()?;
        if record.has_credential() {
            ensure_savable(&services.store, &account.name).await?;
        }
        if change.is_corrupt {
            set_aside(&change.locked, services).await?;
        }
        let previous = change.previous.map_or(0, |record| record.generation);
        let generation = account.peek().generation().max(previous) + 1;
        let record = Record { generation, ..record };
        let version = change.locked.save(&record).await?;
        account.order().saved(self.number);
        account.memory().version = version;
        let health = transition::health_of(&record, account, services);
        account.publish(record, health, deadline);
        Ok(change.refresh_lock)
    }

    /// Publishes the record that an earlier try saved, whose answer was lost. The refresh lock comes
    /// back.
    pub(super) fn adopt(
        &self,
        change: LockedChange,
        saved: Record,
        services: &Services,
    ) -> Result<OwnedMutexGuard<()>, ChangeError> {
        self.check_order()?;
        self.account.order().saved(self.number);
        transition::adopt(saved, &self.account, services);
        Ok(change.refresh_lock)
    }

    /// Nothing that was asked for later counts already.
    pub(super) fn check_order(&self) -> Result<(), ChangeError> {
        if self.account.order().is_superseded(self.number) {
            return Err(ChangeError::Superseded(self.account.name.clone()));
        }
        Ok(())
    }
}

/// Nothing is changed while the newest pair is in memory only, and nothing here changes a file of
/// the operator's.
pub(super) fn check_changeable(account: &Account) -> Result<(), ChangeError> {
    if let Some(path) = account.key_file() {
        return Err(ChangeError::KeyFile(account.name.clone(), path.into()));
    }
    match &account.memory().unsaved {
        Some(why) => Err(ChangeError::Unsaved(account.name.clone(), why.clone())),
        None => Ok(()),
    }
}

async fn set_aside(locked: &Locked, services: &Services) -> Result<(), ChangeError> {
    let now = services.now().wall / 1000;
    let aside = locked.set_aside(now).await;
    let aside = aside.map_err(|error| ChangeError::SetAside(locked.account.clone(), error))?;
    warn!(account = %locked.account, "the damaged record was moved aside as {aside}");
    Ok(())
}
