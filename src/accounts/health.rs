//! The states of an account.

use std::time::Duration;

use super::reason::{LoginReason, RetryReason};
use crate::clock::{Deadline, Now, millis};
use crate::store::{AccountName, RecordError};

/// Time between the starts of two attempts that requests cause while nothing can be sent.
pub(super) const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The state of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves, or will with the next request.
    Connected,
    /// The token endpoint was not reached or asked to be tried later.
    Retrying(RetryState),
    /// A refresh has no known outcome.
    Uncertain(RetryState),
    /// Only a login helps.
    LoginRequired(LoginReason),
    /// A setting must change, here or at the authorization server.
    Misconfigured(RetryState),
    /// Another process holds the account's lock.
    Locked(RetryState),
    /// The record cannot be used.
    StoreError(StoreFault),
    /// The intent of a refresh cannot be written, so none is sent.
    StoreUnwritable(RetryState),
    /// The new pair is in memory only.
    Unsaved(String),
}

/// Why an account's record, or the file of its API key, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFault {
    /// What is wrong, and what to do.
    pub why: String,
    /// A login may take its place. Any other record may be whole, and is never replaced.
    pub login_helps: bool,
}

impl StoreFault {
    /// What to do, beside what is wrong.
    pub fn fix(&self, account: &AccountName) -> String {
        if self.login_helps {
            format!(
                "Put a copy of the file back (the proxy notices), or run `pleo-proxy login {account}`."
            )
        } else {
            "Do what the detail says; the proxy notices.".to_owned()
        }
    }
}

impl From<&RecordError> for StoreFault {
    fn from(error: &RecordError) -> Self {
        Self { why: error.to_string(), login_helps: error.is_corrupt() }
    }
}

/// Why an account is tried again, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryState {
    /// Why it has no new token.
    pub reason: RetryReason,
    /// Time of the next attempt.
    pub next_try: Deadline,
    /// Start of the last attempt (boot clock, milliseconds) if it sent nothing and no server asked
    /// for a pause: a request may then start another attempt before `next_try`.
    pub unsent_since: Option<u64>,
}

impl RetryState {
    /// Nothing is tried before `next_try`.
    pub fn until(reason: RetryReason, next_try: Deadline) -> Self {
        Self { reason, next_try, unsent_since: None }
    }

    /// The time until the next attempt if a request waits for it: one that sent nothing may be
    /// followed by another one second after it began.
    pub fn wait_on_demand(&self, now: Now) -> Duration {
        let planned = self.next_try.boot_left(now);
        self.unsent_since.map_or(planned, |began| {
            planned.min(Duration::from_millis(
                began.saturating_add(millis(MIN_RETRY_INTERVAL)).saturating_sub(now.boot),
            ))
        })
    }
}

impl Health {
    /// The state's name in `status`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Retrying(_) => "retrying",
            Self::Uncertain(_) => "uncertain",
            Self::LoginRequired(_) => "login_required",
            Self::Misconfigured(_) => "misconfigured",
            Self::Locked(_) => "locked_elsewhere",
            Self::StoreError(_) => "store_error",
            Self::StoreUnwritable(_) => "store_unwritable",
            Self::Unsaved(_) => "unsaved",
        }
    }

    /// What is wrong with this account; none if nothing is.
    pub fn sentence(&self, account: &AccountName) -> Option<String> {
        match self {
            Self::LoginRequired(reason) => Some(reason.sentence(account)),
            Self::StoreError(fault) => Some(fault.why.clone()),
            Self::Unsaved(why) => Some(why.clone()),
            health => health.retry().map(|retry| retry.reason.to_string()),
        }
    }

    /// False in the states that put a token out of use even while it is valid.
    pub fn allows_serving(&self) -> bool {
        !matches!(self, Self::LoginRequired(_) | Self::StoreError(_))
    }

    /// Why and when it is tried again, in the states that are.
    pub fn retry(&self) -> Option<&RetryState> {
        match self {
            Self::Retrying(retry)
            | Self::Uncertain(retry)
            | Self::Misconfigured(retry)
            | Self::Locked(retry)
            | Self::StoreUnwritable(retry) => Some(retry),
            Self::Connected | Self::LoginRequired(_) | Self::StoreError(_) | Self::Unsaved(_) => {
                None
            }
        }
    }
}
