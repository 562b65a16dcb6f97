//! Accounting entries.

use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::Row;
use super::fields::{Field, Kind, optional, required};
use super::paging::{Page, page};
use super::response::{Problem, data};

const MAX_IDS: usize = 100;
/// Filters that list values, and the field that must hold one of them.
const LISTS: [(&str, &str); 10] = [
    ("accountIds", "accountId"),
    ("employeeIds", "employeeId"),
    ("exportStatus", "exportStatus"),
    ("families", "family"),
    ("foreignExtensionIds", "foreignExtensionId"),
    ("reviewStatus", "reviewStatus"),
    ("status", "status"),
    ("subFamilies", "subFamily"),
    ("taxCodeIds", "taxCodeId"),
    ("teamIds", "teamId"),
];
/// Filters that ask whether a field is set.
const PRESENT: [(&str, &str); 4] = [
    ("hasAccount", "accountId"),
    ("hasBookkeepingDate", "bookkeepingDate"),
    ("hasNote", "note"),
    ("settled", "settledAt"),
];
/// Ranges of time. They exclude each other.
const RANGES: [(&str, &str, &str); 3] = [
    ("bookkeepingDate", "bookkeepingDateStart", "bookkeepingDateEnd"),
    ("performedAt", "performedAtStart", "performedAtEnd"),
    ("settledAt", "settledAtStart", "settledAtEnd"),
];
const SEARCH: [Field; 24] = [
    required("includeDeleted", Kind::Flag),
    optional("accountIds", Kind::Ids),
    optional("employeeIds", Kind::Ids),
    optional("exportStatus", Kind::Texts),
    optional("families", Kind::Texts),
    optional("foreignExtensionIds", Kind::Texts),
    optional("reviewStatus", Kind::Texts),
    optional("status", Kind::Texts),
    optional("subFamilies", Kind::Texts),
    optional("taxCodeIds", Kind::Ids),
    optional("teamIds", Kind::Ids),
    optional("hasAccount", Kind::Flag),
    optional("hasBookkeepingDate", Kind::Flag),
    optional("hasNote", Kind::Flag),
    optional("settled", Kind::Flag),
    optional("bookkeepingDateStart", Kind::Time),
    optional("bookkeepingDateEnd", Kind::Time),
    optional("performedAtStart", Kind::Time),
    optional("performedAtEnd", Kind::Time),
    optional("settledAtStart", Kind::Time),
    optional("settledAtEnd", Kind::Time),
    optional("tagGroupIdsUnset", Kind::Ids),
    optional("tagRowIds", Kind::Ids),
    optional("transactionValueCurrencies", Kind::Texts),
];

pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    searched(call, |page| page.response())
}

/// The older form of [`search`].
pub(crate) fn search_core(call: &Call<'_>) -> Result<Response, Problem> {
    searched(call, |page| page.response_with(core))
}

fn searched(call: &Call<'_>, show: impl Fn(&Page<'_>) -> Response) -> Result<Response, Problem> {
    if call.query.get("company_id").is_some() && call.query.get("organization_id").is_some() {
        return Err(Problem::invalid("company_id and organization_id exclude each other"));
    }
    let covered = call.covered()?;
    let filters = call.read(&SEARCH)?;
    check(&filters)?;
    let dataset = call.dataset();
    let rows = dataset.entries.visible(call.subject());
    let rows = rows.filter(|row| covered.holds(&row.company) && fits(&filters, row)).collect();
    Ok(show(&page(rows, &call.query, 20)?))
}

fn check(filters: &Map<String, Value>) -> Result<(), Problem> {
    let ranges = RANGES
        .iter()
        .filter(|(_, start, end)| filters.contains_key(*start) || filters.contains_key(*end));
    if ranges.count() > 1 {
        return Err(Problem::invalid("ranges of different dates exclude each other"));
    }
    let is_long = |value: &Value| value.as_array().is_some_and(|list| list.len() > MAX_IDS);
    match filters.iter().find(|(_, value)| is_long(value)) {
        Some((name, _)) => Err(Problem::invalid(format!("{name} may hold 100 values at most"))),
        None => Ok(()),
    }
}

fn fits(filters: &Map<String, Value>, row: &Row) -> bool {
    let includes_deleted = filters["includeDeleted"] == true;
    let in_list = |(name, field): &(&str, &str)| {
        let list = filters.get(*name).and_then(Value::as_array);
        list.is_none_or(|list| list.contains(&row.body[*field]))
    };
    let is_present = |(name, field): &(&str, &str)| {
        let asked = filters.get(*name).and_then(Value::as_bool);
        asked.is_none_or(|asked| asked == row.body.get(*field).is_some())
    };
    let currencies = filters.get("transactionValueCurrencies").and_then(Value::as_array);
    let in_currencies =
        currencies.is_none_or(|list| list.contains(&row.body["transactionValue"]["currency"]));
    let untagged = |name| filters.get(name).is_none_or(|list| list == &json!([]));
    (includes_deleted || row.body["deletedAt"].is_null())
        && LISTS.iter().all(in_list)
        && PRESENT.iter().all(is_present)
        && RANGES.iter().all(|range| in_range(filters, row, *range))
        && in_currencies
        // No entry here has a tag, so every group is unset.
        && untagged("tagRowIds")
}

/// From the start on, before the end. An entry without the date is outside every range.
fn in_range(
    filters: &Map<String, Value>,
    row: &Row,
    (field, start, end): (&str, &str, &str),
) -> bool {
    let time = |value: &Value| value.as_str()?.parse::<Timestamp>().ok();
    let bound = |name: &str| filters.get(name).and_then(time);
    match (bound(start), bound(end), time(&row.body[field])) {
        (None, None, _) => true,
        (start, end, Some(at)) => {
            start.is_none_or(|start| start <= at) && end.is_none_or(|end| at < end)
        }
        (_, _, None) => false,
    }
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    found(call, |row| row.body.clone())
}

/// The older form of [`find`].
pub(crate) fn find_core(call: &Call<'_>) -> Result<Response, Problem> {
    found(call, core)
}

fn found(call: &Call<'_>, show: impl Fn(&Row) -> Value) -> Result<Response, Problem> {
    let include_deleted = call.query.get("include_deleted") == Some("true");
    let dataset = call.dataset();
    let row = dataset.entries.find(call.subject(), call.ids[0], "accounting entry")?;
    if !include_deleted && !row.body["deletedAt"].is_null() {
        return Err(Problem::not_found("accounting entry"));
    }
    Ok(data(StatusCode::OK, &show(row)))
}

/// Without what the newer form has added, with the fees that it has dropped.
fn core(row: &Row) -> Value {
    let mut core = row.body.clone();
    if let Value::Object(fields) = &mut core {
        for name in ["attendees", "splitItems", "tags"] {
            fields.remove(name);
        }
    }
    core["fees"] = json!({});
    core["transactionWalletValue"] = row.body["totalBillValue"].clone();
    core
}
