//! A new pair that could not be saved: it serves from memory, and its record stays locked until the
//! disk takes it.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::account::Account;
use super::backoff::MAX_DISK_WAIT;
use super::health::{Health, StoreFault};
use super::locked_record::LockedRecord;
use super::outcome;
use super::services::Services;
use super::transition;
use crate::store::{Locked, Record, Version};
use crate::supervise::supervise;

/// Goes on trying to save a record that is in memory only, on a task of its own that survives
/// panics. The locks stay taken: a process that read the old record would send a spent token.
/// `sent` is the record that it is to replace, with the intent whose outcome it is.
pub(super) fn keep_saving(
    services: &Arc<Services>,
    account: &Arc<Account>,
    unsaved: LockedRecord,
    sent: Record,
) {
    let (saver, account) = (services.clone(), account.clone());
    services.spawn(async move {
        let done = CancellationToken::new();
        let start = || async {
            save(&saver, &account, &unsaved, &sent).await;
            done.cancel();
            // The supervisor sees the cancellation first.
            std::future::pending().await
        };
        supervise("saver", &saver.supervisor, &done, start).await;
    });
}

/// Tries until it is saved, or for the last time when the process ends.
async fn save(services: &Services, account: &Account, unsaved: &LockedRecord, sent: &Record) {
    let mut record = unsaved.record.clone();
    let mut back = services.store_back.subscribe();
    loop {
        let wait = account.next_wait(None).min(MAX_DISK_WAIT);
        let pause = async {
            tokio::select! {
                () = sleep(wait) => {}
                Ok(()) = back.changed() => {}
            }
        };
        let is_last = services.unless_closing(pause).await.is_none();
        match unsaved.locked.save(&record).await {
            Ok(version) => {
                account.memory().version = version;
                if record.generation != unsaved.record.generation {
                    account.replace_record(record.clone());
                }
                return saved(services, account, &record);
            }
            Err(problem) if problem.is_superseded() => {
                match over_stored(services, &unsaved.locked, &record, sent).await {
                    Ok(Some(next)) => record = next,
                    Ok(None) => return give_way(services, account).await,
                    Err(why) if is_last => {
                        return error!(account = %account.name, "not saved before the end of the process: {why}");
                    }
                    Err(why) => warn!(account = %account.name, "still unsaved: {why}"),
                }
            }
            Err(problem) if is_last => {
                return error!(account = %account.name, "not saved before the end of the process: {problem}");
            }
            Err(problem) => warn!(account = %account.name, "still unsaved: {problem}"),
        }
    }
}

/// The record as it is to be saved over what another replica has stored meanwhile; none if that is
/// to stay. The error tells why nothing is known yet.
async fn over_stored(
    services: &Services,
    locked: &Locked,
    record: &Record,
    sent: &Record,
) -> Result<Option<Record>, String> {
    locked.retake().await.map_err(|error| error.to_string())?;
    let stored = services.store.load(&locked.account).await.map_err(|error| error.to_string())?;
    let Some((stored, _)) = stored else { return Ok(None) };
    Ok(outcome::over_stored(record, sent, &stored))
}

/// What another replica has stored counts: it is newer than what could not be saved.
async fn give_way(services: &Services, account: &Account) {
    warn!(account = %account.name, "another replica has changed the account; what could not be saved is dropped");
    account.memory().unsaved = None;
    match services.store.load(&account.name).await {
        Ok(Some((record, version))) => {
            account.memory().version = version;
            transition::adopt(record, account, services);
        }
        Ok(None) => transition::record_gone(account),
        Err(error) => {
            // Noticed again at the next poll.
            account.memory().version = Version::default();
            account.set_health(Health::StoreError(StoreFault::from(&error)));
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
