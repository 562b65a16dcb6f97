//! A new pair that could not be saved: it serves from memory, and its record stays locked until the disk takes it.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tracing::{error, info, warn};

use super::account::Account;
use super::snapshot::Health;
use super::{Accounts, schedule};
use crate::store::{Locked, Record};

impl Accounts {
    /// Goes on trying to save a pair that is in memory only. Turn and lock stay taken: a process that read the old
    /// record would send a spent token.
    pub(super) fn keep_saving(
        self: &Arc<Self>,
        account: &Arc<Account>,
        turn: OwnedMutexGuard<()>,
        locked: Locked,
        record: Record,
    ) {
        let (accounts, account) = (self.clone(), account.clone());
        let saving = async move {
            let (_turn, mut locked) = (turn, locked);
            loop {
                let wait = account.next_wait(None).min(schedule::DISK_RETRY);
                let last = accounts.unless_closing(tokio::time::sleep(wait)).await.is_none();
                let (back, saved) = accounts.store().save(locked, record.clone()).await;
                locked = back;
                match saved {
                    Ok(()) => return accounts.saved_at_last(&account).await,
                    Err(problem) if last => return error!(account = %account.name, "given up unsaved: {problem}"),
                    Err(problem) => warn!(account = %account.name, "still unsaved: {problem}"),
                }
            }
        };
        self.tasks.spawn_on(saving, &self.control);
    }

    async fn saved_at_last(&self, account: &Account) {
        info!(account = %account.name, "the new pair is saved");
        self.note_stamp(account).await;
        account.remember_good(true);
        if matches!(account.snapshot().health, Health::Unsaved(_)) {
            account.set_health(Health::Connected);
        }
    }
}
