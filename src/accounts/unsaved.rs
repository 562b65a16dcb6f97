//! A new pair that could not be saved: it serves from memory, and its record stays locked until the
//! disk takes it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::account::Account;
use super::backoff::MAX_DISK_WAIT;
use super::locked_record::LockedRecord;
use super::services::Services;
use super::transition;
use crate::store::Record;
use crate::supervise::supervise;

/// Goes on trying to save a record that is in memory only, on a task of its own that survives
/// panics. The locks stay taken: a process that read the old record would send a spent token.
pub(super) fn keep_saving(services: &Arc<Services>, account: &Arc<Account>, unsaved: LockedRecord) {
    let (saver, account) = (services.clone(), account.clone());
    services.spawn(async move {
        let done = CancellationToken::new();
        let start = || async {
            save(&saver, &account, &unsaved).await;
            done.cancel();
            // The supervisor sees the cancellation first.
            std::future::pending().await
        };
        supervise("saver", &saver.supervisor, &done, start).await;
    });
}

/// Tries until it is saved, or for the last time when the process ends.
async fn save(services: &Services, account: &Account, unsaved: &LockedRecord) {
    loop {
        let wait = account.next_wait(None).min(MAX_DISK_WAIT);
        let is_last = services.unless_closing(tokio::time::sleep(wait)).await.is_none();
        match services.store.save(&unsaved.locked, &unsaved.record).await {
            Ok(version) => {
                account.memory().version = version;
                return saved(services, account, &unsaved.record);
            }
            Err(problem) if is_last => {
                return error!(account = %account.name, "not saved before the end of the process: {problem}");
            }
            Err(problem) => warn!(account = %account.name, "still unsaved: {problem}"),
        }
    }
}

pub(super) fn saved(services: &Services, account: &Account, record: &Record) {
    info!(account = %account.name, generation = record.generation, "saved at last");
    let was_unsaved = {
        let mut memory = account.memory();
        memory.remember_success(true);
        memory.unsaved.take().is_some()
    };
    // While a logout waits for the refresh lock, nothing serves.
    if was_unsaved && !account.order().is_logging_out() {
        account.set_health(transition::health_of(record, account, services));
    }
}
