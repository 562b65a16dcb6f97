//! Changes of an account's state: the waits, clocks and log lines that the pure `outcome` leaves
//! out.

use tracing::{debug, error, info, warn};

use super::account::Account;
use super::api_key;
use super::backoff::{MAX_DISK_WAIT, MAX_RESOURCE_WAIT};
use super::health::{Health, RetryState};
use super::outcome::{self, NextState, RetryTime};
use super::reason::{LoginReason, RetryReason};
use super::services::Services;
use crate::clock::Deadline;
use crate::store::Record;

/// The health of an account that goes into this state now.
pub(super) fn health(next: NextState, account: &Account, services: &Services) -> Health {
    match next {
        NextState::Connected => Health::Connected,
        NextState::Retrying(reason, time) => Health::Retrying(retry(reason, time, account)),
        NextState::Uncertain(reason, time) => Health::Uncertain(retry(reason, time, account)),
        NextState::LoginRequired(reason) => Health::LoginRequired(reason),
        NextState::Misconfigured(reason) => {
            let secret = services.secret_file.last_stamp();
            let retry = account.memory().misconfigured(reason, secret, account.now());
            Health::Misconfigured(retry)
        }
        NextState::Locked(reason) => {
            let time = RetryTime::Backoff { asked_for: None };
            Health::Locked(retry(reason, time, account))
        }
        NextState::StoreError(fault) => Health::StoreError(fault),
        NextState::StoreUnwritable(reason) => {
            let wait = account.next_wait(None).min(MAX_DISK_WAIT);
            let next_try = Deadline::after(account.now(), wait);
            Health::StoreUnwritable(RetryState::until(reason, next_try))
        }
    }
}

fn retry(reason: RetryReason, time: RetryTime, account: &Account) -> RetryState {
    let now = account.now();
    let (wait, unsent_since) = match time {
        RetryTime::AtOnce => (std::time::Duration::ZERO, None),
        RetryTime::After(wait) => (wait, None),
        RetryTime::Backoff { asked_for } => (account.next_wait(asked_for), None),
        RetryTime::OnDemand { began } => (account.next_wait(None), Some(began)),
        RetryTime::Resources => (account.next_wait(None).min(MAX_RESOURCE_WAIT), Some(now.boot)),
    };
    RetryState { reason, next_try: Deadline::after(now, wait), unsent_since }
}

/// The health that a record alone tells.
pub(super) fn health_of(record: &Record, account: &Account, services: &Services) -> Health {
    health(outcome::state_of(record, |record| services.may_use(record)), account, services)
}

/// An attempt came to this state; it is logged unless it is the same as before.
pub(super) fn fail(next: NextState, account: &Account, services: &Services) {
    log(&next, account);
    account.set_health(health(next, account, services));
}

fn log(next: &NextState, account: &Account) {
    let name = &account.name;
    match next {
        NextState::Retrying(reason, _) | NextState::Uncertain(reason, _) => {
            // Requests start an attempt a second while nothing can be sent.
            let is_known = account.peek().health.retry().is_some_and(|it| it.reason == *reason);
            if is_known || *reason == RetryReason::NoAnswerYet {
                debug!(account = %name, "still so: {reason}");
            } else {
                warn!(account = %name, "{reason}");
            }
        }
        NextState::Misconfigured(reason) => error!(account = %name, "{reason}"),
        NextState::StoreUnwritable(reason) => {
            error!(account = %name, "no refresh is sent, because its intent cannot be written: {reason}");
        }
        NextState::LoginRequired(reason) => warn!(account = %name, "{}", reason.sentence(name)),
        NextState::StoreError(fault) => error!(account = %name, "{}", fault.why),
        NextState::Connected | NextState::Locked(_) => {}
    }
}

/// Takes over a record that another process saved. The gate stays as it is.
pub(super) fn adopt(record: Record, account: &Account, services: &Services) {
    info!(account = %account.name, generation = record.generation, "record loaded");
    let is_usable = record.grant.as_ref().is_none_or(|grant| grant.access.is_some());
    account.memory().remember_success(is_usable);
    let unusable = account.memory().unusable;
    let next = match outcome::state_of(&record, |record| services.may_use(record)) {
        // Else two processes that adopt each other's pairs would go on for ever.
        NextState::Connected if unusable > 1 => {
            NextState::Misconfigured(RetryReason::UnusableTokenAgain)
        }
        next => next,
    };
    account.publish(record, health(next, account, services), None);
    api_key::warn_of_expiry(services, account);
}

/// The record is gone from the store.
pub(super) fn record_gone(account: &Account) {
    let reason = LoginReason::RecordGone;
    warn!(account = %account.name, "{}", reason.sentence(&account.name));
    account.set_health(Health::LoginRequired(reason));
}
