//! What may be told about an account: everything but its secrets.

use std::time::Duration;

use serde::Serialize;

use super::account::Account;
use super::snapshot::{Credential, Snapshot};
use crate::clock::{Deadline, Now, rfc3339, since};
use crate::store::{AccountName, Record};

/// An account as `status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub account: String,
    /// The state's name.
    pub state: &'static str,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Generation of the grant.
    pub generation: u64,
    /// Whom it is bound to.
    pub subject: Option<String>,
    /// Granted scopes.
    pub scope: Vec<String>,
    /// When the access token expires.
    pub access_expires_at: Option<String>,
    /// Seconds until then; 0 once expired.
    pub access_expires_in: Option<u64>,
    /// When this pair was issued.
    pub refreshed_at: Option<String>,
    /// Age of the refresh token in seconds; Pleo lets it die after 60 days without a refresh.
    pub refresh_token_age: Option<u64>,
    /// When the login was.
    pub logged_in_at: Option<String>,
    /// When it is tried again by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
    /// How often a refresh token of unknown fate was sent again.
    pub resends: u32,
    /// The last attempt to refresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refresh: Option<LastRefresh>,
}

/// The last attempt to refresh.
#[derive(Clone, Debug, Serialize)]
pub struct LastRefresh {
    /// When it began.
    pub at: String,
    /// Why.
    pub reason: String,
    /// How it ended.
    pub outcome: String,
    /// How long it took, waiting for turn and lock included, in milliseconds.
    pub ms: u64,
}

impl Account {
    /// The account for people and for JSON.
    pub fn status(&self) -> Status {
        let now = self.shared.clock.now();
        let snapshot = self.snapshot();
        let (record, last) = {
            let memory = self.memory();
            (memory.record.clone(), memory.last.clone())
        };
        let mut status = Status::of(&self.name, &snapshot, record.as_ref(), now);
        status.last_refresh = last.map(|last| LastRefresh {
            at: past(last.at, now),
            reason: last.reason.word().into(),
            outcome: last.outcome.into(),
            ms: crate::clock::millis(last.took),
        });
        status
    }
}

impl Status {
    fn of(name: &AccountName, snapshot: &Snapshot, record: Option<&Record>, now: Now) -> Self {
        let grant = record.and_then(|record| record.grant.as_ref());
        let credential = snapshot.credential.as_ref();
        Self {
            account: name.to_string(),
            state: snapshot.health.word(),
            why: snapshot.health.told(name),
            generation: snapshot.generation,
            subject: record.and_then(|record| record.subject.clone()),
            scope: grant.map(|grant| grant.scope.clone()).unwrap_or_default(),
            access_expires_at: credential.map(|credential| expiry(credential, now)),
            access_expires_in: credential.map(|credential| credential.left(now).as_secs()),
            refreshed_at: grant.map(|grant| past(grant.refreshed_at, now)),
            refresh_token_age: grant.map(|grant| since(now.wall, grant.refreshed_at) / 1000),
            logged_in_at: grant.map(|grant| past(grant.logged_in_at, now)),
            next_try: snapshot.health.next_try().map(|next| coming(next.boot_left(now), now)),
            resends: record.and_then(Record::open_intent).map_or(0, |intent| intent.resends),
            last_refresh: None,
        }
    }
}

/// A time that has been: what a clock that was ahead has dated is shown as now.
fn past(wall: i64, now: Now) -> String {
    rfc3339(wall.min(now.wall))
}

/// A time to come, by the wall clock as it is now.
fn coming(wait: Duration, now: Now) -> String {
    rfc3339(Deadline::after(now, wait).wall)
}

fn expiry(credential: &Credential, now: Now) -> String {
    match credential.left(now) {
        Duration::ZERO => past(credential.deadline.wall, now),
        left => coming(left, now),
    }
}
