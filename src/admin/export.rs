//! Exchanges as evidence that leaves: as an HTTP archive, and as a curl command.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;

use super::protocol::HarQuery;
use super::refusal::refusal;
use super::state::Shared;
use crate::log::filter::Filter;
use crate::log::har::HarWriter;
use crate::redaction::{Pseudonyms, Redactor};

/// Exchanges in one archive.
const MAX_ENTRIES: usize = 10_000;

/// `GET /api/har`: the exchanges that the filter chooses, the newest ones if there are many.
pub(super) async fn har(State(admin): Shared, Query(query): Query<HarQuery>) -> Response {
    let filter = match Filter::parse(&query.filter) {
        Ok(filter) => filter,
        Err(error) => {
            return refusal(StatusCode::BAD_REQUEST, "bad_filter", &error.to_string());
        }
    };
    let mut redactor = Redactor::new(admin.operator.accounts().known_secrets().clone());
    if query.pseudonyms {
        match Pseudonyms::new() {
            Ok(pseudonyms) => redactor = redactor.with_pseudonyms(pseudonyms),
            Err(_) => return failed("The system has no random numbers."),
        }
    }
    // Megabytes are searched: not on a thread that refreshes tokens.
    let written = spawn_blocking(move || {
        admin.log.absorb();
        let exchanges = admin.log.exchanges(&filter, MAX_ENTRIES);
        let exchanges = exchanges.into_iter().map(|it| (it.entry, it.capture));
        let writer = HarWriter { api: &admin.about.upstream, redactor: &redactor };
        writer.archive(exchanges).to_string()
    });
    match written.await {
        Ok(archive) => {
            let name = "attachment; filename=\"pleo-proxy.har\"";
            ([(CONTENT_TYPE, "application/json"), (CONTENT_DISPOSITION, name)], archive)
                .into_response()
        }
        Err(_) => failed("The archive cannot be written."),
    }
}

fn failed(detail: &str) -> Response {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
}

/// `GET /api/curl/ID`: the exchange as a command line on the data listener.
pub(super) async fn curl(State(admin): Shared, Path(id): Path<String>) -> Response {
    let redactor = Redactor::new(admin.operator.accounts().known_secrets().clone());
    admin.log.absorb();
    let Some(detail) = admin.log.find(&id) else {
        return refusal(
            StatusCode::NOT_FOUND,
            "not_kept",
            "This request is not kept any more; inspect.requests and inspect.memory say how many are.",
        );
    };
    match admin.tools.command(&detail, &redactor) {
        Some(command) => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], command).into_response(),
        None => refusal(
            StatusCode::CONFLICT,
            "bad_request",
            "This request could not be read, so there is no command that sends it again.",
        ),
    }
}
