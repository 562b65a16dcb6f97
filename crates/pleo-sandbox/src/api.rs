//! The API: its routes, and the checks before every handler (token, then faults).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};

use super::connection::ConnectionHandle;
use super::fault_injection::{corrupt_api_response, replace_api_response};
use super::faults::ApiFault;
use super::grants::TokenStatus;
use super::response::Problem;
use super::state::{LiveState, SandboxState};
use super::subject::Subject;
use super::{company, entries, exports, test_routes, vendors};

/// Who called; `authorize` adds it to the request's extensions for the handlers.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) subject: Subject,
    pub(crate) scope: String,
}

pub(crate) fn routes(sandbox: &Arc<SandboxState>) -> Router<Arc<SandboxState>> {
    Router::new()
        .merge(company::routes())
        .merge(entries::routes())
        .merge(exports::routes())
        .merge(vendors::routes())
        .merge(test_routes::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(sandbox), authorize))
}

async fn not_found() -> Problem {
    Problem::not_found("resource")
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "method not allowed")
}

async fn authorize(
    State(sandbox): State<Arc<SandboxState>>,
    ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
    mut request: Request,
    next: Next,
) -> Response {
    let (admitted, fault, latency) = admit(&mut sandbox.live(), request.headers());
    sandbox.pause(Duration::from_millis(latency)).await;
    match admitted {
        Err(problem) => return problem.into_response(),
        Ok(caller) => request.extensions_mut().insert(caller),
    };
    let Some(fault) = fault else { return next.run(request).await };
    match replace_api_response(&connection, &fault) {
        Some(response) => response,
        None => corrupt_api_response(&connection, &fault, next.run(request).await).await,
    }
}

/// Checks the token, takes the fault and counts both under one lock.
fn admit(
    state: &mut LiveState,
    headers: &HeaderMap,
) -> (Result<Caller, Problem>, Option<ApiFault>, u64) {
    state.counters.api_requests += 1;
    let admitted = judge(state, headers);
    state.counters.last_authorization_header_ok = Some(admitted.is_ok());
    let fault = if admitted.is_ok() { state.faults.take_api_fault() } else { None };
    let unauthorized =
        admitted.is_err() || fault.as_ref().is_some_and(|fault| fault.status == Some(401));
    state.counters.api_unauthorized += u64::from(unauthorized);
    state.counters.api_faults += u64::from(fault.is_some());
    (admitted, fault, state.faults.latency_ms)
}

fn judge(state: &mut LiveState, headers: &HeaderMap) -> Result<Caller, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values
        .next()
        .ok_or_else(|| Problem::unauthorized("the Authorization header is missing"))?;
    if values.next().is_some() {
        state.counters.api_double_authorization += 1;
        return Err(Problem::unauthorized("more than one Authorization header"));
    }
    let token = value.to_str().ok().and_then(bearer);
    let token = token
        .ok_or_else(|| Problem::unauthorized("the Authorization header has the wrong format"))?;
    match state.grants.status(token) {
        TokenStatus::Active { subject, scope } => Ok(Caller { subject, scope }),
        TokenStatus::Superseded => {
            state.counters.api_superseded += 1;
            Err(Problem::unauthorized("JWT is invalid"))
        }
        TokenStatus::Expired => Err(Problem::unauthorized("JWT is expired")),
        TokenStatus::Invalid => Err(Problem::unauthorized("JWT is invalid")),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
