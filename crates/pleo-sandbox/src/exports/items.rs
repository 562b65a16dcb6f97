//! Export job items: how far each entry of a job is.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{ITEM_STATUSES, current, find_job, finished, is_running, mark};
use crate::call::Call;
use crate::dataset::{Dataset, Row, now};
use crate::fields::{self, Field, Kind, optional, required};
use crate::paging::page;
use crate::response::{Problem, data, json_response};

const MAX_BATCH: usize = 100;
const FAILURES: &[&str] = &[
    "receipt_upload_failure",
    "receipt_download_failure",
    "receipt_file_size_limit_exceeded",
    "receipt_conversion_failure",
    "unexpected_failure",
    "invalid_configuration",
    "missing_configuration",
    "accounting_system_authentication_failure",
    "accounting_system_rate_limit",
    "accounting_system_unreachable",
    "validation_failure",
    "accounting_system_validation_failure",
    "authorization_failure",
    "accounting_system_timeout",
    "vendor_unknown",
    "account_unknown",
    "tax_code_unknown",
    "tag_unknown",
];
const UPDATE: [Field; 7] = [
    required("accountingEntryId", Kind::Id),
    required("status", Kind::Word(ITEM_STATUSES)),
    optional("exportedAt", Kind::Time),
    optional("externalId", Kind::Text),
    optional("externalUrl", Kind::Text),
    optional("failureReason", Kind::Text),
    optional("failureReasonType", Kind::Word(FAILURES)),
];
const SEARCH: [Field; 2] =
    [required("accountingEntryIds", Kind::Ids), optional("status", Kind::Word(ITEM_STATUSES))];

/// A new item. Items have no id of their own.
pub(crate) fn new(company: &str, job: &str, entry: &str) -> Row {
    let body = json!({
        "exportJobId": job, "accountingEntryId": entry, "status": "pending", "exportedAt": null, "externalId": null,
        "externalUrl": null, "failureReason": null,
    });
    Row { id: format!("{job}/{entry}"), company: company.to_owned(), body }
}

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let status = call.query.get("status");
    if status.is_some_and(|status| !ITEM_STATUSES.contains(&status)) {
        return Err(Problem::invalid_parameter("status is not valid"));
    }
    let dataset = current(call);
    find_job(call, &dataset, call.ids[0])?;
    let rows = dataset.items.0.iter().filter(|row| row.has("exportJobId", call.ids[0]));
    let rows = rows.filter(|row| status.is_none_or(|status| row.has("status", status))).collect();
    Ok(page(rows, &call.query, 20)?.response())
}

/// Partial success: status 200 with the updated items, and an error for each of the others.
pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let changes = fields::objects(call.body)?;
    if changes.len() > MAX_BATCH {
        let message = "at most 100 items can be updated at once";
        let kind = "EXPORT_JOB_ITEMS_UPDATE_LIMIT";
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, kind, message));
    }
    let changes = changes.iter().map(|change| fields::read(change, &UPDATE));
    let changes = changes.collect::<Result<Vec<_>, _>>()?;
    let mut dataset = current(call);
    let job = call.ids[0];
    if !is_running(find_job(call, &dataset, job)?) {
        return Err(finished());
    }
    let (mut updated, mut errors) = (Vec::new(), Vec::new());
    for change in changes {
        let entry = change["accountingEntryId"].clone();
        match apply(&mut dataset, job, change) {
            Ok(item) => updated.push(item),
            Err((kind, message)) => {
                errors.push(json!({ "accountingEntryId": entry, "type": kind, "message": message }))
            }
        }
    }
    let row = dataset.jobs.0.iter_mut().find(|row| row.id == job);
    row.expect("the job was found above").body["lastUpdatedAt"] = json!(now());
    Ok(json_response(StatusCode::OK, &json!({ "data": updated, "errors": errors })))
}

/// Type and message of an error.
type Refusal = (&'static str, &'static str);

fn apply(
    dataset: &mut Dataset,
    job: &str,
    mut change: Map<String, Value>,
) -> Result<Value, Refusal> {
    let mut own = dataset.items.0.iter_mut().filter(|row| row.has("exportJobId", job));
    let item = own.find(|row| row.body["accountingEntryId"] == change["accountingEntryId"]);
    let item = item.ok_or((
        "ACCOUNTING_ENTRY_DOES_NOT_EXIST",
        "the job has no item of this accounting entry",
    ))?;
    let is_successful = change["status"] == "successful";
    if item.has("status", "successful") && !is_successful {
        return Err(("EXPORT_ENTRY_STATUS_UPDATE_FAILED", "the accounting entry is exported"));
    }
    if is_successful {
        change.entry("exportedAt").or_insert_with(|| json!(now()));
    }
    item.change(change);
    let (body, entry) = (item.body.clone(), item.text("accountingEntryId").to_owned());
    let status = match item.text("status") {
        "successful" => "EXPORTED",
        "pending" => "QUEUED",
        "in_progress" => "EXPORTING",
        _ => "NOT_EXPORTED",
    };
    mark(dataset, &entry, status);
    Ok(body)
}

/// The newest item of an entry. Pleo keeps this operation for itself.
pub(crate) fn of_entry(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered_or_all()?;
    let entry = call.query.get("accounting_entry_id");
    let entry = entry.ok_or_else(|| Problem::invalid("accounting_entry_id is required"))?;
    let dataset = current(call);
    let mut rows = dataset.items.visible(call.subject()).filter(|row| covered.holds(&row.company));
    let newest = rows.by_ref().filter(|row| row.has("accountingEntryId", entry)).last();
    let newest = newest.ok_or_else(|| {
        let message = "export job item not found";
        Problem::new(StatusCode::NOT_FOUND, "EXPORT_ENTRY_NOT_FOUND", message)
    })?;
    Ok(data(StatusCode::OK, &newest.body))
}

/// Pleo keeps this operation for itself.
pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered_or_all()?;
    let filters = call.read(&SEARCH)?;
    let dataset = current(call);
    let entries = filters["accountingEntryIds"].as_array();
    let rows = dataset.items.visible(call.subject()).filter(|row| {
        covered.holds(&row.company)
            && entries.is_some_and(|entries| entries.contains(&row.body["accountingEntryId"]))
            && filters.get("status").is_none_or(|status| row.body["status"] == *status)
    });
    Ok(page(rows.collect(), &call.query, 20)?.response())
}
