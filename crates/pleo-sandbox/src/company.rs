//! What a token stands for and gives access to: introspection, companies, employees.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::call::Call;
use super::paging::page;
use super::response::{Problem, data};

pub(crate) fn introspect(call: &Call<'_>) -> Result<Response, Problem> {
    if call.caller.has_api_key {
        let subject = call.subject().urn();
        let body =
            json!({ "authMethod": "API_KEY", "scope": call.caller.scope, "subjectURN": subject });
        return Ok(data(StatusCode::OK, &body));
    }
    let body = json!({
        "authMethod": "OAUTH2", "clientId": call.sandbox.options.client_id, "scope": call.caller.scope,
        "applicationName": "Sandbox App", "subjectURN": call.subject().urn(),
    });
    Ok(data(StatusCode::OK, &body))
}

pub(crate) fn companies(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let requested = call.query.get("organization_id");
    let rows = dataset.companies.visible(call.subject());
    let rows =
        rows.filter(|row| requested.is_none_or(|id| row.has("organizationId", id))).collect();
    Ok(page(rows, &call.query, 20)?.response())
}

pub(crate) fn company(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.companies.find(call.subject(), call.ids[0], "company")?;
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn employees(call: &Call<'_>) -> Result<Response, Problem> {
    if let Some(company) = call.query.get("companyId") {
        call.caller.ensure_sees(company)?;
    }
    let dataset = call.dataset();
    let mut rows: Vec<_> = dataset.employees.visible(call.subject()).collect();
    for field in ["companyId", "email", "code"] {
        if let Some(requested) = call.query.get(field) {
            rows.retain(|row| row.has(field, requested));
        }
    }
    Ok(page(rows, &call.query, 20)?.response())
}

pub(crate) fn employee(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.employees.find(call.subject(), call.ids[0], "employee")?;
    Ok(data(StatusCode::OK, &row.body))
}
