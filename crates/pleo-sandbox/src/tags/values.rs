//! What a tag says in the dimensions of its group.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::dataset::{Dataset, Row};
use crate::fields::{Field, Kind, required};
use crate::response::{Problem, data};

const SHAPE: [Field; 1] = [required("value", Kind::Text)];

/// The value of a tag in a dimension.
pub(super) fn find_in<'a>(dataset: &'a Dataset, tag: &str, dimension: &str) -> Option<&'a Row> {
    let mut rows = dataset.tag_values.0.iter();
    rows.find(|row| row.has("tagId", tag) && row.has("dimensionId", dimension))
}

/// Sets the value of a tag in a dimension; returns it as the API shows it.
pub(super) fn put(dataset: &mut Dataset, tag: &Row, dimension: &Row, value: &str) -> Value {
    let mut rows = dataset.tag_values.0.iter_mut();
    let known = rows.find(|row| row.has("tagId", &tag.id) && row.has("dimensionId", &dimension.id));
    if let Some(row) = known {
        row.change(Map::from_iter([("value".to_owned(), json!(value))]));
        return shown(row);
    }
    let fields = [("tagId", &tag.id[..]), ("dimensionId", &dimension.id), ("value", value)];
    let fields = fields.map(|(name, value)| (name.to_owned(), json!(value)));
    let row = Row::stamped(&tag.company, Map::from_iter(fields));
    let body = shown(&row);
    dataset.tag_values.0.push(row);
    body
}

/// A value shows no id of its own.
fn shown(row: &Row) -> Value {
    let mut body = row.body.clone();
    if let Value::Object(fields) = &mut body {
        fields.remove("id");
    }
    body
}

/// The tag and the dimension of the path, if they belong together.
fn both(call: &Call<'_>, dataset: &Dataset) -> Result<(Row, Row), Problem> {
    let tag = dataset.tags.find(call.subject(), call.ids[0], "tag")?;
    let dimension = dataset.dimensions.find(call.subject(), call.ids[1], "dimension")?;
    if !dimension.has("groupId", tag.text("groupId")) {
        return Err(Problem::not_found("dimension"));
    }
    Ok((tag.clone(), dimension.clone()))
}

fn missing() -> Problem {
    Problem::not_found("dimension value")
}

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    dataset.tags.find(call.subject(), call.ids[0], "tag")?;
    let rows = dataset.tag_values.0.iter().filter(|row| row.has("tagId", call.ids[0]));
    Ok(data(StatusCode::OK, &rows.map(shown).collect::<Vec<Value>>().into()))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    both(call, &dataset)?;
    let row = find_in(&dataset, call.ids[0], call.ids[1]).ok_or_else(missing)?;
    Ok(data(StatusCode::OK, &shown(row)))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&SHAPE)?;
    let mut dataset = call.dataset();
    let (tag, dimension) = both(call, &dataset)?;
    if find_in(&dataset, &tag.id, &dimension.id).is_some() {
        let message = "the tag has a value in this dimension";
        return Err(Problem::conflict("DIMENSION_VALUE_ALREADY_EXISTS", message));
    }
    let value = fields["value"].as_str().unwrap_or_default();
    Ok(data(StatusCode::CREATED, &put(&mut dataset, &tag, &dimension, value)))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&SHAPE)?;
    let mut dataset = call.dataset();
    let (tag, dimension) = both(call, &dataset)?;
    find_in(&dataset, &tag.id, &dimension.id).ok_or_else(missing)?;
    let value = fields["value"].as_str().unwrap_or_default();
    Ok(data(StatusCode::OK, &put(&mut dataset, &tag, &dimension, value)))
}

/// Returns the value that is gone.
pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    let mut dataset = call.dataset();
    both(call, &dataset)?;
    let row = find_in(&dataset, call.ids[0], call.ids[1]).ok_or_else(missing)?.clone();
    dataset.tag_values.0.retain(|other| other.id != row.id);
    Ok(data(StatusCode::OK, &shown(&row)))
}
