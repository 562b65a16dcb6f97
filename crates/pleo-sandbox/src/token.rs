//! `POST /oauth/token`: codes and refresh tokens become pairs (RFC 6749 sections 4.1.3 and 6, RFC
//! 7636).

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

use super::client::{Form, OauthError, authenticate, unstored};
use super::faults::{ExpiresIn, Faults, GrantType};
use super::grants::{Lives, Pair, Refusal, Refused};
use super::misbehave::spoil_token;
use super::wire::Wire;
use super::world::{State as Inner, World};

const ACCESS_LIFE_MS: u64 = 600_000;
const REFRESH_LIFE_S: u64 = 60 * 24 * 60 * 60;

pub(crate) fn routes() -> Router<Arc<World>> {
    Router::new().route("/oauth/token", post(token))
}

/// A task of its own, because a server does not undo its work when the client hangs up.
async fn token(
    State(world): State<Arc<World>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let exchange = tokio::spawn(async move { exchange(&world, &wire, &headers, &body).await });
    exchange.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn exchange(world: &World, wire: &Wire, headers: &HeaderMap, body: &[u8]) -> Response {
    let form = Form::read(headers, body);
    let (fault, before, after) = begin(&mut world.state(), form.as_ref().ok());
    world.pause(Duration::from_millis(before)).await;
    let works = fault.as_ref().is_none_or(|fault| fault.work || fault.kind.spoils());
    let truth = match works {
        true => form
            .and_then(|form| work(world, headers, &form))
            .map_or_else(|error| error.into_response(), |answer| unstored(StatusCode::OK, &answer)),
        false => StatusCode::NO_CONTENT.into_response(),
    };
    world.pause(Duration::from_millis(after)).await;
    match fault {
        Some(fault) => spoil_token(world, wire, fault, truth).await,
        None => truth,
    }
}

fn begin(state: &mut Inner, form: Option<&Form>) -> (Option<super::TokenFault>, u64, u64) {
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

fn work(world: &World, headers: &HeaderMap, form: &Form) -> Result<Value, OauthError> {
    let mut state = world.state();
    authenticate(&world.options, headers, form).inspect_err(|error| {
        state.counters.client_auth_failures += u64::from(error.is_client_failure());
    })?;
    form.need("grant_type", "grant_type is missing")?;
    let pair = match grant_type(form) {
        Some(GrantType::AuthorizationCode) => redeem(&mut state, form)?,
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

fn redeem(state: &mut Inner, form: &Form) -> Result<Pair, OauthError> {
    let code = form.need("code", "code is missing")?;
    let redirect_uri = form.need("redirect_uri", "redirect_uri is missing")?;
    let verifier = form.need("code_verifier", "code_verifier is missing")?;
    let meant = state.grants.take_code(code).map_err(|refused| refuse(state, &refused))?;
    if meant.redirect_uri != redirect_uri || !proves(verifier, &meant.challenge) {
        state.counters.invalid_grants += 1;
        return Err(invalid_grant("redirect_uri or code_verifier do not belong to the code"));
    }
    let lives = lives(&state.faults);
    let pair = state.grants.begin(code, &meant, lives);
    state.counters.code_exchanges += 1;
    Ok(pair)
}

/// PKCE with S256; `plain` does not exist here.
fn proves(verifier: &str, challenge: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let shaped = (43..=128).contains(&verifier.len()) && verifier.bytes().all(legal);
    shaped && URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())) == challenge
}

fn rotate(state: &mut Inner, form: &Form) -> Result<Pair, OauthError> {
    let token = form.need("refresh_token", "refresh_token is missing")?;
    let (lives, keep) = (lives(&state.faults), state.faults.omit_refresh_token);
    let pair = state.grants.refresh(token, lives, keep).map_err(|refused| {
        state.counters.refresh_replays += u64::from(refused.why == Refusal::Reused);
        state.counters.lost_replays +=
            u64::from(refused.why == Refusal::Reused && refused.was_lost);
        refuse(state, &refused)
    })?;
    state.counters.refreshes += 1;
    Ok(pair)
}

fn refuse(state: &mut Inner, refused: &Refused) -> OauthError {
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

fn lives(faults: &Faults) -> Lives {
    Lives {
        access: Duration::from_millis(faults.access_life_ms.unwrap_or(ACCESS_LIFE_MS)),
        refresh: Duration::from_secs(faults.refresh_life_s.unwrap_or(REFRESH_LIFE_S)),
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
    let millis = faults.access_life_ms.unwrap_or(ACCESS_LIFE_MS);
    // Rounded down, so that the token lives at least as long as it says; but 0 would be another
    // fault.
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
