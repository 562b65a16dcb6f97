//! Accounting entries and their receipts.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};

use super::answer::{Problem, data};
use super::api::Caller;
use super::files::signed_url;
use super::paging::{Query, page};
use super::subject::{ORGANISATION_ID, Subject};
use super::world::World;

pub(crate) fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/v1/accounting-entries:search", post(search))
        .route("/v1/accounting-entries/{id}", get(entry))
        .route("/v1/accounting-entries/{id}/receipts", get(receipts))
        .route("/v1/accounting-entries/{id}/receipts/{receipt}", get(receipt))
}

/// A JSON body, with the API's own error for what is none.
pub(crate) fn json_body(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "JSON_MAPPING_EXCEPTION",
            "the body is not the JSON that is expected here",
        )
    })
}

/// The companies a search covers: one by `company_id`, or those of the organisation.
pub(crate) fn covered(
    query: &Query,
    subject: Subject,
) -> Result<impl Fn(&str) -> bool + use<>, Problem> {
    let company = query.get("company_id").map(str::to_owned);
    let organisation = query.get("organization_id");
    match (&company, organisation) {
        (Some(company), None) if subject.sees(company) => {}
        (None, Some(ORGANISATION_ID)) if subject == Subject::Organisation => {}
        (None, None) => return Err(Problem::invalid("company_id or organization_id is required")),
        (Some(_), Some(_)) => {
            return Err(Problem::invalid("company_id and organization_id exclude each other"));
        }
        _ => return Err(Problem::denied()),
    }
    Ok(move |id: &str| company.as_deref().is_none_or(|company| company == id))
}

async fn search(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let covers = covered(&query, caller.subject)?;
    let include_deleted = json_body(&body)?["includeDeleted"].as_bool();
    let include_deleted =
        include_deleted.ok_or_else(|| Problem::invalid("includeDeleted is required"))?;
    let books = world.books();
    let rows = books.entries.visible(caller.subject).filter(|row| covers(&row.company));
    let rows = rows.filter(|row| include_deleted || row.body["deletedAt"].is_null()).collect();
    Ok(page(rows, &query, 20)?.plain())
}

async fn entry(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let include_deleted = Query::read(query.as_deref()).get("include_deleted") == Some("true");
    let books = world.books();
    let row = books.entries.find(caller.subject, &id, "accounting entry")?;
    match include_deleted || row.body["deletedAt"].is_null() {
        true => Ok(data(StatusCode::OK, &row.body)),
        false => Err(Problem::not_found("accounting entry")),
    }
}

async fn receipts(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let books = world.books();
    books.entries.find(caller.subject, &id, "accounting entry")?;
    let rows = books
        .receipts
        .visible(caller.subject)
        .filter(|row| row.has("accountingEntryId", &id))
        .collect();
    Ok(page(rows, &query, 10)?.answer(|row| with_url(&world, &row.id, &row.body)))
}

async fn receipt(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path((entry, receipt)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let books = world.books();
    let row = books.receipts.find(caller.subject, &receipt, "receipt")?;
    match row.has("accountingEntryId", &entry) {
        true => Ok(data(StatusCode::OK, &with_url(&world, &row.id, &row.body))),
        false => Err(Problem::not_found("receipt")),
    }
}

fn with_url(world: &World, id: &str, body: &Value) -> Value {
    let mut shown = body.clone();
    shown["url"] = json!(signed_url(world, id));
    shown
}
