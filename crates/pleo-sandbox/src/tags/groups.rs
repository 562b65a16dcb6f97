//! Groups of tags.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::call::Call;
use crate::dataset::{Dataset, Row};
use crate::fields::{Field, Kind, optional, required};
use crate::response::{Problem, data, no_content};

const CREATE: [Field; 4] = [
    required("archived", Kind::Flag),
    required("code", Kind::Name),
    required("name", Kind::Name),
    optional("metadata", Kind::Object),
];
const UPDATE: [Field; 4] = [
    required("archived", Kind::Flag),
    required("code", Kind::Name),
    required("name", Kind::Name),
    required("metadata", Kind::Object),
];

pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered()?;
    let asks = |name| call.query.get(name) == Some("true");
    let dataset = call.dataset();
    let rows = dataset.tag_groups.visible(call.subject()).filter(|row| {
        covered.holds(&row.company) && (asks("include_archived") || row.body["archived"] == false)
    });
    let show = |row: &Row| {
        let mut group = row.body.clone();
        if asks("include_tags_count") {
            group["totalTagsCount"] = json!(count(&dataset, &row.id));
        }
        group
    };
    Ok(data(StatusCode::OK, &rows.map(show).collect::<Vec<Value>>().into()))
}

fn count(dataset: &Dataset, group: &str) -> usize {
    dataset.tags.0.iter().filter(|tag| tag.has("groupId", group)).count()
}

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let covered = call.covered()?;
    let company = covered.one()?;
    let mut fields = call.read(&CREATE)?;
    fields.entry("metadata").or_insert(json!({}));
    fields.insert("companyId".to_owned(), json!(company));
    let added = call.dataset().tag_groups.add(Row::stamped(company, fields));
    Ok(data(StatusCode::CREATED, &added))
}

pub(crate) fn find(call: &Call<'_>) -> Result<Response, Problem> {
    let dataset = call.dataset();
    let row = dataset.tag_groups.find(call.subject(), call.ids[0], "tag group")?;
    Ok(data(StatusCode::OK, &row.body))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Response, Problem> {
    let fields = call.read(&UPDATE)?;
    let mut dataset = call.dataset();
    let row = dataset.tag_groups.find_mut(call.subject(), call.ids[0], "tag group")?;
    row.change(fields);
    Ok(data(StatusCode::OK, &row.body))
}

/// Its dimensions, tags and their values go with it.
pub(crate) fn remove(call: &Call<'_>) -> Result<Response, Problem> {
    let group = call.ids[0];
    let mut dataset = call.dataset();
    dataset.tag_groups.remove(call.subject(), group, "tag group")?;
    let is_of_group = |row: &Row| row.has("groupId", group);
    let tags: Vec<String> =
        dataset.tags.0.iter().filter(|row| is_of_group(row)).map(|row| row.id.clone()).collect();
    dataset.tags.0.retain(|row| !is_of_group(row));
    dataset.dimensions.0.retain(|row| !is_of_group(row));
    dataset.tag_values.0.retain(|row| !tags.iter().any(|tag| row.has("tagId", tag)));
    Ok(no_content())
}
