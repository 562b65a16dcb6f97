//! What may be told about an account: everything but its secrets.

use serde::Serialize;

use super::account::Account;
use super::snapshot::Snapshot;
use crate::clock::{Now, rfc3339};
use crate::store::Record;

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
        let mut status = Status::of(self.name.as_str(), &snapshot, record.as_ref(), now);
        status.last_refresh = last.map(|last| LastRefresh {
            at: rfc3339(last.at),
            reason: last.reason.word().into(),
            outcome: last.outcome.into(),
            ms: crate::clock::millis(last.took),
        });
        status
    }
}

impl Status {
    fn of(name: &str, snapshot: &Snapshot, record: Option<&Record>, now: Now) -> Self {
        let grant = record.and_then(|record| record.grant.as_ref());
        let credential = snapshot.credential.as_ref();
        Self {
            account: name.into(),
            state: snapshot.health.word(),
            why: snapshot.health.why().map(Into::into),
            generation: snapshot.generation,
            subject: record.and_then(|record| record.subject.clone()),
            scope: grant.map(|grant| grant.scope.clone()).unwrap_or_default(),
            access_expires_at: credential.map(|credential| rfc3339(credential.deadline.wall)),
            access_expires_in: credential.map(|credential| credential.deadline.remaining(now).as_secs()),
            refreshed_at: grant.map(|grant| rfc3339(grant.refreshed_at)),
            refresh_token_age: grant.map(|grant| seconds_since(now.wall, grant.refreshed_at)),
            logged_in_at: grant.map(|grant| rfc3339(grant.logged_in_at)),
            next_try: snapshot.health.next_try().map(|next| rfc3339(next.wall)),
            resends: record.and_then(Record::open_intent).map_or(0, |intent| intent.resends),
            last_refresh: None,
        }
    }
}

fn seconds_since(now: i64, then: i64) -> u64 {
    u64::try_from(now.saturating_sub(then)).unwrap_or(0) / 1000
}
