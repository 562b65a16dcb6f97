//! The bodies of the admin API: one set of types for the listener and the command line.
//!
//! During an upgrade the two ends may be different releases. So unknown fields and values in
//! responses are accepted; only unknown fields in requests are refused.

mod account;
mod done;
mod exchanges;
mod login;
mod report;
mod why;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::operate;
use crate::store::AccountName;

pub use crate::log::entry::{By, Capture, Entry, Kind, Part};
pub use account::{
    AccountStatus, ApiKeyStatus, LastRefresh, RenameBody, State, account_problem, beside_name,
};
pub use done::{Done, Outcome};
pub use exchanges::{
    AccountRate, CaptureBody, CaptureState, EventsQuery, HarQuery, Hello, Impatient, Lost,
    ProgramRate, Rate, Refresh, Replay, Replayed, RequestDetail, Requests, RequestsQuery, Stats,
};
pub use login::{LoginBegun, LoginBody, LoginQuery, LoginState};
pub use report::{AccountReport, Report, ReportQuery};
pub use why::{Verdict, Why, WhyQuery};

/// Version of the response bodies.
const VERSION: u32 = 1;

/// A response with data, and its version.
#[derive(Debug, Deserialize, Serialize)]
pub struct Versioned<T> {
    /// 1; it changes when a field changes its meaning.
    version: u32,
    /// The data.
    #[serde(flatten)]
    pub body: T,
}

impl<T> From<T> for Versioned<T> {
    fn from(body: T) -> Self {
        Self { version: VERSION, body }
    }
}

/// A refusal (RFC 9457).
#[derive(Debug, Deserialize, Serialize)]
pub struct Problem {
    /// Always `about:blank`; see the code.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The reason phrase of the status.
    #[serde(default)]
    pub title: String,
    /// The status.
    #[serde(default)]
    pub status: u16,
    /// The error code, for programs.
    #[serde(default)]
    pub code: String,
    /// What went wrong, for users.
    #[serde(default)]
    pub detail: String,
    /// What to do, where the detail does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<Box<str>>,
}

/// `GET /health` and `GET /ready`.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Health {
    /// `ok`, `degraded`, `unavailable` or `ending`.
    pub status: String,
    /// What to do if no account can serve requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Health {
    /// Without advice.
    pub fn of(status: &str) -> Self {
        Self { status: status.into(), fix: None }
    }
}

/// `GET /api/status`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Status {
    /// Always true.
    pub running: bool,
    /// True while the process drains.
    #[serde(default)]
    pub ending: bool,
    /// Background tasks that have stopped.
    #[serde(default)]
    pub stopped_tasks: Vec<String>,
    /// The account of requests that name none; none if they must name one, or none is connected.
    #[serde(default)]
    pub default_account: Option<String>,
    /// All accounts, by name.
    #[serde(default)]
    pub accounts: Vec<AccountStatus>,
    /// The process.
    #[serde(flatten)]
    pub about: About,
}

/// The part of [`Status`] about the process itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct About {
    /// Process id.
    pub pid: u32,
    /// The environment's name.
    pub environment: String,
    /// Where tools connect.
    pub api: String,
    /// Where logins and commands connect.
    pub admin: Option<String>,
    /// The folder of the store, or its database.
    pub store: String,
    /// What replicas that share the store call this one; none if nobody on another machine does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The API's origin.
    pub upstream: String,
    /// Protections that are off or loosened, and problems of the process.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The release.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub release: String,
    /// The settings that its file and the defaults have set, as `config show` shows them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// The query of `POST /api/accounts/NAME/refresh`.
#[derive(Debug, Deserialize)]
pub struct RefreshQuery {
    /// Refresh even if it is not due.
    #[serde(default)]
    pub force: bool,
}

impl RefreshQuery {
    /// The target of the request.
    pub fn target(&self, account: &AccountName) -> String {
        format!("/api/accounts/{account}/refresh?force={}", self.force)
    }
}

/// The response to it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Refreshed {
    /// How it ended.
    pub outcome: RefreshOutcome,
    /// The account after it.
    pub account: AccountStatus,
}

/// How a requested refresh ended.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshOutcome {
    /// Nothing was due.
    Fresh,
    /// There are new tokens.
    Refreshed,
    /// Another process had refreshed already.
    Adopted,
    /// The account's state and reason say why.
    Failed,
    /// A value that this release does not know.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for RefreshOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fresh => "fresh",
            Self::Refreshed => "refreshed",
            Self::Adopted => "adopted",
            Self::Failed => "failed",
            Self::Other(word) => word,
        })
    }
}

impl From<operate::Refreshed> for Refreshed {
    fn from(refreshed: operate::Refreshed) -> Self {
        let outcome = match refreshed.outcome {
            operate::RefreshOutcome::Fresh => RefreshOutcome::Fresh,
            operate::RefreshOutcome::Refreshed => RefreshOutcome::Refreshed,
            operate::RefreshOutcome::Adopted => RefreshOutcome::Adopted,
            operate::RefreshOutcome::Failed => RefreshOutcome::Failed,
        };
        Self { outcome, account: refreshed.account.into() }
    }
}

/// The body of `POST /api/session` from the page. Holds a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionBody {
    /// The one-time key of a link.
    pub key: String,
}

/// The response to it; the session itself is a cookie.
#[derive(Debug, Deserialize, Serialize)]
pub struct Session {}

/// The response to `POST /api/session` with the admin key.
#[derive(Debug, Deserialize, Serialize)]
pub struct SessionLink {
    /// Opens the page once. Holds a secret.
    pub url: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn account() -> Value {
        json!({
            "account": "acme", "can_serve": true, "state": "connected", "generation": 3, "subject": null, "scope": [],
            "access_expires_at": null, "access_expires_in": null, "refreshed_at": null, "refresh_token_age": null,
            "logged_in_at": null, "resends": 0,
        })
    }

    fn about() -> Value {
        json!({
            "pid": 7, "environment": "sandbox", "api": "http://127.0.0.1:1", "admin": null, "store": "/store",
            "upstream": "http://127.0.0.1:2", "notes": [],
        })
    }

    fn with(mut value: Value, more: Value) -> Value {
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    }

    #[test]
    fn every_response_is_read_and_written_as_it_is_on_the_wire() {
        fn same<T: serde::de::DeserializeOwned + Serialize>(wire: Value) {
            let read: Versioned<T> = serde_json::from_value(wire.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), wire);
        }
        let last = json!({"at": "t", "reason": "asked", "outcome": "refreshed", "ms": 5});
        let more = json!({"label": "Acme, Denmark", "why": "w", "next_try": "t", "last_refresh": last, "last_login_error": "e"});
        let troubled = with(with(account(), more), json!({"state": "retrying"}));
        let status = json!({"version": 1, "running": true, "ending": false, "stopped_tasks": ["worker"], "default_account": "acme"});
        same::<Status>(with(with(status, about()), json!({"accounts": [account(), troubled]})));
        same::<Refreshed>(json!({"version": 1, "outcome": "adopted", "account": account()}));
        same::<Done>(json!({"version": 1, "outcome": "logged_out"}));
        same::<Done>(json!({"version": 1, "outcome": "connected", "account": "acme"}));
        same::<Done>(json!({"version": 1, "outcome": "stopping"}));
        same::<LoginBegun>(
            json!({"version": 1, "outcome": "begun", "id": "1", "authorize_url": "a", "redirect_uri": "r"}),
        );
        same::<LoginState>(json!({"version": 1, "state": "pending"}));
        same::<LoginState>(json!({"version": 1, "state": "failed", "why": "w"}));
        same::<Session>(json!({"version": 1}));
        same::<SessionLink>(json!({"version": 1, "url": "u"}));
    }

    #[test]
    fn unknown_fields_and_values_of_a_newer_release_are_ignored() {
        fn read<T: serde::de::DeserializeOwned>(wire: Value) -> T {
            serde_json::from_value::<Versioned<T>>(with(
                wire,
                json!({"version": 2, "newer": {"a": [1]}}),
            ))
            .unwrap()
            .body
        }
        let account = with(account(), json!({"state": "paused", "newer": 1}));
        let status: Status = read(with(
            with(about(), json!({"running": true})),
            json!({"accounts": [account.clone()]}),
        ));
        assert_eq!(status.accounts[0].state, State::Other("paused".into()));
        assert_eq!(status.about.pid, 7);
        let refreshed: Refreshed = read(json!({"outcome": "merged", "account": account}));
        assert_eq!(refreshed.outcome.to_string(), "merged");
        assert!(matches!(read::<Done>(json!({"outcome": "merged"})).outcome, Outcome::Other));
        assert!(matches!(read(json!({"state": "failed", "why": "w"})), LoginState::Failed { .. }));
        assert_eq!(read::<Problem>(json!({"code": "c", "detail": "d", "fix": "f"})).code, "c");
    }

    #[test]
    fn missing_fields_of_an_older_release_are_accepted() {
        let least = json!({"version": 1, "running": true, "pid": 7, "environment": "sandbox", "api": "a",
                           "admin": "b", "store": "s", "upstream": "u",
                           "accounts": [{"account": "acme", "state": "connected"}]});
        let status: Versioned<Status> = serde_json::from_value(least).unwrap();
        assert_eq!(status.body.accounts[0].state, State::Connected);
        let problem: Problem = serde_json::from_value(json!({})).unwrap();
        assert_eq!(problem.detail, "");
    }

    #[test]
    fn unknown_fields_in_requests_are_refused() {
        assert!(serde_json::from_value::<LoginBody>(json!({"redirect_url": "x"})).is_err());
        let token = LoginBody { refresh_token: Some("t".into()), ..LoginBody::default() };
        assert_eq!(serde_json::to_value(token).unwrap(), json!({"refresh_token": "t"}));
    }
}
