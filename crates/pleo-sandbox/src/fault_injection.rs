//! Turns the faults that are set into what the caller sees: replaced, corrupted or lost responses.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderValue, StatusCode, header, response};
use axum::response::{IntoResponse, Response};
use http_body_util::channel::{Channel, Sender};
use serde_json::json;

use super::client::{OauthError, no_store};
use super::connection::ConnectionHandle;
use super::faults::{ApiFault, ApiFaultKind, TokenFault, TokenFaultKind};
use super::response::Problem;
use super::state::SandboxState;

const HANG_TIME: Duration = Duration::from_secs(120);
/// Long enough for the first part of a body to be sent before the connection closes.
const DELAY_BEFORE_CLOSE: Duration = Duration::from_millis(30);
/// Bodies that are cut or slowed down are buffered up to this size.
const MAX_BUFFERED_BODY: usize = 4 << 20;
const HUGE_BODY: usize = 10 << 20;
const HTML_PAGE: &str = "<!doctype html><html><body><h1>This is not JSON</h1><p>A gateway was in the way.</p></body></html>\n";

/// Closes the connection without a response. The returned response is never sent.
pub(crate) fn drop_connection(connection: &ConnectionHandle) -> Response {
    connection.break_off();
    StatusCode::NO_CONTENT.into_response()
}

/// Applies a fault to `response`, the real response of the token endpoint.
pub(crate) async fn corrupt_token_response(
    sandbox: &SandboxState,
    connection: &ConnectionHandle,
    fault: TokenFault,
    response: Response,
) -> Response {
    let status = |default: StatusCode| status_or(fault.status, default);
    let error = |default: &str| fault.error.clone().unwrap_or_else(|| default.to_owned());
    let mut response = match fault.kind {
        TokenFaultKind::Lost => drop_connection(connection),
        TokenFaultKind::Hang => {
            sandbox.pause(HANG_TIME).await;
            drop_connection(connection)
        }
        TokenFaultKind::Truncated => truncated(connection, response).await,
        TokenFaultKind::Bom => {
            with_body(connection, response, |body| [b"\xef\xbb\xbf", body].concat()).await
        }
        TokenFaultKind::NotUtf8 => {
            let invalid = b"{\"name\":\"caf\xe9\",\"score\":1e999,";
            with_body(connection, response, |body| [invalid, &body[1..]].concat()).await
        }
        TokenFaultKind::Junk => {
            let junk = b"\0\0<!-- {junk} -->";
            with_body(connection, response, |body| [b"\0\n", body, junk].concat()).await
        }
        TokenFaultKind::Unended => {
            with_excess_length(connection, response, 1, DELAY_BEFORE_CLOSE).await
        }
        TokenFaultKind::TooShort => with_excess_length(connection, response, 0, HANG_TIME).await,
        TokenFaultKind::Form => with_body(connection, response, as_form).await,
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
            no_store(status(StatusCode::OK), &json!({ "error": error("server_error") }))
        }
        TokenFaultKind::Huge => huge_body(status(StatusCode::OK)),
    };
    set_retry_after(&mut response, fault.retry_after.as_deref());
    response
}

/// The response that an API fault gives instead of running the handler; `None` for faults that
/// need the real response.
pub(crate) fn replace_api_response(
    connection: &ConnectionHandle,
    fault: &ApiFault,
) -> Option<Response> {
    let mut response = match fault.kind {
        ApiFaultKind::Drop => drop_connection(connection),
        ApiFaultKind::Status => {
            let status = status_or(fault.status, StatusCode::SERVICE_UNAVAILABLE);
            // Pleo's documentation names this message for a 401.
            let message = if status == 401 { "JWT is expired" } else { "a fault of the sandbox" };
            if fault.body_html {
                html(status)
            } else {
                Problem::new(status, api_error(status), message).into_response()
            }
        }
        ApiFaultKind::ResetMidBody | ApiFaultKind::SlowBody => return None,
    };
    set_retry_after(&mut response, fault.retry_after.as_deref());
    Some(response)
}

/// Applies a fault to `response`, the real response of the API.
pub(crate) async fn corrupt_api_response(
    connection: &ConnectionHandle,
    fault: &ApiFault,
    response: Response,
) -> Response {
    match fault.kind {
        ApiFaultKind::ResetMidBody => truncated(connection, response).await,
        ApiFaultKind::SlowBody => {
            slowed_down(connection, response, Duration::from_millis(fault.slow_body_ms)).await
        }
        ApiFaultKind::Status | ApiFaultKind::Drop => response,
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
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], HTML_PAGE).into_response()
}

fn set_retry_after(response: &mut Response, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
}

/// The real response with a changed body.
async fn with_body(
    connection: &ConnectionHandle,
    response: Response,
    change: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Response {
    let Some((mut parts, body)) = buffered(response).await else {
        return drop_connection(connection);
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, change(&body).into())
}

/// A JSON object of strings and numbers in form encoding.
fn as_form(body: &[u8]) -> Vec<u8> {
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &serde_json::Value| {
        value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
    };
    let pairs = members.iter().map(|(name, value)| (name, text(value)));
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
}

/// The body without its last `omitted` bytes, under a `Content-Length` that is 100 bytes too high;
/// after `delay` the connection closes.
async fn with_excess_length(
    connection: &ConnectionHandle,
    response: Response,
    omitted: usize,
    delay: Duration,
) -> Response {
    let Some((mut parts, body)) = buffered(response).await else {
        return drop_connection(connection);
    };
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len() + 100));
    let sent = body.slice(..body.len().saturating_sub(omitted));
    Response::from_parts(parts, broken_off_after(sent, delay))
}

/// Half of the body under its full `Content-Length`, then the connection closes.
async fn truncated(connection: &ConnectionHandle, response: Response) -> Response {
    let Some((mut parts, body)) = buffered(response).await else {
        return drop_connection(connection);
    };
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let sent = body.slice(..body.len() / 2);
    Response::from_parts(parts, broken_off_after(sent, DELAY_BEFORE_CLOSE))
}

/// A body that fails `delay` after `sent`, which closes the connection.
fn broken_off_after(sent: Bytes, delay: Duration) -> Body {
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        // Sending fails if the caller has left; then there is nothing to do.
        let _ = sender.send_data(sent).await;
        tokio::time::sleep(delay).await;
        sender.abort(io::Error::other("broken by the sandbox"));
    });
    body
}

async fn slowed_down(connection: &ConnectionHandle, response: Response, gap: Duration) -> Response {
    let Some((mut parts, body)) = buffered(response).await else {
        return drop_connection(connection);
    };
    let (mut sender, slow) = channel();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    tokio::spawn(async move {
        let size = body.len().div_ceil(4).max(1);
        for start in (0..body.len()).step_by(size) {
            tokio::time::sleep(gap).await;
            let piece = body.slice(start..body.len().min(start + size));
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
    });
    Response::from_parts(parts, slow)
}

/// Head and whole body; `None` for bodies over the limit.
async fn buffered(response: Response) -> Option<(response::Parts, Bytes)> {
    let (parts, body) = response.into_parts();
    Some((parts, to_bytes(body, MAX_BUFFERED_BODY).await.ok()?))
}

/// Begins like a token response and does not end for 10 MiB.
fn huge_body(status: StatusCode) -> Response {
    const PIECE: &[u8] = &[b'a'; 16 << 10];
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        let head = Bytes::from_static(b"{\"access_token\":\"");
        let pieces = std::iter::repeat_n(Bytes::from_static(PIECE), HUGE_BODY / PIECE.len());
        for piece in std::iter::once(head).chain(pieces) {
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
    });
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A body that a task sends piece by piece. It ends when the sender is dropped.
fn channel() -> (Sender<Bytes, io::Error>, Body) {
    let (sender, body) = Channel::new(1);
    (sender, Body::new(body))
}
