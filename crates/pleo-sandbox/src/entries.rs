//! Accounting entries and their receipts.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};

use super::api::Caller;
use super::files::signed_url;
use super::paging::{Query, page};
use super::response::{Problem, data};
use super::state::SandboxState;
use super::subject::{ORGANISATION_ID, Subject};

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/v1/accounting-entries:search", post(search))
        .route("/v1/accounting-entries/{id}", get(entry))
        .route("/v1/accounting-entries/{id}/receipts", get(receipts))
        .route("/v1/accounting-entries/{id}/receipts/{receipt}", get(receipt))
}

/// Parses a JSON body; anything else is the API's own error.
pub(crate) fn json_body(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "JSON_MAPPING_EXCEPTION",
            "the body is not the JSON that is expected here",
        )
    })
}

/// Tells which companies a search covers: the one of `company_id`, or all of `organization_id`.
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
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let covers = covered(&query, caller.subject)?;
    let include_deleted = json_body(&body)?["includeDeleted"].as_bool();
    let include_deleted =
        include_deleted.ok_or_else(|| Problem::invalid("includeDeleted is required"))?;
    let dataset = sandbox.dataset();
    let rows = dataset.entries.visible(caller.subject).filter(|row| covers(&row.company));
    let rows = rows.filter(|row| include_deleted || row.body["deletedAt"].is_null()).collect();
    Ok(page(rows, &query, 20)?.response())
}

async fn entry(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let include_deleted = Query::read(query.as_deref()).get("include_deleted") == Some("true");
    let dataset = sandbox.dataset();
    let row = dataset.entries.find(caller.subject, &id, "accounting entry")?;
    if !include_deleted && !row.body["deletedAt"].is_null() {
        return Err(Problem::not_found("accounting entry"));
    }
    Ok(data(StatusCode::OK, &row.body))
}

async fn receipts(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let dataset = sandbox.dataset();
    dataset.entries.find(caller.subject, &id, "accounting entry")?;
    let rows = dataset
        .receipts
        .visible(caller.subject)
        .filter(|row| row.has("accountingEntryId", &id))
        .collect();
    Ok(page(rows, &query, 10)?.response_with(|row| with_url(&sandbox, &row.id, &row.body)))
}

async fn receipt(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path((entry, receipt)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let dataset = sandbox.dataset();
    let row = dataset.receipts.find(caller.subject, &receipt, "receipt")?;
    if !row.has("accountingEntryId", &entry) {
        return Err(Problem::not_found("receipt"));
    }
    Ok(data(StatusCode::OK, &with_url(&sandbox, &row.id, &row.body)))
}

fn with_url(sandbox: &SandboxState, id: &str, body: &Value) -> Value {
    let mut receipt = body.clone();
    receipt["url"] = json!(signed_url(sandbox, id));
    receipt
}
