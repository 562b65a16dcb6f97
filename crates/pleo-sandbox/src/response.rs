//! Responses in Pleo's form: envelopes, and errors as `{type, message}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The media type that Pleo's specifications name, for requests and responses.
const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=UTF-8");

/// A JSON response without an envelope.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

/// A response with one object in its envelope.
pub(crate) fn data(status: StatusCode, body: &Value) -> Response {
    json_response(status, &json!({ "data": body }))
}

/// A success that has nothing to say.
pub(crate) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// An error of the API.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// Seconds of a `Retry-After` header.
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), retry_after: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", message)
    }

    pub(crate) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "PARAMETER_VALIDATION_FAILED", message)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("{what} not found"))
    }

    pub(crate) fn denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, "ACCESS_DENIED", "Access_Denied")
    }

    pub(crate) fn conflict(kind: &'static str, message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, kind, message)
    }

    pub(crate) fn rate_limited(seconds: u64) -> Self {
        let message = "too many requests in the last minute";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message);
        Self { retry_after: Some(seconds), ..problem }
    }

    pub(crate) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response =
            json_response(self.status, &json!({ "type": self.kind, "message": self.message }));
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
