//! The chart of accounts; `/v1-beta/accounts` is its older twin.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::{Dataset, Row};
use super::fields::{self, Field, Kind, optional, required};
use super::paging::page;
use super::response::{Problem, data, no_content};

const MAX_TEXT: usize = 255;
const MAX_BATCH: usize = 1000;
const ITEM: [Field; 6] = [
    required("archived", Kind::Flag),
    required("externalId", Kind::Text),
    required("name", Kind::Text),
    optional("code", Kind::Text),
    optional("metadata", Kind::Object),
    optional("taxCodeExternalId", Kind::Text),
];
const UPDATE: [Field; 5] = [
    required("archived", Kind::Flag),
    required("name", Kind::Text),
    optional("code", Kind::Text),
    optional("metadata", Kind::Object),
    optional("taxCodeExternalId", Kind::Text),
];
const COMPANY: [Field; 1] = [required("companyId", Kind::Id)];
const BATCH: [Field; 2] = [required("companyId", Kind::Id), required("items", Kind::Any)];
const SEARCH: [Field; 9] = [
    required("companyId", Kind::Id),
    optional("archived", Kind::Flag),
    optional("code", Kind::Text),
    optional("codes", Kind::Texts),
    optional("externalId", Kind::Text),
    optional("ids", Kind::Ids),
    optional("name", Kind::Text),
    optional("excludeIfAssignedToCategory", Kind::Flag),
    optional("excludeIfAssignedToContraAccount", Kind::Flag),
];
/// Flags that the newer twin asks for.
const FLAGS: [Field; 2] = [
    required("excludeIfAssignedToCategory", Kind::Flag),
    required("excludeIfAssignedToContraAccount", Kind::Flag),
];

/// An account that is there already, in every field the same, is answered with 200.
pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let company = company_of(call, &call.read(&COMPANY)?)?;
    let fields = call.read(&ITEM)?;
    let reasons = faults(&fields);
    if let [reason, ..] = reasons.as_slice() {
        return Err(Problem::invalid(*reason));
    }
    let mut dataset = call.dataset();
    match same_external_id(&dataset, &company, &fields) {
        Some(known) if is_same(known, &fields) => Ok(data(StatusCode::OK, &known.body)),
        Some(_) => Err(Problem::conflict(
            "ACCOUNT_ALREADY_EXISTS",
            "an account with this externalId exists",
        )),
        None => Ok(data(StatusCode::CREATED, &add(&mut dataset, &company, fields))),
    }
}

fn company_of(call: &Call<'_>, fields: &Map<String, Value>) -> Result<String, Problem> {
    let company = fields["companyId"].as_str().unwrap_or_default();
    call.caller.ensure_sees(company)?;
    Ok(company.to_owned())
}

/// Partial success: what was created, and the reasons why the rest was not.
pub(crate) fn create_batch(call: &Call<'_>) -> Result<Response, Problem> {
    let batch = call.read(&BATCH)?;
    let company = company_of(call, &batch)?;
    let items = batch["items"].as_array().filter(|items| (1..=MAX_BATCH).contains(&items.len()));
    let items = items.ok_or_else(|| Problem::invalid("items must hold 1 to 1000 accounts"))?;
    let mut dataset = call.dataset();
    let (mut created, mut failed) = (Vec::new(), Vec::new());
    for item in items {
        let item = item.as_object().ok_or_else(|| Problem::invalid("items must hold objects"))?;
        let fields = fields::read(item, &ITEM)?;
        let mut reasons = faults(&fields);
        if same_external_id(&dataset, &company, &fields).is_some() {
            reasons.push("EXTERNAL_ID_ALREADY_EXISTS");
        }
        if reasons.is_empty() {
            created.push(add(&mut dataset, &company, fields));
        } else {
            failed.push(json!({ "reasons": reasons, "request": fields }));
        }
    }
    Ok(data(StatusCode::CREATED, &json!({ "created": created, "failed": failed })))
}

fn faults(fields: &Map<String, Value>) -> Vec<&'static str> {
    let length = |name| fields.get(name).and_then(Value::as_str).map_or(0, str::len);
    let rules = [
        (length("externalId") == 0, "EXTERNAL_ID_EMPTY"),
        (length("externalId") > MAX_TEXT, "EXTERNAL_ID_TOO_LONG"),
        (length("name") == 0, "NAME_EMPTY"),
        (length("name") > MAX_TEXT, "NAME_TOO_LONG"),
        (length("code") > MAX_TEXT, "CODE_TOO_LONG"),
    ];
    rules.into_iter().filter_map(|(is_broken, reason)| is_broken.then_some(reason)).collect()
}

fn same_external_id<'a>(
    dataset: &'a Dataset,
    company: &str,
    fields: &Map<String, Value>,
) -> Option<&'a Row> {
    let mut own = dataset.accounts.0.iter().filter(|row| row.company == company);
    own.find(|row| row.body["externalId"] == fields["externalId"])
}

fn is_same(row: &Row, fields: &Map<String, Value>) -> bool {
    ITEM.iter().all(|field| row.body.get(field.name()) == fields.get(field.name()))
}

fn add(dataset: &mut Dataset, company: &str, mut fields: Map<String, Value>) -> Value {
    fields.insert("companyId".to_owned(), json!(company));
    dataset.accounts.add(Row::new(company, fields))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.accounts.find(call.subject(), call.ids[0], "account")?;
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&UPDATE)?;
    let mut dataset = call.dataset();
    let row = dataset.accounts.find_mut(call.subject(), call.ids[0], "account")?;
    row.change(fields);
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    let id = call.ids[0];
    dataset.accounts.find(call.subject(), id, "account")?;
    if dataset.entries.0.iter().any(|entry| entry.has("accountId", id)) {
        let message = "the account is linked to accounting entries; archive it instead";
        return Err(Problem::conflict("ACCOUNT_IN_USE", message));
    }
    dataset.accounts.remove(call.subject(), id, "account")?;
    Ok(no_content())
}

pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    let filters = call.read(&SEARCH)?;
    let company = company_of(call, &filters)?;
    if call.path.starts_with("/v1/") {
        call.read(&FLAGS)?;
    }
    let dataset = call.dataset();
    let is_used = |row: &Row| dataset.entries.0.iter().any(|entry| entry.has("accountId", &row.id));
    let lists = |name: &str, value: &Value| {
        filters.get(name).and_then(Value::as_array).is_none_or(|list| list.contains(value))
    };
    let equal = |name: &str, row: &Row| {
        filters.get(name).is_none_or(|value| row.body.get(name) == Some(value))
    };
    let fits = |row: &&Row| {
        row.company == company
            && ["archived", "code", "externalId", "name"].iter().all(|name| equal(name, row))
            && lists("codes", &row.body["code"])
            && lists("ids", &row.body["id"])
            // A category of Pleo is what entries are assigned to.
            && !(filters.get("excludeIfAssignedToCategory") == Some(&json!(true)) && is_used(row))
    };
    let rows = dataset.accounts.0.iter().filter(fits).collect();
    Ok(page(rows, &call.query, 20)?.response())
}
