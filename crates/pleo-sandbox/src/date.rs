//! The `Date` of responses, for clients that compare it with their own clock.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::DATE;
use axum::middleware::Next;
use axum::response::Response;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};

use super::state::SandboxState;

/// Sets `Date` if it is to be wrong; else the server writes the real one.
pub(crate) async fn shift(
    State(sandbox): State<Arc<SandboxState>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let offset = sandbox.live().faults.date_offset_s;
    if offset != 0
        && let Some(date) = date(offset)
    {
        response.headers_mut().insert(DATE, date);
    }
    response
}

/// The time that is so many seconds from now (RFC 9110 section 5.6.7).
fn date(offset: i64) -> Option<HeaderValue> {
    let time = Timestamp::now().checked_add(SignedDuration::from_secs(offset)).ok()?;
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    HeaderValue::try_from(text).ok()
}
