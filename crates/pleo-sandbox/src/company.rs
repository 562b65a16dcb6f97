//! Who the caller is and whom they see: introspection, companies, employees, the installation.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::json;

use super::answer::{Problem, bare, data};
use super::api::Caller;
use super::books::now;
use super::paging::{Query, page};
use super::world::World;

pub(crate) fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/v1/introspect", get(introspect))
        .route("/v1/companies", get(companies))
        .route("/v1/companies/{id}", get(company))
        .route("/v2/employees", get(employees))
        .route("/v2/employees/{id}", get(employee))
        .route("/v1/installations/me", get(installation).delete(uninstall))
}

async fn introspect(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let body = json!({
        "authMethod": "OAUTH2", "clientId": world.options.client_id, "scope": caller.scope,
        "applicationName": "Sandbox App", "subjectURN": caller.subject.urn(),
    });
    data(StatusCode::OK, &body)
}

async fn companies(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let books = world.books();
    let wanted = query.get("organization_id");
    let rows = books.companies.visible(caller.subject);
    let rows = rows.filter(|row| wanted.is_none_or(|id| row.has("organizationId", id))).collect();
    Ok(page(rows, &query, 20)?.plain())
}

async fn company(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(StatusCode::OK, &world.books().companies.find(caller.subject, &id, "company")?.body))
}

async fn employees(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    if query.get("companyId").is_some_and(|id| !caller.subject.sees(id)) {
        return Err(Problem::denied());
    }
    let books = world.books();
    let mut rows: Vec<_> = books.employees.visible(caller.subject).collect();
    for field in ["companyId", "email", "code"] {
        if let Some(wanted) = query.get(field) {
            rows.retain(|row| row.has(field, wanted));
        }
    }
    Ok(page(rows, &query, 20)?.plain())
}

async fn employee(
    State(world): State<Arc<World>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(StatusCode::OK, &world.books().employees.find(caller.subject, &id, "employee")?.body))
}

/// A bare object, unlike everything else.
async fn installation(Extension(caller): Extension<Caller>) -> Response {
    let body = json!({
        "id": "17574110-0000-4000-8000-000000000001", "applicationId": "a9911ca0-0000-4000-8000-000000000001",
        "resource": caller.subject.urn(), "status": "ACTIVATED", "metadata": {}, "createdAt": now(), "updatedAt": now(),
    });
    bare(StatusCode::OK, &body)
}

/// Ends every authorization of the client, not only the caller's.
async fn uninstall(State(world): State<Arc<World>>) -> StatusCode {
    world.state().revoke_all();
    StatusCode::NO_CONTENT
}
