//! The record of one account while a refresh works on it.

use tokio::sync::OwnedMutexGuard;
use tracing::warn;

use super::account::Account;
use super::memory::OwnSending;
use super::outcome;
use super::services::Services;
use crate::store::{Intent, Locked, Record, SaveError};

/// A record under both locks, of this process and of the store.
pub(super) struct LockedRecord {
    pub(super) locked: Locked,
    /// The record as it is on disk, or as memory knows better.
    pub(super) record: Record,
    /// What this process knew of its sending before it wrote its intent.
    sent_before: Option<OwnSending>,
    _refresh_lock: OwnedMutexGuard<()>,
}

impl LockedRecord {
    pub(super) fn new(refresh_lock: OwnedMutexGuard<()>, locked: Locked, record: Record) -> Self {
        Self { locked, record, sent_before: None, _refresh_lock: refresh_lock }
    }

    /// The same locks with another record.
    pub(super) fn with(self, record: Record) -> Self {
        Self { record, ..self }
    }

    /// Reserves the next file's space, then writes the intent: from here on the pair may be spent.
    /// Returns the record as it was before.
    pub(super) async fn write_intent(
        &mut self,
        account: &Account,
        services: &Services,
    ) -> Result<Record, SaveError> {
        let noted = outcome::with_intent(&self.record, services.now().wall);
        let written = match self.locked.prepare().await {
            Ok(()) => self.locked.note(&noted).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // Should the intent be on disk all the same: nothing was sent, so nothing has to be
            // waited for.
            if let Some(intent) = &noted.intent {
                account.memory().note_unsent(self.record.open_intent(), intent);
            }
            return Err(error);
        }
        if let Some(intent) = &noted.intent {
            self.sent_before = Some(account.memory().note_sending(intent, services.now()));
        }
        Ok(std::mem::replace(&mut self.record, noted))
    }

    /// Takes the intent back: the server has not looked at the token. An older open one stays, and
    /// stays this process's own if it was.
    pub(super) async fn take_intent_back(self, before: &Record, account: &Account) {
        match self.locked.take_back(before).await {
            Ok(version) => {
                let mut memory = account.memory();
                memory.version = version;
                if let Some(sent) = self.sent_before {
                    memory.put_sending_back(sent);
                }
            }
            Err(error) => {
                warn!(account = %account.name, "the intent of a refresh that was not sent stays in the record: {error}");
                account.memory().answered = self.record.intent.as_ref().map(Intent::sending);
            }
        }
        account.replace_record(before.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::accounts::registry::Registry;
    use crate::accounts::testing::{save_expired, services};
    use crate::store::AccountName;

    #[tokio::test]
    async fn an_intent_whose_writing_failed_is_this_processs_own_and_was_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let (services, _commands) = services(folder.path());
        let name = AccountName::fallback();
        save_expired(&services, &name).await;
        let account = Registry::new(services.context.clone()).get_or_insert(&name);
        let locked = services.store.lock(&name, Duration::ZERO).await.unwrap();
        let (record, _) = services.store.load(&name).await.unwrap().unwrap();
        let lock = account.refresh_lock.clone().lock_owned().await;
        let mut record = LockedRecord::new(lock, locked, record);
        std::fs::remove_dir_all(folder.path().join("store")).unwrap();
        record.write_intent(&account, &services).await.unwrap_err();
        let memory = account.memory();
        let (sent_at, resends) = memory.answered.unwrap();
        let written = outcome::with_intent(&record.record, sent_at).intent.unwrap();
        assert_eq!(written.resends, resends);
        assert!(memory.is_own(&written) && memory.was_answered(&written));
    }
}
