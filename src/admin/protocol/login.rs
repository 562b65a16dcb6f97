//! A login in the admin API.

use serde::{Deserialize, Serialize};

use super::done::Outcome;
use crate::login::Begun;
use crate::store::AccountName;

/// The query of `POST /api/accounts/NAME/login` with an empty body.
#[derive(Debug, Deserialize)]
pub struct LoginQuery {
    /// The callback address is pasted, so nothing has to listen for it.
    #[serde(default)]
    pub paste: bool,
    /// Log out another account that holds the company; with an API key: end the login of this one.
    #[serde(default)]
    pub replace: bool,
}

impl LoginQuery {
    /// The target of the request.
    pub fn target(&self, account: &AccountName) -> String {
        format!("{}?paste={}&replace={}", LoginBody::target(account), self.paste, self.replace)
    }
}

/// The body of `POST /api/accounts/NAME/login`: empty to start a login, else one of the three. Holds
/// secrets.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LoginBody {
    /// The address that the browser was sent back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirected_url: Option<String>,
    /// A refresh token that was issued elsewhere to this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// An API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// Its last day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_on: Option<String>,
}

impl LoginBody {
    /// The target of the request.
    pub fn target(account: &AccountName) -> String {
        format!("/api/accounts/{account}/login")
    }
}

/// A login that has started.
#[derive(Debug, Deserialize, Serialize)]
pub struct LoginBegun {
    /// [`Outcome::Begun`].
    pub outcome: Outcome,
    /// Its id in `/api/logins/ID`.
    pub id: String,
    /// The address that the user opens.
    pub authorize_url: String,
    /// Where the callback comes.
    pub redirect_uri: String,
}

impl From<Begun> for LoginBegun {
    fn from(begun: Begun) -> Self {
        let Begun { id, url, redirect_uri } = begun;
        Self { outcome: Outcome::Begun, id, authorize_url: url.into(), redirect_uri }
    }
}

/// `GET /api/logins/ID`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LoginState {
    /// The user has not logged in yet.
    Pending,
    /// The account is connected.
    Connected,
    /// It failed.
    Failed {
        /// The reason, for users.
        why: String,
    },
}

impl From<Option<Result<(), String>>> for LoginState {
    fn from(end: Option<Result<(), String>>) -> Self {
        match end {
            None => Self::Pending,
            Some(Ok(())) => Self::Connected,
            Some(Err(why)) => Self::Failed { why },
        }
    }
}
