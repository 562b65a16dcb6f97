//! `/api/requests` and the other routes of the request log.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::api::data;
use super::events::{Feed, Position};
use super::figures::{capture_state, current_rate, stats_since};
use super::protocol::{CaptureBody, EventsQuery, RequestDetail, Requests, RequestsQuery};
use super::refusal::refusal;
use super::state::Shared;
use super::why::of_entry;
use crate::exchange::capture::Bodies;
use crate::log::Detail;
use crate::log::filter::Filter;
use crate::store::AccountName;

/// The page takes a proxy for stopped that says nothing for three seconds.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Longest capture, in seconds: an hour.
const MAX_CAPTURE: u64 = 3600;
/// What the charts show, in milliseconds.
const SHOWN: i64 = 15 * 60 * 1000;

#[expect(clippy::result_large_err, reason = "the error is the response")]
fn filter(text: &str) -> Result<Filter, Response> {
    Filter::parse(text)
        .map_err(|error| refusal(StatusCode::BAD_REQUEST, "bad_filter", &error.to_string()))
}

/// `GET /api/requests`.
pub(super) async fn requests(State(admin): Shared, Query(query): Query<RequestsQuery>) -> Response {
    let filter = match filter(&query.filter) {
        Ok(filter) => filter,
        Err(refusal) => return refusal,
    };
    let log = &admin.log;
    // Whoever has just had an answer finds its exchange.
    log.absorb();
    let batch = match query.after {
        Some(seq) => log.after(&filter, seq, query.limit()),
        None => log.newest(&filter, query.before.unwrap_or(u64::MAX), query.limit()),
    };
    data(Requests {
        run: log.run(),
        last_seq: log.last_seq(),
        seq: batch.seq.min(log.last_seq()),
        dropped: log.dropped(),
        running: log.running(&filter),
        entries: batch.entries,
    })
}

/// `GET /api/requests/ID`.
pub(super) async fn request(State(admin): Shared, Path(id): Path<String>) -> Response {
    admin.log.absorb();
    match admin.log.find(&id) {
        Some(Detail { entry, capture, .. }) => {
            let is_refused = entry.status.is_some_and(|status| status >= 400);
            let is_told = is_refused || entry.hint.is_some() || entry.status.is_none();
            let why = is_told.then(|| of_entry(&admin, &entry));
            data(RequestDetail { entry, why, capture })
        }
        None => refusal(
            StatusCode::NOT_FOUND,
            "not_kept",
            "This request is not kept any more; inspect.requests and inspect.memory say how many are.",
        ),
    }
}

/// `GET /api/events`: news for the page, as server-sent events.
pub(super) async fn events(
    State(admin): Shared,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Response {
    let filter = match filter(&query.filter) {
        Ok(filter) => filter,
        Err(refusal) => return refusal,
    };
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let position = last.or(query.last.as_deref()).and_then(Position::parse);
    let feed = Feed::new(admin, filter, position.as_ref(), headers);
    let events = stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    events.into_response()
}

/// `GET /api/stats`.
pub(super) async fn stats(State(admin): Shared) -> Response {
    admin.log.absorb();
    data(stats_since(&admin, admin.log.now() - SHOWN))
}

/// `GET /api/rate`.
pub(super) async fn rate(State(admin): Shared) -> Response {
    admin.log.absorb();
    data(current_rate(&admin))
}

/// `GET /api/capture`.
pub(super) async fn capture(State(admin): Shared) -> Response {
    data(capture_state(&admin))
}

/// `POST /api/capture`.
pub(super) async fn start_capture(State(admin): Shared, body: Bytes) -> Response {
    let invalid = |why: &str| refusal(StatusCode::BAD_REQUEST, "bad_request", why);
    let Ok(CaptureBody { for_s, account }) = serde_json::from_slice(&body) else {
        return invalid("The body must be {\"for_s\": SECONDS} and may name an account.");
    };
    if !(1..=MAX_CAPTURE).contains(&for_s) {
        return invalid("A capture takes between one second and an hour.");
    }
    let Ok(account) = account.map(|name| name.parse::<AccountName>()).transpose() else {
        return invalid("That is no name of an account.");
    };
    admin.log.start_capture(Duration::from_secs(for_s), account, Bodies::BEGINNING);
    data(capture_state(&admin))
}

/// `DELETE /api/capture`.
pub(super) async fn stop_capture(State(admin): Shared) -> Response {
    admin.log.recorders().capturing.stop();
    data(capture_state(&admin))
}
