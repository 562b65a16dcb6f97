//! What a token stands for and gives access to: introspection, companies, employees, the
//! installation.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::json;

use super::api::Caller;
use super::dataset::now;
use super::paging::{Query, page};
use super::response::{Problem, data, json_response};
use super::state::SandboxState;

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/v1/introspect", get(introspect))
        .route("/v1/companies", get(companies))
        .route("/v1/companies/{id}", get(company))
        .route("/v2/employees", get(employees))
        .route("/v2/employees/{id}", get(employee))
        .route("/v1/installations/me", get(installation).delete(uninstall))
}

async fn introspect(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let body = json!({
        "authMethod": "OAUTH2", "clientId": sandbox.options.client_id, "scope": caller.scope,
        "applicationName": "Sandbox App", "subjectURN": caller.subject.urn(),
    });
    data(StatusCode::OK, &body)
}

async fn companies(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let dataset = sandbox.dataset();
    let requested = query.get("organization_id");
    let rows = dataset.companies.visible(caller.subject);
    let rows =
        rows.filter(|row| requested.is_none_or(|id| row.has("organizationId", id))).collect();
    Ok(page(rows, &query, 20)?.response())
}

async fn company(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(
        StatusCode::OK,
        &sandbox.dataset().companies.find(caller.subject, &id, "company")?.body,
    ))
}

async fn employees(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    if query.get("companyId").is_some_and(|id| !caller.subject.sees(id)) {
        return Err(Problem::denied());
    }
    let dataset = sandbox.dataset();
    let mut rows: Vec<_> = dataset.employees.visible(caller.subject).collect();
    for field in ["companyId", "email", "code"] {
        if let Some(requested) = query.get(field) {
            rows.retain(|row| row.has(field, requested));
        }
    }
    Ok(page(rows, &query, 20)?.response())
}

async fn employee(
    State(sandbox): State<Arc<SandboxState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(data(
        StatusCode::OK,
        &sandbox.dataset().employees.find(caller.subject, &id, "employee")?.body,
    ))
}

/// An object without the `data` envelope, unlike every other response.
async fn installation(Extension(caller): Extension<Caller>) -> Response {
    let body = json!({
        "id": "17574110-0000-4000-8000-000000000001", "applicationId": "a9911ca0-0000-4000-8000-000000000001",
        "resource": caller.subject.urn(), "status": "ACTIVATED", "metadata": {}, "createdAt": now(), "updatedAt": now(),
    });
    json_response(StatusCode::OK, &body)
}

/// Revokes every authorization of the client, not only the caller's.
async fn uninstall(State(sandbox): State<Arc<SandboxState>>) -> StatusCode {
    sandbox.live().revoke_all();
    StatusCode::NO_CONTENT
}
