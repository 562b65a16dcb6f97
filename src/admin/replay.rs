//! `POST /api/requests/ID/replay`: sends a request again, as any tool would: through the data
//! listener with all its checks.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::protocol::{Replay, Replayed, Versioned};
use super::refusal::refusal;
use super::state::{Admin, Shared};
use crate::log::Original;
use crate::timeout::while_running;

/// Time until the response has arrived.
const PATIENCE: Duration = Duration::from_secs(150);
/// Headers that belong to the first sending, to its connection, or are sent anyway.
const LEFT_OUT: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "expect",
    "te",
    "traceparent",
    "pleo-account",
];

/// `POST /api/requests/ID/replay`.
pub(super) async fn replay(State(admin): Shared, Path(id): Path<String>, body: Bytes) -> Response {
    let replay = match body.trim_ascii() {
        b"" => Ok(Replay::default()),
        body => serde_json::from_slice(body),
    };
    let Ok(Replay { confirm }) = replay else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The body is not JSON with confirm.",
        );
    };
    let Some(original) = admin.log.original(&id) else {
        let detail = "This exchange is not kept any more, has not ended, or could not be read.";
        return refusal(StatusCode::NOT_FOUND, "not_kept", detail);
    };
    if let Some(refusal) = refused(&admin, &original, confirm) {
        return refusal;
    }
    match while_running(PATIENCE, send(&admin.tools.origin, original)).await {
        Some(Ok(replayed)) => Json(Versioned::from(replayed)).into_response(),
        Some(Err(error)) => {
            let detail = format!("The request could not be sent again: {}.", error.without_url());
            refusal(StatusCode::BAD_GATEWAY, "replay_failed", &detail)
        }
        None => {
            refusal(StatusCode::GATEWAY_TIMEOUT, "replay_failed", "The response took too long.")
        }
    }
}

/// Why a request is not sent again.
fn refused(admin: &Admin, original: &Original, confirm: bool) -> Option<Response> {
    let (code, detail) = if !original.is_read && !confirm {
        (
            "confirm_required",
            "This request may change data at Pleo; send {\"confirm\":true} to send it again.",
        )
    } else if original.body.is_none() {
        (
            "body_not_kept",
            "The body of this request was not kept; capture requests first: pleo-proxy capture",
        )
    } else if admin.tools.needs_key || !admin.tools.origin.starts_with("http://") {
        (
            "cannot_replay",
            "Callers need the local key or a unix socket here; copy the request as curl and run that.",
        )
    } else {
        return None;
    };
    Some(refusal(StatusCode::CONFLICT, code, detail))
}

/// Sends it, and reads the whole response, so that the exchange ends as it should.
async fn send(origin: &str, original: Original) -> Result<Replayed, reqwest::Error> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let url = format!("{origin}{}", original.target);
    let mut request = client.request(original.method, url).headers(passed_on(&original.headers));
    if let Some(account) = &original.account {
        request = request.header("pleo-account", account.as_str());
    }
    if let Some(body) = original.body.filter(|body| !body.is_empty()) {
        request = request.body(body);
    }
    let mut response = request.send().await?;
    let status = response.status().as_u16();
    let id = response.headers().get("pleo-proxy-request").and_then(|id| id.to_str().ok());
    let id = id.map(str::to_owned);
    while response.chunk().await?.is_some() {}
    Ok(Replayed { id, status })
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    for name in LEFT_OUT {
        passed.remove(name);
    }
    passed
}
