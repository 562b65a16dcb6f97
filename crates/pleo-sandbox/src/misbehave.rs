//! How faults reach the caller.

use std::io;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::answer::Problem;
use super::client::{OauthError, unstored};
use super::faults::{ApiFault, ApiFaultKind, TokenFault, TokenFaultKind};
use super::feed::feed;
use super::wire::Wire;
use super::world::World;

const HANG: Duration = Duration::from_secs(120);
/// Long enough for the first half of a body to leave before the connection breaks.
const BETWEEN_HALVES: Duration = Duration::from_millis(30);
/// Answers that are cut or slowed are kept whole in memory.
const KEPT: usize = 4 << 20;
const HUGE: usize = 10 << 20;
const PAGE: &str = "<!doctype html><html><body><h1>This is not JSON</h1><p>A gateway was in the way.</p></body></html>\n";

/// Closes the connection without an answer; the answer given back here is what the wire swallows.
pub(crate) fn lose(wire: &Wire) -> Response {
    wire.cut();
    StatusCode::NO_CONTENT.into_response()
}

/// Spoils the answer of the token endpoint.
pub(crate) async fn spoil_token(
    world: &World,
    wire: &Wire,
    fault: TokenFault,
    truth: Response,
) -> Response {
    let status = |default: StatusCode| status_or(fault.status, default);
    let error = |default: &str| fault.error.clone().unwrap_or_else(|| default.to_owned());
    let mut response = match fault.kind {
        TokenFaultKind::Lost => lose(wire),
        TokenFaultKind::Hang => {
            world.pause(HANG).await;
            lose(wire)
        }
        TokenFaultKind::Truncated => halved(wire, truth).await,
        TokenFaultKind::Bom => {
            rewritten(wire, truth, |body| [b"\xef\xbb\xbf", body].concat()).await
        }
        TokenFaultKind::NotUtf8 => {
            let odd = b"{\"name\":\"caf\xe9\",\"score\":1e999,";
            rewritten(wire, truth, |body| [odd, &body[1..]].concat()).await
        }
        TokenFaultKind::Junk => {
            rewritten(wire, truth, |body| [b"\0\n", body, b"\0\0<!-- {junk} -->"].concat()).await
        }
        TokenFaultKind::Unended => overstated(wire, truth, 1, After::Close).await,
        TokenFaultKind::TooShort => overstated(wire, truth, 0, After::Hang).await,
        TokenFaultKind::Form => rewritten(wire, truth, in_form).await,
        TokenFaultKind::Html => html(status(StatusCode::OK)),
        TokenFaultKind::Status => {
            (status(StatusCode::SERVICE_UNAVAILABLE), "sandbox: as you asked\n").into_response()
        }
        TokenFaultKind::Error => {
            let code = error("invalid_grant");
            let default = if code == "invalid_client" {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::BAD_REQUEST
            };
            OauthError::new(status(default), code, "a fault of the sandbox").into_response()
        }
        TokenFaultKind::ErrorIn200 => {
            unstored(status(StatusCode::OK), &json!({ "error": error("server_error") }))
        }
        TokenFaultKind::Huge => huge(status(StatusCode::OK)),
    };
    retry_after(&mut response, fault.retry_after.as_deref());
    response
}

/// What an API fault answers instead of running the handler; `None` for faults that spoil the true
/// answer.
pub(crate) fn instead_of_api(wire: &Wire, fault: &ApiFault) -> Option<Response> {
    let mut response = match fault.kind {
        ApiFaultKind::Drop => lose(wire),
        ApiFaultKind::Status => {
            let status = status_or(fault.status, StatusCode::SERVICE_UNAVAILABLE);
            // The message of a 401 is the one that clients are documented to meet.
            let message = if status == 401 { "JWT is expired" } else { "a fault of the sandbox" };
            let json = || Problem::new(status, api_error(status), message).into_response();
            if fault.body_html { html(status) } else { json() }
        }
        ApiFaultKind::ResetMidBody | ApiFaultKind::SlowBody => return None,
    };
    retry_after(&mut response, fault.retry_after.as_deref());
    Some(response)
}

/// Spoils the true answer of the API.
pub(crate) async fn spoil_api(wire: &Wire, fault: &ApiFault, truth: Response) -> Response {
    match fault.kind {
        ApiFaultKind::ResetMidBody => halved(wire, truth).await,
        ApiFaultKind::SlowBody => {
            slowed(wire, truth, Duration::from_millis(fault.slow_body_ms)).await
        }
        ApiFaultKind::Status | ApiFaultKind::Drop => truth,
    }
}

fn api_error(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHORIZED",
        403 => "ACCESS_DENIED",
        404 => "NOT_FOUND",
        409 => "INVALID_STATUS_TRANSITION",
        429 => "RATE_LIMITED",
        _ => "PROCESSING_FAILED",
    }
}

fn status_or(status: Option<u16>, default: StatusCode) -> StatusCode {
    status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(default)
}

fn html(status: StatusCode) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

fn retry_after(response: &mut Response, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
}

/// The true answer with another body.
async fn rewritten(
    wire: &Wire,
    truth: Response,
    change: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Response {
    let Some((mut parts, body)) = taken_apart(truth).await else { return lose(wire) };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, change(&body).into())
}

/// A JSON object of texts and numbers in form encoding.
fn in_form(body: &[u8]) -> Vec<u8> {
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &serde_json::Value| {
        value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
    };
    let pairs = members.iter().map(|(name, value)| (name, text(value)));
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
}

/// What follows a body that is shorter than its `Content-Length`.
enum After {
    Close,
    Hang,
}

/// Less of the body than its `Content-Length` says.
async fn overstated(wire: &Wire, truth: Response, cut: usize, after: After) -> Response {
    let Some((mut parts, body)) = taken_apart(truth).await else { return lose(wire) };
    let (feeder, spoiled) = feed();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len() + 100));
    tokio::spawn(async move {
        // A caller that left early misses nothing.
        let _ = feeder.send(Ok(body.slice(..body.len().saturating_sub(cut)))).await;
        tokio::time::sleep(match after {
            After::Close => BETWEEN_HALVES,
            After::Hang => HANG,
        })
        .await;
        let _ = feeder.send(Err(io::Error::other("cut by the sandbox"))).await;
    });
    Response::from_parts(parts, spoiled)
}

/// The whole `Content-Length`, half of the body, then the end of the connection.
async fn halved(wire: &Wire, truth: Response) -> Response {
    let Some((mut parts, body)) = taken_apart(truth).await else { return lose(wire) };
    let (feeder, spoiled) = feed();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    tokio::spawn(async move {
        // A caller that left early misses nothing.
        let _ = feeder.send(Ok(body.slice(..body.len() / 2))).await;
        tokio::time::sleep(BETWEEN_HALVES).await;
        let _ = feeder.send(Err(io::Error::other("cut by the sandbox"))).await;
    });
    Response::from_parts(parts, spoiled)
}

async fn slowed(wire: &Wire, truth: Response, gap: Duration) -> Response {
    let Some((mut parts, body)) = taken_apart(truth).await else { return lose(wire) };
    let (feeder, slow) = feed();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    tokio::spawn(async move {
        let piece = body.len().div_ceil(4).max(1);
        for start in (0..body.len()).step_by(piece) {
            tokio::time::sleep(gap).await;
            if feeder.send(Ok(body.slice(start..body.len().min(start + piece)))).await.is_err() {
                return;
            }
        }
    });
    Response::from_parts(parts, slow)
}

/// `None` for bodies too long to keep.
async fn taken_apart(response: Response) -> Option<(axum::http::response::Parts, Bytes)> {
    let (parts, body) = response.into_parts();
    Some((parts, to_bytes(body, KEPT).await.ok()?))
}

/// Begins like a token answer and does not end.
fn huge(status: StatusCode) -> Response {
    const PIECE: &[u8] = &[b'a'; 16 << 10];
    let (feeder, body) = feed();
    tokio::spawn(async move {
        let head = Bytes::from_static(b"{\"access_token\":\"");
        let pieces = std::iter::repeat_n(Bytes::from_static(PIECE), HUGE / PIECE.len());
        for piece in std::iter::once(head).chain(pieces) {
            if feeder.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    });
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
