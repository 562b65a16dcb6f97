//! Export jobs.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{current, ensure_contra_accounts, find_job, is_running, items, mark};
use crate::call::Call;
use crate::dataset::{Row, now};
use crate::fields::{Field, Kind, optional, required};
use crate::paging::page;
use crate::response::{Problem, data};

const CREATE: [Field; 5] = [
    required("companyId", Kind::Id),
    required("accountingEntryIds", Kind::Ids),
    optional("employeeId", Kind::Id),
    optional("isInteractive", Kind::Flag),
    optional("options", Kind::Object),
];

/// The oldest job comes first.
pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let company = call.query.get("company_id");
    if let Some(company) = company {
        call.caller.ensure_sees(company)?;
    }
    let statuses = statuses(call)?;
    let dataset = current(call);
    let rows = dataset.jobs.visible(call.subject()).filter(|row| {
        company.is_none_or(|id| row.company == id)
            && (statuses.is_empty() || statuses.contains(&row.text("status")))
    });
    let query = call.query.sorted_by("createdAt");
    Ok(page(rows.collect(), &query, 20)?.response())
}

/// Before version 3, `status` did the same as `statuses`.
fn statuses<'a>(call: &'a Call<'_>) -> Result<Vec<&'a str>, Problem> {
    let older = (call.version() < 3).then(|| call.query.all("status"));
    let statuses: Vec<&str> =
        call.query.all("statuses").chain(older.into_iter().flatten()).collect();
    if !statuses.iter().all(|status| super::JOB_STATUSES.contains(status)) {
        return Err(Problem::invalid_parameter("statuses is not valid"));
    }
    Ok(statuses)
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = current(call);
    Ok(data(StatusCode::OK, &find_job(call, &dataset, call.ids[0])?.body))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let request = call.read(&CREATE)?;
    let company = request["companyId"].as_str().unwrap_or_default();
    call.caller.ensure_sees(company)?;
    ensure_contra_accounts(call)?;
    let entries: Vec<&str> = request["accountingEntryIds"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if entries.is_empty() {
        return Err(Problem::invalid("accountingEntryIds must not be empty"));
    }
    let mut dataset = current(call);
    let is_known =
        |id: &&str| dataset.entries.0.iter().any(|row| row.company == company && row.id == **id);
    if !entries.iter().all(is_known) {
        let message = "an accounting entry was not found";
        return Err(Problem::new(StatusCode::NOT_FOUND, "EXPORT_ENTRY_NOT_FOUND", message));
    }
    if dataset.jobs.0.iter().any(|row| row.company == company && is_running(row)) {
        let message = "the company has an export job that is not finished";
        return Err(Problem::conflict("EXPORT_ALREADY_IN_PROGRESS", message));
    }
    let job = Row::new(company, new_job(&request, entries.len()));
    for entry in &entries {
        mark(&mut dataset, entry, "QUEUED");
        dataset.items.0.push(items::new(company, &job.id, entry));
    }
    Ok(data(StatusCode::CREATED, &dataset.jobs.add(job)))
}

fn new_job(request: &Map<String, Value>, count: usize) -> Map<String, Value> {
    let given = |name: &str| request.get(name).cloned().unwrap_or_default();
    let vendors = &given("options")["vendorBasedBookkeeping"];
    let now = now();
    let fields = [
        ("companyId", given("companyId")),
        ("status", json!("pending")),
        ("numberOfItems", json!(count)),
        ("expiresIn", json!(3600)),
        ("isInteractive", json!(given("isInteractive").as_bool().unwrap_or(true))),
        ("createdAt", json!(now)),
        ("createdBy", given("employeeId")),
        ("lastUpdatedAt", json!(now)),
        ("startedAt", Value::Null),
        ("completedAt", Value::Null),
        ("expiredAt", Value::Null),
        ("failureReason", Value::Null),
        ("vendorBasedBookkeeping", json!(vendors.as_bool().unwrap_or(false))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
