//! The admin listener.
//!
//! | route | needs | does |
//! | --- | --- | --- |
//! | `GET /health` | - | 200 while the process is up; answers a `Pleo-Proxy-Challenge` with [`proof`] |
//! | `GET /ready` | - | 200 while at least one account can serve, else 503 |
//! | `GET /` | - | the settings URL: up or down; the accounts with a session |
//! | `GET /connect?account=NAME` | - | the initiation URL: 302 to the authorize page |
//! | `GET /callback` | a pending login's state | the redirect URL |
//! | `POST /api/session` | a link's one-time key, or the admin key | a session cookie, or a fresh link |
//! | `GET /metrics` | key | counters, in the Prometheus text format |
//! | `GET /api/status` | key | all accounts |
//! | `POST /api/accounts/NAME/refresh` | key | refreshes; `?force=true` also what is fresh |
//! | `POST /api/accounts/NAME/logout` | key | forgets the grant |
//! | `POST /api/accounts/NAME/login` | key | begins (`?paste=true`: nobody listens for its answer), finishes or imports a login |
//! | `GET /api/logins/ID` | key | how a login that was begun goes: `pending`, `connected`, or `failed` and why |
//! | `DELETE /api/logins/ID` | key | gives a pending login up |
//! | `POST /api/shutdown` | key | ends the process |
//!
//! The guard judges every request first, the key is asked for in front of `/metrics` and all of `/api` but the session,
//! so no route can be forgotten. No GET changes a grant. No token ever leaves.

mod api;
pub mod key;
mod pages;
pub mod proof;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::login::{CallbackListener, Logins, Serve};
use crate::proxy::guard::Guard;
use crate::proxy::peer::Peers;
use crate::proxy::reply::Problem;
use crate::tokens::Accounts;
use key::{Caller, Keys};

/// Time for the body of a request to come whole: who holds it back holds a connection.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Longest body, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// What the admin listener works on.
pub struct Admin {
    /// All accounts.
    pub accounts: Arc<Accounts>,
    /// Logins under way.
    pub logins: Arc<Logins>,
    /// Judges requests.
    pub guard: Guard,
    /// Who may do more than look.
    pub keys: Arc<Keys>,
    /// Tells the process to end.
    pub shutdown: CancellationToken,
    /// Where the listener is: `http://127.0.0.1:8089`.
    pub origin: String,
    /// The configured redirect URI; none = this listener's own `/callback`.
    pub redirect_uri: Option<Url>,
    /// Where logins come back to while a redirect URI of this machine is not this listener's own.
    pub listener: tokio::sync::Mutex<Option<CallbackListener>>,
    /// How that one is served.
    pub beside: Serve,
    /// What `status` says about the process itself.
    pub about: About,
    /// Whether callers could be told apart.
    pub peers: Peers,
}

/// What `status` says about the process itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct About {
    /// Process id.
    pub pid: u32,
    /// The environment's name.
    pub environment: String,
    /// Where tools talk.
    pub api: String,
    /// Where people talk.
    pub admin: Option<String>,
    /// Where grants are kept.
    pub store: String,
    /// The API's origin.
    pub upstream: String,
    /// Defences that are off or loosened.
    pub notes: Vec<String>,
}

type Shared = State<Arc<Admin>>;

/// All routes.
pub fn router(admin: Arc<Admin>) -> Router {
    let api = Router::new()
        .route("/status", get(api::status))
        .route("/accounts/{name}/refresh", post(api::refresh))
        .route("/accounts/{name}/logout", post(api::logout))
        .route("/accounts/{name}/login", post(api::login).route_layer(middleware::from_fn(with_body)))
        .route("/logins/{id}", get(api::login_state).delete(api::abandon))
        .route("/shutdown", post(api::shutdown))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), with_key));
    let metrics = Router::new()
        .route("/metrics", get(api::metrics))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), with_key));
    Router::new()
        .merge(metrics)
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/", get(pages::index))
        .route("/connect", get(pages::connect))
        .route("/callback", get(pages::callback))
        .route("/api/session", post(api::session).route_layer(middleware::from_fn(with_body)))
        .nest("/api", api)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), guarded))
        .with_state(admin)
}

async fn guarded(State(admin): Shared, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match admin.guard.check(&parts) {
        Ok(_) => uncached(next.run(Request::from_parts(parts, body)).await),
        Err(problem) => answer(problem),
    }
}

/// Nothing that this listener says is kept by a browser, or taken for what it is not.
fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn with_key(State(admin): Shared, request: Request, next: Next) -> Response {
    match admin.keys.identify(request.headers(), admin.guard.own_origins()) {
        Caller::Known => next.run(request).await,
        Caller::Unknown => unauthorized(),
        Caller::Barred => {
            refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", "Too many wrong keys; wait a minute.")
        }
    }
}

/// Lets a request in whose body is here.
async fn with_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > LONGEST_BODY as u64 {
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is longer than 64 KiB.");
    }
    match timeout(BODY_TIME, to_bytes(body, LONGEST_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        _ => refusal(StatusCode::BAD_REQUEST, "bad_request", "The body did not come whole, or is longer than 64 KiB."),
    }
}

async fn health(State(admin): Shared, headers: HeaderMap) -> Response {
    let mut response = axum::Json(json!({"status": "ok"})).into_response();
    let challenge = headers.get(proof::CHALLENGE).and_then(|challenge| challenge.to_str().ok());
    let proof = challenge.and_then(|challenge| admin.keys.prove(&admin.origin, challenge));
    if let Some(proof) = proof.and_then(|proof| HeaderValue::try_from(proof).ok()) {
        response.headers_mut().insert(proof::PROOF, proof);
    }
    response
}

async fn ready(State(admin): Shared) -> Response {
    let accounts = admin.accounts.all();
    let serving = accounts.iter().filter(|account| account.can_serve()).count();
    let is_whole = admin.accounts.supervisor().paused().is_empty();
    let (status, word) = match serving {
        _ if admin.shutdown.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
        0 => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ if admin.accounts.supervisor().is_deaf() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        // Tokens that live are served; nothing is refreshed.
        _ if admin.accounts.scheduler_silence().is_some() => (StatusCode::OK, "degraded"),
        _ if is_whole && accounts.iter().all(|account| account.is_well()) => (StatusCode::OK, "ok"),
        _ => (StatusCode::OK, "degraded"),
    };
    let mut body = json!({"status": word});
    if serving == 0 {
        // Without the names of accounts: everybody may ask.
        body["fix"] = "Run pleo-proxy status: it says why no account can serve. Without one: pleo-proxy login".into();
    }
    (status, axum::Json(body)).into_response()
}

async fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", "There is no such page here.")
}

async fn wrong_method() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This page does not take that method.")
}

/// The same for a route that takes GET and was asked with HEAD.
fn only_get() -> Response {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This page takes GET only.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// A browser asks ahead of a person, or for a part of a page.
fn no_navigation() -> Response {
    refusal(StatusCode::FORBIDDEN, "forbidden_origin", "This address is for a person to open, not for a page to load.")
}

fn unauthorized() -> Response {
    let hint = "Send the content of admin.key as Authorization: Bearer, or run: pleo-proxy open";
    let mut response = refusal(StatusCode::UNAUTHORIZED, "admin_key_required", hint);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pleo-proxy admin\""));
    response
}

/// A refusal of this listener itself, in the proxy's form.
fn refusal(status: StatusCode, code: &'static str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body =
        json!({"type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail});
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
    headers.insert("pleo-proxy-error", HeaderValue::from_static(code));
    response
}

fn answer(problem: Problem) -> Response {
    problem.into_response().map(Body::new)
}
