//! Vendors: create, search, archive, activate.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::json;

use super::answer::{Problem, data};
use super::api::Caller;
use super::books::{Row, new_id, now};
use super::entries::{covered, json_body};
use super::paging::{Query, page};
use super::subject::Subject;
use super::world::World;

pub(crate) fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/v1/vendors", post(create))
        .route("/v1/vendors:search", post(search))
        // The router knows whole segments only, so the action after the colon is taken apart by the
        // handler.
        .route("/v1/vendors/{id}", get(vendor).post(act))
}

/// For a company's token `companyId` may be left out; the organisation's must name one.
async fn create(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked = json_body(&body)?;
    let name = asked["name"].as_str().filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| Problem::invalid("name is required"))?;
    let own = (caller.subject != Subject::Organisation).then(|| caller.subject.id());
    let company = asked["companyId"]
        .as_str()
        .or(own.as_deref())
        .ok_or_else(|| Problem::invalid("companyId is required"))?;
    if !caller.subject.sees(company) {
        return Err(Problem::denied());
    }
    let mut books = world.books();
    if books.vendors.0.iter().any(|row| row.company == company && row.has("name", name)) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "VENDOR_ALREADY_EXISTS",
            "a vendor of this name exists",
        ));
    }
    let (id, now) = (new_id(), now());
    let body = json!({ "id": id, "companyId": company, "name": name, "status": "ACTIVE", "createdAt": now, "updatedAt": now });
    books.vendors.0.push(Row { id, company: company.to_owned(), body: body.clone() });
    Ok(data(StatusCode::CREATED, &body))
}

async fn search(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let covers = covered(&query, caller.subject)?;
    let wanted = json_body(&body)?;
    let books = world.books();
    let mut rows: Vec<_> =
        books.vendors.visible(caller.subject).filter(|row| covers(&row.company)).collect();
    for field in ["name", "status"] {
        if let Some(value) = wanted[field].as_str() {
            rows.retain(|row| row.has(field, value));
        }
    }
    Ok(page(rows, &query, 20)?.plain())
}

async fn vendor(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(StatusCode::OK, &world.books().vendors.find(caller.subject, &id, "vendor")?.body))
}

async fn act(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path(segment): Path<String>,
) -> Result<Response, Problem> {
    let (id, status) = match segment.split_once(':') {
        Some((id, "archive")) => (id, "ARCHIVED"),
        Some((id, "activate")) => (id, "ACTIVE"),
        _ => return Err(Problem::not_found("resource")),
    };
    let mut books = world.books();
    let row = books.vendors.find_mut(caller.subject, id, "vendor")?;
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
