//! An account in the admin API.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::accounts::Health;
use crate::clock::rfc3339;
use crate::store::AccountName;
use crate::{accounts, operate};

/// An account without its secrets.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AccountStatus {
    /// Its name.
    pub account: String,
    /// What the settings call it, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// True if a request would get a token now, or after a refresh that is likely to succeed.
    #[serde(default)]
    pub can_serve: bool,
    /// Its state.
    pub state: State,
    /// What is wrong, for users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Generation of the grant.
    #[serde(default)]
    pub generation: u64,
    /// The company or organisation it is bound to.
    #[serde(default)]
    pub subject: Option<String>,
    /// Its name, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub company: Option<String>,
    /// Granted scopes.
    #[serde(default)]
    pub scope: Vec<String>,
    /// When the access token expires.
    #[serde(default)]
    pub access_expires_at: Option<String>,
    /// Seconds until then; 0 once expired.
    #[serde(default)]
    pub access_expires_in: Option<u64>,
    /// Its API key, if it has one in place of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyStatus>,
    /// What needs attention soon, for users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// When the tokens were issued.
    #[serde(default)]
    pub refreshed_at: Option<String>,
    /// Age of the refresh token in seconds; at Pleo it expires after 60 days.
    #[serde(default)]
    pub refresh_token_age: Option<u64>,
    /// When the login was.
    #[serde(default)]
    pub logged_in_at: Option<String>,
    /// When the proxy retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
    /// How often a refresh token was sent again after an unclear outcome.
    #[serde(default)]
    pub resends: u32,
    /// The last attempt to refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refresh: Option<LastRefresh>,
    /// `connected` if the last login in this process succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login_error: Option<String>,
}

/// An API key without what is secret of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ApiKeyStatus {
    /// Stars, and its last characters.
    pub masked: String,
    /// When it was added.
    pub added_at: String,
    /// Its last day, if somebody said so.
    pub expires_on: Option<String>,
    /// Days until then; below zero afterwards.
    pub days_left: Option<i64>,
}

/// The body of `POST /api/accounts/NAME/rename`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenameBody {
    /// The new name.
    pub to: String,
    /// Also while a program uses the account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// The last attempt to refresh.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LastRefresh {
    /// When it began.
    pub at: String,
    /// Why.
    pub reason: String,
    /// How it ended.
    pub outcome: String,
    /// How long it took, waiting for locks included, in milliseconds.
    pub ms: u64,
}

/// The states of an account that the command line distinguishes; all others need attention.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can serve requests.
    Connected,
    /// It needs a login.
    LoginRequired,
    /// Any other state, by its name.
    #[serde(untagged)]
    Other(String),
}

impl AccountStatus {
    /// What is shown beside the name: the label of the settings, else the company's name.
    pub fn shown_as(&self) -> Option<&str> {
        self.label.as_deref().or(self.company.as_deref())
    }
}

/// A reason as it is shown beside the account's name, which it does not repeat.
pub fn beside_name<'a>(why: &'a str, account: &str) -> &'a str {
    let rest = why.strip_prefix("account ").and_then(|rest| rest.strip_prefix(account));
    rest.and_then(|rest| rest.strip_prefix(' ')).unwrap_or(why)
}

impl State {
    fn named(word: &str) -> Self {
        match word {
            "connected" => Self::Connected,
            "login_required" => Self::LoginRequired,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::LoginRequired => "login_required",
            Self::Other(word) => word,
        })
    }
}

/// What is wrong with an account, and the command that helps; none if nothing is.
pub fn account_problem(health: &Health, account: &AccountName) -> Option<String> {
    let sentence = health.sentence(account)?;
    Some(match health {
        Health::LoginRequired(reason) => format!("{sentence}; {}", reason.fix(account)),
        _ => sentence,
    })
}

impl From<accounts::Status> for AccountStatus {
    fn from(status: accounts::Status) -> Self {
        // Field by field, so that a new field there does not compile here.
        let accounts::Status {
            account,
            label,
            can_serve,
            health,
            generation,
            subject,
            company,
            scope,
            access_expires_at,
            access_expires_in,
            api_key,
            refreshed_at,
            refresh_token_age,
            logged_in_at,
            next_try,
            resends,
            last_refresh,
        } = status;
        Self {
            warning: api_key.as_ref().and_then(|key| key.warning(&account)),
            state: State::named(health.as_str()),
            why: account_problem(&health, &account),
            account: account.to_string(),
            label,
            can_serve,
            generation,
            subject,
            company,
            scope,
            access_expires_at,
            access_expires_in,
            api_key: api_key.map(Into::into),
            refreshed_at,
            refresh_token_age,
            logged_in_at,
            next_try,
            resends,
            last_refresh: last_refresh.map(Into::into),
            last_login: None,
            last_login_error: None,
        }
    }
}

impl From<accounts::KeyStatus> for ApiKeyStatus {
    fn from(key: accounts::KeyStatus) -> Self {
        let accounts::KeyStatus { masked, added_at, expires_on, days_left } = key;
        let expires_on = expires_on.map(|date| date.to_string());
        Self { masked, added_at: rfc3339(added_at), expires_on, days_left }
    }
}

impl From<accounts::LastRefresh> for LastRefresh {
    fn from(last: accounts::LastRefresh) -> Self {
        let accounts::LastRefresh { at, reason, outcome, ms } = last;
        Self { at, reason: reason.to_owned(), outcome: outcome.to_owned(), ms }
    }
}

impl From<operate::AccountStatus> for AccountStatus {
    fn from(status: operate::AccountStatus) -> Self {
        let (last_login, last_login_error) = match status.last_login {
            Some(Ok(())) => (Some("connected".to_owned()), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        Self { last_login, last_login_error, ..status.account.into() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reason_does_not_repeat_the_name_beside_it() {
        assert_eq!(beside_name("account acme needs a login: x", "acme"), "needs a login: x");
        for other in ["account acme-2 needs a login", "the token endpoint cannot be reached"] {
            assert_eq!(beside_name(other, "acme"), other);
        }
    }

    #[test]
    fn states_have_the_same_names_as_in_accounts() {
        for word in ["connected", "login_required", "misconfigured"] {
            let state = State::named(word);
            assert_eq!(
                (state.to_string(), serde_json::to_value(&state).unwrap()),
                (word.to_owned(), json!(word))
            );
            assert_eq!(serde_json::from_value::<State>(json!(word)).unwrap(), state);
        }
    }
}
