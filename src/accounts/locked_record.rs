//! The record of one account while a refresh works on it.

use tokio::sync::OwnedMutexGuard;
use tracing::warn;

use super::account::Account;
use super::outcome;
use super::services::Services;
use crate::store::{Intent, Locked, Record, SaveError};

/// A record under both locks, of this process and of the store.
pub(super) struct LockedRecord {
    pub(super) locked: Locked,
    /// The record as it is on disk, or as memory knows better.
    pub(super) record: Record,
    _refresh_lock: OwnedMutexGuard<()>,
}

impl LockedRecord {
    pub(super) fn new(refresh_lock: OwnedMutexGuard<()>, locked: Locked, record: Record) -> Self {
        Self { locked, record, _refresh_lock: refresh_lock }
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
        let written = match services.store.prepare(&self.locked).await {
            Ok(()) => services.store.note(&self.locked, &noted).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // Should the intent be on disk all the same: nothing was sent, so nothing has to be
            // waited for.
            if self.record.open_intent().is_none() {
                account.memory().answered = noted.intent.as_ref().map(Intent::sending);
            }
            return Err(error);
        }
        if let Some(intent) = &noted.intent {
            account.memory().note_sending(intent, services.now());
        }
        Ok(std::mem::replace(&mut self.record, noted))
    }

    /// Takes the intent back: the server has not looked at the token. An older open one stays.
    pub(super) async fn take_intent_back(
        self,
        before: &Record,
        account: &Account,
        services: &Services,
    ) {
        match services.store.note(&self.locked, before).await {
            Ok(version) => account.memory().version = version,
            Err(error) => {
                warn!(account = %account.name, "the intent of a refresh that was not sent stays in the record: {error}");
                account.memory().answered = self.record.intent.as_ref().map(Intent::sending);
            }
        }
        account.replace_record(before.clone());
    }
}
