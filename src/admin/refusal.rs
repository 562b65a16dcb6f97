//! The refusals of the admin listener: problem+json as on the data listener, and 401 where the
//! admin key is missing.

use axum::http::header::{ALLOW, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::protocol::Problem;

/// The refusal of HEAD by a route that takes GET.
pub(super) fn only_get() -> Response {
    let mut response =
        refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This page takes GET only.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// The refusal of a browser that prefetches the page or loads it as part of another.
pub(super) fn no_navigation() -> Response {
    refusal(
        StatusCode::FORBIDDEN,
        "forbidden_origin",
        "Open this address in a browser tab; other pages cannot load it.",
    )
}

pub(super) fn unauthorized() -> Response {
    let hint = "Send the content of admin.key as Authorization: Bearer, or run: pleo-proxy open";
    let mut response = refusal(StatusCode::UNAUTHORIZED, "admin_key_required", hint);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pleo-proxy admin\""));
    response
}

pub(super) fn too_many() -> Response {
    refusal(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_attempts",
        "Too many wrong keys; wait a minute.",
    )
}

/// The refusal of what cannot be the name of an account.
pub(super) fn invalid_name() -> Response {
    refusal(StatusCode::NOT_FOUND, "account_unknown", "This is not a valid account name.")
}

/// The refusal of a path that is none of this listener; `tools` is where tools call Pleo's API.
pub(super) fn not_found(tools: &str) -> Response {
    let fix = format!("Pleo's API is at {tools}; this address is for logins and commands.");
    with_fix(StatusCode::NOT_FOUND, "not_found", "There is no such page here.", Some(fix))
}

/// A refusal with this code, and this text for the user.
pub(super) fn refusal(status: StatusCode, code: &'static str, detail: &str) -> Response {
    with_fix(status, code, detail, None)
}

/// The same with what to do, where the detail does not say it.
pub(super) fn with_fix(
    status: StatusCode,
    code: &'static str,
    detail: &str,
    fix: Option<String>,
) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Problem {
        kind: "about:blank".into(),
        title: title.into(),
        status: status.as_u16(),
        code: code.into(),
        detail: detail.into(),
        fix: fix.map(Into::into),
    };
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
    headers.insert("pleo-proxy-error", HeaderValue::from_static(code));
    response
}
