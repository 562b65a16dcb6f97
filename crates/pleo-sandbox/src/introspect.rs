//! `POST /oauth/token/introspect`: describes a token to the client (RFC 7662).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{Form, OauthError, authenticate, no_store};
use super::connection::ConnectionHandle;
use super::fault_injection::drop_connection;
use super::faults::Introspection;
use super::grants::Description;
use super::state::{SandboxState, hex};

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new().route("/oauth/token/introspect", post(introspect))
}

async fn introspect(
    State(sandbox): State<Arc<SandboxState>>,
    ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let behaviour = {
        let mut state = sandbox.live();
        state.counters.introspections += 1;
        state.faults.introspect
    };
    match behaviour {
        Introspection::Down => drop_connection(&connection),
        Introspection::Status(status) => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE).into_response()
        }
        Introspection::Normal | Introspection::InactiveRefresh => {
            let hides_refresh = behaviour == Introspection::InactiveRefresh;
            describe(&sandbox, &headers, &body, hides_refresh)
                .map_or_else(|error| error.into_response(), |body| no_store(StatusCode::OK, &body))
        }
    }
}

fn describe(
    sandbox: &SandboxState,
    headers: &HeaderMap,
    body: &[u8],
    hides_refresh: bool,
) -> Result<Value, OauthError> {
    let form = Form::read(headers, body)?;
    let mut state = sandbox.live();
    authenticate(&sandbox.options, headers, &form).inspect_err(|error| {
        state.counters.client_auth_failures += u64::from(error.is_client_failure());
    })?;
    let token = form.need("token", "token is missing")?;
    let described =
        state.grants.describe(token).filter(|token| !(hides_refresh && token.is_refresh));
    Ok(described
        .map_or_else(|| json!({ "active": false }), |described| write(sandbox, token, &described)))
}

fn write(sandbox: &SandboxState, token: &str, described: &Description) -> Value {
    json!({
        "active": true,
        "sub": described.subject.id(),
        "token_type": if described.is_refresh { "rt+JWT" } else { "at+JWT" },
        "client_id": sandbox.options.client_id,
        "iat": described.issued,
        "exp": described.expires,
        "aud": sandbox.issuer,
        "iss": "pleo.sandbox",
        "jti": token_id(token),
        "urn:pleo:params:oauth:subject_urn": described.subject.urn(),
    })
}

/// A stable id of the token that does not reveal it.
fn token_id(token: &str) -> String {
    let digest = hex(&Sha256::digest(token.as_bytes()));
    format!(
        "{}-{}-4{}-8{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[12..15],
        &digest[15..18],
        &digest[18..30]
    )
}
