//! A new pair that could not be saved: it serves from memory, and its record stays locked until the
//! disk takes it.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::account::Account;
use super::{Accounts, schedule};
use crate::store::{Locked, Record};
use crate::supervise::supervise;

/// What must not be lost until it is saved, nor let go.
struct Unsaved {
    account: Arc<Account>,
    record: Record,
    locked: Locked,
    _turn: OwnedMutexGuard<()>,
}

impl Accounts {
    /// Goes on trying to save a pair that is in memory only, whatever breaks off. Turn and lock
    /// stay taken: a process that read the old record would send a spent token.
    pub(super) fn keep_saving(
        self: &Arc<Self>,
        account: &Arc<Account>,
        turn: OwnedMutexGuard<()>,
        locked: Locked,
        record: Record,
    ) {
        let accounts = self.clone();
        let unsaved = Unsaved { account: account.clone(), record, locked, _turn: turn };
        let saving = async move {
            let over = CancellationToken::new();
            let start = || async {
                accounts.save_at_last(&unsaved).await;
                over.cancel();
                // The supervisor sees the end first.
                std::future::pending().await
            };
            supervise("saver", &accounts.supervisor, &over, start).await;
        };
        self.tasks.spawn_on(saving, &self.control);
    }

    /// Tries until it is saved, or for the last time when the process ends.
    async fn save_at_last(&self, unsaved: &Unsaved) {
        let Unsaved { account, record, locked, .. } = unsaved;
        loop {
            let wait = account.next_wait(None).min(schedule::DISK_RETRY);
            let is_last = self.unless_closing(tokio::time::sleep(wait)).await.is_none();
            match self.store().save(locked, record).await {
                Ok(version) => {
                    account.memory().version = version;
                    return self.saved_at_last(account, record);
                }
                Err(problem) if is_last => {
                    return error!(account = %account.name, "given up unsaved: {problem}");
                }
                Err(problem) => warn!(account = %account.name, "still unsaved: {problem}"),
            }
        }
    }

    pub(super) fn saved_at_last(&self, account: &Account, record: &Record) {
        info!(account = %account.name, generation = record.generation, "saved at last");
        account.remember_good(true);
        let was_unsaved = account.memory().unsaved.take().is_some();
        // Where a logout waits for the turn, nothing serves until it is through.
        if was_unsaved && !account.order().is_logging_out() {
            account.set_health(self.health_of(record));
        }
    }
}
