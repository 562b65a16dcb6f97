//! `POST /oauth/token`: exchanges codes and refresh tokens for new tokens (RFC 6749 sections 4.1.3
//! and 6, RFC 7636).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{Form, OauthError, authenticate, no_store};
use super::connection::ConnectionHandle;
use super::fault_injection::corrupt_token_response;
use super::faults::{ExpiresIn, Faults, GrantType};
use super::grants::{Lifetimes, Pair, Refusal, Refused};
use super::state::{LiveState, SandboxState};

const ACCESS_LIFETIME_MS: u64 = 600_000;
const REFRESH_LIFETIME_S: u64 = 60 * 24 * 60 * 60;

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new().route("/oauth/token", post(token))
}

/// Handles the request in a task of its own: a server does not stop when the client disconnects.
async fn token(
    State(sandbox): State<Arc<SandboxState>>,
    ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let exchange =
        tokio::spawn(async move { exchange(&sandbox, &connection, &headers, &body).await });
    exchange.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn exchange(
    sandbox: &SandboxState,
    connection: &ConnectionHandle,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let form = Form::read(headers, body);
    let (fault, before, after) = begin(&mut sandbox.live(), form.as_ref().ok());
    sandbox.pause(Duration::from_millis(before)).await;
    let handles = fault.as_ref().is_none_or(|fault| fault.work || fault.kind.needs_real_response());
    let response = if handles {
        form.and_then(|form| grant(sandbox, headers, &form))
            .map_or_else(|error| error.into_response(), |body| no_store(StatusCode::OK, &body))
    } else {
        StatusCode::NO_CONTENT.into_response()
    };
    sandbox.pause(Duration::from_millis(after)).await;
    match fault {
        Some(fault) => corrupt_token_response(sandbox, connection, fault, response).await,
        None => response,
    }
}

fn begin(state: &mut LiveState, form: Option<&Form>) -> (Option<super::TokenFault>, u64, u64) {
    let family = form
        .and_then(|form| form.get("refresh_token"))
        .and_then(|token| state.grants.family_of(token));
    let fault = state.faults.take_token_fault(form.and_then(grant_type), family);
    state.counters.token_posts += 1;
    state.counters.token_faults += u64::from(fault.is_some());
    (fault, state.faults.token_latency_before_ms, state.faults.token_latency_after_ms)
}

fn grant_type(form: &Form) -> Option<GrantType> {
    match form.get("grant_type")? {
        "authorization_code" => Some(GrantType::AuthorizationCode),
        "refresh_token" => Some(GrantType::RefreshToken),
        _ => None,
    }
}

fn grant(sandbox: &SandboxState, headers: &HeaderMap, form: &Form) -> Result<Value, OauthError> {
    let mut state = sandbox.live();
    authenticate(&sandbox.options, headers, form).inspect_err(|error| {
        state.counters.client_auth_failures += u64::from(error.is_client_failure());
    })?;
    form.need("grant_type", "grant_type is missing")?;
    let pair = match grant_type(form) {
        Some(GrantType::AuthorizationCode) => exchange_code(&mut state, form)?,
        Some(GrantType::RefreshToken) => rotate(&mut state, form)?,
        None => {
            let description = "authorization_code and refresh_token are known";
            return Err(OauthError::new(
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                description,
            ));
        }
    };
    Ok(write(&state.faults, pair))
}

fn exchange_code(state: &mut LiveState, form: &Form) -> Result<Pair, OauthError> {
    let code = form.need("code", "code is missing")?;
    let redirect_uri = form.need("redirect_uri", "redirect_uri is missing")?;
    let verifier = form.need("code_verifier", "code_verifier is missing")?;
    let request = state.grants.take_code(code).map_err(|refused| refuse(state, &refused))?;
    if request.redirect_uri != redirect_uri || !verifier_matches(verifier, &request.challenge) {
        state.counters.invalid_grants += 1;
        return Err(invalid_grant("redirect_uri or code_verifier do not belong to the code"));
    }
    let lifetimes = lifetimes(&state.faults);
    let pair = state.grants.begin(code, &request, lifetimes);
    state.counters.code_exchanges += 1;
    Ok(pair)
}

/// PKCE with S256; `plain` is not supported.
fn verifier_matches(verifier: &str, challenge: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let shaped = (43..=128).contains(&verifier.len()) && verifier.bytes().all(legal);
    shaped && URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())) == challenge
}

fn rotate(state: &mut LiveState, form: &Form) -> Result<Pair, OauthError> {
    let token = form.need("refresh_token", "refresh_token is missing")?;
    let (lifetimes, keep) = (lifetimes(&state.faults), state.faults.omit_refresh_token);
    let pair = state.grants.refresh(token, lifetimes, keep).map_err(|refused| {
        state.counters.refresh_replays += u64::from(refused.why == Refusal::Reused);
        state.counters.lost_replays +=
            u64::from(refused.why == Refusal::Reused && refused.response_was_lost);
        refuse(state, &refused)
    })?;
    state.counters.refreshes += 1;
    state.counters.families_superseded += pair.families_superseded;
    Ok(pair)
}

fn refuse(state: &mut LiveState, refused: &Refused) -> OauthError {
    state.counters.invalid_grants += 1;
    state.counters.families_revoked += u64::from(refused.family_revoked);
    invalid_grant(match refused.why {
        Refusal::Unknown => "unknown to this server",
        Refusal::Expired => "expired",
        Refusal::Reused => "used before; every token of this authorization is revoked",
        Refusal::Revoked => "revoked",
    })
}

fn invalid_grant(description: &'static str) -> OauthError {
    OauthError::new(StatusCode::BAD_REQUEST, "invalid_grant", description)
}

fn lifetimes(faults: &Faults) -> Lifetimes {
    Lifetimes {
        access: Duration::from_millis(faults.access_life_ms.unwrap_or(ACCESS_LIFETIME_MS)),
        refresh: Duration::from_secs(faults.refresh_life_s.unwrap_or(REFRESH_LIFETIME_S)),
    }
}

fn write(faults: &Faults, pair: Pair) -> Value {
    let scope = if faults.scope_plus { pair.scope.replace(' ', "+") } else { pair.scope };
    let token_type = faults.token_type.clone().unwrap_or_else(|| "Bearer".to_owned());
    let fields = [
        ("access_token", Some(json!(pair.access))),
        ("token_type", (!token_type.is_empty()).then(|| json!(token_type))),
        ("expires_in", expires_in(faults)),
        ("refresh_token", pair.refresh.map(Value::String)),
        ("scope", (!faults.scope_missing).then_some(Value::String(scope))),
    ];
    let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

fn expires_in(faults: &Faults) -> Option<Value> {
    let millis = faults.access_life_ms.unwrap_or(ACCESS_LIFETIME_MS);
    // Rounded down, so that the token is valid for at least that long; but at least 1, because 0
    // is another fault.
    let seconds = (millis / 1000).max(1);
    match faults.expires_in {
        ExpiresIn::Seconds => Some(json!(seconds)),
        ExpiresIn::Milliseconds => Some(json!(millis)),
        ExpiresIn::String => Some(json!(seconds.to_string())),
        ExpiresIn::Float => Some(json!(Duration::from_millis(millis).as_secs_f64())),
        ExpiresIn::Missing => None,
        ExpiresIn::Zero => Some(json!(0)),
        ExpiresIn::Negative => Some(json!(-1)),
    }
}
