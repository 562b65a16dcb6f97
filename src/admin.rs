//! The admin listener.
//!
//! | route | needs | does |
//! | --- | --- | --- |
//! | `GET /health` | - | 200 while the process is up; responds to a `Pleo-Proxy-Challenge` with a [`proof`] |
//! | `GET /ready` | - | 200 while at least one account can serve requests, else 503 |
//! | `GET /` | - | the settings URL: the page; shows the accounts with a session |
//! | `GET /assets/NAME` | - | its files: styles, scripts, icon |
//! | `GET /connect?account=NAME` | - | the initiation URL: 302 to the authorize page |
//! | `GET /callback` | a pending login's state | the redirect URL |
//! | `POST /api/session` | a link's one-time key, or the admin key | returns a session cookie, or a fresh link |
//! | `GET /metrics` | key | metrics, in the Prometheus text format |
//! | `GET /api/status` | key | all accounts |
//! | `POST /api/accounts/NAME/refresh` | key | refreshes if due; `?force=true` in any case |
//! | `POST /api/accounts/NAME/logout` | key | deletes the grant |
//! | `POST /api/accounts/NAME/rename` | key | gives the account another name, `{"to":"NEW"}` |
//! | `DELETE /api/accounts/NAME` | key | removes an account without tokens |
//! | `POST /api/accounts/NAME/login` | key | starts (`?paste=true`: without a listener for the callback) or finishes a login, or imports a token |
//! | `GET /api/logins/ID` | key | the state of a login: `pending`, `connected`, or `failed` with the reason |
//! | `DELETE /api/logins/ID` | key | cancels a pending login |
//! | `GET /api/why?method=M&path=P&account=NAME` | key | whether Pleo would refuse a request, why, and what to do; `?id=ID`: why an exchange ended as it did |
//! | `GET /api/report?account=NAME` | key | the scopes and operations that the accounts use, and what follows |
//! | `GET /api/requests?filter=F` | key | the latest exchanges and those that run; `limit`, `before=SEQ` |
//! | `GET /api/requests/ID` | key | one exchange, with what was captured of it |
//! | `GET /api/events?filter=F` | key | server-sent events, resumable: exchanges, state, rate, charts |
//! | `GET /api/har?filter=F` | key | the exchanges as an HTTP archive; `&pseudonyms=true` replaces personal data |
//! | `POST /api/requests/ID/replay` | key | sends a request again; one that may change something only with `{"confirm":true}` |
//! | `GET /api/curl/ID` | key | one exchange as a command line on the data listener |
//! | `GET /api/stats` | key | the last 15 minutes in slices of 5 s, and refreshes |
//! | `GET /api/rate` | key | requests of the last minute by account and program |
//! | `GET /api/capture` | key | whether headers and bodies are kept; `POST` keeps them for a while, `DELETE` ends it |
//! | `POST /api/shutdown` | key | ends the process |
//!
//! The guard checks every request first. The key is required for `/metrics` and for all of `/api`
//! except the session, by layers around these routes, so none can be forgotten. No GET changes a
//! grant. No response holds a token.

mod accounts;
mod api;
mod assets;
mod events;
mod exchanges;
mod export;
mod figures;
pub mod key;
mod metrics;
mod pages;
pub mod proof;
pub mod protocol;
mod refusal;
mod replay;
mod report;
mod state;
mod why;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::time::timeout;

use key::Access;
use protocol::Health;
use refusal::{refusal, too_many, unauthorized};
pub use state::Admin;
use state::Shared;

/// Time limit for the whole body of a request; a slow one would keep its connection busy.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// All routes.
pub fn router(admin: Arc<Admin>) -> Router {
    let api = Router::new()
        .route("/status", get(api::status))
        .route("/accounts/{name}/refresh", post(api::refresh))
        .route("/accounts/{name}/logout", post(api::logout))
        .route("/accounts/{name}", delete(accounts::remove))
        .route(
            "/accounts/{name}/rename",
            post(accounts::rename).route_layer(middleware::from_fn(buffer_body)),
        )
        .route(
            "/accounts/{name}/login",
            post(api::login).route_layer(middleware::from_fn(buffer_body)),
        )
        .route("/logins/{id}", get(api::login_state).delete(api::abandon))
        .route("/why", get(why::why))
        .route("/report", get(report::report))
        .route("/shutdown", post(api::shutdown))
        .route("/requests", get(exchanges::requests))
        .route("/requests/{id}", get(exchanges::request))
        .route(
            "/requests/{id}/replay",
            post(replay::replay).route_layer(middleware::from_fn(buffer_body)),
        )
        .route("/events", get(exchanges::events))
        .route("/har", get(export::har))
        .route("/curl/{id}", get(export::curl))
        .route("/stats", get(exchanges::stats))
        .route("/rate", get(exchanges::rate))
        .route(
            "/capture",
            get(exchanges::capture).delete(exchanges::stop_capture).merge(
                post(exchanges::start_capture).route_layer(middleware::from_fn(buffer_body)),
            ),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), require_key));
    let metrics = Router::new()
        .route("/metrics", get(metrics::metrics))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), require_key));
    Router::new()
        .merge(metrics)
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/", get(pages::index))
        .route("/assets/{name}", get(assets::asset))
        .route("/connect", get(pages::connect))
        .route("/callback", get(pages::callback))
        .route("/api/session", post(api::session).route_layer(middleware::from_fn(buffer_body)))
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
        Err(problem) => problem.into_response().map(Body::from),
    }
}

/// Keeps browsers from storing a response of this listener and from guessing its type.
fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn require_key(State(admin): Shared, request: Request, next: Next) -> Response {
    match admin.keys.identify(request.headers(), admin.guard.own_origins()) {
        Access::Granted => next.run(request).await,
        Access::Denied => unauthorized(),
        Access::TooManyAttempts => too_many(),
    }
}

/// Reads the whole body before the handler runs.
async fn buffer_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > MAX_BODY as u64 {
        return refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The body is longer than 64 KiB.",
        );
    }
    match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        _ => refusal(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The body did not arrive completely, or is longer than 64 KiB.",
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
    let (registry, accounts) = (admin.operator.accounts(), admin.operator.accounts().all());
    let serving = accounts.iter().filter(|account| account.can_serve()).count();
    let all_tasks_run = registry.supervisor().paused().is_empty();
    let (status, state) = match serving {
        _ if admin.shutdown.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
        0 => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ if registry.supervisor().accepts_no_requests() => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
        // Valid tokens are served, but nothing is refreshed.
        _ if registry.scheduler_silence().is_some() => (StatusCode::OK, "degraded"),
        _ if all_tasks_run && accounts.iter().all(|account| account.is_well()) => {
            (StatusCode::OK, "ok")
        }
        _ => (StatusCode::OK, "degraded"),
    };
    // Without the names of accounts: anybody may ask.
    let fix = "Run pleo-proxy status, which says why no account can serve requests. If there is none: pleo-proxy login";
    let fix = (serving == 0).then(|| fix.to_owned());
    (status, axum::Json(Health { fix, ..Health::of(state) })).into_response()
}

async fn not_found(State(admin): Shared) -> Response {
    refusal::not_found(&admin.about.api)
}

async fn wrong_method() -> Response {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This page does not take that method.",
    )
}
