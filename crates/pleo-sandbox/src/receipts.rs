//! Receipts of accounting entries.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::call::Call;
use super::dataset::Row;
use super::fields::{Field, Kind, optional, required};
use super::files::signed_url;
use super::paging::page;
use super::response::{Problem, data};
use super::state::SandboxState;

const FILE_TYPES: Kind = Kind::Word(&["EMBED", "ORIGINAL", "THUMBNAIL", "PREVIEW"]);
const SEARCH: [Field; 6] = [
    required("includeDeleted", Kind::Flag),
    optional("accountingEntryIds", Kind::Ids),
    optional("employeeIds", Kind::Ids),
    optional("fileType", FILE_TYPES),
    optional("mimeType", Kind::Texts),
    optional("source", Kind::Texts),
];

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let entry = call.ids[0];
    let sources: Vec<&str> = call.query.all("source").collect();
    let dataset = call.dataset();
    dataset.entries.find(call.subject(), entry, "accounting entry")?;
    let rows = dataset.receipts.visible(call.subject());
    let rows = rows.filter(|row| row.has("accountingEntryId", entry));
    let rows = rows.filter(|row| sources.is_empty() || sources.contains(&row.text("source")));
    Ok(page(rows.collect(), &call.query, 10)?.response_with(|row| with_url(call.sandbox, row)))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.receipts.find(call.subject(), call.ids[1], "receipt")?;
    if !row.has("accountingEntryId", call.ids[0]) {
        return Err(Problem::not_found("receipt"));
    }
    Ok(data(StatusCode::OK, &with_url(call.sandbox, row)))
}

pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered()?;
    let filters = call.read(&SEARCH)?;
    let dataset = call.dataset();
    let lists = |name: &str, value: &Value| {
        filters.get(name).and_then(Value::as_array).is_none_or(|list| list.contains(value))
    };
    let fits = |row: &&Row| {
        let entry = dataset.entries.0.iter().find(|entry| row.has("accountingEntryId", &entry.id));
        let Some(entry) = entry else { return false };
        covered.holds(&row.company)
            && (filters["includeDeleted"] == true || entry.body["deletedAt"].is_null())
            && lists("accountingEntryIds", &row.body["accountingEntryId"])
            && lists("employeeIds", &entry.body["employeeId"])
            && lists("mimeType", &row.body["mimeType"])
            && lists("source", &row.body["source"])
    };
    let rows = dataset.receipts.visible(call.subject()).filter(fits).collect();
    Ok(page(rows, &call.query, 10)?.response_with(|row| with_url(call.sandbox, row)))
}

fn with_url(sandbox: &SandboxState, row: &Row) -> Value {
    let mut receipt = row.body.clone();
    receipt["url"] = json!(signed_url(sandbox, &row.id));
    receipt
}
