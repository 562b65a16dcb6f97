//! Dimensions of tag groups, without name and code, which every group has.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::call::Call;
use crate::dataset::{Dataset, Row};
use crate::fields::{Field, Kind, optional, required};
use crate::response::{Problem, data, no_content};

const CREATE: [Field; 4] = [
    required("code", Kind::Name),
    required("name", Kind::Name),
    required("visible", Kind::Flag),
    optional("displayOrder", Kind::Integer),
];
const UPDATE: [Field; 4] = [
    required("code", Kind::Name),
    required("name", Kind::Name),
    required("visible", Kind::Flag),
    required("displayOrder", Kind::Integer),
];

/// The dimensions of a group in the order in which they are displayed.
pub(super) fn of_group(dataset: &Dataset, group: &str) -> Vec<Row> {
    let own = dataset.dimensions.0.iter().filter(|row| row.has("groupId", group));
    let mut rows: Vec<Row> = own.cloned().collect();
    rows.sort_by_key(|row| row.body["displayOrder"].as_i64());
    rows
}

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    dataset.tag_groups.find(call.subject(), call.ids[0], "tag group")?;
    let rows = of_group(&dataset, call.ids[0]).into_iter().map(|row| row.body);
    Ok(data(StatusCode::OK, &rows.collect::<Vec<Value>>().into()))
}

/// The display order in the request is not used: a new dimension is the last one.
pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let mut fields = call.read(&CREATE)?;
    let group = call.ids[0];
    let mut dataset = call.dataset();
    let company = dataset.tag_groups.find(call.subject(), group, "tag group")?.company.clone();
    let last = of_group(&dataset, group).last().and_then(|row| row.body["displayOrder"].as_i64());
    fields.insert("displayOrder".to_owned(), json!(last.unwrap_or_default().saturating_add(1)));
    fields.insert("groupId".to_owned(), json!(group));
    Ok(data(StatusCode::CREATED, &dataset.dimensions.add(Row::stamped(&company, fields))))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    Ok(data(StatusCode::OK, &in_group(call, &dataset)?.body))
}

/// The dimension of the path, if it is one of the group of the path.
fn in_group<'a>(call: &Call<'_>, dataset: &'a Dataset) -> Result<&'a Row, Problem> {
    let row = dataset.dimensions.find(call.subject(), call.ids[1], "dimension")?;
    row.has("groupId", call.ids[0]).then_some(row).ok_or_else(|| Problem::not_found("dimension"))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&UPDATE)?;
    let mut dataset = call.dataset();
    in_group(call, &dataset)?;
    let row = dataset.dimensions.find_mut(call.subject(), call.ids[1], "dimension")?;
    row.change(fields);
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    in_group(call, &dataset)?;
    dataset.dimensions.remove(call.subject(), call.ids[1], "dimension")?;
    dataset.tag_values.0.retain(|row| !row.has("dimensionId", call.ids[1]));
    Ok(no_content())
}
