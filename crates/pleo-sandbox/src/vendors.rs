//! Vendors: create, search, archive, activate.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::{Dataset, Row};
use super::fields::{Field, Kind, optional, required};
use super::paging::page;
use super::response::{Problem, data, no_content};

const STATES: &[&str] = &["DRAFT", "ACTIVE", "ARCHIVED"];
const CREATE: [Field; 8] = [
    required("companyId", Kind::Id),
    required("name", Kind::Name),
    required("defaultCurrency", Kind::Text),
    optional("externalId", Kind::Text),
    optional("code", Kind::Text),
    optional("country", Kind::Text),
    optional("registrationNumber", Kind::Text),
    optional("taxRegistrationNumber", Kind::Text),
];
const UPDATE: [Field; 9] = [
    required("companyId", Kind::Id),
    required("name", Kind::Name),
    required("defaultCurrency", Kind::Text),
    required("externalId", Kind::Text),
    required("state", Kind::Word(STATES)),
    optional("code", Kind::Text),
    optional("country", Kind::Text),
    optional("registrationNumber", Kind::Text),
    optional("taxRegistrationNumber", Kind::Text),
];
const ACTIVATE: [Field; 2] = [required("externalId", Kind::Name), optional("code", Kind::Text)];
const SEARCH: [Field; 8] = [
    optional("accountingSystems", Kind::Texts),
    optional("codes", Kind::Texts),
    optional("countries", Kind::Texts),
    optional("externalIds", Kind::Texts),
    optional("ids", Kind::Ids),
    optional("name", Kind::Text),
    optional("states", Kind::Words(STATES)),
    optional("taxRegistrationNumbers", Kind::Texts),
];
/// Filters that list values, and the field that must hold one of them.
const LISTS: [(&str, &str); 7] = [
    ("accountingSystems", "accountingSystem"),
    ("codes", "code"),
    ("countries", "country"),
    ("externalIds", "externalId"),
    ("ids", "id"),
    ("states", "state"),
    ("taxRegistrationNumbers", "taxRegistrationNumber"),
];

/// A vendor that the accounting system knows by an external id is active at once.
pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let mut fields = call.read(&CREATE)?;
    let company = company_of(call, &fields)?;
    let state = if fields.contains_key("externalId") { "ACTIVE" } else { "DRAFT" };
    fields.insert("state".to_owned(), json!(state));
    let mut dataset = call.dataset();
    ensure_new(&dataset, &company, &fields, "")?;
    let vendor = dataset.vendors.add(Row::stamped(&company, fields));
    Ok(data(StatusCode::CREATED, &vendor))
}

fn company_of(call: &Call<'_>, fields: &Map<String, Value>) -> Result<String, Problem> {
    let company = fields["companyId"].as_str().unwrap_or_default();
    call.caller.ensure_sees(company)?;
    if fields["defaultCurrency"].as_str().is_none_or(|currency| currency.len() != 3) {
        return Err(Problem::invalid("defaultCurrency must be a code of three letters"));
    }
    Ok(company.to_owned())
}

/// Names and external ids are unique in a company; `own` is the vendor that may have them.
fn ensure_new(
    dataset: &Dataset,
    company: &str,
    fields: &Map<String, Value>,
    own: &str,
) -> Result<(), Problem> {
    let is_same = |row: &Row, name: &str| {
        fields.get(name).is_some_and(|value| row.body.get(name) == Some(value))
    };
    let others = dataset.vendors.0.iter().filter(|row| row.company == company && row.id != own);
    let mut same = others.filter(|row| is_same(row, "name") || is_same(row, "externalId"));
    if same.next().is_some() {
        let message = "a vendor of this name or external id exists";
        return Err(Problem::conflict("VENDOR_ALREADY_EXISTS", message));
    }
    Ok(())
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.vendors.find(call.subject(), call.ids[0], "vendor")?;
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&UPDATE)?;
    let company = company_of(call, &fields)?;
    let mut dataset = call.dataset();
    let id = call.ids[0];
    if dataset.vendors.find(call.subject(), id, "vendor")?.company != company {
        return Err(Problem::invalid("a vendor stays with its company"));
    }
    ensure_new(&dataset, &company, &fields, id)?;
    let row = dataset.vendors.find_mut(call.subject(), id, "vendor")?;
    row.change(fields);
    Ok(data(StatusCode::OK, &row.body))
}

/// The accounting system has created the vendor.
pub(crate) fn activate(call: &Call<'_>) -> Result<Response, Problem> {
    let mut fields = call.read(&ACTIVATE)?;
    fields.insert("state".to_owned(), json!("ACTIVE"));
    set(call, fields)
}

pub(crate) fn archive(call: &Call<'_>) -> Result<Response, Problem> {
    set(call, Map::from_iter([("state".to_owned(), json!("ARCHIVED"))]))
}

fn set(call: &Call<'_>, fields: Map<String, Value>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    dataset.vendors.find_mut(call.subject(), call.ids[0], "vendor")?.change(fields);
    Ok(no_content())
}

pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    let company = call.query.get("company_id");
    let company = company.ok_or_else(|| Problem::invalid("company_id is required"))?;
    call.caller.ensure_sees(company)?;
    let filters = call.filters(&SEARCH)?;
    let in_list = |row: &Row, name: &str, field: &str| {
        let list = filters.get(name).and_then(Value::as_array);
        list.is_none_or(|list| row.body.get(field).is_some_and(|value| list.contains(value)))
    };
    let fits = |row: &&Row| {
        row.company == company
            && filters.get("name").is_none_or(|name| row.body["name"] == *name)
            && LISTS.iter().all(|(name, field)| in_list(row, name, field))
    };
    let dataset = call.dataset();
    let rows = dataset.vendors.0.iter().filter(fits).collect();
    Ok(page(rows, &call.query, 20)?.response())
}
