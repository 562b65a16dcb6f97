//! `/api`: what the command line and the page ask for.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::key::{COOKIE_NAME, Caller};
use super::{Admin, Shared, refusal, unauthorized};
use crate::login::{Begun, CallbackListener, ListenerError, LoginError};
use crate::oauth::authorize::Callback;
use crate::secret::RefreshToken;
use crate::store::{AccountName, EndReason, LockError};
use crate::tokens::{ChangeError, Reason, Report};

/// How often a listener that serves one login is checked for being needed still.
const LISTENER_CHECK: std::time::Duration = std::time::Duration::from_secs(1);

/// `GET /api/status`.
pub(super) async fn status(State(admin): Shared) -> Json<Value> {
    let accounts: Vec<_> = admin.accounts.all().iter().map(|account| account_status(&admin, account)).collect();
    let stopped = admin.accounts.supervisor().paused();
    let ending = admin.shutdown.is_cancelled();
    let mut status =
        json!({"version": 1, "running": true, "ending": ending, "stopped_tasks": stopped, "accounts": accounts});
    if let (Value::Object(status), Ok(Value::Object(about))) = (&mut status, serde_json::to_value(&admin.about)) {
        status.extend(about);
    }
    if let (Some(silence), Some(Value::Array(notes))) = (admin.accounts.scheduler_silence(), status.get_mut("notes")) {
        let seconds = silence.as_secs();
        notes.push(
            format!("the scheduler has not answered for {seconds} s, so no token is refreshed; restart the proxy")
                .into(),
        );
    }
    if let (Some(note), Some(Value::Array(notes))) = (admin.peers.note(), status.get_mut("notes")) {
        notes.push(note.into());
    }
    Json(status)
}

fn account_status(admin: &Admin, account: &crate::tokens::Account) -> Value {
    let mut status = serde_json::to_value(account.status()).unwrap_or_default();
    if let (Value::Object(status), Some(outcome)) = (&mut status, admin.logins.latest(&account.name)) {
        match outcome {
            Ok(()) => status.insert("last_login".into(), "connected".into()),
            Err(why) => status.insert("last_login_error".into(), why.into()),
        };
    }
    status
}

/// `GET /metrics`.
pub(super) async fn metrics(State(admin): Shared) -> Response {
    let accounts = admin.accounts.all();
    let states = accounts.iter().map(|account| account.snapshot().health.word());
    let tasks = admin.accounts.supervisor().tasks();
    let restarts = tasks.iter().map(|task| (task.name, task.restarts));
    match admin.accounts.metrics().text(states, restarts) {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The metrics cannot be written."),
    }
}

#[derive(Deserialize)]
pub(super) struct Force {
    #[serde(default)]
    force: bool,
}

/// `POST /api/accounts/NAME/refresh`: what is fresh stays as it is, unless forced.
pub(super) async fn refresh(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(Force { force }): Query<Force>,
) -> Response {
    let Some(account) = known(&admin, &name).await else { return unknown(&name) };
    let snapshot = account.snapshot();
    let fresh = account.is_well() && account.can_serve() && !account.is_due();
    if fresh && !force {
        return Json(json!({"version": 1, "outcome": "fresh", "account": account.status()})).into_response();
    }
    let report = admin.accounts.refresh(&account, Reason::Asked, snapshot.generation).await;
    let outcome = match report {
        Report::Refreshed => "refreshed",
        Report::Adopted => "adopted",
        Report::Limited | Report::Failed => "failed",
    };
    let status = if outcome == "failed" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(json!({"version": 1, "outcome": outcome, "account": account.status()}))).into_response()
}

/// `POST /api/accounts/NAME/logout`.
pub(super) async fn logout(State(admin): Shared, Path(name): Path<String>) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return unknown(&name) };
    admin.logins.cancel(&name);
    match admin.accounts.logout(&name, EndReason::LoggedOut).await {
        Ok(()) => Json(json!({"version": 1, "outcome": "logged_out"})).into_response(),
        Err(ChangeError::Unknown(name)) => unknown(name.as_str()),
        Err(error) => change_failed(&error),
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    redirected_url: Option<String>,
    refresh_token: Option<String>,
}

/// How a login comes back.
#[derive(Deserialize)]
pub(super) struct Back {
    /// By hand, so that nobody has to listen for it.
    #[serde(default)]
    paste: bool,
    /// Another account that holds the company is logged out.
    #[serde(default)]
    replace: bool,
}

/// `POST /api/accounts/NAME/login`: an empty body begins, `redirected_url` finishes, `refresh_token` imports.
pub(super) async fn login(
    State(admin): Shared,
    Path(name): Path<String>,
    Query(back): Query<Back>,
    body: Bytes,
) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return unknown(&name) };
    let body = match body.trim_ascii().is_empty() {
        true => LoginBody::default(),
        false => match serde_json::from_slice(&body) {
            Ok(body) => body,
            Err(_) => return refusal(StatusCode::BAD_REQUEST, "bad_request", "The body is not one this route knows."),
        },
    };
    let done = match body {
        LoginBody { redirected_url: Some(address), refresh_token: None } => finish(&admin, &name, &address).await,
        LoginBody { refresh_token: Some(token), redirected_url: None } => {
            admin.logins.import(&name, RefreshToken::new(token.trim())).await
        }
        LoginBody { redirected_url: None, refresh_token: None } => return begin(&admin, &name, &back).await,
        _ => return refusal(StatusCode::BAD_REQUEST, "bad_request", "Send one of redirected_url and refresh_token."),
    };
    match done {
        Ok(()) => Json(json!({"version": 1, "outcome": "connected", "account": name.as_str()})).into_response(),
        Err(error) => login_failed(&error),
    }
}

/// `GET /api/logins/ID`: how a login that was begun goes, for whoever waits for it.
pub(super) async fn login_state(State(admin): Shared, Path(id): Path<String>) -> Response {
    match admin.logins.outcome(&id) {
        Some(None) => Json(json!({"version": 1, "state": "pending"})).into_response(),
        Some(Some(Ok(()))) => Json(json!({"version": 1, "state": "connected"})).into_response(),
        Some(Some(Err(why))) => Json(json!({"version": 1, "state": "failed", "why": why})).into_response(),
        None => unknown_login(),
    }
}

/// `DELETE /api/logins/ID`: whoever began it waits no longer.
pub(super) async fn abandon(State(admin): Shared, Path(id): Path<String>) -> Response {
    match admin.logins.abandon(&id) {
        true => Json(json!({"version": 1, "outcome": "abandoned"})).into_response(),
        false => unknown_login(),
    }
}

fn unknown_login() -> Response {
    let detail = "There is no such login: later ones took its place, or it is older than ten minutes.";
    refusal(StatusCode::NOT_FOUND, "login_unknown", detail)
}

async fn finish(admin: &Admin, name: &AccountName, address: &str) -> Result<(), LoginError> {
    let callback = Callback::from_address(address)?;
    let account = admin.logins.finish(callback).await?;
    match account == *name {
        true => Ok(()),
        false => Err(LoginError::Refused(format!(
            "that address belongs to a login of account {account}, which is now connected"
        ))),
    }
}

async fn begin(admin: &Arc<Admin>, name: &AccountName, back: &Back) -> Response {
    let begun = match back.paste {
        true => admin.begin_pasted(name, back.replace).await,
        false => admin.begin(name, back.replace).await,
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(error) => return login_failed(&error),
    };
    let (id, url, redirect_uri) = (begun.id, begun.url.as_str(), begun.redirect_uri);
    Json(json!({"version": 1, "outcome": "begun", "id": id, "authorize_url": url, "redirect_uri": redirect_uri}))
        .into_response()
}

impl Admin {
    /// Begins a login whose answer can arrive: at our own `/callback`, or at a listener for its length.
    pub(super) async fn begin(self: &Arc<Self>, name: &AccountName, replaces: bool) -> Result<Begun, LoginError> {
        let Some(elsewhere) = self.redirect_uri.as_ref().filter(|uri| !self.serves(uri)) else {
            return self.begin_pasted(name, replaces).await;
        };
        let mut slot = self.listener.lock().await;
        let opened = match &*slot {
            Some(_) => None,
            None => match CallbackListener::open(elsewhere, self.logins.clone(), &self.beside).await {
                Ok((opened, _)) => Some(opened),
                // Comes back through a reverse proxy or by hand.
                Err(ListenerError::Elsewhere(_)) => None,
                Err(error) => return Err(error.into()),
            },
        };
        let begun = self.begin_pasted(name, replaces).await?;
        if let Some(listener) = opened {
            *slot = Some(listener);
            tokio::spawn(self.clone().close_when_unused(begun.redirect_uri.clone()));
        }
        Ok(begun)
    }

    /// Begins a login whose answer somebody brings here.
    async fn begin_pasted(&self, name: &AccountName, replaces: bool) -> Result<Begun, LoginError> {
        let own = format!("{}/callback", self.origin);
        let redirect_uri = self.redirect_uri.as_ref().map_or(own, ToString::to_string);
        self.logins.begin(name, &redirect_uri, replaces).await
    }

    /// Ends the listener once no login comes back to it any more.
    async fn close_when_unused(self: Arc<Self>, redirect_uri: String) {
        loop {
            tokio::time::sleep(LISTENER_CHECK).await;
            let mut slot = self.listener.lock().await;
            if self.shutdown.is_cancelled() || !self.logins.is_pending_at(&redirect_uri) {
                if let Some(listener) = slot.take() {
                    listener.close().await;
                }
                return;
            }
        }
    }

    /// True if the redirect URI leads to this listener's `/callback`.
    fn serves(&self, uri: &url::Url) -> bool {
        let origin = uri.origin().ascii_serialization();
        uri.path() == "/callback" && self.guard.own_origins().contains(&origin)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionBody {
    key: String,
}

/// `POST /api/session`: a link's one-time key becomes a session, the admin key a fresh link.
pub(super) async fn session(State(admin): Shared, headers: HeaderMap, body: Bytes) -> Response {
    if let Ok(SessionBody { key }) = serde_json::from_slice(&body) {
        return match admin.keys.trade(&key) {
            Ok(session) => {
                let cookie = format!("{COOKIE_NAME}={}; HttpOnly; SameSite=Strict; Path=/", session.expose());
                (StatusCode::OK, [(SET_COOKIE, cookie)], Json(json!({"version": 1}))).into_response()
            }
            Err(Caller::Barred) => too_many(),
            Err(_) => unauthorized(),
        };
    }
    match admin.keys.identify(&headers, admin.guard.own_origins()) {
        Caller::Known => match admin.keys.issue_link() {
            Ok(key) => {
                let url = format!("{}/#key={}", admin.origin, key.expose());
                (StatusCode::CREATED, Json(json!({"version": 1, "url": url}))).into_response()
            }
            Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The system has no randomness."),
        },
        Caller::Unknown => unauthorized(),
        Caller::Barred => too_many(),
    }
}

/// `POST /api/shutdown`.
pub(super) async fn shutdown(State(admin): Shared) -> Response {
    admin.shutdown.cancel();
    (StatusCode::ACCEPTED, Json(json!({"version": 1, "outcome": "stopping"}))).into_response()
}

async fn known(admin: &Admin, name: &str) -> Option<Arc<crate::tokens::Account>> {
    let name: AccountName = name.parse().ok()?;
    admin.accounts.find(&name).await
}

fn unknown(name: &str) -> Response {
    match name.parse::<AccountName>() {
        Ok(name) => refusal(StatusCode::NOT_FOUND, "account_unknown", &format!("There is no account {name}.")),
        Err(_) => refusal(StatusCode::NOT_FOUND, "account_unknown", "That is not an account's name."),
    }
}

fn too_many() -> Response {
    refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", "Too many wrong keys; wait a minute.")
}

fn login_failed(error: &LoginError) -> Response {
    let (status, code) = match error {
        LoginError::Change(change) => return change_failed(change),
        LoginError::Listener(_) => (StatusCode::CONFLICT, "redirect_taken"),
        LoginError::Credentials(_) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
        LoginError::Random(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        LoginError::Callback(_) | LoginError::UnknownState | LoginError::NoToken => {
            (StatusCode::BAD_REQUEST, "bad_request")
        }
        LoginError::Refused(_) | LoginError::Issuer | LoginError::Exchange(_) | LoginError::Repeated(_) => {
            (StatusCode::BAD_GATEWAY, "login_failed")
        }
    };
    refusal(status, code, &error.to_string())
}

fn change_failed(error: &ChangeError) -> Response {
    let (status, code) = match error {
        ChangeError::Unknown(_) => (StatusCode::NOT_FOUND, "account_unknown"),
        ChangeError::Superseded(_)
        | ChangeError::OtherSubject { .. }
        | ChangeError::ConnectedElsewhere { .. }
        | ChangeError::Connected(_) => (StatusCode::CONFLICT, "login_conflict"),
        ChangeError::NoRefreshToken
        | ChangeError::Import(_)
        | ChangeError::Refused(_)
        | ChangeError::ImportUnconfirmed(_)
        | ChangeError::Unconfirmed { .. } => (StatusCode::BAD_GATEWAY, "login_failed"),
        ChangeError::Lock(LockError::Busy(_)) | ChangeError::Busy(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "refresh_timeout")
        }
        ChangeError::Lock(LockError::Io(_)) | ChangeError::Unsaved(..) => {
            (StatusCode::SERVICE_UNAVAILABLE, "store_unwritable")
        }
        ChangeError::Record(_) | ChangeError::SetAside(..) => (StatusCode::SERVICE_UNAVAILABLE, "store_error"),
        ChangeError::Save(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unwritable"),
        ChangeError::Closing => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
    };
    refusal(status, code, &error.to_string())
}
