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
//! The guard judges every request first, the key is asked for in front of `/metrics` and all of
//! `/api` but the session, so no route can be forgotten. No GET changes a grant. No token ever
//! leaves.

mod api;
pub mod key;
mod pages;
pub mod proof;
pub mod protocol;

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
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::operate::{Operator, Redirect};
use crate::proxy::guard::Guard;
use crate::proxy::peer::Peers;
use crate::proxy::reply;
use key::{Caller, Keys};
use protocol::{About, Health, Problem};

/// Time for the body of a request to come whole: who holds it back holds a connection.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Longest body, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// What the admin listener works on.
pub struct Admin {
    /// What may be done to accounts.
    pub operator: Operator,
    /// Judges requests.
    pub guard: Guard,
    /// Who may do more than look.
    pub keys: Arc<Keys>,
    /// Tells the process to end.
    pub shutdown: CancellationToken,
    /// Where the listener is: `http://127.0.0.1:8089`.
    pub origin: String,
    /// Where the answers to logins come.
    pub redirect: Arc<Redirect>,
    /// What `status` says about the process itself.
    pub about: About,
    /// Whether callers could be told apart.
    pub peers: Peers,
}

type Shared = State<Arc<Admin>>;

/// All routes.
pub fn router(admin: Arc<Admin>) -> Router {
    let api = Router::new()
        .route("/status", get(api::status))
        .route("/accounts/{name}/refresh", post(api::refresh))
        .route("/accounts/{name}/logout", post(api::logout))
        .route(
            "/accounts/{name}/login",
            post(api::login).route_layer(middleware::from_fn(with_body)),
        )
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
        Caller::Barred => refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_attempts",
            "Too many wrong keys; wait a minute.",
        ),
    }
}

/// Lets a request in whose body is here.
async fn with_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > LONGEST_BODY as u64 {
        return refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The body is longer than 64 KiB.",
        );
    }
    match timeout(BODY_TIME, to_bytes(body, LONGEST_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        _ => refusal(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The body did not come whole, or is longer than 64 KiB.",
        ),
    }
}

async fn health(State(admin): Shared, headers: HeaderMap) -> Response {
    let mut response = axum::Json(Health::of("ok")).into_response();
    let challenge = headers.get(proof::CHALLENGE).and_then(|challenge| challenge.to_str().ok());
    let proof = challenge.and_then(|challenge| admin.keys.prove(&admin.origin, challenge));
    if let Some(proof) = proof.and_then(|proof| HeaderValue::try_from(proof).ok()) {
        response.headers_mut().insert(proof::PROOF, proof);
    }
    response
}

async fn ready(State(admin): Shared) -> Response {
    let (custody, accounts) = (admin.operator.accounts(), admin.operator.accounts().all());
    let serving = accounts.iter().filter(|account| account.can_serve()).count();
    let is_whole = custody.supervisor().paused().is_empty();
    let (status, word) = match serving {
        _ if admin.shutdown.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
        0 => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ if custody.supervisor().is_deaf() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        // Tokens that live are served; nothing is refreshed.
        _ if custody.scheduler_silence().is_some() => (StatusCode::OK, "degraded"),
        _ if is_whole && accounts.iter().all(|account| account.is_well()) => (StatusCode::OK, "ok"),
        _ => (StatusCode::OK, "degraded"),
    };
    // Without the names of accounts: everybody may ask.
    let fix =
        "Run pleo-proxy status: it says why no account can serve. Without one: pleo-proxy login";
    let fix = (serving == 0).then(|| fix.to_owned());
    (status, axum::Json(Health { fix, ..Health::of(word) })).into_response()
}

async fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", "There is no such page here.")
}

async fn wrong_method() -> Response {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This page does not take that method.",
    )
}

/// The same for a route that takes GET and was asked with HEAD.
fn only_get() -> Response {
    let mut response =
        refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This page takes GET only.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// A browser asks ahead of a person, or for a part of a page.
fn no_navigation() -> Response {
    refusal(
        StatusCode::FORBIDDEN,
        "forbidden_origin",
        "This address is for a person to open, not for a page to load.",
    )
}

fn unauthorized() -> Response {
    let hint = "Send the content of admin.key as Authorization: Bearer, or run: pleo-proxy open";
    let mut response = refusal(StatusCode::UNAUTHORIZED, "admin_key_required", hint);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pleo-proxy admin\""));
    response
}

/// A refusal of this listener itself, in the proxy's form.
fn refusal(status: StatusCode, code: &'static str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Problem {
        kind: "about:blank".into(),
        title: title.into(),
        status: status.as_u16(),
        code: code.into(),
        detail: detail.into(),
    };
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
    headers.insert("pleo-proxy-error", HeaderValue::from_static(code));
    response
}

fn answer(problem: reply::Problem) -> Response {
    problem.into_response().map(Body::new)
}
