//! Tags, the cost centres of a company. Their groups, dimensions and values have files of their own.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::dataset::{Dataset, Row};
use super::fields::{Field, Kind, optional, required};
use super::paging::page;
use super::response::{Problem, data, no_content};

pub(crate) mod aggregations;
pub(crate) mod dimensions;
pub(crate) mod groups;
pub(crate) mod values;

const MAX_BATCH: usize = 100;
const SHAPE: [Field; 4] = [
    required("archived", Kind::Flag),
    required("code", Kind::Name),
    optional("name", Kind::Text),
    optional("otherDimensionValues", Kind::Texts),
];
const REMOVE_MANY: [Field; 2] = [required("companyId", Kind::Id), required("tagIds", Kind::Ids)];
const ARCHIVE_MANY: [Field; 3] = [
    required("archived", Kind::Flag),
    required("companyId", Kind::Id),
    required("tagIds", Kind::Ids),
];

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let group = call.ids[0];
    let dataset = call.dataset();
    dataset.tag_groups.find(call.subject(), group, "tag group")?;
    let rows = dataset.tags.visible(call.subject()).filter(|row| row.has("groupId", group));
    let rows = rows.filter(|row| includes(call, row)).collect();
    Ok(page(rows, &call.query, 20)?.response())
}

/// Archived tags are shown to whom asks for them.
fn includes(call: &Call<'_>, row: &Row) -> bool {
    call.query.get("include_archived") == Some("true") || row.body["archived"] == false
}

pub(crate) fn search(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered_or_all()?;
    let groups: Vec<&str> = call.query.all("tag_group_id").collect();
    let text = call.query.get("text_search").unwrap_or_default().to_lowercase();
    let dataset = call.dataset();
    let rows = dataset.tags.visible(call.subject()).filter(|row| {
        covered.holds(&row.company)
            && includes(call, row)
            && (groups.is_empty() || groups.contains(&row.text("groupId")))
            && row.text("name").to_lowercase().contains(&text)
    });
    Ok(page(rows.collect(), &call.query, 20)?.response())
}

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let mut fields = call.read(&SHAPE)?;
    let others = fields.remove("otherDimensionValues");
    let group = call.ids[0];
    let mut dataset = call.dataset();
    let company = dataset.tag_groups.find(call.subject(), group, "tag group")?.company.clone();
    ensure_new_code(&dataset, group, &fields, "")?;
    fields.insert("groupId".to_owned(), json!(group));
    let row = Row::stamped(&company, fields);
    set_values(&mut dataset, &row, others.as_ref());
    Ok(data(StatusCode::CREATED, &dataset.tags.add(row)))
}

/// Codes are unique in a group; `own` is the tag that may have it.
fn ensure_new_code(
    dataset: &Dataset,
    group: &str,
    fields: &Map<String, Value>,
    own: &str,
) -> Result<(), Problem> {
    let mut others = dataset.tags.0.iter().filter(|row| row.has("groupId", group) && row.id != own);
    if others.any(|row| row.body["code"] == fields["code"]) {
        return Err(Problem::conflict("TAG_ALREADY_EXISTS", "a tag with this code exists"));
    }
    Ok(())
}

/// Sets the values of the group's dimensions in their order; values without a dimension are
/// ignored.
fn set_values(dataset: &mut Dataset, tag: &Row, values: Option<&Value>) {
    let dimensions = dimensions::of_group(dataset, tag.text("groupId"));
    let values = values.and_then(Value::as_array).into_iter().flatten();
    for (dimension, value) in dimensions.into_iter().zip(values) {
        let value = value.as_str().unwrap_or_default();
        values::put(dataset, tag, &dimension, value);
    }
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.tags.find(call.subject(), call.ids[0], "tag")?;
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let mut fields = call.read(&SHAPE)?;
    let others = fields.remove("otherDimensionValues");
    let mut dataset = call.dataset();
    let group = dataset.tags.find(call.subject(), call.ids[0], "tag")?.text("groupId").to_owned();
    ensure_new_code(&dataset, &group, &fields, call.ids[0])?;
    let row = dataset.tags.find_mut(call.subject(), call.ids[0], "tag")?;
    row.change(fields);
    let row = row.clone();
    set_values(&mut dataset, &row, others.as_ref());
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    dataset.tags.remove(call.subject(), call.ids[0], "tag")?;
    dataset.tag_values.0.retain(|row| !row.has("tagId", call.ids[0]));
    Ok(no_content())
}

/// All of them or none.
pub(crate) fn remove_many(call: &Call<'_>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    for id in many(call, &dataset, &call.read(&REMOVE_MANY)?)? {
        dataset.tags.0.retain(|row| row.id != id);
        dataset.tag_values.0.retain(|row| !row.has("tagId", &id));
    }
    Ok(no_content())
}

/// All of them or none.
pub(crate) fn archive_many(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&ARCHIVE_MANY)?;
    let mut dataset = call.dataset();
    let mut changed = Vec::new();
    for id in many(call, &dataset, &fields)? {
        let row = dataset.tags.find_mut(call.subject(), &id, "tag")?;
        row.change(Map::from_iter([("archived".to_owned(), fields["archived"].clone())]));
        changed.push(row.body.clone());
    }
    Ok(data(StatusCode::OK, &json!(changed)))
}

/// The ids in the request, each of a tag of its company.
fn many(
    call: &Call<'_>,
    dataset: &Dataset,
    fields: &Map<String, Value>,
) -> Result<Vec<String>, Problem> {
    let company = fields["companyId"].as_str().unwrap_or_default();
    call.caller.ensure_sees(company)?;
    let ids: Vec<String> = fields["tagIds"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    if !(1..=MAX_BATCH).contains(&ids.len()) {
        return Err(Problem::invalid("tagIds must hold 1 to 100 ids"));
    }
    let is_known =
        |id: &String| dataset.tags.0.iter().any(|row| row.company == company && row.id == *id);
    if !ids.iter().all(is_known) {
        return Err(Problem::not_found("tag"));
    }
    Ok(ids)
}
