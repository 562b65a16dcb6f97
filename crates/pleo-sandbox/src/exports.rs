//! Export jobs and their items (version 3).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::{Value, json};

use super::api::Caller;
use super::dataset::{Dataset, Row, new_id, now};
use super::entries::json_body;
use super::paging::{Query, page};
use super::response::{Problem, data, json_response};
use super::state::SandboxState;
use super::subject::Subject;

const MAX_BATCH: usize = 100;
const STATUSES: [&str; 5] = ["pending", "in_progress", "failed", "successful", "abandoned"];

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/v3/export-jobs", get(jobs).post(create))
        .route("/v3/export-jobs/{id}", get(job))
        .route("/v3/export-jobs/{id}/items", get(items).put(update))
}

async fn jobs(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let company = query.get("company_id");
    if company.is_some_and(|id| !caller.subject.sees(id)) {
        return Err(Problem::denied());
    }
    let dataset = sandbox.dataset();
    let rows = dataset
        .jobs
        .visible(caller.subject)
        .filter(|row| company.is_none_or(|id| row.company == id))
        .collect();
    Ok(page(rows, &query, 20)?.response())
}

async fn job(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(StatusCode::OK, &sandbox.dataset().jobs.find(caller.subject, &id, "export job")?.body))
}

async fn create(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, Problem> {
    let request = json_body(&body)?;
    let company =
        request["companyId"].as_str().ok_or_else(|| Problem::invalid("companyId is required"))?;
    let entries: Vec<&str> = request["accountingEntryIds"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !caller.subject.sees(company) {
        return Err(Problem::denied());
    }
    if entries.is_empty() || entries.len() > MAX_BATCH {
        return Err(Problem::invalid("accountingEntryIds must hold 1 to 100 ids"));
    }
    let mut dataset = sandbox.dataset();
    for entry in &entries {
        dataset.entries.find(caller.subject, entry, "accounting entry")?;
    }
    let job = new_job(company, &request, entries.len());
    let added: Vec<Row> = entries.iter().map(|entry| new_item(company, &job.id, entry)).collect();
    dataset.items.0.extend(added);
    dataset.jobs.0.push(job.clone());
    Ok(data(StatusCode::CREATED, &job.body))
}

fn new_job(company: &str, request: &Value, count: usize) -> Row {
    let (id, now) = (new_id(), now());
    let body = json!({
        "id": id, "companyId": company, "status": "pending", "numberOfItems": count, "expiresIn": 3600,
        "isInteractive": request["isInteractive"].as_bool().unwrap_or(false), "createdAt": now,
        "createdBy": request["employeeId"], "lastUpdatedAt": now, "startedAt": null, "completedAt": null,
        "expiredAt": null, "failureReason": null, "failureReasonType": null,
        "vendorBasedBookkeeping": request["options"]["vendorBasedBookkeeping"].as_bool().unwrap_or(false),
    });
    Row { id, company: company.to_owned(), body }
}

fn new_item(company: &str, job: &str, entry: &str) -> Row {
    let id = new_id();
    let body = json!({ "id": id, "jobId": job, "companyId": company, "accountingEntryId": entry, "status": "pending",
        "failureReason": null, "failureReasonType": null, "externalId": null, "exportedAt": null });
    Row { id, company: company.to_owned(), body }
}

async fn items(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let dataset = sandbox.dataset();
    dataset.jobs.find(caller.subject, &id, "export job")?;
    let rows = dataset.items.0.iter().filter(|row| row.has("jobId", &id)).collect();
    Ok(page(rows, &Query::read(query.as_deref()), 20)?.response())
}

/// Partial success: status 200 with the updated items, and an error for each of the others.
async fn update(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let request = json_body(&body)?;
    let changes = request.as_array().filter(|changes| changes.len() <= MAX_BATCH);
    let changes = changes
        .ok_or_else(|| Problem::invalid("the body must be an array of at most 100 items"))?;
    let mut dataset = sandbox.dataset();
    dataset.jobs.find(caller.subject, &id, "export job")?;
    let (mut updated, mut errors) = (Vec::new(), Vec::new());
    for change in changes {
        match apply(&mut dataset, caller.subject, &id, change) {
            Ok(item) => updated.push(item),
            Err(why) => errors
                .push(json!({ "accountingEntryId": change["accountingEntryId"], "message": why })),
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "data": updated, "errors": errors })))
}

fn apply(
    dataset: &mut Dataset,
    subject: Subject,
    job: &str,
    change: &Value,
) -> Result<Value, &'static str> {
    let status = change["status"]
        .as_str()
        .filter(|status| STATUSES.contains(status))
        .ok_or("unknown status")?;
    let entry = change["accountingEntryId"].as_str().ok_or("accountingEntryId is required")?;
    let mut own = dataset
        .items
        .0
        .iter_mut()
        .filter(|row| subject.sees(&row.company) && row.has("jobId", job));
    let item =
        own.find(|row| row.has("accountingEntryId", entry)).ok_or("no such item in this job")?;
    item.body["status"] = json!(status);
    for field in ["failureReason", "failureReasonType", "externalId", "exportedAt"] {
        if let Some(value) = change.get(field) {
            item.body[field] = value.clone();
        }
    }
    Ok(item.body.clone())
}
