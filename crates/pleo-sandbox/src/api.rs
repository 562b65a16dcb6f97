//! The API: the checks before every handler (token, rate limit, faults, scope), and the way to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::call::{Call, Caller};
use super::connection::ConnectionHandle;
use super::fault_injection::{corrupt_api_response, replace_api_response};
use super::faults::ApiFault;
use super::grants::TokenStatus;
use super::operations::{Found, find};
use super::paging::Query;
use super::response::Problem;
use super::state::{LiveState, SandboxState};
use super::subject::Subject;
use super::test_routes;

const MAX_BODY: usize = 2 << 20;

pub(crate) fn routes(sandbox: &Arc<SandboxState>) -> Router<Arc<SandboxState>> {
    Router::new()
        .merge(test_routes::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(answer)
        .layer(from_fn_with_state(Arc::clone(sandbox), admit))
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "method not allowed")
}

/// Finds the operation and runs it.
async fn answer(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let (operation, ids) = match find(&parts.method, path) {
        Found::Operation(operation, ids) => (operation, ids),
        Found::OtherMethod => return Err(method_not_allowed().await),
        Found::Nothing => return Err(Problem::not_found("resource")),
    };
    // The body first: a client that gets its answer in the middle of an upload often sees a broken
    // connection instead of the refusal.
    let body = read(body).await?;
    caller.ensure_may_use(operation)?;
    caller.ensure(operation.scope)?;
    let query = Query::read(parts.uri.query());
    (operation.handler)(&Call { sandbox: &sandbox, caller, path, ids, query, body: &body })
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, MAX_BODY).await.map_err(|_| {
        let message = "the body is longer than 2 MiB, or it broke off";
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    })
}

async fn admit(
    State(sandbox): State<Arc<SandboxState>>,
    ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
    mut request: Request,
    next: Next,
) -> Response {
    let decision = decide(&sandbox, request.headers());
    sandbox.pause(Duration::from_millis(decision.latency)).await;
    match decision.admitted {
        Err(problem) => return problem.into_response(),
        Ok(caller) => request.extensions_mut().insert(caller),
    };
    let Some(fault) = decision.fault else { return next.run(request).await };
    match replace_api_response(&connection, &fault) {
        Some(response) => response,
        None => corrupt_api_response(&connection, &fault, next.run(request).await).await,
    }
}

/// What becomes of a request before its handler.
struct Decision {
    admitted: Result<Caller, Problem>,
    fault: Option<ApiFault>,
    /// In milliseconds.
    latency: u64,
}

/// Checks the token and the rate, takes the fault and counts all under one lock.
fn decide(sandbox: &SandboxState, headers: &HeaderMap) -> Decision {
    let mut state = sandbox.live();
    state.counters.api_requests += 1;
    let authorized = authorize(&mut state, headers);
    state.counters.last_authorization_header_ok = Some(authorized.is_ok());
    let is_unauthorized = authorized.is_err();
    let limit = state.faults.rate_limit.or(sandbox.options.rate_limit).unwrap_or_default();
    let admitted = authorized.and_then(|caller| pace(&mut state, limit, caller));
    let fault = if admitted.is_ok() { state.faults.take_api_fault() } else { None };
    let is_unauthorized =
        is_unauthorized || fault.as_ref().is_some_and(|fault| fault.status == Some(401));
    state.counters.api_unauthorized += u64::from(is_unauthorized);
    state.counters.api_faults += u64::from(fault.is_some());
    Decision { admitted, fault, latency: state.faults.latency_ms }
}

/// A limit of 0 is none.
fn pace(state: &mut LiveState, limit: u32, caller: Caller) -> Result<Caller, Problem> {
    if limit > 0
        && let Err(seconds) = state.rate.admit(caller.subject, limit, Instant::now())
    {
        state.counters.api_rate_limited += 1;
        return Err(Problem::rate_limited(seconds));
    }
    Ok(caller)
}

fn authorize(state: &mut LiveState, headers: &HeaderMap) -> Result<Caller, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values
        .next()
        .ok_or_else(|| Problem::unauthorized("the Authorization header is missing"))?;
    if values.next().is_some() {
        state.counters.api_double_authorization += 1;
        return Err(Problem::unauthorized("more than one Authorization header"));
    }
    let text = value.to_str().ok();
    if let Some(key) = text.and_then(api_key) {
        state.counters.api_key_requests += 1;
        return of_api_key(state, &key).ok_or_else(|| Problem::unauthorized("API key is invalid"));
    }
    let token = text.and_then(bearer);
    let token = token
        .ok_or_else(|| Problem::unauthorized("the Authorization header has the wrong format"))?;
    match state.grants.status(token) {
        TokenStatus::Active { subject, scope } => Ok(Caller { subject, scope, has_api_key: false }),
        TokenStatus::Superseded => {
            state.counters.api_superseded += 1;
            Err(Problem::unauthorized("JWT is invalid"))
        }
        TokenStatus::Expired => Err(Problem::unauthorized("JWT is expired")),
        TokenStatus::Invalid => Err(Problem::unauthorized("JWT is invalid")),
    }
}

/// Whose key it is, and what it allows.
fn of_api_key(state: &LiveState, key: &str) -> Option<Caller> {
    let known = state.api_keys.iter().find(|known| known.key == key)?;
    let subject = Subject::from_urn(&known.subject)?;
    Some(Caller { subject, scope: known.scope.clone(), has_api_key: true })
}

/// The user name of `Basic base64("KEY:")`; the password must be empty.
fn api_key(value: &str) -> Option<String> {
    let (scheme, encoded) = value.split_once(' ')?;
    let pair = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    (scheme.eq_ignore_ascii_case("basic") && password.is_empty()).then(|| user.to_owned())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
