//! The right company: a grant of an account that is bound to a company serves nobody until the API
//! has said that it is that company's, and one company is not connected under two names.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::account::Account;
use super::executor::Executor;
use super::locked_record::LockedRecord;
use super::outcome::{self, NextState, RetryTime};
use super::reason::RetryReason;
use super::refresh_reason::RefreshReport;
use super::registry::Registry;
use super::services::Services;
use super::settings::LOCK_PATIENCE;
use super::transition;
use crate::secret::AccessToken;
use crate::store::{EndReason, Record};

/// Age of an unconfirmed pair at which it is refreshed because the API refuses its access token: a
/// younger one would have its next refresh refused the same way.
const RENEWAL_AGE: Duration = Duration::from_secs(60);

/// What came of the question whose grant it is.
pub(super) enum Confirmation {
    /// The attempt ends with it.
    Done(RefreshReport),
    /// There is nothing to ask, or it can be asked only with a new access token.
    RefreshFirst(LockedRecord),
}

/// Asks the API whose grant it is, if nobody knows yet: its company's serves from here on, any
/// other ends. A token that was ended before its time asks for a refresh.
pub(super) async fn confirm(executor: &Executor, record: LockedRecord) -> Confirmation {
    let (account, services) = (&executor.account, &executor.services);
    let Some(access) = unconfirmed_token(&record.record, services.now().wall) else {
        return Confirmation::RefreshFirst(record);
    };
    let subject = services.oauth.subject(&access).await;
    Confirmation::Done(match (subject, &record.record.subject) {
        (Ok(subject), Some(bound)) if subject != *bound => {
            let bound = bound.clone();
            executor.end(record, EndReason::OtherCompany { subject, bound }).await
        }
        (Ok(subject), _) => confirmed(executor, record, subject).await,
        (Err(error), _) if error.is_unauthorized() && is_renewable(account) => {
            return Confirmation::RefreshFirst(record);
        }
        (Err(error), _) => {
            let reason = RetryReason::SubjectUnreadable(error.to_string());
            let time = RetryTime::Backoff { asked_for: None };
            executor.fail(outcome::retry(&record.record, reason, time))
        }
    })
}

/// The access token of a grant that is not confirmed, while it is valid; once it has expired, a
/// refresh brings the next one.
fn unconfirmed_token(record: &Record, now: i64) -> Option<AccessToken> {
    let grant = record.grant.as_ref().filter(|_| record.subject_unconfirmed)?;
    grant.access.clone().filter(|_| grant.expires_at > now)
}

fn is_renewable(account: &Account) -> bool {
    account.age().is_some_and(|age| age.until(RENEWAL_AGE, account.now()).is_zero())
}

async fn confirmed(executor: &Executor, old: LockedRecord, subject: String) -> RefreshReport {
    let (account, services) = (&executor.account, &executor.services);
    let record = Record { subject: Some(subject), subject_unconfirmed: false, ..old.record };
    match old.locked.save(&record).await {
        Ok(version) => account.memory().version = version,
        Err(error) => {
            let reason = RetryReason::Unwritable(error.to_string());
            return executor.fail(NextState::StoreUnwritable(reason));
        }
    }
    account.memory().remember_success(true);
    let health = transition::health_of(&record, account, services);
    account.publish(record, health, None);
    info!(account = %account.name, "the grant is confirmed to be the account's own");
    RefreshReport::Adopted
}

/// Finds out whose grant an account holds if nobody knows yet, on a task of its own; what fails is
/// tried again after the next refresh.
pub(super) fn learn(services: &Arc<Services>, registry: &Arc<Registry>, account: &Arc<Account>) {
    if account.record().is_none_or(|record| record.subject.is_some()) {
        return;
    }
    let (registry, account) = (registry.clone(), account.clone());
    let worker = services.clone();
    services.spawn(async move {
        worker.unless_closing(ask(&worker, &registry, &account)).await;
    });
}

async fn ask(services: &Services, registry: &Registry, account: &Account) -> Option<()> {
    let known = account.record()?;
    let subject = services.oauth.subject(known.grant.as_ref()?.access.as_ref()?).await.ok()?;
    let _lock = account.refresh_lock.clone().lock_owned().await;
    let locked = services.store.lock(&account.name, LOCK_PATIENCE).await.ok()?;
    let (record, _) = services.store.load(&account.name).await.ok()??;
    if record.generation != known.generation || record.subject.is_some() {
        return None;
    }
    if let Some(other) = registry.other_holder(&account.name, &subject, &services.issued()) {
        warn!(account = %account.name, %other, "both accounts hold {subject}, and each refresh of one ends the other's tokens; log one of them out");
    }
    let record = Record { subject: Some(subject), ..record };
    let version = locked.save(&record).await.ok()?;
    account.memory().version = version;
    account.replace_record(record);
    Some(())
}
