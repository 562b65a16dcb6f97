//! The API: its routes, and the gate every request passes (token, then faults, then the handler).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};

use super::answer::Problem;
use super::faults::ApiFault;
use super::grants::Standing;
use super::misbehave::{instead_of_api, spoil_api};
use super::subject::Subject;
use super::wire::Wire;
use super::world::{State as Inner, World};
use super::{aids, company, entries, exports, vendors};

/// Who called; every handler behind the gate finds it in the request's extensions.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) subject: Subject,
    pub(crate) scope: String,
}

pub(crate) fn routes(world: &Arc<World>) -> Router<Arc<World>> {
    Router::new()
        .merge(company::routes())
        .merge(entries::routes())
        .merge(exports::routes())
        .merge(vendors::routes())
        .merge(aids::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(world), gate))
}

async fn not_found() -> Problem {
    Problem::not_found("resource")
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "method not allowed")
}

async fn gate(
    State(world): State<Arc<World>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    mut request: Request,
    next: Next,
) -> Response {
    let (admitted, fault, latency) = admit(&mut world.state(), request.headers());
    world.pause(Duration::from_millis(latency)).await;
    match admitted {
        Err(problem) => return problem.into_response(),
        Ok(caller) => request.extensions_mut().insert(caller),
    };
    let Some(fault) = fault else { return next.run(request).await };
    match instead_of_api(&wire, &fault) {
        Some(answer) => answer,
        None => spoil_api(&wire, &fault, next.run(request).await).await,
    }
}

/// All that needs the lock, in one go.
fn admit(
    state: &mut Inner,
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

fn judge(state: &mut Inner, headers: &HeaderMap) -> Result<Caller, Problem> {
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
    match state.grants.standing(token) {
        Standing::Good { subject, scope } => Ok(Caller { subject, scope }),
        Standing::Superseded => {
            state.counters.api_superseded += 1;
            Err(Problem::unauthorized("JWT is invalid"))
        }
        Standing::Expired => Err(Problem::unauthorized("JWT is expired")),
        Standing::Bad => Err(Problem::unauthorized("JWT is invalid")),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
