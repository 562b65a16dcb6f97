//! Vendors: create, search, archive, activate.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::json;

use super::api::Caller;
use super::dataset::{Row, new_id, now};
use super::entries::{covered, json_body};
use super::paging::{Query, page};
use super::response::{Problem, data};
use super::state::SandboxState;
use super::subject::Subject;

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/v1/vendors", post(create))
        .route("/v1/vendors:search", post(search))
        // The router matches whole segments only, so the handler splits off the action after the
        // colon.
        .route("/v1/vendors/{id}", get(vendor).post(act))
}

/// `companyId` may be left out with a company's token, but not with the organisation's.
async fn create(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, Problem> {
    let request = json_body(&body)?;
    let name = request["name"].as_str().filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| Problem::invalid("name is required"))?;
    let own = (caller.subject != Subject::Organisation).then(|| caller.subject.id());
    let company = request["companyId"]
        .as_str()
        .or(own.as_deref())
        .ok_or_else(|| Problem::invalid("companyId is required"))?;
    if !caller.subject.sees(company) {
        return Err(Problem::denied());
    }
    let mut dataset = sandbox.dataset();
    if dataset.vendors.0.iter().any(|row| row.company == company && row.has("name", name)) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "VENDOR_ALREADY_EXISTS",
            "a vendor of this name exists",
        ));
    }
    let (id, now) = (new_id(), now());
    let body = json!({ "id": id, "companyId": company, "name": name, "status": "ACTIVE", "createdAt": now, "updatedAt": now });
    dataset.vendors.0.push(Row { id, company: company.to_owned(), body: body.clone() });
    Ok(data(StatusCode::CREATED, &body))
}

async fn search(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let covers = covered(&query, caller.subject)?;
    let requested = json_body(&body)?;
    let dataset = sandbox.dataset();
    let mut rows: Vec<_> =
        dataset.vendors.visible(caller.subject).filter(|row| covers(&row.company)).collect();
    for field in ["name", "status"] {
        if let Some(value) = requested[field].as_str() {
            rows.retain(|row| row.has(field, value));
        }
    }
    Ok(page(rows, &query, 20)?.response())
}

async fn vendor(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(StatusCode::OK, &sandbox.dataset().vendors.find(caller.subject, &id, "vendor")?.body))
}

async fn act(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(segment): Path<String>,
) -> Result<Response, Problem> {
    let (id, status) = match segment.split_once(':') {
        Some((id, "archive")) => (id, "ARCHIVED"),
        Some((id, "activate")) => (id, "ACTIVE"),
        _ => return Err(Problem::not_found("resource")),
    };
    let mut dataset = sandbox.dataset();
    let row = dataset.vendors.find_mut(caller.subject, id, "vendor")?;
    if row.has("status", status) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "INVALID_STATUS_TRANSITION",
            "the vendor has this status already",
        ));
    }
    row.body["status"] = json!(status);
    row.body["updatedAt"] = json!(now());
    Ok(data(StatusCode::OK, &row.body))
}
