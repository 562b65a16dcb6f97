//! `/sandbox/...`: the controls, and the greeting at `/`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::counters::Counters;
use super::faults::Faults;
use super::state::SandboxState;
use super::subject::Subject;

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/sandbox/faults", get(show_faults).post(replace_faults))
        .route("/sandbox/counters", get(show_counters))
        .route("/sandbox/subject", post(choose_subject))
        .route("/sandbox/revoke", post(revoke))
        .route_layer(from_fn(require_header))
        .route("/", get(greeting))
        // Browsers request it with the consent page; it must not count as a request to the API.
        .route("/favicon.ico", get(StatusCode::NOT_FOUND))
}

/// A web page cannot send this header without a preflight, which is refused.
async fn require_header(request: Request, next: Next) -> Response {
    if request.headers().get("x-sandbox-control").is_none_or(|value| value != "1") {
        return (StatusCode::FORBIDDEN, "the controls need the header X-Sandbox-Control: 1\n")
            .into_response();
    }
    next.run(request).await
}

async fn greeting() -> &'static str {
    "This is the sandbox of pleo-proxy, a fake Pleo. Nothing here is real.\n"
}

async fn show_faults(State(sandbox): State<Arc<SandboxState>>) -> Json<Faults> {
    Json(sandbox.live().faults.clone())
}

async fn replace_faults(State(sandbox): State<Arc<SandboxState>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Faults>(&body) {
        Ok(faults) => {
            sandbox.live().faults = faults.clone();
            Json(faults).into_response()
        }
        Err(error) => bad_request(&error.to_string()),
    }
}

async fn show_counters(State(sandbox): State<Arc<SandboxState>>) -> Json<Counters> {
    Json(sandbox.live().counters.clone())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    subject: Option<String>,
}

async fn choose_subject(State(sandbox): State<Arc<SandboxState>>, body: Bytes) -> Response {
    let choice = match serde_json::from_slice::<Choice>(&body) {
        Ok(choice) => choice,
        Err(error) => return bad_request(&error.to_string()),
    };
    if choice.subject.as_deref().is_some_and(|urn| Subject::from_urn(urn).is_none()) {
        return bad_request("no such subject");
    }
    sandbox.live().next_subject.clone_from(&choice.subject);
    Json(json!({ "subject": choice.subject })).into_response()
}

async fn revoke(State(sandbox): State<Arc<SandboxState>>) -> StatusCode {
    sandbox.live().revoke_all();
    StatusCode::NO_CONTENT
}

fn bad_request(message: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": message }))).into_response()
}
