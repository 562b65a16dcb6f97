//! What is shown of an account: everything but its secrets.

use std::time::Duration;

use super::account::Account;
use super::api_key::{self, KeyStatus};
use super::credential::Credential;
use super::health::Health;
use crate::clock::{Deadline, Now, millis, rfc3339, since};
use crate::store::AccountName;

/// An account as `status` shows it.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub account: AccountName,
    /// What the settings call it, if they do.
    pub label: Option<String>,
    /// True if a request would get a token now, or after a refresh that is likely to succeed.
    pub can_serve: bool,
    /// Its state.
    pub health: Health,
    /// Generation of the grant.
    pub generation: u64,
    /// The company or organisation that it is bound to.
    pub subject: Option<String>,
    /// The company's name, if it is known.
    pub company: Option<String>,
    /// Granted scopes.
    pub scope: Vec<String>,
    /// When the access token expires.
    pub access_expires_at: Option<String>,
    /// Seconds until then; 0 once expired.
    pub access_expires_in: Option<u64>,
    /// The API key, if it has one in place of tokens.
    pub api_key: Option<KeyStatus>,
    /// When this pair was issued.
    pub refreshed_at: Option<String>,
    /// Age of the refresh token in seconds; at Pleo it expires 60 days after the last refresh.
    pub refresh_token_age: Option<u64>,
    /// When the login was.
    pub logged_in_at: Option<String>,
    /// When it is tried again by itself.
    pub next_try: Option<String>,
    /// How often a refresh token was sent again whose first outcome is unknown.
    pub resends: u32,
    /// The last attempt to refresh.
    pub last_refresh: Option<LastRefresh>,
}

/// The last attempt to refresh.
#[derive(Clone, Debug)]
pub struct LastRefresh {
    /// When it began.
    pub at: String,
    /// Why.
    pub reason: &'static str,
    /// How it ended.
    pub outcome: &'static str,
    /// How long it took, waiting for locks included, in milliseconds.
    pub ms: u64,
}

impl Status {
    /// The account at this moment.
    pub fn of(account: &Account) -> Self {
        let now = account.now();
        let snapshot = account.snapshot();
        let grant = snapshot.source.grant();
        let credential = snapshot.credential.as_ref();
        let record = snapshot.record();
        let last = account.memory().last.clone();
        Self {
            account: account.name.clone(),
            label: account.label(),
            can_serve: account.can_serve(),
            health: snapshot.health.clone(),
            generation: snapshot.generation(),
            subject: record.and_then(|record| record.subject.clone()),
            company: record.and_then(|record| record.company.clone()),
            scope: snapshot.source.scope().to_vec(),
            api_key: snapshot.source.api_key().map(|key| KeyStatus::of(key, now)),
            access_expires_at: credential.and_then(|credential| expiry(credential, now)),
            access_expires_in: credential
                .filter(|credential| credential.expiry.is_some())
                .map(|credential| credential.left(now).as_secs()),
            refreshed_at: grant.map(|grant| past(grant.refreshed_at, now)),
            refresh_token_age: grant.map(|grant| since(now.wall, grant.refreshed_at) / 1000),
            logged_in_at: grant
                .map(|grant| grant.logged_in_at)
                .or_else(|| snapshot.source.api_key().map(|key| key.added_at))
                .map(|at| past(at, now)),
            next_try: snapshot
                .health
                .retry()
                .map(|retry| retry.next_try.boot_left(now))
                .or_else(|| api_key::ask_again_in(account, now))
                .map(|wait| future(wait, now)),
            resends: record.and_then(|it| it.open_intent()).map_or(0, |intent| intent.resends),
            last_refresh: last.map(|last| LastRefresh {
                at: past(last.at, now),
                reason: last.reason.as_str(),
                outcome: last.outcome,
                ms: millis(last.took),
            }),
        }
    }
}

/// A time in the past: one dated by a clock that was ahead is shown as now.
fn past(wall: i64, now: Now) -> String {
    rfc3339(wall.min(now.wall))
}

/// A time in the future, by the wall clock as it is now.
fn future(wait: Duration, now: Now) -> String {
    rfc3339(Deadline::after(now, wait).wall)
}

fn expiry(credential: &Credential, now: Now) -> Option<String> {
    let deadline = credential.expiry?.deadline;
    Some(match credential.left(now) {
        Duration::ZERO => past(deadline.wall, now),
        left => future(left, now),
    })
}
