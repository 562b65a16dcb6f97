//! Carries out what `outcome` has decided: store first, then what requests see.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::account::Account;
use super::health::Health;
use super::locked_record::LockedRecord;
use super::origin::after;
use super::outcome::{self, Consequence, NextState, Renewal};
use super::reason::LoginReason;
use super::refresh_reason::{RefreshReason, RefreshReport};
use super::services::Services;
use super::transition;
use super::unsaved::keep_saving;
use crate::store::{EndReason, Intent, Record};

/// What one attempt uses to change store and account.
pub(super) struct Executor {
    pub(super) services: Arc<Services>,
    pub(super) account: Arc<Account>,
    pub(super) reason: RefreshReason,
}

impl Executor {
    /// `before` is the record without this attempt's intent.
    pub(super) async fn carry_out(
        &self,
        consequence: Consequence,
        record: LockedRecord,
        before: &Record,
    ) -> RefreshReport {
        match consequence {
            Consequence::Save(renewal) => self.save(*renewal, record).await,
            Consequence::TakeIntentBack(next) => {
                record.take_intent_back(before, &self.account).await;
                self.fail(next)
            }
            Consequence::KeepIntent { answered, next } => {
                let sending = record.record.intent.as_ref().map(Intent::sending);
                self.account.memory().answered = sending.filter(|_| answered);
                self.wait(record, next)
            }
            Consequence::EndUnlessReplaced(reason) => {
                self.end_unless_replaced(record, reason).await
            }
        }
    }

    async fn save(&self, renewal: Renewal, old: LockedRecord) -> RefreshReport {
        let (account, now) = (&self.account, || self.services.now());
        let saved = old.locked.save(&renewal.record).await;
        // Where the lifetime is shorter than the way here, the pause grows as after a failure.
        if !renewal.is_usable || !renewal.is_late(now()) {
            account.memory().remember_success(renewal.is_usable);
        }
        let unusable = account.memory().unusable;
        let (is_usable, deadline) = (renewal.is_usable, Some(renewal.deadline));
        match saved {
            Ok(version) => {
                account.memory().version = version;
                let next = renewal.next_state(unusable, now());
                let health = transition::health(next, account, &self.services);
                info!(account = %account.name, reason = self.reason.as_str(), generation = renewal.record.generation, "refreshed");
                account.publish(renewal.record, self.unless_logged_out(health), deadline);
            }
            Err(error) => {
                error!(account = %account.name, "the new pair is in memory only: {error}");
                account.memory().unsaved = Some(error.to_string());
                let health = self.unless_logged_out(Health::Unsaved(error.to_string()));
                account.publish(renewal.record.clone(), health, deadline);
                let sent = old.record.clone();
                keep_saving(&self.services, account, old.with(renewal.record), sent);
            }
        }
        if is_usable { RefreshReport::Refreshed } else { RefreshReport::Failed }
    }

    /// A logout that waits for the refresh lock will save over this record: nothing serves until
    /// then. To be asked right before publishing.
    fn unless_logged_out(&self, health: Health) -> Health {
        let is_logging_out = self.account.order().is_logging_out();
        match &self.account.peek().health {
            logged_out @ Health::LoginRequired(_) if is_logging_out => logged_out.clone(),
            _ => health,
        }
    }

    async fn end_unless_replaced(&self, record: LockedRecord, reason: EndReason) -> RefreshReport {
        if let Ok(Some((stored, _))) = self.services.store.load(&self.account.name).await
            && outcome::is_replaced(&record.record, &stored)
        {
            transition::adopt(stored, &self.account, &self.services);
            return RefreshReport::Adopted;
        }
        self.end(record, reason).await
    }

    /// Keeps a tombstone, over restarts too: no token is sent until somebody logs in.
    pub(super) async fn end(&self, old: LockedRecord, reason: EndReason) -> RefreshReport {
        let account = &self.account;
        let at = old.locked.date(self.services.now()).max(after(Some(&old.record)));
        let record = outcome::ended(&old.record, reason.clone(), at);
        let reason = LoginReason::Ended(reason);
        warn!(account = %account.name, "{}", reason.sentence(&account.name));
        let saved = old.locked.save(&record).await;
        account.publish(record.clone(), Health::LoginRequired(reason), None);
        match saved {
            Ok(version) => account.memory().version = version,
            Err(error) => {
                // Until it is saved the record stays locked: another process would send the token
                // that has ended.
                error!(account = %account.name, "the end of the login could not be saved: {error}");
                let sent = old.record.clone();
                keep_saving(&self.services, account, old.with(record), sent);
            }
        }
        RefreshReport::Failed
    }

    /// Sends nothing now: the open intent stays.
    pub(super) fn wait(&self, record: LockedRecord, next: NextState) -> RefreshReport {
        self.account.replace_record(record.record);
        self.fail(next)
    }

    pub(super) fn fail(&self, next: NextState) -> RefreshReport {
        transition::fail(next, &self.account, &self.services);
        RefreshReport::Failed
    }
}
