//! `/api`: the routes for the command line and the page.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::key::{Access, cookie_name};
use super::protocol::{
    Done, LoginBegun, LoginBody, LoginQuery, LoginState, Outcome, RefreshOutcome, RefreshQuery,
    Refreshed, Session, SessionBody, SessionLink, Status, Versioned,
};
use super::refusal::{invalid_name, refusal, too_many, unauthorized, with_fix};
use super::state::{Admin, Shared};
use crate::accounts::{ChangeError, StoreFault};
use crate::clock::rfc3339;
use crate::login::LoginError;
use crate::oauth;
use crate::operate::{LoginRequest, ReturnsBy};
use crate::secret::RefreshToken;
use crate::store::{AccountName, LockError};

/// A response with data.
pub(super) fn data(body: impl Serialize) -> Response {
    Json(Versioned::from(body)).into_response()
}

/// `GET /api/status`.
pub(super) async fn status(State(admin): Shared) -> Response {
    data(current_status(&admin))
}

/// The state of the process and of all accounts.
pub(super) fn current_status(admin: &Admin) -> Status {
    let accounts = admin.operator.accounts();
    let mut about = admin.about.clone();
    about.notes.extend(accounts.scheduler_silence().map(|silence| {
        let seconds = silence.as_secs();
        format!(
            "the scheduler has not run for {seconds} s, so no token is refreshed; restart the proxy"
        )
    }));
    about.notes.extend(admin.peers.note());
    about.notes.extend(admin.log.recorders().capturing.window().map(|window| {
        let until = rfc3339(window.until_wall);
        format!(
            "headers and bodies of requests are kept in memory until {until}; end it with: pleo-proxy capture --stop"
        )
    }));
    Status {
        running: true,
        ending: admin.shutdown.is_cancelled(),
        stopped_tasks: accounts.supervisor().paused().into_iter().map(str::to_owned).collect(),
        default_account: admin.operator.default_account().map(|name| name.to_string()),
        accounts: admin.operator.status().into_iter().map(Into::into).collect(),
        about,
    }
}

/// `POST /api/accounts/NAME/refresh`: refreshes if due or forced.
pub(super) async fn refresh(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(RefreshQuery { force }): Query<RefreshQuery>,
) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return invalid_name() };
    match admin.operator.refresh(&name, force).await {
        Ok(refreshed) => {
            let refreshed = Refreshed::from(refreshed);
            let has_failed = refreshed.outcome == RefreshOutcome::Failed;
            let status = if has_failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            (status, data(refreshed)).into_response()
        }
        Err(error) => change_failed(&name, &error),
    }
}

/// `POST /api/accounts/NAME/logout`.
pub(super) async fn logout(State(admin): Shared, Path(name): Path<String>) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return invalid_name() };
    match admin.operator.logout(&name).await {
        Ok(()) => data(Done::from(Outcome::LoggedOut)),
        Err(error) => change_failed(&name, &error),
    }
}

/// `POST /api/accounts/NAME/login`: an empty body starts a login, `redirected_url` finishes one,
/// `refresh_token` imports a token, `api_key` takes a key in place of tokens.
pub(super) async fn login(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(query): Query<LoginQuery>,
    body: Bytes,
) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return invalid_name() };
    let read = match body.trim_ascii() {
        b"" => Ok(LoginBody::default()),
        body => serde_json::from_slice(body),
    };
    let Ok(body) = read else {
        let detail = "The body is not JSON with redirected_url, refresh_token or api_key.";
        return bad_request(detail);
    };
    let LoginBody { redirected_url, refresh_token, api_key, expires_on } = body;
    let done = match (redirected_url, refresh_token, api_key) {
        (Some(address), None, None) => admin.operator.finish_login(&name, &address).await,
        (None, Some(token), None) => {
            admin.operator.import(&name, RefreshToken::new(token.trim())).await
        }
        (None, None, Some(key)) => {
            let Ok(expires_on) = expires_on.map(|date| date.parse()).transpose() else {
                return bad_request("expires_on is not a date such as 2027-01-31.");
            };
            match oauth::api_key(&key) {
                Ok(key) => admin.operator.add_key(&name, key, expires_on, query.replace).await,
                Err(_) => Err(LoginError::NoKey),
            }
        }
        (None, None, None) => return begin(&admin, &name, &query).await,
        _ => return bad_request("Send one of redirected_url, refresh_token and api_key."),
    };
    match done {
        Ok(()) => data(Done { outcome: Outcome::Connected, account: Some(name.to_string()) }),
        Err(error) => login_failed(&name, &error),
    }
}

/// `GET /api/logins/ID`: the state of a login.
pub(super) async fn login_state(State(admin): Shared, Path(id): Path<String>) -> Response {
    match admin.operator.logins().outcome(&id).await {
        Some(end) => data(LoginState::from(end)),
        None => unknown_login(),
    }
}

/// `DELETE /api/logins/ID`: cancels a pending login.
pub(super) async fn abandon(State(admin): Shared, Path(id): Path<String>) -> Response {
    if admin.operator.logins().abandon(&id).await {
        data(Done::from(Outcome::Abandoned))
    } else {
        unknown_login()
    }
}

fn unknown_login() -> Response {
    let detail = "There is no such login: newer ones replaced it, or it is older than ten minutes.";
    refusal(StatusCode::NOT_FOUND, "login_unknown", detail)
}

async fn begin(admin: &Admin, account: &AccountName, query: &LoginQuery) -> Response {
    let returns_by = if query.paste { ReturnsBy::Paste } else { ReturnsBy::Browser };
    let request = LoginRequest { account, returns_by, replaces: query.replace };
    match admin.operator.begin_login(request, &admin.redirect).await {
        Ok(begun) => data(LoginBegun::from(begun)),
        Err(error) => login_failed(account, &error),
    }
}

/// `POST /api/session`: trades the one-time key of a link for a session, or the admin key for a
/// fresh link.
pub(super) async fn session(State(admin): Shared, headers: HeaderMap, body: Bytes) -> Response {
    if let Ok(SessionBody { key }) = serde_json::from_slice(&body) {
        return match admin.keys.trade(&key) {
            Ok(session) => {
                let cookie = format!(
                    "{}={}; HttpOnly; SameSite=Strict; Path=/",
                    cookie_name(&admin.origin),
                    session.expose()
                );
                ([(SET_COOKIE, cookie)], data(Session {})).into_response()
            }
            Err(Access::TooManyAttempts) => too_many(),
            Err(_) => unauthorized(),
        };
    }
    match admin.keys.identify(&headers, admin.guard.own_origins()) {
        Access::Granted => match admin.keys.issue_link() {
            Ok(key) => {
                let url = format!("{}/#key={}", admin.origin, key.expose());
                (StatusCode::CREATED, data(SessionLink { url })).into_response()
            }
            Err(_) => refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The system has no random numbers.",
            ),
        },
        Access::Denied => unauthorized(),
        Access::TooManyAttempts => too_many(),
    }
}

/// `POST /api/shutdown`.
pub(super) async fn shutdown(State(admin): Shared) -> Response {
    admin.shutdown.cancel();
    (StatusCode::ACCEPTED, data(Done::from(Outcome::Stopping))).into_response()
}

fn bad_request(detail: &str) -> Response {
    refusal(StatusCode::BAD_REQUEST, "bad_request", detail)
}

fn login_failed(account: &AccountName, error: &LoginError) -> Response {
    let (status, code) = match error {
        LoginError::Change(change) => return change_failed(account, change),
        LoginError::Listener(_) => (StatusCode::CONFLICT, "redirect_taken"),
        LoginError::Credentials(_) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
        LoginError::Random(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        LoginError::Callback(_)
        | LoginError::UnknownState
        | LoginError::NoToken
        | LoginError::NoKey => (StatusCode::BAD_REQUEST, "bad_request"),
        LoginError::Refused(_)
        | LoginError::Issuer
        | LoginError::Exchange(_)
        | LoginError::KeyRefused
        | LoginError::KeyUnchecked(_)
        | LoginError::Store(_)
        | LoginError::Repeated(_) => (StatusCode::BAD_GATEWAY, "login_failed"),
    };
    refusal(status, code, &error.to_string())
}

pub(super) fn change_failed(account: &AccountName, error: &ChangeError) -> Response {
    let (status, code) = match error {
        ChangeError::Unknown(_) => (StatusCode::NOT_FOUND, "account_unknown"),
        ChangeError::NameTaken(_)
        | ChangeError::StillConnected(_)
        | ChangeError::InUse { .. }
        | ChangeError::KeyFile(..) => (StatusCode::CONFLICT, "account_conflict"),
        ChangeError::Superseded(_)
        | ChangeError::Overtaken(_)
        | ChangeError::OtherSubject { .. }
        | ChangeError::ConnectedElsewhere { .. }
        | ChangeError::Connected(_)
        | ChangeError::ConnectedByLogin(_) => (StatusCode::CONFLICT, "login_conflict"),
        ChangeError::NoRefreshToken
        | ChangeError::Import(_)
        | ChangeError::Refused(_)
        | ChangeError::ImportUnconfirmed(_)
        | ChangeError::KeyUnchecked(_)
        | ChangeError::Unconfirmed { .. } => (StatusCode::BAD_GATEWAY, "login_failed"),
        ChangeError::Lock(LockError::Busy(_)) | ChangeError::Busy(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "refresh_timeout")
        }
        ChangeError::Lock(LockError::Io(_)) | ChangeError::Unsaved(..) => {
            (StatusCode::SERVICE_UNAVAILABLE, "store_unwritable")
        }
        ChangeError::Record(_) | ChangeError::SetAside(..) => {
            (StatusCode::SERVICE_UNAVAILABLE, "store_error")
        }
        ChangeError::Save(_) | ChangeError::NoStoreKey { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "store_unwritable")
        }
        ChangeError::Closing => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
    };
    with_fix(status, code, &error.to_string(), fix_of(account, error))
}

/// What to do where the error itself does not say it, as the data listener says it.
fn fix_of(account: &AccountName, error: &ChangeError) -> Option<String> {
    match error {
        ChangeError::Record(error) => Some(StoreFault::from(error).fix(account)),
        ChangeError::SetAside(..) => Some(format!(
            "Give write access to the folder of the store, then run `pleo-proxy login {account}`."
        )),
        _ => None,
    }
}
